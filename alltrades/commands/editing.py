"""`alltrades data merge | split | filter | sample | rename | relabel`: stores from stores."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from alltrades.commands.command import at_least

if TYPE_CHECKING:
    import numpy as np

    from alltrades.data.editing.conditions import Condition
    from alltrades.data.editing.copying import Change, Copy
    from alltrades.data.editing.table import Table
    from alltrades.data.store import EpisodeStore

WHERE = 'such as "return >= 3 and source == expert"; several must all hold'


def add_editing(actions: Any) -> None:
    """The six commands below `alltrades data`."""

    def add(name: str, summary: str, call: Callable[[argparse.Namespace], int]) -> Any:
        parser = actions.add_parser(name, help=summary, allow_abbrev=False)
        parser.set_defaults(action=call)
        return parser

    merge = add("merge", "several stores as one", _merge)
    split = add("split", "a store in parts: by shares, or by a condition", _split)
    choose = add("filter", "the episodes of which a condition holds", _filter)
    draw = add("sample", "some episodes of each environment by chance", _sample)
    for parser in (merge, split, choose, draw):
        parser.add_argument("stores", nargs="+", metavar="STORE", help="Zarr store(s)")
        parser.add_argument(
            "--duplicates",
            choices=["refuse", "drop", "keep"],
            default="refuse",
            help="episodes that an earlier store holds too; default refuse",
        )
    for parser in (merge, choose, draw):
        parser.add_argument("--out", required=True, metavar="STORE", help="store to make")
    split.add_argument(
        "--out", required=True, nargs="+", metavar="STORE", help="a store to make for each part"
    )
    split.add_argument(
        "--shares",
        nargs="+",
        type=float,
        default=None,
        metavar="SHARE",
        help="of each environment's episodes in each part, such as 0.8 0.2",
    )
    draw.add_argument(
        "--episodes", type=at_least(1), metavar="N", help="so many of each environment"
    )
    draw.add_argument("--share", type=float, help="this share of each environment's, such as 0.1")
    for parser in (split, draw):
        parser.add_argument("--seed", type=int, default=0, help="what they are drawn by; default 0")
    rename = add("rename", "other names of environments and fields", _rename)
    rename.add_argument("store", help="Zarr store")
    rename.add_argument("names", nargs="+", metavar="OLD=NEW", help="of environments or fields")
    rename.add_argument("--out", required=True, metavar="STORE", help="store to make")
    relabel = add("relabel", "other success, instruction or source of episodes", _relabel)
    relabel.add_argument("store", help="Zarr store")
    relabel.add_argument("--out", required=True, metavar="STORE", help="store to make")
    relabel.add_argument("--success", choices=["true", "false", "unknown"], help="whether it did")
    relabel.add_argument("--instruction", metavar="TEXT", help="what it was asked to do")
    relabel.add_argument("--source", metavar="NAME", help="who or what acted")
    relabel.add_argument(
        "--csv", metavar="FILE", help="labels by episode: columns episode, success, ..."
    )
    for parser, what in (
        (split, "the first part is the episodes of which this holds, the second the others: "),
        (choose, "condition: "),
        (draw, "draw among those of which this holds: "),
        (relabel, "which episodes; default all: "),
    ):
        parser.add_argument(
            "--where",
            nargs="+",
            default=[],
            required=parser is choose,
            metavar="CONDITION",
            help=what + WHERE,
        )
        parser.add_argument(
            "--weights",
            metavar="FOLDER",
            help="weights whose mean is the column weight: of `weigh`, or of a run",
        )


# ---- commands ------------------------------------------------------------------------------------
def _merge(args: argparse.Namespace) -> int:
    import numpy as np

    table = _table(args)
    return _copied(args, table, _distinct(args, table, np.arange(len(table))))


def _filter(args: argparse.Namespace) -> int:
    table = _table(args)
    return _copied(args, table, _distinct(args, table, table.chosen(where_of(args))))


def _sample(args: argparse.Namespace) -> int:
    from alltrades.data.editing.shares import sample

    table = _table(args)
    among = _distinct(args, table, table.chosen(where_of(args)))
    names = table.columns["environment"][among]
    drawn = sample(names, args.episodes, args.share, args.seed)
    return _copied(args, table, among[drawn])


def _split(args: argparse.Namespace) -> int:
    import numpy as np

    from alltrades.data.editing.copying import run_parts
    from alltrades.data.editing.shares import split_by_shares
    from alltrades.errors import UserError
    from alltrades.system.progress import Progress

    if (args.shares is None) == (not args.where):
        raise UserError("split: expected either --shares or --where; give one of them")
    expected = 2 if args.shares is None else len(args.shares)
    if len(args.out) != expected:
        raise UserError(
            f"split: {len(args.out)} paths after --out; expected {expected}, one for each part"
        )
    table = _table(args)
    among = _distinct(args, table, np.arange(len(table)))
    if args.shares is None:
        first = np.intersect1d(among, table.chosen(where_of(args)))
        parts = [first, np.setdiff1d(among, first)]
        if not len(parts[1]):
            raise UserError(
                f"--where: holds of all {len(among)} episodes; expected some for "
                f"{args.out[1]}; narrow it"
            )
    else:
        names = table.columns["environment"][among]
        parts = [among[p] for p in split_by_shares(names, args.shares, args.seed)]
    copies = [_copy(args, table, p, Path(out)) for p, out in zip(parts, args.out)]
    with Progress("split", len(among), "episode") as bar:
        stores = run_parts(copies, lambda done, total: bar.update(done, total))
    _describe(stores)
    return 0


def _rename(args: argparse.Namespace) -> int:
    import numpy as np

    from alltrades.data.editing.changes import Rename

    table = _table(args)
    change = Rename.of(table.stores[0], args.names)
    return _copied(args, table, np.arange(len(table)), change)


def _relabel(args: argparse.Namespace) -> int:
    import numpy as np

    from alltrades.data.editing.changes import LABELS, Relabel, labels_of
    from alltrades.errors import UserError

    table = _table(args)
    given = {k: getattr(args, k) for k in LABELS if getattr(args, k) is not None}
    if bool(given) == (args.csv is not None) or (args.csv is not None and args.where):
        raise UserError(
            "relabel: expected either --csv, or some of --success, --instruction, --source "
            "(and --where); give one of both"
        )
    if args.csv is None:
        labels = dict.fromkeys(table.chosen(where_of(args)).tolist(), given)
    else:
        labels = labels_of(Path(args.csv), table)
        if not labels:
            raise UserError(
                f"{args.csv}: labels no episode; expected some; fill in success, instruction or "
                "source of those that change"
            )
    change = Relabel.of(table, labels)
    print(f"relabels {len(labels)} of {len(table)} episodes", file=sys.stderr)
    return _copied(args, table, np.arange(len(table)), change)


# ---- what they share -----------------------------------------------------------------------------
def _table(args: argparse.Namespace) -> Table:
    from alltrades.data.editing.copying import check_new
    from alltrades.data.editing.table import Table
    from alltrades.data.store import EpisodeStore
    from alltrades.pipeline.weights_folder import weight_column

    if isinstance(args.out, str):
        check_new(Path(args.out))
    folder = getattr(args, "weights", None)
    named = [args.store] if hasattr(args, "store") else args.stores
    stores = [EpisodeStore.open(Path(path)) for path in named]
    if folder is None:
        return Table.of(stores)
    return Table.of(stores, lambda store: weight_column(store, Path(folder)))


def where_of(args: argparse.Namespace) -> Condition | None:
    """What --where says; None where it is not given."""
    from alltrades.data.editing.conditions import Condition

    if len(args.where) > 1:
        return Condition(" and ".join(f"({text})" for text in args.where))
    return Condition(args.where[0]) if args.where else None


def _distinct(args: argparse.Namespace, table: Table, index: np.ndarray) -> np.ndarray:
    """The chosen episodes without those that an earlier store holds too, or as is asked for."""
    import numpy as np

    from alltrades.data.editing.duplicates import repeated
    from alltrades.errors import UserError

    if args.duplicates == "keep" or len(table.stores) == 1:
        return index
    found = repeated(table, index)
    if found and args.duplicates == "refuse":
        again, first = next(iter(found.items()))
        raise UserError(
            f"{table.stores[table.store[again]].path}: episode {table.number[again]} is episode "
            f"{table.number[first]} of {table.stores[table.store[first]].path}, and {len(found)} "
            "in all are there twice; expected each once; give --duplicates drop, or keep"
        )
    return index[~np.isin(index, list(found))]


def _copy(
    args: argparse.Namespace,
    table: Table,
    index: np.ndarray,
    out: Path,
    change: Change | None = None,
) -> Copy:
    from alltrades.data.editing.copying import Change, Copy

    left = ("action", "command", "what", "store", "stores", "out", "traceback")
    options = {
        k: v
        for k, v in vars(args).items()
        if k not in left and v not in (None, []) and isinstance(v, str | int | float | list)
    }
    command = {"command": f"data {args.what}", "options": options}
    return Copy(table, index, out, command, change or Change())


def _copied(
    args: argparse.Namespace, table: Table, index: np.ndarray, change: Change | None = None
) -> int:
    from alltrades.system.progress import Progress

    copy = _copy(args, table, index, Path(args.out), change)
    with Progress(args.what, len(index), "episode") as bar:
        store = copy.run(lambda done, total: bar.update(done, total))
    _describe([store])
    return 0


def _describe(stores: Sequence[EpisodeStore]) -> None:
    for store in stores:
        print("\n".join(store.describe()))
