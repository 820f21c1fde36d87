"""Stores: what they hold, and recordings into and out of them."""

from __future__ import annotations

import argparse
import sys
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from alltrades.commands.command import Command, at_least, positive
from alltrades.commands.editing import add_editing
from alltrades.commands.viewing import view_arguments

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from alltrades.data.checks.examine import Examined
    from alltrades.data.checks.findings import Finding
    from alltrades.data.formats.mapping import Map
    from alltrades.data.formats.recording import Recording
    from alltrades.data.interface import Interface
    from alltrades.data.store import EpisodeStore


def _arguments(parser: argparse.ArgumentParser) -> None:
    actions = parser.add_subparsers(dest="what", metavar="ACTION", required=True)
    info = actions.add_parser("info", help="what a store holds", allow_abbrev=False)
    info.add_argument("store", help="Zarr store")
    info.add_argument(
        "--weights",
        default=None,
        metavar="FOLDER",
        help="weights to show as a column: of `weigh`, or of a run",
    )
    info.set_defaults(action=_info)
    _import_arguments(
        actions.add_parser(
            "import", help="a recording of another framework as a store", allow_abbrev=False
        )
    )
    _export_arguments(
        actions.add_parser(
            "export", help="a store as a recording of another framework", allow_abbrev=False
        )
    )
    view_arguments(
        actions.add_parser("view", help="recordings to look at: plots, cameras", allow_abbrev=False)
    )
    add_editing(actions)
    _check_arguments(
        actions.add_parser(
            "check", help="whether stores can be trusted, and a cleaned copy", allow_abbrev=False
        )
    )


def _check_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("stores", nargs="+", metavar="STORE", help="Zarr store(s)")
    parser.add_argument(
        "--environment", default=None, metavar="ID", help="what foreign stores are of"
    )
    parser.add_argument("--json", default=None, metavar="FILE", help="file for all findings")
    parser.add_argument(
        "--fix",
        default=None,
        metavar="OUT",
        help="write a cleaned copy: without broken and equal episodes, without idle ends",
    )
    parser.add_argument(
        "--replay",
        nargs="?",
        type=int,
        const=0,
        default=None,
        metavar="EPISODES",
        help="play the actions back where there is a simulator; so many episodes of each "
        "environment, default all",
    )
    parser.add_argument(
        "--plugins", nargs="*", default=[], help="modules or files that register environments"
    )
    parser.set_defaults(action=_check)


def _import_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("path", help="file or folder of recordings")
    parser.add_argument(
        "--environment",
        default=None,
        metavar="ID",
        help="what the recordings are of, such as lab/pick; default the mapping's",
    )
    parser.add_argument("--out", default=None, metavar="STORE", help="store to make")
    parser.add_argument("--format", default=None, help="its format; default what recognises it")
    parser.add_argument(
        "--map", default=None, metavar="YAML", help="which key is what; default as --dry-run says"
    )
    parser.add_argument(
        "--dry-run",
        action="store_true",
        help="say on stderr what was found and print a mapping on stdout; import nothing",
    )
    parser.add_argument(
        "--tasks",
        choices=["instruction", "environments"],
        default="instruction",
        help="several tasks: one environment with an instruction, or an environment each",
    )
    parser.add_argument(
        "--subset", default=None, metavar="NAME", help="episodes of a filter key (robomimic)"
    )
    parser.add_argument(
        "--skip-damaged",
        action="store_true",
        help="leave out episodes that cannot be read, and name them",
    )
    parser.add_argument(
        "--plugins", nargs="*", default=[], help="modules or files that bring formats"
    )
    parser.add_argument(
        "--workers",
        type=at_least(1),
        default=1,
        metavar="N",
        help="processes that read at the same time, for the same store; default 1",
    )
    parser.set_defaults(action=_import)


def _export_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "format", choices=["lerobot", "robomimic", "minari", "diffusion_policy", "npz"]
    )
    parser.add_argument("store", help="Zarr store")
    parser.add_argument("--out", required=True, metavar="PATH", help="file or folder to make")
    parser.add_argument(
        "--environment", default=None, metavar="ID", help="whose episodes; default the only one's"
    )
    parser.add_argument(
        "--rate", type=positive, default=None, help="control steps per second; default the store's"
    )
    parser.add_argument(
        "--video",
        nargs="?",
        choices=["h264", "av1"],
        const="h264",
        default=None,
        help="lerobot: cameras as mp4, which is smaller and says its loss; default h264; without "
        "it pictures are PNG, without loss",
    )
    parser.set_defaults(action=_export)


