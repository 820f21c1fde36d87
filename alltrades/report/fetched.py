"""What of a run in an object store is read for reports and comparisons, copied to this machine: its
small files, no policies, stores or checkpoints.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from alltrades.errors import UserError
from alltrades.report.run_files import KNOWN, VIDEO_TYPES
from alltrades.system.remote.place import RemotePath, place

FILES = (
    *("manifest.json", "settings.yaml", "comparison.json", "advice.json", "open_loop.json"),
    *("rollouts.json", "trajectories.json", "perturbations.json", "looks.json"),
    "policies/specialists/scratch/selection.json",
)
FOLDERS = {
    "evaluation": (".json",),
    "weights": (".json",),
    "rounds": (".json",),
    "metrics": (".jsonl",),
    "films": tuple(VIDEO_TYPES),
    "videos": tuple(VIDEO_TYPES),
}


def run_at(path: Path | str, into: Path) -> Path:
    """A run's folder: itself where it is on this machine, else a copy in the folder `into` of what
    `read_run` reads.

    Raises UserError where no run is there, and for a server that cannot be reached or refuses.
    """
    source = place(path)
    if not isinstance(source, RemotePath):
        return source
    target = into / str(len(list(into.iterdir()))) / source.name
    every = (source / name for name in FILES)
    below = (f for name, kinds in FOLDERS.items() for f in _files(source / name, kinds))
    copied = [_copied(file, source, target) for file in (*every, *below)]
    if not any(copied):
        raise UserError(
            f"{source} holds no run; expected a folder with {', '.join(KNOWN)}; name one that "
            "`alltrades run` wrote and that was copied there"
        )
    return target


def file_at(path: Path | str, into: Path) -> Path:
    """A file: itself where it is on this machine, else a copy in the folder `into`."""
    source = place(path)
    if not isinstance(source, RemotePath):
        return source
    target = into / str(len(list(into.iterdir())))
    if not _copied(source, source.parent, target):
        raise UserError(f"{source}: there is no such file; expected one; check the address")
    return target / source.name


def _files(folder: RemotePath, kinds: tuple[str, ...]) -> Iterator[RemotePath]:
    for child in folder.iterdir():
        if child.suffix.lower() in kinds:
            yield child
        elif not child.suffix:
            yield from _files(child, kinds)


def _copied(file: RemotePath, source: Path, target: Path) -> bool:
    """Whether it is there, and then also below `target`."""
    try:
        content = file.read_bytes()
    except FileNotFoundError:
        return False
    here = target / file.relative_to(source)
    here.parent.mkdir(parents=True, exist_ok=True)
    here.write_bytes(content)
    return True
