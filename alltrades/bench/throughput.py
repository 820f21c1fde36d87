"""Throughput of environments, training, sampling and rollouts."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from importlib.util import find_spec

import numpy as np

from alltrades.data.examples import random_frames
from alltrades.data.interface import Interface
from alltrades.data.rows import Rows
from alltrades.data.steps import Steps

BYTES = 2**28  # of random images


def rate(call: Callable[[], object], seconds: float) -> float:
    """Calls per second over `seconds`, after three calls of warm-up."""
    for _ in range(3):
        call()
    count, start = 0, time.perf_counter()
    while (elapsed := time.perf_counter() - start) < seconds:
        call()
        count += 1
    return count / elapsed


def envs(names: Sequence[str], seconds: float) -> Iterator[str]:
    """Control steps per second of `env.step` under random actions, without a policy, on one
    core.
    """
    from alltrades.envs import registry
    from alltrades.envs.speed import measure_speed

    for spec in registry.resolve(list(names)):
        yield f"{spec.id}: {measure_speed(spec, seconds):,.0f} control steps/s on one core"


def fresh_policy(names: Sequence[str], **sizes: int):  # type: ignore[no-untyped-def]
    from alltrades.data.layout import Layout
    from alltrades.envs import registry
    from alltrades.policies.learning.initial import build_policy
    from alltrades.policies.model.normalizer import Normalizer
    from alltrades.policies.settings import PolicySettings

    specs = registry.resolve(list(names))
    infos = [s.interface for s in specs]
    normalizer = Normalizer(Layout(infos))
    return specs, build_policy(PolicySettings(**sizes), infos, normalizer, 0)


def random_steps(infos: Sequence[Interface], count: int, episodes: int) -> Steps:
    """About `count` random steps of each environment's share of the episodes, with actions; of
    large images as many as `BYTES` hold.
    """
    rng, parts = np.random.default_rng(0), []
    per_step = sum(
        int(np.prod(f.shape)) * np.dtype(f.dtype).itemsize
        for info in infos
        for f in info.of_kind("image").values()
    )
    length = max(20, min(count, BYTES // max(1, per_step)) // episodes)
    for info in infos:
        mine = max(1, episodes // len(infos))
        frames = random_frames(info, mine * length, rng)
        action = rng.uniform(-1, 1, (mine * length, info.action_dim)).astype(np.float32)
        parts.append(
            Steps(
                {name: Rows.of(v) for name, v in frames.items() if not isinstance(v, str)},
                Rows.of(action),
                np.zeros(mine * length, bool),
                np.arange(1, mine + 1) * length,
                np.array([info.id] * mine),
                np.array(["expert"] * mine),
                np.zeros(mine, np.uint64),
                np.ones(mine, bool),
                np.full(mine, -1),
                np.ones(mine, bool),
                np.zeros(mine),
                {name: np.array([v] * mine) for name, v in frames.items() if isinstance(v, str)},
            )
        )
    return Steps.concatenate(parts)


def train(names: Sequence[str], seconds: float) -> Iterator[str]:
    """Gradient steps per second at batch 256, window sampling included: the default generalist,
    two smaller ones beside one another, then specialists.
    """
    from alltrades.bench.beside import beside
    from alltrades.policies.learning.batches import demonstration_data
    from alltrades.policies.learning.training import Trainer
    from alltrades.policies.settings import TrainSettings

    specs, policy = fresh_policy(names)
    data = demonstration_data(random_steps(policy.environments, 20000, 200), policy)
    counter = iter(range(1 << 40))
    batches = rate(lambda: data.batch(256, 0, next(counter)), seconds)
    yield f"window sampling: {batches:,.0f} batches of 256/s"
    for precision in ("fp32", "bf16"):
        trainer = Trainer(policy, data, TrainSettings(precision=precision, steps=1 << 30), 0)
        millions = policy.parameter_count() / 1e6
        steps = rate(trainer.update, seconds)
        yield f"training, {precision}, {millions:.2f} M parameters: {steps:,.0f} steps/s"
    yield from beside(fresh_policy(names, width=256, depth=2)[1], data, seconds)
    yield from _specialists(names, seconds)


def _specialists(names: Sequence[str], seconds: float) -> Iterator[str]:
    """A training step of one specialist per environment: one after another, and in stacks of equal
    shape.
    """
    from alltrades.policies.learning.batches import Augmentation, demonstration_data
    from alltrades.policies.learning.stacked_training import LARGEST, Member, StackedTrainer
    from alltrades.policies.learning.training import Trainer
    from alltrades.policies.model.stacked import StackedPolicy, stack_key, stacks
    from alltrades.policies.model.threads import threads_for
    from alltrades.policies.settings import TrainSettings

    for precision in ("fp32", "bf16"):
        settings = TrainSettings(precision=precision, steps=1 << 30)
        specs, policies = _specialist_policies(names)
        data = [
            demonstration_data(
                random_steps(p.environments, 500, 5),
                p,
                Augmentation(symmetries={s.id: s.symmetries}),
            )
            for s, p in zip(specs, policies)
        ]
        single = [Trainer(p, d, settings, 0) for p, d in zip(policies, data)]
        with threads_for(policies[0]):
            alone = rate(partial(_update_all, single), seconds)
        parts = stacks([stack_key(p) for p in policies], LARGEST)
        stacked = [
            StackedTrainer(
                StackedPolicy([policies[i] for i in part]),
                [Member(data[i], i, settings.steps) for i in part],
                settings,
            )
            for part in parts
        ]
        together = rate(partial(_update_all, stacked), seconds)
        yield (
            f"{len(specs)} specialists of about {policies[0].parameter_count() / 1e6:.2f} M "
            f"parameters, {precision}: {1e3 / alone:.1f} ms per step of all one by one, "
            f"{1e3 / together:.1f} ms in {len(parts)} stacks"
        )


def _update_all(trainers) -> None:  # type: ignore[no-untyped-def]
    for trainer in trainers:
        trainer.update()


def _specialist_policies(names: Sequence[str]):  # type: ignore[no-untyped-def]
    from alltrades.data.layout import Layout
    from alltrades.envs import registry
    from alltrades.policies.learning.initial import build_policy
    from alltrades.policies.model.normalizer import Normalizer
    from alltrades.policies.settings import PolicySettings

    specs = registry.resolve(list(names))
    settings = PolicySettings(width=96, depth=2)
    return specs, [
        build_policy(settings, [s.interface], Normalizer(Layout([s.interface])), i)
        for i, s in enumerate(specs)
    ]


def sample(names: Sequence[str], seconds: float) -> Iterator[str]:
    """Milliseconds per chunk of the default generalist, one thread."""

    from alltrades.policies.model.threads import threads

    specs, policy = fresh_policy(names)
    policy.eval()
    for batch in (1, 32):
        window = policy.layout.empty(batch, frames=policy.n_obs_steps)
        noise = np.zeros((batch, policy.draws, policy.horizon, policy.action_dim), dtype=np.float32)
        with threads(1):
            calls = rate(
                partial(policy.act, window, np.zeros(batch, dtype=np.int64), noise), seconds
            )
        steps, time = policy.settings.sampling_steps, 1e3 / calls
        yield f"sampling, {steps} steps, batch {batch}: {time:.2f} ms per call"


def rollouts(names: Sequence[str], seconds: float) -> Iterator[str]:
    """Environment steps per second of rollouts: the default generalist by number of workers, then
    untrained specialists.
    """
    from alltrades.envs.rollouts.crew import Crew
    from alltrades.envs.rollouts.rollout import Job, rollout
    from alltrades.pipeline.acting import controllers_of
    from alltrades.policies.control.controller import Controller
    from alltrades.settings.rollouts import RolloutSettings

    lanes = 32
    specs, policy = fresh_policy(names)

    def measured(controllers, keys, workers: int) -> str:  # type: ignore[no-untyped-def]
        jobs = [
            Job(s.id, 1000 + i, keys[s.id]) for i in range(max(4, 64 // len(specs))) for s in specs
        ]
        start = time.perf_counter()
        with Crew(workers, RolloutSettings().timeout if workers else 0.0) as crew:
            episodes = list(
                rollout(
                    jobs,
                    {s.id: s for s in specs},
                    controllers,
                    lanes=lanes,
                    source="bench",
                    crew=crew,
                )
            )
        spent = time.perf_counter() - start
        return (
            f"{sum(len(e) for e in episodes) / spent:,.0f} steps/s, {len(episodes) / spent:.1f} "
            "episodes/s (start-up included)"
        )

    keys = {s.id: "policy" for s in specs}
    for workers in (0, 1, 2):
        line = measured({"policy": Controller(policy, lanes)}, keys, workers)
        yield f"rollout, {workers} workers: {line}"
    if find_spec("onnx") is not None and find_spec("onnxruntime") is not None:
        graph = controllers_of(
            {s.id: policy for s in specs}, RolloutSettings(lanes=lanes, engine="onnx")
        )
        yield f"rollout, 2 workers, onnxruntime: {measured(*graph, 2)}"
    _, specialists = _specialist_policies(names)
    alone = {
        s.id: Controller(p, lanes, batch=max(1, lanes // len(specs)))
        for s, p in zip(specs, specialists)
    }
    line = measured(alone, {s.id: s.id for s in specs}, 0)
    yield f"specialists, each called alone, 0 workers: {line}"
    of_environment = {s.id: p for s, p in zip(specs, specialists)}
    line = measured(*controllers_of(of_environment, RolloutSettings(lanes=lanes)), 0)
    yield f"specialists, equal shapes called together, 0 workers: {line}"