def data(args: argparse.Namespace) -> int:
    """Stores."""
    return int(args.action(args))


def _info(args: argparse.Namespace) -> int:
    from alltrades.data.ranges import of_values
    from alltrades.data.store import EpisodeStore
    from alltrades.pipeline.weights_folder import describe_weights
    from alltrades.report.view.terminal import show_thumbnails

    store = EpisodeStore.open(Path(args.store))
    shown = () if args.weights is None else describe_weights(store, Path(args.weights))
    print("\n".join([*store.describe(), *shown]))
    for line in of_values(store):
        print(line)
    show_thumbnails(store)
    return 0


def _import(args: argparse.Namespace) -> int:
    from alltrades.data.formats import open_recording
    from alltrades.data.formats.importing import Import
    from alltrades.data.formats.mapping import load, propose
    from alltrades.envs.registry import load_plugins
    from alltrades.errors import UserError
    from alltrades.system.progress import Progress

    load_plugins(args.plugins)
    given = None if args.map is None else load(Path(args.map))
    name, recording = open_recording(Path(args.path), args.format)
    try:
        if args.subset is not None:
            recording.choose(args.subset)
        proposed, left_out = (given, {}) if given is not None else propose(recording)
        if args.dry_run:
            proposed.check(recording)
            _say(name, recording, proposed, left_out)
            print(proposed.to_yaml(), end="")
            return 0
        environment = args.environment or proposed.environment
        if not environment or args.out is None:
            missing = "--out" if environment else "--environment"
            raise UserError(f"data import: no {missing}; expected it, unless --dry-run; add it")
        work = Import(
            recording,
            proposed,
            environment,
            Path(args.out),
            args.tasks,
            args.skip_damaged,
            workers=args.workers,
            reopen=partial(_reopened, Path(args.path), name, args.subset, tuple(args.plugins)),
        )
        with Progress("import", len(recording), "episode") as bar:
            store = work.run(lambda done, total: bar.update(done, total))
    finally:
        recording.close()
    for line in [*recording.warnings, *work.left_out]:
        print(f"warning: {line}", file=sys.stderr)
    for line in _left(left_out):
        print(line, file=sys.stderr)
    print("\n".join(store.describe()))
    return 0


def _reopened(path: Path, name: str, subset: str | None, plugins: Sequence[str]) -> Recording:
    """A recording in another process."""
    from alltrades.data.formats import open_recording
    from alltrades.envs.registry import load_plugins

    load_plugins(plugins)
    _, recording = open_recording(path, name)
    if subset is not None:
        recording.choose(subset)
    return recording


def _check(args: argparse.Namespace) -> int:
    """Say what was found; 1 where something is wrong, and not only odd."""
    from alltrades.data.checks.examine import examine_stores
    from alltrades.data.checks.findings import SEVERITIES, by_severity, lines
    from alltrades.data.checks.fix import write_fixed
    from alltrades.data.store import EpisodeStore
    from alltrades.envs import registry
    from alltrades.errors import UserError
    from alltrades.system.files import write_json
    from alltrades.system.progress import Progress

    if args.replay is not None and args.replay < 0:
        raise UserError(f"--replay {args.replay}: expected so many episodes, or none to play all")
    registry.load_plugins(args.plugins)
    stores = [EpisodeStore.open(Path(path)) for path in args.stores]
    empty = next((store for store in stores if not len(store)), None)
    if empty is not None:
        raise UserError(f"{empty.path}: no episodes; expected some to check; record into it first")
    if args.fix is not None and Path(args.fix).exists():
        raise UserError(
            f"{args.fix}: something is there already; expected a new path; choose another, or "
            "delete it"
        )
    ours = [store for store in stores if not store.foreign]
    if args.environment is not None and len(ours) == len(stores):
        raise UserError(
            f"--environment {args.environment} says what foreign stores are of, and "
            f"{stores[0].path} says so itself; expected it for foreign stores; leave it out"
        )
    named = {name for store in ours for name in store.interfaces()} | {args.environment}
    known = set(registry.list_environments())
    expected = {name: _declared(ours, name) for name in named & known if name}
    with Progress("check", sum(map(len, stores)), "episode") as bar:
        found, examined = examine_stores(
            stores, expected, args.environment, progress=lambda done, total: bar.update(done)
        )
    if args.replay is not None:
        found = by_severity([*found, *_replayed(stores, examined, args.replay)])
    for store in stores:
        print(f"{store.path}: {len(store)} episodes, {store.n_steps} steps")
    counts = {s: sum(f.severity == s for f in found) for s in SEVERITIES}
    print("\n".join(lines(found)) or "nothing was found")
    print(", ".join(f"{n} {s}{'s' * (n != 1)}" for s, n in counts.items()))
    if args.json is not None:
        write_json(Path(args.json), {"counts": counts, "findings": [f.to_json() for f in found]})
        print(f"wrote {args.json}")
    if args.fix is not None:
        changes = write_fixed(stores, examined, Path(args.fix))
        print("\n".join(changes) or "nothing had to be changed")
        print(f"wrote {args.fix}: {len(EpisodeStore.open(Path(args.fix)))} episodes")
    return 1 if counts["error"] else 0


