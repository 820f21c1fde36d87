"""The mapping of a recording's keys to an environment's fields: a small YAML, proposed or given."""

from __future__ import annotations

import re
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import yaml
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, model_validator

from alltrades.data.fields import NAME, field_name
from alltrades.data.formats.recording import Column, Recording, Refusal
from alltrades.data.formats.rotations import FORMS
from alltrades.errors import UserError, nearest

BOOKKEEPING = {
    "index",
    "frame_index",
    "episode_index",
    "task_index",
    "next.done",
    "done",
    "dones",
    "terminations",
    "truncations",
    "terminated",
    "truncated",
    "compress_len",
}
TIMES = ("timestamp", "timestamps", "time", "infos/timestamp", "@time")
REWARDS = ("next.reward", "reward", "rewards")
SUCCESSES = (
    "next.success",
    "success",
    "successes",
    "is_success",
    "infos/success",
    "infos/is_success",
    "episode_success",
)
INTERVENTIONS = (
    "intervention",
    "interventions",
    "is_intervention",
    "complementary_info.is_intervention",
    "infos/intervention",
)
ACTIONS = ("action", "actions")
FURTHER_ACTION = re.compile(r"actions?[./]")
PREFIXES = re.compile(r"^(observations?[./]|obs[./]|data/|/)+")
INSTRUCTION = "task"  # the field that an instruction becomes where no field's name is known


class _Model(BaseModel):
    model_config = ConfigDict(extra="forbid", populate_by_name=True, frozen=True)


def _slice(dims: str | list[int] | None) -> str | list[int] | None:
    if isinstance(dims, str) and not re.fullmatch(r"-?\d*:-?\d*", dims):
        raise ValueError(f"dims '{dims}'; expected a slice such as '0:7', or a list")
    return dims


Dims = Annotated[str | list[int] | None, AfterValidator(_slice)]


class Turn(_Model):
    """A rotation among a part's numbers, written in another form.

    `at` is its first number; forms are quat_xyzw, quat_wxyz, rpy (roll, pitch, yaw about fixed
    axes, rad), rotvec, matrix (row by row), rot6d (first two columns of the matrix), rot6d_rows.
    """

    source: str = Field(alias="from")
    to: str
    at: int = 0

    @model_validator(mode="after")
    def _known(self) -> Turn:
        for form in (self.source, self.to):
            if form not in FORMS:
                raise ValueError(
                    f"rotation form '{form}'{nearest(form, list(FORMS))}; expected "
                    f"one of {', '.join(FORMS)}"
                )
        return self


class Part(_Model):
    """Numbers of one key: which of them (`dims`: "0:7" or a list), then the rotation, then
    `scale` times them plus `offset`.
    """

    source: str = Field(alias="from")
    dims: Dims = None
    rotation: Turn | None = None
    scale: float | list[float] = 1.0
    offset: float | list[float] = 0.0


class Mapped(_Model):
    """A field: the numbers of one key or of several one after another (`parts`), an image, or one
    text for all episodes (`text`).

    `layout` of an image is where its channels stand; `channels: bgr` are turned around; `as: depth`
    makes metres or millimetres (`scale`) uint16.
    """

    source: str | None = Field(None, alias="from")
    parts: list[Part] | None = None
    text: str | None = None
    dims: Dims = None
    rotation: Turn | None = None
    scale: float | list[float] = 1.0
    offset: float | list[float] = 0.0
    names: list[str] | None = None
    units: list[str] | str | None = None
    layout: Literal["hwc", "chw"] | None = None
    channels: Literal["rgb", "bgr"] = "rgb"
    kind: Literal["numbers", "image", "depth", "text"] | None = Field(None, alias="as")

    @model_validator(mode="after")
    def _one_origin(self) -> Mapped:
        if sum(x is not None for x in (self.source, self.parts, self.text)) != 1:
            raise ValueError("expected one of from, parts and text")
        if self.parts is not None and (self.dims, self.rotation) != (None, None):
            raise ValueError("dims and rotation belong to the entries of parts")
        return self

    @cached_property
    def pieces(self) -> list[Part]:
        """Its numbers, part by part."""
        if self.parts is not None:
            return self.parts
        if self.source is None:
            return []
        return [
            Part(
                source=self.source,
                dims=self.dims,
                rotation=self.rotation,
                scale=self.scale,
                offset=self.offset,
            )
        ]


class Flag(_Model):
    """Which key is success, reward, or where a person took over from a policy; `above` makes a
    number a flag: set where it is larger.
    """

    source: str = Field(alias="from")
    above: float | None = None


class Clock(_Model):
    """Which key has the time of each step; `scale` is the seconds of one of its units."""

    source: str = Field(alias="from")
    scale: float = Field(1.0, gt=0, allow_inf_nan=False)


class Map(_Model):
    """A whole mapping."""

    fields: dict[str, Mapped]
    action: Mapped | None = None
    reward: Flag | None = None
    success: Flag | None = None
    timestamp: Clock | None = None
    intervention: Flag | None = None
    control_hz: float | None = Field(None, gt=0, allow_inf_nan=False)
    environment: str | None = None

    @model_validator(mode="after")
    def _names(self) -> Map:
        for name in self.fields:
            if not NAME.fullmatch(name):
                raise ValueError(f"a field called '{name}'; expected a name as 'images.front'")
        if not self.fields:
            raise ValueError("no fields; expected at least one")
        return self

    @property
    def keys(self) -> list[str]:
        """Every key that it reads."""
        whole = [*self.fields.values(), *([self.action] if self.action else [])]
        keys = [part.source for m in whole for part in m.pieces]
        further = (self.reward, self.success, self.timestamp, self.intervention)
        keys += [said.source for said in further if said is not None]
        return list(dict.fromkeys(keys))

    def to_json(self) -> dict[str, Any]:
        """Plain values, without defaults."""
        return self.model_dump(by_alias=True, exclude_defaults=True, mode="json")

    def to_yaml(self) -> str:
        """What `load` reads."""
        facts = self.to_json()
        return yaml.safe_dump(facts, sort_keys=False, width=100, default_flow_style=None)

    def check(self, recording: Recording) -> None:
        """Raises `Refusal` for a key that the recording does not have."""
        for key in self.keys:
            if key not in recording.columns:
                known = list(recording.columns)
                raise Refusal(
                    f"{recording.path}: no '{key}', which the mapping names"
                    f"{nearest(key, known)}; expected some of {', '.join(known)}"
                )


