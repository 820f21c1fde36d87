"""`alltrades data view`: recordings as a page."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np

    from alltrades.data.store import EpisodeStore
    from alltrades.report.view.episodes import Recordings
    from alltrades.report.view.predictions import Predictor


def view_arguments(parser: argparse.ArgumentParser) -> None:
    """Of `alltrades data view`."""
    parser.add_argument("store", help="Zarr store")
    parser.add_argument("--html", default=None, metavar="FILE", help="page to write")
    parser.add_argument(
        "--episodes",
        default=None,
        metavar="NUMBERS",
        help="which, such as 0,3,7-9, or all; default up to 100, evenly spread over environments",
    )
    parser.add_argument(
        "--weights",
        default=None,
        metavar="FOLDER",
        help="weights of the steps: of `weigh`, or of a run",
    )
    parser.add_argument(
        "--policy",
        default=None,
        metavar="ARTIFACT",
        help="whose predicted chunks stand beside recorded actions",
    )
    parser.add_argument(
        "--plugins", nargs="*", default=[], help="modules or files that the policy needs"
    )
    parser.set_defaults(action=_view)


def _view(args: argparse.Namespace) -> int:
    from alltrades.data.store import EpisodeStore
    from alltrades.envs.registry import load_plugins
    from alltrades.errors import UserError
    from alltrades.pipeline.weights_folder import weight_column
    from alltrades.report.view.choosing import named, spread
    from alltrades.report.view.episodes import Recordings
    from alltrades.system.files import check_writable

    if args.html is None:
        raise UserError("data view: nothing to make; expected --html FILE; add it")
    load_plugins(args.plugins)
    store = EpisodeStore.open(Path(args.store))
    weights = None if args.weights is None else weight_column(store, Path(args.weights))
    recordings = Recordings(store, weights)
    if args.episodes is None:
        chosen = spread(recordings.environments)
    else:
        chosen = named(args.episodes, len(recordings))
    predictor = None if args.policy is None else _predictor(store, Path(args.policy))
    check_writable(Path(args.html))
    _page(recordings, chosen, Path(args.html), predictor)
    return 0


def _predictor(store: EpisodeStore, path: Path) -> Predictor:
    from alltrades.report.view.predictions import Predictor, load_policies

    policies, missing = load_policies(path, store.interfaces())
    for line in missing:
        print(line, file=sys.stderr)
    return Predictor(store, policies)


def _page(
    recordings: Recordings, chosen: np.ndarray, path: Path, predictor: Predictor | None
) -> None:
    from alltrades.report.view.page import write_page
    from alltrades.system.progress import Progress

    with Progress("view", len(chosen), "episode") as bar:
        write_page(recordings, chosen, path, predictor, bar.update)
    print(f"wrote {path}: {len(chosen)} of {len(recordings)} episodes")
