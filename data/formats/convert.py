"""One episode of a recording, by a mapping, as an `Episode`."""

from __future__ import annotations

from typing import Any

import numpy as np

from alltrades.data.actions import ActionSpec
from alltrades.data.agreement import other_fields
from alltrades.data.episode import Episode
from alltrades.data.fields import CHANNELS, Field, float_of, text_field
from alltrades.data.finite import fault, finite
from alltrades.data.formats.mapping import Clock, Flag, Map, Mapped, Part
from alltrades.data.formats.recording import Column, Recording, Refusal, bounded
from alltrades.data.formats.rotations import FORMS, turned
from alltrades.data.interface import Interface


class Converter:
    """Episodes of a recording by a mapping. What the first says of its images holds for all.

    Raises `Refusal` for keys that are missing, lengths that disagree and numbers that are not
    finite, naming the episode and the key.
    """

    def __init__(self, recording: Recording, mapping: Map) -> None:
        mapping.check(recording)
        self.recording, self.mapping = recording, mapping
        self._keys = mapping.keys
        self._first: tuple[dict[str, Field], int] | None = None
        if mapping.action is not None:
            recording.acts = [part.source for part in mapping.action.pieces]
        if recording.resampled:
            recording.rate = mapping.control_hz
        self._kinds: tuple[list[Any], int] = [], 0  # of the episode before
        self._bytes: dict[str, float] = {}  # key of a float image -> what makes it 0 to 255

    def episode(self, i: int, environment: str) -> Episode:
        """Episode number i, whose seed is that number."""
        where, m = self.recording.where(i), self.mapping
        raw = self.recording.read(i, self._keys)
        for key in self._keys:
            if key not in raw:
                raise Refusal(f"{where}: no '{key}'; expected it as in the others; leave it out")
        raw = self._even(where, raw)
        fields = {name: self._field(where, f, raw) for name, f in m.fields.items()}
        steps = next(len(v) for v in raw.values() if not isinstance(v, str))
        actions = None if m.action is None else self._numbers(where, m.action, raw)
        reward = None if m.reward is None else self._flag(where, m.reward, raw, steps)
        success = None if m.success is None else self._set(where, m.success, raw, steps)
        marks = None if m.intervention is None else self._set(where, m.intervention, raw, steps)
        times = None
        if m.timestamp is not None:
            times = m.timestamp.scale * self._flag(where, m.timestamp, raw, steps)
        try:
            made = Episode.from_arrays(
                fields, actions, environment, reward, success, "demo", i, times, marks
            )
            self._same(where, made)
        except ValueError as error:
            raise Refusal(f"{where}: {error}; mend it, or leave it out") from error
        return made

    def _same(self, where: str, episode: Episode) -> None:
        """Refuse an episode of other fields or action size than the first."""
        size = 0 if episode.actions is None else episode.actions.shape[1]
        kinds = [
            (name, None if isinstance(v, str) else (v.shape[1:], v.dtype))
            for name, v in episode.observations.items()
        ]
        if self._first is not None and self._kinds == (kinds, size):
            return  # as the one before
        known, actions = self._first = self._first or (episode.fields, size)
        self._kinds = kinds, size
        wrong = other_fields(episode.fields, known)
        if wrong is None and size != actions:
            wrong = f"actions have {size} numbers, not {actions}"
        if wrong is not None:
            raise Refusal(f"{where}: {wrong}; expected what the first episode has; leave it out")

    def interface(self, episode: Episode) -> Interface:
        """What is known of the environment of an episode: fields with names and units, rate."""
        fields = {}
        for name, f in episode.fields.items():
            said = self.mapping.fields[name]
            facts = self._facts(said) if f.kind == "state" else {}
            facts = self._fitting(name, facts, f.shape[:1])
            fields[name] = Field(f.kind, f.shape, f.dtype, **facts)
        size = 0 if episode.actions is None else episode.actions.shape[1]
        acts = self._facts(self.mapping.action) if self.mapping.action else {}
        action = ActionSpec.unknown(size, **self._fitting("action", acts, (size,)))
        rate = self.mapping.control_hz
        return Interface(episode.environment, fields, action, control_hz=rate)

    def _fitting(self, name: str, facts: dict[str, Any], shape: tuple[int, ...]) -> dict[str, Any]:
        """Names and units of as many numbers; one unit stands for all."""
        out: dict[str, Any] = {}
        for kind, given in facts.items():
            if given is None:
                continue
            value: list[str] = [given] * shape[0] if isinstance(given, str) else given
            if len(value) != shape[0]:
                raise Refusal(
                    f"{self.recording.path}: {len(value)} {kind} of '{name}', which has {shape[0]} "
                    "numbers; expected as many; mend the mapping"
                )
            out[kind] = tuple(map(str, value))
        return out

    def _facts(self, said: Mapped) -> dict[str, Any]:
        """Names and units: of the mapping, or those of the parts where all have some."""
        out: dict[str, Any] = {"names": said.names, "units": said.units}
        for kind, given in out.items():
            if given is None:
                parts = [self._part_facts(part, kind) for part in said.pieces]
                if parts and all(p is not None for p in parts):
                    out[kind] = [x for p in parts for x in p or ()]
        return out

    def _part_facts(self, part: Part, kind: str) -> list[str] | None:
        column = self.recording.columns[part.source]
        known = getattr(column, kind)
        if known is None or part.rotation is not None:
            return None
        if kind == "units" and (part.scale, part.offset) != (1.0, 0.0):
            return None
        chosen = np.array(known, dtype=object)
        return list(chosen if part.dims is None else chosen[_index(part.dims)])

    # ---- lengths ---------------------------------------------------------------------------------
    def _even(self, where: str, raw: dict[str, Any]) -> dict[str, Any]:
        """All of one length: an observation after the last action is dropped, which is said."""
        acts = [] if self.mapping.action is None else self.mapping.action.pieces
        arrays = {k: np.asarray(v) for k, v in raw.items() if not isinstance(v, str)}
        texts: dict[str, Any] = {k: v for k, v in raw.items() if isinstance(v, str)}
        flags = [f.source for f in (self.mapping.reward, self.mapping.success) if f is not None]
        for key in flags:
            if key in arrays and arrays[key].ndim == 0:  # one number for the whole episode
                texts[key] = arrays.pop(key)
        if not arrays:
            raise Refusal(f"{where}: no steps; expected at least one")
        key = acts[0].source if acts else next(iter(arrays))
        steps = len(arrays[key])
        if steps == 0:
            raise Refusal(f"{where}: no steps; expected at least one")
        for name, value in arrays.items():
            if value.ndim == 0:
                raise Refusal(f"{where}: '{name}' is one number; expected one per step")
            if len(value) == steps + 1 and name not in flags:
                self.recording.warn(
                    f"'{name}' has one row more than '{key}': the observation after the last "
                    "action, which is dropped"
                )
                arrays[name] = value[:steps]
            elif name in flags and len(value) == 1 != steps:
                texts[name] = value.reshape(-1)[0]
            elif len(value) != steps:
                raise Refusal(
                    f"{where}: '{name}' has {len(value)} rows; expected {steps} as '{key}'; mend "
                    "it, or leave it out"
                )
        return {**arrays, **texts}

    # ---- values ----------------------------------------------------------------------------------
    def _field(self, where: str, said: Mapped, raw: dict[str, Any]) -> Any:
        if said.text is not None:
            return said.text
        column = None if said.source is None else self.recording.columns[said.source]
        kind = said.kind or ("numbers" if column is None else column.kind)
        if kind in ("image", "depth"):
            assert said.source is not None
            return self._image(where, said, kind, raw[said.source])
        if kind == "text":
            value = raw[str(said.source)]
            return value if isinstance(value, str) else _text(where, str(said.source), value)
        return self._numbers(where, said, raw)

    def _numbers(self, where: str, said: Mapped, raw: dict[str, Any]) -> np.ndarray:
        """(T, D) of a float."""
        out = [self._part(where, part, raw[part.source]) for part in said.pieces]
        whole = out[0] if len(out) == 1 else np.concatenate(out, axis=1)
        with np.errstate(over="ignore"):
            whole = whole.astype(float_of(whole.dtype), copy=False)
        if not (good := finite(whole)).all():
            step, entry = np.argwhere(~good)[0]
            keys = "', '".join(part.source for part in said.pieces)
            raise Refusal(
                f"{where}: '{keys}' {fault(whole[step, entry])} at step {step}, entry {entry}; "
                "expected finite numbers; mend it, or leave it out"
            )
        return whole

    def _part(self, where: str, part: Part, value: Any) -> np.ndarray:
        if isinstance(value, str) or value.dtype.kind not in "biuf":
            raise Refusal(f"{where}: '{part.source}' is text; expected numbers")
        x = value.reshape(len(value), -1)
        if part.dims is not None:
            index, size = _index(part.dims), x.shape[1]
            wanted = index if isinstance(index, list) else [index.start or 0, (index.stop or 0) - 1]
            inside = all(-size <= k < size for k in wanted)
            if not inside or not x[:, index].shape[1]:
                raise Refusal(
                    f"{where}: '{part.source}' has {size} numbers; expected those that dims "
                    f"{part.dims} takes"
                )
            x = x[:, index]
        if part.rotation is not None:
            x = self._turned(where, part, x)
        if (part.scale, part.offset) != (1.0, 0.0):
            try:
                x = x * np.asarray(part.scale) + np.asarray(part.offset)
            except ValueError as error:
                raise Refusal(
                    f"{where}: '{part.source}' has {x.shape[1]} numbers; expected as many in scale "
                    "and offset"
                ) from error
        return x

    def _turned(self, where: str, part: Part, x: np.ndarray) -> np.ndarray:
        turn = part.rotation
        assert turn is not None
        stop = turn.at + FORMS[turn.source]
        if not 0 <= turn.at < stop <= x.shape[1]:
            raise Refusal(
                f"{where}: '{part.source}' has {x.shape[1]} numbers; expected a {turn.source} at "
                f"{turn.at} to {stop}"
            )
        try:
            made = turned(x[:, turn.at : stop], turn.source, turn.to)
        except ValueError as error:
            raise Refusal(f"{where}: '{part.source}': no {turn.source} ({error})") from error
        return np.concatenate([x[:, : turn.at], made, x[:, stop:]], axis=1)

    def _image(self, where: str, said: Mapped, kind: str, value: Any) -> np.ndarray:
        """(T, H, W, C) uint8, or uint16 of depth"""
        key = str(said.source)
        if isinstance(value, str) or value.ndim not in (3, 4) or value.dtype.kind not in "biuf":
            raise Refusal(f"{where}: '{key}' is {_kind(value)}; expected images (steps, H, W, C)")
        x = value[..., None] if value.ndim == 3 else value
        first = x.shape[1] in CHANNELS and x.shape[3] not in CHANNELS
        if said.layout == "chw" or (said.layout is None and first):
            x = x.transpose(0, 2, 3, 1)
        if x.shape[3] not in CHANNELS:
            raise Refusal(
                f"{where}: '{key}' has images of shape {x.shape[1:]}; expected 1, 3 or "
                "4 channels; say its layout"
            )
        if said.channels == "bgr":
            x = x[..., [2, 1, 0, *range(3, x.shape[3])]] if x.shape[3] > 1 else x
        if kind == "depth":
            return self._depth(where, said, x)
        if x.dtype == np.uint16 and x.shape[3] == 1:
            return np.ascontiguousarray(x)
        if x.dtype != np.uint8:
            x = self._eight_bits(where, key, x)
        return np.ascontiguousarray(x)

    def _depth(self, where: str, said: Mapped, x: np.ndarray) -> np.ndarray:
        y = np.nan_to_num(x[..., :1].astype(np.float64), nan=0.0, posinf=0.0) * said.scale
        if y.min() < 0 or y.max() > 65535:
            raise Refusal(
                f"{where}: '{said.source}' has depths of {y.min():g} to {y.max():g}; "
                "expected 0 to 65535 mm; give their scale"
            )
        return np.round(y).astype(np.uint16)

    def _eight_bits(self, where: str, key: str, x: np.ndarray) -> np.ndarray:
        """Images of other numbers that are bytes: integers of 0 to 255, or shares of 1."""
        least, most = float(x.min()), float(x.max())
        if not (least >= 0 and most <= 255):
            raise Refusal(
                f"{where}: '{key}' has pixels of {least:g} to {most:g}; expected 0 to "
                "255, or 0 to 1"
            )
        if key not in self._bytes:
            whole = x.dtype.kind != "f" or (most > 1 and (x == np.round(x)).all())
            self._bytes[key] = 1.0 if whole else 255.0
            self.recording.warn(
                f"'{key}' has pixels of {x.dtype} in 0 to {255 if whole else 1}; kept as uint8"
            )
        scale = self._bytes[key]
        if scale == 255 and most > 1:
            raise Refusal(
                f"{where}: '{key}' has pixels up to {most:g}; expected up to 1, as before"
            )
        return np.round(x * scale).astype(np.uint8)

    def _flag(self, where: str, said: Flag | Clock, raw: dict[str, Any], steps: int) -> np.ndarray:
        """(T,) float64; one number of the whole episode stands at its last step."""
        value = raw[said.source]
        if isinstance(value, str):
            raise Refusal(f"{where}: '{said.source}' is text; expected numbers")
        x = np.asarray(value)
        if x.dtype.kind not in "biuf":
            raise Refusal(f"{where}: '{said.source}' has dtype {x.dtype}; expected numbers")
        if x.ndim == 0:
            x = np.append(np.zeros(steps - 1), x)
        if x.size != steps:
            raise Refusal(f"{where}: '{said.source}' has shape {x.shape}; expected one per step")
        x = x.reshape(-1).astype(np.float64)
        if not np.isfinite(x).all():
            step = int(np.argmin(np.isfinite(x)))
            raise Refusal(
                f"{where}: '{said.source}' is not finite at step {step}; expected "
                "numbers; mend it, or leave it out"
            )
        return x

    def _set(self, where: str, said: Flag, raw: dict[str, Any], steps: int) -> np.ndarray:
        """(T,) bool of a flag."""
        x = self._flag(where, said, raw, steps)
        if said.above is not None:
            return x > said.above
        odd = (x != 0) & (x != 1)
        if odd.any():
            raise Refusal(
                f"{where}: '{said.source}' is {x[odd][0]:g} at step "
                f"{int(np.argmax(odd))}; expected 0 or 1; say with 'above' what counts"
            )
        return x == 1.0


