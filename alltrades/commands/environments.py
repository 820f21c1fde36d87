"""The registry of environments, and whether they can be trusted: envs, envs check."""

from __future__ import annotations

import argparse
from pathlib import Path

from alltrades.commands.command import Command, at_least, positive
from alltrades.errors import UserError
from alltrades.system.files import write_json

LIST, CHECK = "list", "check"


def _arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "names",
        nargs="*",
        metavar="[list | check] NAME",
        help="suites, ids or globs; default everything registered. With `check` before them they "
        "are tried: equal seeds, what reset and step return, bounds, rates, experts",
    )
    parser.add_argument(
        "--plugins", nargs="*", default=[], help="modules or files that register environments"
    )
    parser.add_argument(
        "--episodes",
        type=at_least(0),
        default=10,
        help="episodes of the expert (check); 0 for none",
    )
    parser.add_argument(
        "--timeout", type=positive, default=60.0, help="seconds for one reset or step (check)"
    )
    parser.add_argument(
        "--cameras",
        nargs="*",
        default=[],
        metavar="FIELD",
        help="cameras that are drawn too, by name or pattern, such as images.top (check)",
    )
    parser.add_argument("--json", default=None, help="file for what was found (check)")


def envs(args: argparse.Namespace) -> int:
    """The registry, or a check of some of it."""
    from alltrades.envs import registry

    registry.load_plugins(args.plugins)
    what, names = (args.names[0], args.names[1:]) if args.names else (LIST, [])
    if what == CHECK:
        return _check(names, args)
    names = names if what == LIST else args.names
    if names:
        for spec in registry.resolve(names):
            expert = "expert" if registry.expert(spec.id) is not None else "no expert"
            cameras = f"  cameras {', '.join(spec.cameras)}" if spec.cameras else ""
            print(
                f"{spec.id}  {spec.interface.described()}  action {spec.action_dim}  "
                f"{spec.max_steps} steps  {expert}{cameras}"
            )
        return 0
    for name, ids in sorted(registry.list_suites().items()):
        print(f"suite {name}: {len(ids)} environments")
    for name in registry.list_environments():
        print(name)
    return 0


def _check(names: list[str], args: argparse.Namespace) -> int:
    """Say what was found of each; 2 where one cannot be trusted."""
    from dataclasses import replace

    from alltrades.envs import registry
    from alltrades.envs.checking.apart import examine_apart
    from alltrades.envs.checking.examine import LONG
    from alltrades.envs.rendering.settings import RenderingSettings
    from alltrades.envs.rendering.wanted import with_all_cameras

    if not names or args.episodes < 0 or not args.timeout > 0:
        raise UserError(
            f"envs check {' '.join(names)}, --episodes {args.episodes}, --timeout {args.timeout}; "
            "expected ids, suites or globs, 0 or more episodes and a time above 0, such as "
            "`alltrades envs check 'planar/*'`"
        )
    settings = RenderingSettings(cameras=tuple(args.cameras))
    specs = with_all_cameras(registry.resolve(names), settings)
    experts = {s.id: registry.expert(s.id) for s in specs}
    plan, every = replace(LONG, episodes=args.episodes), []
    for found in examine_apart(specs, experts, plan, args.timeout):
        counts = {level: len(found.of(level)) for level in ("error", "warning")}
        said = ", ".join(f"{n} {level}{'s' * (n > 1)}" for level, n in counts.items() if n)
        print(f"{found.environment}: {said or 'ok'}", flush=True)
        for line in found.lines():
            print(f"  {line}", flush=True)
        every.append(found)
    if args.json is not None:
        write_json(Path(args.json), [found.to_json() for found in every])
        print(f"wrote {args.json}")
    return 0 if all(found.ok for found in every) else 2


COMMANDS = (
    Command(
        "envs",
        "the registry of environments and suites, and checks of environments",
        "envs check 'planar/*'",
        _arguments,
        envs,
        settings=False,
    ),
)