def load(file: Path) -> Map:
    """A mapping from YAML; raises UserError for what is no mapping."""
    try:
        facts = yaml.safe_load(file.read_text(encoding="utf-8"))
        return Map.model_validate(facts)
    except OSError as error:
        raise UserError(
            f"{file}: {error.strerror}; expected a mapping; write one with --dry-run > {file.name}"
        ) from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        said = " ".join(str(error).split())[:160]
        raise UserError(
            f"{file}: no YAML ({said}); expected a mapping as --dry-run prints it"
        ) from error
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(p) for p in first["loc"] if p != "function-after")
        raise UserError(
            f"{file}: {where or 'mapping'}: {first['msg'].removeprefix('Value error, ')}; "
            "expected a mapping as --dry-run prints it"
        ) from error


def propose(recording: Recording) -> tuple[Map, dict[str, str]]:
    """The mapping that a recording's keys suggest, and why other keys are left out."""
    columns, left = recording.columns, dict(recording.left_out)
    fields: dict[str, Any] = {}
    names = {key.lstrip("/"): key for key in columns}
    whole = next((k for k in ACTIONS if columns.get(k, _TEXT).kind == "numbers"), None)
    acts = recording.acts or ([whole] if whole else [k for k in columns if FURTHER_ACTION.match(k)])
    acts = [k for k in acts if columns[k].kind == "numbers" and k not in left]
    reward = next((names[k] for k in REWARDS if k in names), None)
    success = next((names[k] for k in SUCCESSES if k in names), None)
    clock = _clock(columns, left)
    marks = next((names[k] for k in INTERVENTIONS if k in names), None)
    for key, column in columns.items():
        if key in (reward, success, clock, marks) or key in acts or key in left:
            continue
        if key.lstrip("/") in (*BOOKKEEPING, *TIMES):
            left[key] = "bookkeeping, made anew where it is needed"
        elif column.kind == "image" and column.dtype[0] == "f" and column.shape[-1] == 1:
            left[key] = "depth as floats: say `as: depth` and the `scale` that makes millimetres"
        elif FURTHER_ACTION.match(key):
            left[key] = f"beside '{whole or 'the others'}'"
        else:
            told = key == recording.instruction and not recording.named
            name = INSTRUCTION if told else plain(key)
            while name in fields:
                name += "_"
            fields[name] = Mapped(source=key, **_facts(column))
    if not fields:
        raise Refusal(
            f"{recording.path}: no observation among {', '.join(columns) or 'no keys'}; expected "
            "at least one; say with --map which key is what"
        )
    action = None
    if len(acts) == 1:
        action = Mapped(source=acts[0], **_facts(columns[acts[0]]))
    elif acts:
        action = Mapped(parts=[Part(source=k) for k in acts])
    made = Map(
        fields=fields,
        action=action,
        reward=None if reward is None else Flag(source=reward),
        success=None if success is None else Flag(source=success),
        timestamp=None if clock is None else Clock(source=clock),
        intervention=None if marks is None else Flag(source=marks),
        control_hz=recording.rate or _rate(recording, clock),
    )
    return made, left


def _clock(columns: dict[str, Column], left: dict[str, str]) -> str | None:
    """The key of time stamps in seconds: floats. Of whole numbers nobody knows the unit."""
    for key in sorted(columns, key=lambda k: _place(k.lstrip("/"))):
        column = columns[key]
        if key.lstrip("/") not in TIMES or key in left or column.shape not in ((), (1,)):
            continue
        if column.kind == "numbers" and column.dtype[0] == "f":
            return key
        left[key] = "times of whole numbers: say `timestamp` with `scale`, the seconds of one"
    return None


def _place(key: str) -> int:
    return TIMES.index(key) if key in TIMES else len(TIMES)


def _rate(recording: Recording, clock: str | None) -> float | None:
    """Steps per second, by the time stamps of the first episode."""
    if clock is None or recording.resampled or not len(recording):
        return None
    steps = np.diff(np.asarray(recording.read(0, [clock])[clock], np.float64).reshape(-1))
    usual = float(np.median(steps)) if len(steps) else 0.0
    return float(f"{1 / usual:.3g}") if usual > 0 else None


_TEXT = Column((), "str", "text")


def plain(key: str) -> str:
    """The field that a key is by default: "obs/eef_pos" is "eef_pos"."""
    if key.strip("/") in ("observation", "observations", "obs"):
        return "state"
    name = re.sub(r"[^A-Za-z0-9_.\-]", "_", field_name(PREFIXES.sub("", key)))
    return re.sub(r"\.+", ".", name).strip(".") or "state"


def field_of(key: str) -> str | None:
    """The field that a key is by default; None of one that is taken for something else."""
    taken = key.lstrip("/") in (*BOOKKEEPING, *TIMES) or FURTHER_ACTION.match(key)
    return None if taken else plain(key)


def _facts(column: Column) -> dict[str, Any]:
    if column.kind != "numbers":
        return {}
    facts = {"names": column.names, "units": column.units}
    return {k: list(v) for k, v in facts.items() if v is not None}