def instruction_of(mapping: Map, recording: Recording) -> str | None:
    """The field, of a key of the recording, that says what an episode is of."""
    told = {
        name: said.source
        for name, said in mapping.fields.items()
        if said.source is not None and (said.kind or recording.columns[said.source].kind) == "text"
    }
    by_key = next((name for name, key in told.items() if key == recording.instruction), None)
    return text_field(dict.fromkeys(told, Field.text())) or by_key


def _index(dims: str | list[int]) -> Any:
    if isinstance(dims, list):
        return dims
    return slice(*(int(p) if p else None for p in dims.split(":")))


def _text(where: str, key: str, value: np.ndarray) -> str:
    found = list(dict.fromkeys(map(str, np.asarray(value).reshape(-1))))
    if len(found) != 1:
        raise Refusal(
            f"{where}: '{key}' changes within the episode ({found[0][:40]!r}, then "
            f"{found[1][:40]!r}); expected one text per episode; cut the episode there, or leave "
            "it out"
        )
    return found[0]


def _kind(value: Any) -> str:
    return "text" if isinstance(value, str) else f"{value.dtype} of shape {value.shape}"


def fits(where: object, columns: dict[str, Column], steps: int) -> None:
    """Refuse an episode whose arrays would not fit into memory."""
    bounded(where, sum(c.nbytes for c in columns.values()) * steps)