def _declared(stores: Sequence[EpisodeStore], name: str) -> Interface:
    """What is registered of an environment, with those of its cameras that are recorded."""
    from alltrades.envs import registry
    from alltrades.envs.rendering.settings import RenderingSettings
    from alltrades.envs.rendering.wanted import seeing

    every = (store.interfaces().get(name) for store in stores)
    fields = {n: f for e in every if e is not None for n, f in e.observation.items()}
    undrawn = RenderingSettings(backend="osmesa")  # any: nothing is drawn
    return seeing(registry.get(name), fields, undrawn).interface


def _replayed(
    stores: Sequence[EpisodeStore], examined: Sequence[Examined], most: int
) -> Iterator[Finding]:
    """What playing back shows, of as many episodes of each environment; 0 is all."""
    from alltrades.envs import registry
    from alltrades.envs.checking.replay import Replay, no_simulator
    from alltrades.system.progress import Progress

    known = set(registry.list_environments())
    of_path = {store.path: store for store in stores}
    for each in examined:
        name = each.subject.environment
        spec = registry.get(name) if name in known else None
        missing = no_simulator(each, spec)
        if spec is None or missing is not None:
            yield from () if missing is None else (missing,)
            continue
        work = Replay(each, of_path[each.subject.store], spec, most or None)
        with Progress(f"replay of {name}", len(work.chosen), "episode") as bar:
            yield from work.run(bar.update)


def _export(args: argparse.Namespace) -> int:
    from alltrades.data.formats.exporting import Export
    from alltrades.data.store import EpisodeStore
    from alltrades.system.progress import Progress

    store = EpisodeStore.open(Path(args.store))
    work = Export.of(store, args.environment, args.rate)
    with Progress("export", len(work.index), "episode") as bar:
        said = work.write(
            args.format, Path(args.out), lambda done, total: bar.update(done), args.video
        )
    for line in said:
        print(line, file=sys.stderr)
    print(f"wrote {args.out}: {args.format}, {len(work.index)} episodes")
    return 0


def _say(name: str, recording: Recording, mapping: Map, left_out: dict[str, str]) -> None:
    """What a recording holds, on stderr: stdout is the mapping."""
    rate = "rate unknown" if recording.rate is None else f"{recording.rate:g} Hz"
    lines = [f"{recording.path}: {name}, {len(recording)} episodes, {rate}"]
    lines += [f"  {key}: {column}" for key, column in recording.columns.items()]
    if recording.tasks:
        shown = ", ".join(repr(task) for task in recording.tasks[:6])
        lines.append(f"  {len(recording.tasks)} tasks: {shown}")
    lines += [f"  {line}" for line in _left(left_out)]
    if mapping.action is None:
        lines.append("  no actions: name their key as `action`, or import observations alone")
    if mapping.success is None:
        lines.append("  success: unknown; name its key as `success`, if there is one")
    if mapping.control_hz is None:
        lines.append("  rate: unknown; say it as `control_hz`")
    lines += [f"  warning: {line}" for line in recording.warnings]
    print("\n".join(lines), file=sys.stderr)


def _left(left_out: dict[str, str]) -> list[str]:
    """What no field is made of, those for one reason together."""
    reasons: dict[str, list[str]] = {}
    for key, why in left_out.items():
        reasons.setdefault(why, []).append(key)
    return [f"left out: {', '.join(keys)}: {why}" for why, keys in reasons.items()]


COMMAND = Command(
    "data",
    "look at stores, check them, make them of others, bring recordings in and out",
    "data info demos.zarr",
    _arguments,
    data,
    settings=False,
)
