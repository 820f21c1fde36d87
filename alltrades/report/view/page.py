"""Writes recordings as one page that needs no network: a list of episodes, and of some of them
plots and small pictures.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from alltrades.report.page import script_json, write
from alltrades.report.view.curves import PREDICTED, plots
from alltrades.report.view.episodes import Recordings, Viewed
from alltrades.report.view.pictures import strip

if TYPE_CHECKING:
    from alltrades.report.view.predictions import Predictor

PAGE_BYTES = 2**26  # of all episodes that are shown
EPISODE_BYTES = 2**21  # of one of them
NUMBER_BYTES = 8  # of a number as text
PICTURES = 32  # of a camera
CAMERAS = 16
TIMES = 100  # steps whose time is told; between them it is even
LISTED = 5000  # episodes in the list
TEXT, WORDS = 2000, 160  # letters of a text, and of one in the list
Progress = Callable[[int], None]


@dataclass(frozen=True)
class _Room:
    """What an episode may take of the page."""

    numbers: int
    bytes: int  # of pictures

    @classmethod
    def of(cls, episodes: int) -> _Room:
        own = min(PAGE_BYTES // episodes, EPISODE_BYTES) // 2
        return cls(own // NUMBER_BYTES, own * 3 // 4)  # pictures are in base64


def write_page(
    recordings: Recordings,
    chosen: np.ndarray,
    path: Path,
    predictor: Predictor | None = None,
    progress: Progress = lambda done: None,
) -> list[str]:
    """Write the page of a store; what is left out stands on it.

    Args:
        chosen: (n,) episodes that can be looked at; the list has others too.

    One episode is in memory at a time, and the list. The page has at most about PAGE_BYTES beside
    the code that draws it. Raises UserError where the extra `report` is not installed.
    """
    room = _Room.of(len(chosen))
    write(
        "view.html",
        {
            "title": recordings.store.path.resolve().name,
            "version": _version(),
            "said": _said(recordings, chosen),
            "rows": _rows(recordings, chosen),
            "weighed": recordings.weights is not None,
            "marked": bool(recordings.marked.any()),
            "predicted": predictor is not None,
            "episodes": _episodes(recordings, chosen, predictor, room, progress),
        },
        path,
        "view",
    )
    return []


def _version() -> str:
    from alltrades import __version__

    return __version__


def _said(recordings: Recordings, chosen: np.ndarray) -> list[str]:
    """What the page has, in words."""
    total, steps = len(recordings), recordings.store.n_steps
    lines = [
        f"{recordings.store.path}: {total} {'episode' if total == 1 else 'episodes'}, {steps} steps"
    ]
    if len(chosen) < total:
        lines.append(
            f"{len(chosen)} of them can be looked at here; --episodes and --where choose others, "
            "such as --episodes 0,3,7-9"
        )
    if total > LISTED:
        lines.append(f"the list has {LISTED} of them")
    return lines


def _rows(recordings: Recordings, chosen: np.ndarray) -> list[dict[str, Any]]:
    """Of the list: those that can be looked at, and others up to LISTED."""
    others = np.setdiff1d(np.arange(len(recordings)), chosen)[: max(0, LISTED - len(chosen))]
    c, here = recordings.table.columns, set(chosen.tolist())
    return [
        {
            "number": i,
            "shown": i in here,
            "environment": c["environment"][i],
            "length": int(c["length"][i]),
            "success": {1.0: "yes", 0.0: "no"}.get(float(c["success"][i]), ""),
            "return": _number(c["return"][i]),
            "interventions": _number(c["interventions"][i]),
            "weight": _number(c["weight"][i]) if "weight" in c else None,
            "source": c["source"][i],
            "instruction": _cut(c["instruction"][i], WORDS),
        }
        for i in np.union1d(chosen, others).tolist()
    ]


def _cut(text: str, letters: int) -> str:
    return text if len(text) <= letters else text[:letters] + " ..."


def _number(value: float) -> str:
    return f"{value:.4g}" if np.isfinite(value) else ""


def _episodes(
    recordings: Recordings,
    chosen: np.ndarray,
    predictor: Predictor | None,
    room: _Room,
    progress: Progress,
) -> Iterator[tuple[int, str]]:
    """Number and JSON of one episode after the other."""
    for done, number in enumerate(chosen.tolist(), 1):
        episode = recordings.episode(number)
        chunks = None
        if predictor is not None:
            steps = room.numbers // 4 // PREDICTED
            chunks = predictor.along(episode.environment, episode.place, steps)
        facts = {
            "number": number,
            "environment": episode.environment,
            "length": episode.length,
            "rate": episode.rate,
            "seconds": _seconds(episode),
            "texts": {name: _cut(text, TEXT) for name, text in episode.texts.items()},
            "cameras": list(_cameras(episode, room.bytes)),
            **plots(episode, chunks, room.numbers),
        }
        if len(episode.cameras) > CAMERAS:
            left_out = f"{CAMERAS} of {len(episode.cameras)} cameras"
            facts["note"] = "; ".join(filter(None, [left_out, facts["note"]]))
        yield number, script_json(facts)
        progress(done)


def _seconds(episode: Viewed) -> list[list[float]] | None:
    """Some steps, and when they were, to the millisecond; None where nothing says it."""
    if episode.times is None:
        return None
    count = min(episode.length, TIMES)
    steps = np.unique(np.linspace(0, episode.length - 1, count).round().astype(int))
    return [steps.tolist(), [round(t, 3) for t in episode.times[steps].tolist()]]


def _cameras(episode: Viewed, room: int) -> Iterator[Mapping[str, Any]]:
    names = list(episode.cameras)[:CAMERAS]
    steps = np.unique(np.linspace(0, episode.length - 1, PICTURES).round().astype(int))
    for name in names:
        (height, width, channels), dtype = episode.cameras[name]
        found = strip(episode.pictures(name, steps), steps, room // len(names))
        yield {
            "name": name,
            "what": f"{width} x {height} x {channels} {dtype}",
            "note": found.note,
            "steps": found.steps.tolist(),
            "url": found.url,
            "width": found.width,
            "height": found.height,
        }
