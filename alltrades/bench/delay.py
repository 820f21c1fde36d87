"""`alltrades bench delay`: what late replies cost in success, and what acting asynchronously saves
of it.

Time is simulated, in lockstep with the environments, so that figures depend on no machine: a reply
of the real server is withheld for as many control steps as the delay covers. An episode's time
begins with its first action: the robot stands still until its first chunk is there.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from typing import Any

import numpy as np

from alltrades.bench.subject import ServerProcess, artifact
from alltrades.data.interface import Interface
from alltrades.errors import UserError
from alltrades.policies.acting import ActingPolicy
from alltrades.policies.client.remote import RemotePolicy
from alltrades.policies.control.controller import Controller
from alltrades.policies.control.realtime import ROUNDING, RealTimeController

LANES = 32
SEED = 0  # root of the starts, which no other purpose shares


def delay(
    folder: str | None,
    names: Sequence[str] | None,
    delay_ms: float,
    episodes: int,
    every: int | None,
    overlap: int | None,
    steps: int | None,
    results: list[dict[str, Any]],
) -> Iterator[str]:
    """Yield a line for each way of acting and for its paired difference; append both as plain
    values to `results`.

    Acting asynchronously is ok when no call of the policy failed.

    Args:
        folder: artifact, or None for a fresh default generalist of the environments `names`.
        names: environments; None for all that the artifact knows.
        delay_ms: from the observation to the arrival of its chunk.
        episodes: per environment, on common starts.
        every, overlap: of `RealTimeController`.
        steps: sampling steps instead of the policy's own.
    """
    from alltrades.envs import registry
    from alltrades.envs.rollouts.differences import paired_difference
    from alltrades.envs.rollouts.evaluation import Actors, Evaluation, evaluate
    from alltrades.envs.rollouts.rollout import LaneController
    from alltrades.envs.rollouts.seeding import episode_seed
    from alltrades.pipeline.context import crew_of
    from alltrades.policies.model.threads import threads
    from alltrades.settings.rollouts import RolloutSettings

    if (
        not (math.isfinite(delay_ms) and delay_ms >= 0)
        or episodes < 1
        or (every is not None and every < 1)
        or (overlap or 0) < 0
    ):
        raise UserError(
            f"delay {delay_ms:g} ms, {episodes} episodes, every {every}, overlap {overlap}; "
            "expected at least 0, 1, 1 and 0"
        )
    seconds = delay_ms / 1e3
    with threads(1), artifact(folder, names or ["planar"], steps) as path:
        from alltrades.policies.model.loading import load_policy

        policy = load_policy(path)
        specs = {
            s.id: s
            for s in registry.resolve(list(names) if names else [e.id for e in policy.environments])
        }
        for spec in specs.values():
            policy.check(spec)
        seeds = {s: [episode_seed(SEED, "bench", s, i) for i in range(episodes)] for s in specs}
        lanes = min(LANES, episodes * len(specs))
        found: dict[str, Evaluation] = {}
        rates = {_rate(s.interface) for s in specs.values()}
        steps_of = sorted(f"{control_steps(seconds, hz)} steps at {hz:g} Hz" for hz in rates)
        yield (
            f"{delay_ms:g} ms are {', '.join(steps_of)}; chunks of {policy.horizon}, of which "
            f"{policy.n_action_steps} are executed; {len(specs)} environments"
        )
        with (
            crew_of(RolloutSettings()) as crew,
            ServerProcess(path, "--rate-limit", "0", "--max-clients", str(lanes)) as server,
        ):
            ways: dict[str, Callable[[], LaneController]] = {
                "synchronous": lambda: Controller(policy, lanes),
                "waiting": lambda: WaitingController(policy, lanes, seconds),
                "asynchronous": lambda: WithheldLanes(
                    [lambda: RemotePolicy(port=server.port)] * lanes, seconds, every, overlap
                ),
            }
            for name, make in ways.items():
                controller = make()
                found[name] = evaluate(
                    name,
                    Actors(
                        {"policy": controller},
                        dict.fromkeys(specs, "policy"),
                        dict.fromkeys(specs, policy.digest()),
                    ),
                    specs,
                    seeds,
                    lanes=lanes,
                    crew=crew,
                )
                mean, (low, high) = found[name].mean()
                result: dict[str, Any] = {
                    "path": name,
                    "delay_ms": delay_ms if name != "synchronous" else 0.0,
                    "every": every,
                    "overlap": overlap,
                    "success": mean,
                    "interval": [low, high],
                    "n": episodes * len(specs),
                    "evaluation": found[name].to_json(),
                }
                line = f"{name:<13} success {mean:.3f} [{low:.3f}, {high:.3f}], n = {result['n']}"
                if isinstance(controller, WithheldLanes):
                    counts = result["statistics"] = controller.statistics()
                    result["ok"] = not counts["failures"]
                    controller.close()
                    line += f"; {counts['chunks']} chunks, {counts['late']} late"
                    line += f", {counts['held']} steps without an action"
                    if counts["failures"]:
                        line += f", {counts['failures']} CALLS FAILED"
                if name != "synchronous":
                    pair = paired_difference(found[name], found["synchronous"])
                    result["minus_synchronous"] = pair.to_json()
                    low, high = pair.interval
                    line += f"; minus synchronous {pair.mean:+.3f} [{low:+.3f}, {high:+.3f}]"
                results.append(result)
                yield line


def control_steps(seconds: float, control_hz: float) -> int:
    """Control steps that begin before a delay is over."""
    return max(0, math.ceil(seconds * control_hz - ROUNDING))


def _rate(info: Interface) -> float:
    """Control rate in Hz."""
    if info.control_hz is None:
        raise UserError(
            f"the control rate of '{info.id}' is unknown; expected environments with control_hz"
        )
    return info.control_hz


class WaitingController(Controller):
    """What a synchronous controller does under delay: it holds the last action until the next chunk
    is there.
    """

    def __init__(self, policy: ActingPolicy, lanes: int, seconds: float) -> None:
        super().__init__(policy, lanes)
        self._seconds = seconds

    def plan(self, frames: Mapping[int, Any]) -> dict[int, np.ndarray]:
        before = {lane: self.states[lane].last for lane in frames}
        out = {}
        for lane, actions in super().plan(frames).items():
            last, hz = before[lane], _rate(self.environment(lane))
            held = (
                actions[:0]
                if last is None
                else np.repeat(last[-1:], control_steps(self._seconds, hz), axis=0)
            )
            out[lane] = np.concatenate([held, actions])
        return out


class WithheldLanes:
    """Robots that act asynchronously in simulated time; plans one action at a time for `rollout`.

    Every lane is a robot of its own, with its clock, its `RealTimeController` and its policy, whose
    calls run in threads while the environments go on and whose replies are withheld until `seconds`
    of the lane's time have passed.

    Args:
        policies: makes each robot's policy, such as a connection to the server.
        seconds: delay.
        every, overlap: of `RealTimeController`.
    """

    def __init__(
        self,
        policies: Sequence[Callable[[], Any]],
        seconds: float,
        every: int | None = None,
        overlap: int | None = None,
    ) -> None:
        self.lanes = len(policies)
        self._policies = [make() for make in policies]
        self._pools = [
            ThreadPoolExecutor(1) for _ in policies
        ]  # a policy answers one call at a time, a dropped one too
        self._time = [SimulatedExecutor(pool, seconds) for pool in self._pools]
        self._robots = [
            RealTimeController(
                policy, executor=time, clock=time.clock, delay=seconds, every=every, overlap=overlap
            )
            for policy, time in zip(self._policies, self._time)
        ]

    def begin(self, lane: int, environment: str, seed: int) -> None:
        self._robots[lane].begin(0, environment, seed)

    def plan(self, frames: Mapping[int, Any]) -> dict[int, np.ndarray]:
        """Per lane the next action (1, action_dim of its environment)."""
        out = {}
        for lane, new in frames.items():
            robot = self._robots[lane]
            action = robot.act({k: v if isinstance(v, str) else v[-1] for k, v in new.items()})
            self._time[lane].advance(1.0 / _rate(robot.environment(0)))
            out[lane] = action[None]
        return out

    def statistics(self) -> dict[str, int]:
        """Counts of all robots together; see `RealTimeController.statistics`."""
        each = [robot.statistics() for robot in self._robots]
        return {name: sum(s[name] for s in each) for name in each[0] if name != "delay_ms"}

    def close(self) -> None:
        for pool in self._pools:
            pool.shutdown()
        for policy in self._policies:
            policy.close()


class SimulatedExecutor(Executor):
    """Runs calls in a pool; their results are there `seconds` of simulated time after they were
    submitted, never before.
    """

    def __init__(self, pool: Executor, seconds: float) -> None:
        self.now = 0.0
        self._pool, self._seconds = pool, seconds
        self._pending: list[tuple[float, _Withheld, Future]] = []

    def clock(self) -> float:
        """Seconds that have passed."""
        return self.now

    def submit(self, function: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future:
        outer = _Withheld(self)
        self._pending.append(
            (self.now + self._seconds, outer, self._pool.submit(function, *args, **kwargs))
        )
        self.advance(0.0)
        return outer

    def advance(self, seconds: float) -> None:
        """Let time pass, and what is due then be done; blocks until the pool has it."""
        self.now += seconds
        while self._pending and self._pending[0][0] <= self.now + 1e-9:
            _, outer, inner = self._pending.pop(0)
            error = inner.exception()
            if error is not None:
                outer.set_exception(error)
            else:
                outer.set_result(inner.result())

    def until(self, future: Future) -> None:
        """Let time pass until a call is done."""
        while not future.done():
            self.advance(max(0.0, self._pending[0][0] - self.now))


class _Withheld(Future):
    """Waiting for it lets simulated time pass."""

    def __init__(self, executor: SimulatedExecutor) -> None:
        super().__init__()
        self._executor = executor

    def result(self, timeout: float | None = None) -> Any:
        self._executor.until(self)
        return super().result(0)
