"""Units of environments that share names."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from alltrades.data.checks.findings import Finding
from alltrades.data.checks.scale import Scale
from alltrades.data.checks.subject import ACTION, Subject

FACTORS = {1000.0: "metres and millimetres", 180 / np.pi: "radians and degrees", 100.0: "a percent"}
APART = 15.0  # times a range, from which two are of other units
AROUND = 2.5  # times a factor, within which it is likely


def unlike(subjects: Sequence[tuple[Subject, Mapping[str, Scale]]]) -> Iterator[Finding]:
    """Fields of one name, with numbers of the same names, in two environments or stores, whose
    declared units differ or whose ranges are far apart. Each is held against the first.
    """
    seen: dict[tuple[str, object], tuple[Subject, Scale]] = {}
    for subject, scales in subjects:
        for name, scale in scales.items():
            key = (name, subject.names(name) or len(scale.low))
            if key not in seen:
                seen[key] = subject, scale
                continue
            other, usual = seen[key]
            units, theirs = _units(subject, name), _units(other, name)
            if units and theirs and units != theirs:
                d = next(k for k, (a, b) in enumerate(zip(units, theirs)) if a != b)
                what = f"is in '{units[d]}' here and in '{theirs[d]}'"
                yield _finding(subject, other, name, d, what)
                continue
            both = (scale.width > 0) & (usual.width > 0) & ~scale.switch & ~usual.switch
            if not both.any():
                continue
            ratio = np.ones(len(both))
            ratio[both] = scale.width[both] / usual.width[both]
            far = both & (np.maximum(ratio, 1 / ratio) >= APART)
            if far.any():
                d = int(np.flatnonzero(far)[0])
                times = float(max(ratio[d], 1 / ratio[d]))
                guess = min(FACTORS, key=lambda f: abs(np.log(times / f)))
                likely = abs(np.log(times / guess)) <= np.log(AROUND)
                words = f", as {FACTORS[guess]} are" if likely else ""
                what = (
                    f"has a range of {scale.width[d]:.3g} here, {times:.3g} times "
                    f"{'more' if ratio[d] > 1 else 'less'}{words}, than"
                )
                yield _finding(subject, other, name, d, what)


def _units(subject: Subject, name: str) -> tuple[str, ...] | None:
    for said in (subject.own, subject.declared):
        if said is not None:
            known = said.action if name == ACTION else said.observation.get(name)
            if known is not None and known.units is not None:
                return tuple(known.units)
    return None


def _finding(subject: Subject, other: Subject, name: str, d: int, what: str) -> Finding:
    where = other.environment
    if other.environment == subject.environment:
        where = f"{where} of {other.store}"
    return Finding(
        "warning",
        "units",
        subject.environment,
        f"{subject.named(name, d)} {what} in {where}",
        "use one unit for one name, or other names",
        field=name,
        dimension=d,
        store=str(subject.store),
    )
