"""Thumbnails of cameras in terminals that show true colours: two pixels in a character."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, TextIO

import numpy as np

from alltrades.data.store import EpisodeStore
from alltrades.report.view.pictures import colours

if TYPE_CHECKING:
    from rich.console import Console
    from rich.text import Text

PICTURES = 3  # of a camera: the first step of an episode, its middle, its last
WIDTH, GAP = 24, 2  # characters of a picture, and between two
CAMERAS = 4  # of an environment
ENVIRONMENTS = 6
HALF = "\u2580"  # the upper half of a character in its colour, the lower in its background's


def show_thumbnails(store: EpisodeStore, stream: TextIO | None = None) -> None:
    """Print the cameras of the first episode of each environment; nothing where the stream is no
    terminal, or one of few colours. Reads a few pictures.
    """
    from rich.console import Console

    console = Console(file=stream, highlight=False)
    colourful = console.color_system in ("truecolor", "256") and not console.no_color
    if console.file.isatty() and colourful and console.encoding.startswith("utf"):
        for line in thumbnails(store, console):
            console.print(line, no_wrap=True, crop=True)


def thumbnails(store: EpisodeStore, console: Console) -> Iterator[Text]:
    """The lines of it, no wider than the terminal."""
    from rich.text import Text

    from alltrades.report.view.episodes import Recordings

    if not len(store):
        return
    recordings = Recordings(store)
    width = max(4, min(WIDTH, (console.width - (PICTURES - 1) * GAP - 2) // PICTURES))
    for subject in [s for s in recordings.subjects if s.images][:ENVIRONMENTS]:
        episode = recordings.episode(int(subject.episodes[0]))
        steps = np.unique(np.linspace(0, episode.length - 1, PICTURES).round().astype(int))
        said = ", ".join(map(str, steps))
        for name in list(episode.cameras)[:CAMERAS]:
            shown, note = colours(episode.pictures(name, steps))
            small = [_small(frame, width) for frame in shown]
            scale = f", {note}" if note else ""
            where = f"{name} at steps {said} of episode {episode.number}"
            yield Text(f"  {episode.environment}, {where}{scale}")
            for row in range(0, small[0].shape[0], 2):
                yield _line([picture[row : row + 2] for picture in small])


def _small(picture: np.ndarray, width: int) -> np.ndarray:
    """(2 n, width, 3) of a picture (H, W, 3): means of blocks, of which the nearest are taken."""
    height, wide = picture.shape[:2]
    rows = max(2, 2 * round(height * width / wide / 2))
    k = max(1, min(wide // width, height // rows))
    cut = picture[: height // k * k, : wide // k * k]
    means = cut.reshape(height // k, k, wide // k, k, 3).mean((1, 3)).astype(np.uint8)
    of_row = ((np.arange(rows) + 0.5) * len(means) / rows).astype(int)
    of_column = ((np.arange(width) + 0.5) * means.shape[1] / width).astype(int)
    return means[of_row][:, of_column]


def _line(pairs: list[np.ndarray]) -> Text:
    """A line of several pictures, of each its rows (2, width, 3)."""
    from rich.color import Color
    from rich.style import Style
    from rich.text import Text

    line = Text("  ")
    for k, (upper, lower) in enumerate(pairs):
        line.append(" " * GAP if k else "")
        for above, below in zip(upper.tolist(), lower.tolist()):
            line.append(HALF, Style(color=Color.from_rgb(*above), bgcolor=Color.from_rgb(*below)))
    return line
