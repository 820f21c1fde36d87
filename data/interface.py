"""What a policy must know of an environment: observation, actions, rate. It travels with stores,
artifacts, exported graphs and servers; NumPy only, so that controllers need nothing else.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from typing import Any

import numpy as np

from alltrades.data.actions import ActionSpec
from alltrades.data.fields import NAME, Field, Observation, field_name
from alltrades.data.finite import fault, finite
from alltrades.errors import UserError, nearest

TEXT_KEYS = ("task", "prompt")  # what messages call the one text that an environment has


class NotFinite(UserError):
    """An observation with entries that are no finite numbers: often a sensor's fault, which
    passes.
    """


@dataclass(frozen=True)
class Interface:
    """What goes into a policy and comes out of it in one environment.

    Attributes:
        id: name in the registry or a store, such as "planar/reach".
        observation: fields by name, such as {"state": Field.state(16)}.
        action: limits of the actions.
        max_steps: time limit in control steps; None where there is none.
        control_hz: control rate in Hz; None where it is unknown.
        version: higher when observations or actions change meaning.

    Raises ValueError for what cannot be.
    """

    id: str
    observation: Mapping[str, Field]
    action: ActionSpec
    max_steps: int | None = None
    control_hz: float | None = None
    version: int = 1

    def __post_init__(self) -> None:
        object.__setattr__(self, "observation", dict(self.observation))
        if not self.observation:
            raise ValueError(f"{self.id}: no observation; expected at least one field")
        for name in self.observation:
            if not NAME.fullmatch(name):
                raise ValueError(
                    f"{self.id}: a field called '{name}'; expected letters, digits, _ and -, with "
                    "single dots between them, such as 'images.front'"
                )
        if self.max_steps is not None and self.max_steps < 1:
            raise ValueError(f"{self.id}: max_steps must be positive, got {self.max_steps}")
        if self.control_hz is not None and not 0 < self.control_hz < np.inf:
            raise ValueError(
                f"{self.id}: control_hz {self.control_hz}; expected a positive number of Hz"
            )

    # ---- sizes -----------------------------------------------------------------------------------
    @property
    def action_dim(self) -> int:
        return self.action.size

    def of_kind(self, kind: str) -> dict[str, Field]:
        """Its fields of one kind, in order."""
        return {name: f for name, f in self.observation.items() if f.kind == kind}

    @property
    def state_dim(self) -> int:
        """Numbers of all its state fields together."""
        return sum(f.shape[0] for f in self.of_kind("state").values())

    def seeing(self, observe: Sequence[str] | None) -> Interface:
        """The same with the fields that match one of these names or patterns, such as "images.*";
        all with None. Raises UserError where none does.
        """
        if observe is None:
            return self
        kept = {
            name: f
            for name, f in self.observation.items()
            if any(fnmatchcase(name, field_name(pattern)) for pattern in observe)
        }
        if not kept:
            raise UserError(
                f"observe = {', '.join(observe)}: '{self.id}' has no such field; expected some of "
                f"{', '.join(self.observation)}{nearest(observe[0], list(self.observation))}"
            )
        return replace(self, observation=kept)

    # ---- observations ----------------------------------------------------------------------------
    def check(self, given: Any) -> Observation:
        """One observation -> its fields, as copies of their dtypes and shapes. The only check of
        an observation.

        Args:
            given: values by name (slashes are dots, "observation." in front is left out, "task" or
                "prompt" mean the only text), or, where the only field is a state, its numbers.
                Further fields are left out.

        Raises UserError for a field that is missing or of another type or shape, and `NotFinite`.
        """
        values = self._named(given)
        return {name: self._value(name, f, values[name]) for name, f in self.observation.items()}

    def check_frames(self, given: Any) -> Observation:
        """Several observations, oldest first: as `check`, of arrays (k, *shape), k >= 1; a text is
        one string for all.
        """
        values = self._named(given)
        out = {n: self._value(n, f, values[n], True) for n, f in self.observation.items()}
        counts = {n: len(v) for n, v in out.items() if not isinstance(v, str)}
        if len(set(counts.values())) > 1:
            raise UserError(
                f"observations of '{self.id}' have unequal numbers of frames "
                f"({', '.join(f'{n}: {k}' for n, k in counts.items())}); expected as many of each"
            )
        return out

    def _named(self, given: Any) -> dict[str, Any]:
        if not isinstance(given, Mapping):
            if [f.kind for f in self.observation.values()] == ["state"]:
                return {next(iter(self.observation)): given}
            raise UserError(
                f"observation of '{self.id}' is a {type(given).__name__}; expected its fields by "
                f"name: {self.described()}"
            )
        values = {field_name(str(key)): value for key, value in given.items()}
        sent = list(values)
        said = [values[key] for key in TEXT_KEYS if key in values]
        texts = [name for name in self.of_kind("text") if name not in values] if said else []
        if len(texts) == 1:
            values[texts[0]] = said[0]
        missing = [name for name in self.observation if name not in values]
        if missing:
            raise UserError(
                f"observation of '{self.id}' has no '{missing[0]}'; it has "
                f"{', '.join(sent) or 'nothing'}; expected {self.described()}"
            )
        return values

    def described(self) -> str:
        """Its fields in words."""
        return ", ".join(f"{name} ({f})" for name, f in self.observation.items())

    def _value(self, name: str, f: Field, value: Any, frames: bool = False) -> np.ndarray | str:
        where = f"observation '{name}' of '{self.id}'"
        if f.kind == "text":
            if not isinstance(value, str):
                raise UserError(f"{where} is a {type(value).__name__}; expected a string")
            return value
        try:
            array = np.asarray(value)
        except ValueError:  # lists of unequal lengths
            array = np.empty(0, dtype=object)
        if array.dtype.kind not in "biuf":
            raise UserError(
                f"{where} is a {type(value).__name__} of dtype {array.dtype}; expected numbers of "
                f"shape {f.shape}"
            )
        own = array.shape[1:] if frames else array.shape
        if f.kind == "image" and own == f.shape[:2] and f.shape[2] == 1:
            array, own = array[..., None], f.shape
        if own != f.shape or not len(array):
            raise UserError(
                f"{where} has shape {array.shape}; expected "
                f"{'(k, ' + str(f.shape)[1:] if frames else f.shape}; check the environment id and "
                "what the observation holds"
            )
        if f.kind == "image" and f.dtype != "float32":
            if array.dtype.name != f.dtype:
                raise UserError(
                    f"{where} has dtype {array.dtype}; expected {f.dtype}, 0 to "
                    f"{np.iinfo(f.dtype).max}"
                )
            return array.copy()
        with np.errstate(over="ignore"):
            out = array.astype(f.dtype)
        bad = ~finite(out).reshape(-1, max(1, int(np.prod(f.shape))))
        if bad.any():
            row, entry = np.argwhere(bad)[0]
            raise NotFinite(
                f"{where} {fault(out.reshape(bad.shape)[row, entry])} at entry {entry}; expected "
                "finite numbers; check the sensor"
            )
        return out

    # ---- identity --------------------------------------------------------------------------------
    def digest(self) -> str:
        """Hash of what a policy depends on: fields, action bounds, control rate, version (not names
        and units, not the time limit).
        """
        facts = [
            self.id,
            [[name, *f.values] for name, f in sorted(self.observation.items())],
            self.action_dim,
            [v.tolist() for v in self.action.box],
            self.control_hz,
            self.version,
            self.action.image,
        ]
        return hashlib.sha256(json.dumps(facts).encode()).hexdigest()[:16]

    def to_json(self) -> dict[str, Any]:
        """Plain values; fields in their order."""
        fields = [{"name": name, **f.to_json()} for name, f in self.observation.items()]
        return {**vars(self), "observation": fields, "action": self.action.to_json()}

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Interface:
        """From what `to_json` gave; raises TypeError, KeyError or ValueError for anything else."""
        fields = {
            str(f["name"]): Field.from_json({k: v for k, v in f.items() if k != "name"})
            for f in value["observation"]
        }
        action = ActionSpec.from_json(value["action"])
        return cls(**{**value, "observation": fields, "action": action})
