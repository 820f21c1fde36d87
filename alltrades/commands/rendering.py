"""Pictures of what was recorded without: render."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from alltrades.commands.command import Command, recipe_arguments, recipe_settings
from alltrades.errors import UserError


def _arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("store", help="store of episodes, such as demonstrations or rollouts")
    recipe_arguments(parser)
    parser.add_argument(
        "--cache", default=None, help="folder where pictures are kept and found again"
    )
    parser.add_argument("--out", required=True, help="store to write or continue")


def render(args: argparse.Namespace) -> int:
    """Play the episodes of a store back and draw what cameras would have seen."""
    from alltrades.data.store import EpisodeStore
    from alltrades.pipeline.context import crew_of
    from alltrades.pipeline.rendering import cameras_of, render_store
    from alltrades.pipeline.resolution import resolve
    from alltrades.system.progress import Progress
    from alltrades.system.reporting import Report

    source, out = Path(args.store), Path(args.out)
    if source.resolve() == out.resolve():
        raise UserError(f"--out {out} is the store itself; expected another; name a new one")
    store = EpisodeStore.open(source)
    ids = list(store.interfaces())
    args.overrides = [*args.overrides, "--environments", json.dumps(ids)]
    settings = recipe_settings(args)[0]
    specs, _ = resolve(settings)
    for line in cameras_of(specs, source):
        print(line, file=sys.stderr)
    with crew_of(settings.rollout) as crew, Progress("render", len(store), "episode") as bar:
        report = Report(bar.update)
        made = render_store(
            source, out, specs, crew, report, None if args.cache is None else Path(args.cache)
        )
    print(f"wrote {out}: {len(made)} episodes, {made.n_steps} steps")
    return 0


COMMANDS = (
    Command(
        "render",
        "pictures of episodes that were recorded without",
        "render demos.zarr --rendering.cameras images.top --out seen.zarr",
        _arguments,
        render,
    ),
)
