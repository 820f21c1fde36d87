"""Throughput of environments, training, sampling and rollouts."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial

import numpy as np


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
    """Control steps per second of `env.step` under random actions, without a policy, on one core."""
    from alltrades.envs import registry
    from alltrades.envs.speed import measure_speed

    for spec in registry.resolve(list(names)):
        yield f"{spec.id}: {measure_speed(spec, seconds):,.0f} control steps/s on one core"


def _policy(names: Sequence[str]):  # type: ignore[no-untyped-def]
    from alltrades.envs import registry
    from alltrades.policies.normalizer import Normalizer
    from alltrades.policies.policy import EnvironmentInfo
    from alltrades.policies.settings import PolicySettings
    from alltrades.policies.specialists import build_policy

    specs = registry.resolve(list(names))
    infos = [EnvironmentInfo.of(s) for s in specs]
    normalizer = Normalizer(len(infos), max(i.obs_dim for i in infos), max(i.action_dim for i in infos))
    return specs, build_policy(PolicySettings(), infos, normalizer, 0)


def train(names: Sequence[str], seconds: float) -> Iterator[str]:
    """Gradient steps per second of the default generalist at batch 256, window sampling included."""
    from alltrades.data.steps import Steps
    from alltrades.policies.batches import TrainingData
    from alltrades.policies.settings import TrainSettings
    from alltrades.policies.training import Trainer

    specs, policy = _policy(names)
    rng = np.random.default_rng(0)
    count, episodes = 20000, 200
    steps = Steps(rng.standard_normal((count, policy.obs_dim), dtype=np.float32),
                  rng.uniform(-1, 1, (count, policy.action_dim)).astype(np.float32), np.zeros(count, bool),
                  np.arange(1, episodes + 1) * (count // episodes),
                  np.array([specs[i % len(specs)].id for i in range(episodes)]), np.array(["expert"] * episodes),
                  np.zeros(episodes, np.uint64), np.ones(episodes, bool), np.full(episodes, -1), np.ones(episodes, bool))
    data = TrainingData(steps, [s.id for s in specs], policy.history, policy.horizon, policy.obs_dim, policy.action_dim)
    counter = iter(range(1 << 40))
    yield f"window sampling: {rate(lambda: data.batch(256, 0, next(counter)), seconds):,.0f} batches of 256/s"
    for precision in ("fp32", "bf16"):
        trainer = Trainer(policy, data, TrainSettings(precision=precision, steps=1 << 30), 0)
        millions = policy.parameter_count() / 1e6
        yield f"training, {precision}, {millions:.2f} M parameters: {rate(trainer.update, seconds):,.0f} steps/s"


def sample(names: Sequence[str], seconds: float) -> Iterator[str]:
    """Milliseconds per chunk of the default generalist, one thread."""
    import torch

    from alltrades.policies.training import threads

    specs, policy = _policy(names)
    policy.eval()
    for batch in (1, 32):
        window = torch.zeros(batch, policy.history, policy.obs_dim)
        environment = torch.zeros(batch, dtype=torch.long)
        generators = [torch.Generator().manual_seed(i) for i in range(batch)]
        with torch.inference_mode(), threads(1):
            calls = rate(partial(policy.act, window, environment, generators), seconds)
        yield f"sampling, {policy.settings.sampling_steps} steps, batch {batch}: {1e3 / calls:.2f} ms per call"


def rollouts(names: Sequence[str], seconds: float) -> Iterator[str]:
    """Environment steps per second of rollouts with the default generalist, by number of workers."""
    from alltrades.envs.rollout import Job, rollout
    from alltrades.policies.controller import Controller

    specs, policy = _policy(names)
    policy.eval()
    jobs = [Job(s.id, 1000 + i, "policy") for i in range(max(4, 64 // len(specs))) for s in specs]
    for workers in (0, 1, 2):
        start = time.perf_counter()
        episodes = list(rollout(jobs, {s.id: s for s in specs}, {"policy": Controller(policy, 32)}, workers=workers,
                                lanes=32, source="bench"))
        spent = time.perf_counter() - start
        yield (f"rollout, {workers} workers: {sum(len(e) for e in episodes) / spent:,.0f} steps/s, "
               f"{len(episodes) / spent:.1f} episodes/s (start-up included)")
