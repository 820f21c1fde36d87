"""What is recorded against what is declared: fields, sizes, names, rates, bounds."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from alltrades.data.agreement import SLACK, other_fields, other_numbers
from alltrades.data.checks.check import Check
from alltrades.data.checks.findings import Finding
from alltrades.data.checks.subject import ACTION, Block


class Described(Check):
    """Fields, sizes, names and rate against the registered environment."""

    kind = "description"

    def found(self) -> Iterator[Finding]:
        own, declared = self.subject.own, self.subject.declared
        if not self.subject.known or declared is None:
            return
        if own is None:
            yield from self._sizes()
            return
        wrong = other_fields(own.observation, declared.observation) or other_numbers(own, declared)
        if wrong is not None:
            remedy = "map what is missing, or name another environment"
            yield self.finding("error", f"{wrong}, as it is registered", remedy)
            return
        for name in self.scales:
            mine = own.action if name == ACTION else own.observation.get(name)
            other = declared.action if name == ACTION else declared.observation.get(name)
            for what in ("names", "units"):
                a, b = getattr(mine, what, None), getattr(other, what, None)
                if a is not None and b is not None and tuple(a) != tuple(b):
                    d = next(k for k, (x, y) in enumerate(zip(a, b)) if x != y)
                    yield self.finding(
                        "error" if what == "names" and sorted(a) == sorted(b) else "warning",
                        f"{{it}}: its {what} are '{a[d]}' there and '{b[d]}' as registered",
                        "put them in the registered order, or correct one of them",
                        field=name,
                        dimension=d,
                    )

    def _sizes(self) -> Iterator[Finding]:
        """Of a foreign store, which describes nothing."""
        declared = self.subject.declared
        assert declared is not None
        wanted = {n: f.shape for n, f in declared.observation.items() if f.kind != "text"}
        wanted[ACTION] = (declared.action.size,)
        have = {**self.subject.numbers, **self.subject.images}
        for name, shape in wanted.items():
            found = tuple(have[name].shape[1:]) if name in have else None
            if found != shape:
                said = "there is none" if found is None else f"it has shape {found}"
                yield self.finding(
                    "error",
                    f"'{name}': {said}; registered is {shape}",
                    "map what is missing, or name another environment",
                    field=name,
                )


class Bounds(Check):
    """Values outside the declared box, by more than a share of its width: actions that no robot
    executes, states that cannot be. One finding per episode and number, at the worst step.
    """

    kind = "bounds"

    def __init__(self, *args) -> None:  # type: ignore[no-untyped-def]
        super().__init__(*args)
        self._found: list[Finding] = []
        self._boxes: dict[str, tuple[np.ndarray, np.ndarray, np.ndarray]] = {}
        said = self.subject.declared
        for name in self.scales if said is not None else ():
            assert said is not None
            f = said.observation.get(name)
            if name == ACTION and said.action.bounded:
                low, high = said.action.box
            elif f is not None and f.low is not None and f.high is not None:
                low, high = np.array(f.low, float), np.array(f.high, float)
            else:
                continue
            if len(low) == len(self.scales[name].low):
                width = high - low
                usual = np.maximum(self.scales[name].width, 1e-12)
                self._boxes[name] = low, high, np.where(np.isfinite(width), width, usual)

    def see(self, block: Block) -> None:
        for name, (low, high, width) in self._boxes.items():
            least, most = block.extremes(name)
            beyond = np.maximum(low - least, most - high) > SLACK * width
            for i, d in np.argwhere(beyond):
                begin = int(block.start[i])
                x = block.values[name][begin : begin + int(block.length[i]), d]
                by = np.maximum(low[d] - x, x - high[d])
                step = int(by.argmax())
                count = int((by > SLACK * width[d]).sum())
                self._found.append(
                    self.finding(
                        "error" if name == ACTION else "warning",
                        f"{{it}} is {x[step]:.6g}, outside its declared {low[d]:g} to {high[d]:g}, "
                        f"in {count} steps of the episode",
                        "check units and the declared bounds",
                        block.first + int(i),
                        step,
                        name,
                        int(d),
                    )
                )

    def found(self) -> Iterator[Finding]:
        yield from self._found
