"""Damages small real files of every kind, thousands of times, and uses them as a user would: what
has a digest is refused in one line or reads as it was, what people write is refused or shown.
"""

from __future__ import annotations

import faulthandler
import io
import multiprocessing
import shutil
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import redirect_stderr, redirect_stdout, suppress
from pathlib import Path
from typing import Any

import numpy as np

from alltrades.bench.damage_kinds import KINDS, Kind, make, plain
from alltrades.bench.mutations import mutate
from alltrades.errors import MissingExtra, UserError
from alltrades.report.columns import columns

SECONDS = 5.0  # of the processor, that no damaged file may take
PATIENCE = 120.0  # seconds after which a process that says nothing is ended
BYTES = 2**30  # of memory, that no damaged file may take
WRONG = ("TRACEBACKS", "OTHER RESULTS", "HANGS")
OUTCOMES = ("refused", "equal", "shown", *WRONG)
SHOWN = 5  # examples of each wrong outcome


def damage(
    names: Sequence[str] | None,
    count: int,
    seed: int,
    results: list[dict[str, Any]],
) -> Iterator[str]:
    """Lines of a table as kinds are done: `count` mutations of each.

    Args:
        names: kinds; None for all.
        results: gets a mapping per kind, "ok" where none of the last three columns counts any.

    Raises UserError for an unknown kind.
    """
    chosen = list(names or KINDS)
    for name in chosen:
        if name not in KINDS:
            raise UserError(f"--kinds {name}; expected some of {', '.join(KINDS)}")
    with tempfile.TemporaryDirectory(prefix="alltrades-damage-") as place:
        whole, other = Path(place) / "whole", Path(place) / "other"
        for n, folder in enumerate((whole, other)):
            folder.mkdir()
            with redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()):
                make(folder, n)
        rows, wrong = [], []
        for name in chosen:
            start = time.monotonic()
            if not KINDS[name].of(whole):
                yield f"{name}: left out, since a package that writes it is missing"
                continue
            counts: Counter[str] = Counter()
            for number, outcome, what in _outcomes(name, Path(place), count, seed):
                counts[outcome] += 1
                if outcome in WRONG and counts[outcome] <= SHOWN:
                    wrong.append(f"{outcome}: {name} {number}: {what}")
                    yield wrong[-1]
            rows.append([name, str(count), *(str(counts[o]) for o in OUTCOMES)])
            ok = not any(counts[outcome] for outcome in WRONG)
            results.append({"kind": name, "mutations": count, **counts, "ok": ok})
            yield f"{name}: {count} mutations in {time.monotonic() - start:.0f} s"
        yield ""
        yield from columns([["kind", "mutations", *OUTCOMES], *rows])


def _outcomes(name: str, place: Path, count: int, seed: int) -> Iterator[tuple[int, str, str]]:
    """(number, outcome, what was done) of every mutation of a kind, from a process that is kept
    alive, and begun anew where it hangs or dies.
    """
    context, number = multiprocessing.get_context("spawn"), 0
    while number < count:
        ours, theirs = context.Pipe()
        process = context.Process(target=_work, args=(theirs, name, place, seed, number, count))
        process.start()
        theirs.close()
        what = ""
        try:
            while number < count:
                if not ours.poll(PATIENCE):
                    yield number, "HANGS", what
                    number += 1
                    break
                try:
                    outcome, what = ours.recv()
                except EOFError:
                    yield number, "TRACEBACKS", f"{what}: its process died"
                    number += 1
                    break
                if outcome != "begun":
                    yield number, outcome, what
                    number += 1
        finally:
            process.kill()
            process.join()
            ours.close()


def _work(pipe: Any, name: str, place: Path, seed: int, first: int, count: int) -> None:
    """Damage, use, tell, mend: mutations `first` to `count` of a kind."""
    faulthandler.disable()
    kind, whole, folder = KINDS[name], place / "whole", place / "damaged"
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(whole, folder)
    expected = plain(kind.use(folder))
    _limit_memory(4 * BYTES)
    at = list(KINDS).index(name)
    for number in range(first, count):
        rng = np.random.default_rng([seed, at, number])
        what, touched = mutate(folder, kind.of(folder), place / "other", rng)
        pipe.send(("begun", what))
        with redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()):
            outcome = _judged(kind, folder, expected, touched, what)
        pipe.send(outcome)
        for file in touched:
            if file.is_dir():
                shutil.rmtree(file)
            file.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(whole / file.relative_to(folder), file)


def _limit_memory(more: int) -> None:
    """Let this process have so many bytes more than it has, where the system tells (Linux)."""
    import resource

    with suppress(OSError):
        pages = int(Path("/proc/self/statm").read_text().split()[0])
        most = pages * resource.getpagesize() + more
        resource.setrlimit(resource.RLIMIT_AS, (most, most))


def _judged(
    kind: Kind, folder: Path, expected: str, touched: Sequence[Path], what: str
) -> tuple[str, str]:
    """What came of a damaged folder, and what to say of it."""
    import resource

    before, start = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.process_time()
    try:
        found = kind.use(folder)
        outcome = "equal"
    except MissingExtra:
        raise
    except UserError as error:
        outcome = "refused"
        what += f": {error}"
    except Exception as error:
        return "TRACEBACKS", f"{what}: {type(error).__name__}: {str(error)[:200]}{_where(error)}"
    grown = 1024 * (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
    spent = time.process_time() - start
    if spent > SECONDS or grown > BYTES:
        return "HANGS", f"{what}: {spent:.1f} s, {grown / 2**20:.0f} MiB"
    if outcome == "refused" or plain(found) == expected:
        return outcome, what
    seen = (
        kind.promise == "plain"
        or (kind.promise == "written" and kind.shown(folder, found))
        or any(file.match(pattern) for file in touched for pattern in kind.loose)
        or (bool(kind.loose) and not all(file.exists() for file in touched))
    )
    return ("shown" if seen else "OTHER RESULTS"), what


def _where(error: BaseException) -> str:
    """File and line in which an exception was raised."""
    trace = error.__traceback__
    place = ""
    while trace is not None:
        place = f" ({Path(trace.tb_frame.f_code.co_filename).name}:{trace.tb_lineno})"
        trace = trace.tb_next
    return place
