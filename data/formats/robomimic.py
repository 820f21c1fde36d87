"""robomimic's HDF5 files (also of LIBERO and robocasa): data/demo_N with obs/, actions, rewards."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from alltrades.data.formats.hdf5 import Hdf5, inside, natural, text_of
from alltrades.data.formats.recording import OWN, Column, Refusal, guarded, rate_of

LEFT_OUT = {
    "next_obs/": "the observation after the action: that of the next step",
    "states": "the simulator's whole state, which no robot observes",
    "robot_states": "beside the observations",
}


class Robomimic(Hdf5):
    """Demonstrations of such a file, or of several in a folder."""

    plain: ClassVar[bool] = False

    @classmethod
    def _is_like(cls, root: Any) -> bool:
        if "data" not in root:
            return False
        return any(name.startswith("demo") for name in inside(root.filename, root, "data"))

    def __init__(self, path: Path) -> None:
        self._said: dict[Path, dict[str, Any]] = {}
        super().__init__(path)
        for key in self.columns:
            for begin, why in LEFT_OUT.items():
                if key == begin or (begin.endswith("/") and key.startswith(begin)):
                    self.left_out[key] = why

    def _groups(self, file: Path) -> list[str]:
        data = inside(str(file), self.file(file), "data")
        names = [f"data/{name}" for name in sorted(data, key=natural) if name.startswith("demo")]
        attrs = guarded(file, lambda: {k: data.attrs[k] for k in data.attrs})
        self.counted(str(file), attrs.get("num_demos"), len(names), "demonstrations")
        self._said[file] = attrs
        return names

    def _texts(self, group: Any) -> None:
        facts = self._facts(self.places[0][0], "env_args")
        kwargs = facts.get("env_kwargs")
        told = kwargs.get("control_freq") if isinstance(kwargs, dict) else None
        self.rate = rate_of(f"{self.places[0][0]}: control_freq", told)
        self.named = OWN in self._said[self.places[0][0]]
        if self.named:  # among obs/ too
            told = f"obs/{self._facts(self.places[0][0], OWN).get('instruction')}"
            self.instruction = told if told in self.columns else None
        elif self._instruction(0, group) is not None:
            self.columns["@task"] = Column((), "str", "text")
            self.instruction = "@task"

    def _facts(self, file: Path, name: str) -> dict[str, Any]:
        """An attribute of data/ that is JSON."""
        try:
            found = json.loads(text_of(self._said[file].get(name, "{}")))
        except ValueError:
            self.warn(f"{file}: attribute '{name}' is no JSON; not used")
            return {}
        return found if isinstance(found, dict) else {}

    def _instruction(self, i: int, group: Any) -> str | None:
        """Of the demonstration (robocasa) or of its file (LIBERO)."""
        if "ep_meta" in group.attrs:
            try:
                own = json.loads(text_of(group.attrs["ep_meta"])).get("lang")
            except (ValueError, AttributeError):
                own = None
            if own:
                return str(own)
        file = self.places[i][0]
        said = self._facts(file, "problem_info").get("language_instruction")
        said = " ".join(said) if isinstance(said, list) else said
        return str(said) if said else None

    def read(self, i: int, keys: Any) -> dict[str, Any]:
        out = super().read(i, [k for k in keys if k != "@task"])
        group = self.group(i)
        if "@task" in keys:
            said = self._instruction(i, group)
            if said is None:
                raise Refusal(f"{self.where(i)}: no instruction; expected one as in the others")
            out["@task"] = said
        if "actions" in out:
            told = guarded(self.where(i), group.attrs.get, "num_samples")
            self.counted(self.where(i), told, len(out["actions"]), "samples")
        return out

    def choose(self, subset: str) -> None:
        kept = []
        for file in dict.fromkeys(file for file, _ in self.places):
            root = self.file(file)
            masks = sorted(inside(str(file), root, "mask")) if "mask" in root else []
            if subset not in masks:
                raise Refusal(
                    f"{file}: no filter key '{subset}'; expected one of "
                    f"{', '.join(masks) or 'none'}"
                )
            names = guarded(file, _listed, inside(str(file), root, f"mask/{subset}"))
            listed = {f"data/{text_of(name)}" for name in names}
            kept += [p for p in self.places if p[0] == file and p[1] in listed]
        if not kept:
            raise Refusal(
                f"{self.path}: filter key '{subset}' lists no demonstration that is "
                "there; expected some"
            )
        self.places = kept


def _listed(subset: Any) -> np.ndarray:
    """Names of the demonstrations of a filter key."""
    return np.asarray(subset[()]).reshape(-1)
