"""By how many steps states follow actions, by cross-correlation."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from alltrades.data.checks.check import Check
from alltrades.data.checks.findings import Finding
from alltrades.data.checks.subject import ACTION, Block

REACH = 10  # steps to both sides
STEPS = 6000  # of the sample that are correlated
CLEAR = 0.5  # correlation from which a lag is told
BETTER = 0.05  # by which it must exceed that of the usual lags
USUAL = (0, 3)  # steps
OWN = 30  # steps of an episode of which a lag is told
APART = 3  # steps by which an episode's lag may differ
OFF = 0.1  # by which its correlation must exceed that at the others' lag, and more where it is weak


class Lag(Check):
    """The lag at which changes of a state, or a state's changes, follow an action best."""

    kind = "lag"

    def __init__(self, *args) -> None:  # type: ignore[no-untyped-def]
        super().__init__(*args)
        self._best: tuple[str, int, int, bool, int, float] | None = None
        self._mean = (0.0, 0.0)
        self._own: list[tuple[np.ndarray, np.ndarray]] = []  # episodes, (n, lags)
        if ACTION in self.scales:
            self._search()

    def _search(self) -> None:
        action = np.flatnonzero(~self.scales[ACTION].switch)
        best: list[tuple[float, str, int, int, bool, np.ndarray]] = []
        for name, scale in self.scales.items():
            state = np.flatnonzero(scale.smooth)
            if name == ACTION or not len(state) or not len(action):
                continue
            for levels in (True, False):
                pairs = self._pooled(name, action, state, levels)
                if pairs is None:
                    continue
                top = pairs.max(0)  # (A, D)
                for a, d in enumerate(top.argmax(1).tolist()):
                    key = (float(top[a, d]), name, int(action[a]), int(state[d]), levels)
                    best.append((*key, pairs[:, a, d]))
        if not best:
            return
        value, name, a, d, levels, curve = max(best, key=lambda b: b[0])
        lag = int(curve.argmax()) - REACH
        usual = curve[REACH + USUAL[0] : REACH + USUAL[1] + 1].max()
        if value >= CLEAR:
            if not USUAL[0] <= lag <= USUAL[1] and value < usual + BETTER:
                lag = int(curve[REACH : REACH + USUAL[1] + 1].argmax())
            self._best = name, a, d, levels, lag, value

    def _signals(
        self, block: Block, name: str, a, d, levels: bool
    ) -> tuple[np.ndarray, np.ndarray]:  # type: ignore[no-untyped-def]
        """Changes of states, and actions or changes of them; (S - 1, .) each."""
        state = block.changes(name)[:, d]
        acted = block.changes(ACTION)[:, a] if levels else block.values[ACTION][:-1][:, a]
        return acted, state

    def _pooled(
        self, name: str, action: np.ndarray, state: np.ndarray, levels: bool
    ) -> np.ndarray | None:
        """(lags, A, D) correlations over the sample, of lags -REACH to REACH."""
        a_parts, s_parts, left = [], [], STEPS
        for block in self.sample:
            acted, moved = self._signals(block, name, action, state, levels)
            for low, count in zip(block.start.tolist(), block.length.tolist()):
                if count > 2 * REACH + 2 and left > 0:
                    a_parts.append(acted[low : low + count - 1])
                    s_parts.append(moved[low : low + count - 1])
                    left -= count
        if not a_parts:
            return None
        mean_a, mean_s = (np.concatenate(p).mean(0) for p in (a_parts, s_parts))
        out = np.zeros((2 * REACH + 1, len(action), len(state)))
        power = np.zeros((2, *out.shape))
        for x, y in zip(a_parts, s_parts):
            x, y = (x - mean_a).astype(np.float64), (y - mean_s).astype(np.float64)
            for k, lag in enumerate(range(-REACH, REACH + 1)):
                u = x[: len(x) - lag] if lag >= 0 else x[-lag:]
                v = y[lag:] if lag >= 0 else y[: len(y) + lag]
                out[k] += u.T @ v
                power[0, k] += (u * u).sum(0)[:, None]
                power[1, k] += (v * v).sum(0)
        scale = np.sqrt(power[0] * power[1])
        return np.divide(out, scale, out=np.zeros_like(out), where=scale > 0)

    def see(self, block: Block) -> None:
        if self._best is None or len(block.inside) <= 2 * REACH:
            return
        name, a, d, levels, _, _ = self._best
        acted, moved = (
            np.where(block.inside, x, 0).astype(np.float64)
            for x in self._signals(block, name, a, d, levels)
        )
        start = np.minimum(block.start, len(acted) - 1)
        curve = np.zeros((2 * REACH + 1, len(start)))
        later = np.zeros(len(moved) + 2 * REACH)
        later[REACH : REACH + len(moved)] = moved
        for k in range(2 * REACH + 1):
            curve[k] = np.add.reduceat(acted * later[k : k + len(acted)], start)
        power = np.add.reduceat(acted**2, start) * np.add.reduceat(moved**2, start)
        curve = np.divide(curve, np.sqrt(power), out=np.zeros_like(curve), where=power > 0)
        here = np.flatnonzero(block.length >= OWN)
        self._own.append((block.first + here, curve[:, here]))

    def found(self) -> Iterator[Finding]:
        if self._best is None:
            return
        name, a, d, _, lag, value = self._best
        pair = f"{self.subject.named(name, d)} follows {self.subject.named(ACTION, a)}"
        odd = not USUAL[0] <= lag <= USUAL[1]
        words = f"{pair} by {lag} steps (correlation {value:.2f})"
        if lag < 0:
            words += ": actions come after what they caused"
        yield self.finding(
            "warning" if odd else "note",
            words,
            "shift one against the other" if odd else "nothing to do",
            field=name,
            dimension=d,
        )
        for episodes, curve in self._own:
            best = curve.argmax(0) - REACH
            there, usual = curve.max(0), curve[REACH + lag]
            off = (abs(best - lag) >= APART) & (there >= max(CLEAR, 0.7 * value))
            for k in np.flatnonzero(off & (there - usual > OFF + 0.5 * (1 - there))):
                yield self.finding(
                    "warning",
                    f"{pair} by {best[k]} steps in this episode, and by {lag} in others",
                    "shift one against the other, or leave the episode out",
                    int(episodes[k]),
                    field=name,
                    dimension=d,
                )
