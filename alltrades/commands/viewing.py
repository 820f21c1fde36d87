"""`alltrades data view`: recordings as a page, and as a file for the Rerun viewer."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

from alltrades.commands.command import trust_argument
from alltrades.commands.editing import WHERE, where_of
from alltrades.policies.fetched import fetched

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
        "--rrd", default=None, metavar="FILE", help="recording for the Rerun viewer to write"
    )
    parser.add_argument("--web", action="store_true", help="open the Rerun viewer in a browser")
    parser.add_argument(
        "--episodes",
        default=None,
        metavar="NUMBERS",
        help="which, such as 0,3,7-9, or all; default up to 100, evenly spread over environments",
    )
    parser.add_argument(
        "--where",
        nargs="+",
        default=[],
        metavar="CONDITION",
        help=f"some of those of which this holds: {WHERE}",
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
    trust_argument(parser)
    parser.set_defaults(action=_view)


def _view(args: argparse.Namespace) -> int:
    from alltrades.data.store import EpisodeStore
    from alltrades.envs.registry import load_plugins
    from alltrades.errors import UserError
    from alltrades.pipeline.weights_folder import weight_column
    from alltrades.report.view.choosing import named, spread
    from alltrades.report.view.episodes import Recordings
    from alltrades.report.view.page import write_page
    from alltrades.report.view.rerun_file import require, write_recording
    from alltrades.report.view.viewer import no_screen, open_viewer, screen
    from alltrades.system.files import check_writable
    from alltrades.system.trust import trust_all

    html, rrd = (None if p is None else Path(p) for p in (args.html, args.rrd))
    if html is None and rrd is None and not args.web:
        raise UserError(
            "data view: nothing to make; expected --html FILE (a page), --rrd FILE (for the Rerun "
            "viewer) or --web (that viewer in a browser); add one"
        )
    if args.episodes is not None and args.where:
        raise UserError("data view: expected either --episodes or --where; give one of them")
    shown = args.web and screen()
    if args.web and not shown and rrd is None and html is None:
        raise UserError(f"data view: {no_screen(None)}")
    load_plugins(args.plugins)
    if args.trust:
        trust_all()
    store = EpisodeStore.open(Path(args.store))
    weights = None if args.weights is None else weight_column(store, Path(args.weights))
    recordings = Recordings(store, weights)
    if args.episodes is not None:
        chosen = named(args.episodes, len(recordings))
    else:
        among = recordings.table.chosen(where_of(args))
        chosen = among[spread(recordings.environments[among])]
    if rrd is not None or shown:
        require()
    for path in (html, rrd):
        if path is not None:
            check_writable(path)
    predictor = None if args.policy is None else _predictor(store, fetched(args.policy))
    if html is not None:
        _make(write_page, recordings, chosen, html, predictor)
    with TemporaryDirectory(prefix="alltrades-") as folder:
        if rrd is None and shown:
            rrd = Path(folder) / f"{store.path.resolve().stem}.rrd"
        if rrd is not None:
            _make(write_recording, recordings, chosen, rrd, predictor)
        if rrd is not None and shown:
            open_viewer(rrd)
        elif args.web:
            print(f"data view: {no_screen(rrd)}", file=sys.stderr)
    return 0


def _predictor(store: EpisodeStore, path: Path) -> Predictor:
    from alltrades.report.view.predictions import Predictor, load_policies

    policies, missing = load_policies(path, store.interfaces())
    for line in missing:
        print(line, file=sys.stderr)
    return Predictor(store, policies)


def _make(
    write: Callable[..., list[str]],
    recordings: Recordings,
    chosen: np.ndarray,
    path: Path,
    predictor: Predictor | None,
) -> None:
    from alltrades.system.progress import Progress

    with Progress("view", len(chosen), "episode") as bar:
        left_out = write(recordings, chosen, path, predictor, bar.update)
    for line in left_out:
        print(line, file=sys.stderr)
    print(f"wrote {path}: {len(chosen)} of {len(recordings)} episodes")
