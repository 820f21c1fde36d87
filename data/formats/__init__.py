"""Recordings of other frameworks: one format a file, and the mapping of their keys to fields."""

from pathlib import Path

from alltrades.data.formats.aloha import Aloha
from alltrades.data.formats.bags import Bags
from alltrades.data.formats.diffusion_policy import DiffusionPolicy
from alltrades.data.formats.hdf5 import Hdf5
from alltrades.data.formats.lerobot import LeRobot
from alltrades.data.formats.minari import Minari
from alltrades.data.formats.npz import Npz
from alltrades.data.formats.recording import Column, Recording, Refusal, guarded
from alltrades.data.formats.robomimic import Robomimic
from alltrades.errors import UserError
from alltrades.system.extensions import Extensions

__all__ = ["FORMATS", "Column", "Recording", "Refusal", "open_recording"]

FORMATS: Extensions[type[Recording]] = Extensions(
    "alltrades.formats",
    "format",
    {
        "diffusion_policy": DiffusionPolicy,
        "lerobot": LeRobot,
        "robomimic": Robomimic,
        "aloha": Aloha,
        "minari": Minari,
        "bags": Bags,
        "hdf5": Hdf5,
        "npz": Npz,
    },
)
"""Formats by name; `register` adds one, and packages offer theirs as entry points of this group."""


def open_recording(path: Path, name: str | None = None) -> tuple[str, Recording]:
    """The recording at a path and its format's name: the one that is asked for, or the one that
    recognises the path; a format of plain files counts where no other does, and one of an
    installed package where none that is built in or registered does.

    Raises UserError where there is nothing, no format or several, and `Refusal` for what is
    damaged.
    """
    if not path.exists():
        raise UserError(f"{path}: no such file or folder; expected a recording; check the path")
    if name is None:
        name = _recognised(path)
    kind = FORMATS.get(name)
    return name, guarded(path, kind, path)


def _recognised(path: Path) -> str:
    found: list[str] = []
    for installed in (False, True):
        kinds = {name: FORMATS.get(name) for name in FORMATS.names(installed)}
        every = [name for name, kind in kinds.items() if guarded(path, kind.recognises, path)]
        special = [name for name in every if not kinds[name].plain]
        found = special or every
        if special:
            break
    if len(found) == 1:
        return found[0]
    if found:
        raise UserError(
            f"{path}: may be {' or '.join(found)}; expected one format; say which with --format"
        )
    raise UserError(
        f"{path}: no known format; expected one of {', '.join(FORMATS.names())}; say which with "
        "--format, or load what brings yours with --plugins"
    )
