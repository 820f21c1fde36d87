"""Environments that draw from global generators: an episode depends on its seed alone."""

from __future__ import annotations

import random
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from alltrades.envs.adapter import EnvAdapter, EnvironmentFailure
from alltrades.envs.boundary.randomness import OUTSIDE, EpisodeRandomness
from alltrades.envs.rollouts.hosts import Chunk, LaneHost, Start
from tests.envs.toys import Countdown, toy_spec

ZERO = np.zeros(1, np.float32)
DRAWS = {
    "random": random.random,
    "gauss": lambda: random.gauss(0.0, 1.0),
    "numpy": np.random.uniform,
    "torch": lambda: float(torch.rand(())),
}


class Dice(Countdown):
    """Observes numbers of a global generator: from the start, or from the third step on."""

    def __init__(self, of: str, late: bool = False) -> None:
        super().__init__(succeed_at=99)
        self.of, self.late = of, late

    def look(self) -> np.ndarray:
        quiet = self.late and self.steps < 3
        return np.array([0.0 if quiet else DRAWS[self.of]() for _ in range(2)])

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        self.steps = 0
        return self.look(), {}

    def step(self, action: np.ndarray) -> Any:
        self.steps += 1
        return self.look(), 0.0, False, False, {"success": False}


def episode(adapter: EnvAdapter, seed: int, meanwhile: Any = lambda: None) -> np.ndarray:
    seen = [adapter.reset(seed)]
    for _ in range(6):
        meanwhile()
        seen.append(adapter.step(ZERO).observation)
    return np.array([o["state"] for o in seen])


@pytest.mark.parametrize("late", [False, True])
@pytest.mark.parametrize("of", DRAWS)
def test_an_episode_depends_on_its_seed_and_not_on_what_others_draw(of: str, late: bool):
    spec = toy_spec(lambda: Dice(of, late))
    first = episode(EnvAdapter(spec), 5)
    adapter = EnvAdapter(spec)
    other = episode(adapter, 6)
    assert not np.array_equal(other, first)
    assert len(np.unique(first[3:])) == first[3:].size
    assert np.array_equal(episode(adapter, 5, DRAWS[of]), first)


@pytest.mark.parametrize("of", DRAWS)
def test_global_generators_are_as_they_were_outside_even_behind_a_failure(of: str):
    def seeded() -> None:
        random.seed(3), np.random.seed(3), torch.manual_seed(3)

    seeded()
    expected = [DRAWS[of]() for _ in range(4)]
    seeded()
    adapter, drawn = EnvAdapter(toy_spec(lambda: Dice(of))), []
    adapter.reset(0)
    drawn.append(DRAWS[of]())
    with adapter.randomness:
        adapter.step(ZERO)
        adapter.step(ZERO)
    drawn.append(DRAWS[of]())
    with pytest.raises(EnvironmentFailure):
        adapter.step(np.array([np.nan]))
    with OUTSIDE:
        adapter.reset(1)
        DRAWS[of]()
    drawn += [DRAWS[of](), DRAWS[of]()]
    assert drawn == expected


@pytest.mark.parametrize("of", DRAWS)
def test_episodes_that_run_side_by_side_do_not_share_what_they_draw(of: str):
    spec = toy_spec(lambda: Dice(of, late=True), env_id="toy/dice")

    def run(lanes: list[int]) -> dict[int, np.ndarray]:
        host = LaneHost({spec.id: spec}, {})
        host.run([Start(lane, spec.id, lane, "policy", expert=False) for lane in lanes])
        for _ in range(2):
            host.run([Chunk(lane, np.zeros((4, 1), np.float32)) for lane in lanes])
        done = host.run([Chunk(lane, np.zeros((2, 1), np.float32)) for lane in lanes])
        return {lane: found.observations["state"] for lane, found in done}  # type: ignore[union-attr]

    together = run([0, 1, 2])
    for lane in together:
        assert np.array_equal(run([lane])[lane], together[lane])


def test_what_is_built_is_the_same_whatever_the_first_episode_is():
    class Drawn(Countdown):
        def __init__(self) -> None:
            super().__init__()
            self.offset = random.random()

        def reset(self, **facts: Any) -> Any:
            return np.full(2, self.offset), {}

    a, b = EnvAdapter(toy_spec(Drawn)), EnvAdapter(toy_spec(Drawn))
    a.reset(1)
    assert np.array_equal(a.reset(2)["state"], b.reset(2)["state"])


def test_python_state_is_copied_once_for_many_steps(monkeypatch):
    randomness, copies = EpisodeRandomness(0), []
    with randomness:
        pass
    get = random.getstate
    monkeypatch.setattr(random, "getstate", lambda: copies.append(1) or get())
    with OUTSIDE:
        for _ in range(5):
            with randomness:
                with randomness:
                    pass
    assert len(copies) == 1


class Old(Countdown):
    """Seeds a generator of 32 bits."""

    def __init__(self, message: str | None = None) -> None:
        super().__init__()
        self.message = message

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        if self.message is not None:
            raise ValueError(self.message)
        self.start, self.steps = np.random.RandomState(seed).uniform(), 0
        return np.array([self.start, 0.0]), {}


def test_seeds_beyond_32_bits_are_folded_for_generators_that_refuse_them():
    adapter = EnvAdapter(toy_spec(Old))
    starts = [adapter.reset(seed)["state"][0] for seed in (2**62 + 1, 2**62 + 2, 2**62 + 1)]
    assert adapter.folded and starts[0] == starts[2] != starts[1]
    small = adapter.reset(17)["state"][0]
    assert not adapter.folded and small == np.float32(np.random.RandomState(17).uniform())


def test_a_start_that_fails_for_another_reason_is_not_replaced_by_another_start():
    adapter = EnvAdapter(toy_spec(lambda: Old("no place for the puck")))
    with pytest.raises(EnvironmentFailure, match="no place for the puck"):
        adapter.reset(2**62)


class Worn(Countdown):
    """Its reset leaves what the episode before has done."""

    wear = 0.0

    def reset(self, **facts: Any) -> Any:
        observation, info = super().reset(**facts)
        return observation + self.wear, info

    def step(self, action: np.ndarray) -> Any:
        self.wear += 1.0
        return super().step(action)


def test_an_environment_may_be_built_anew_for_every_episode():
    spec = toy_spec(Worn)
    adapter = EnvAdapter(spec)
    first = episode(adapter, 3)
    assert not np.array_equal(episode(adapter, 3), first)
    adapter = EnvAdapter(replace(spec, rebuild=True))
    assert all(np.array_equal(episode(adapter, 3), first) for _ in range(3))


def test_an_instance_whose_episode_failed_is_not_used_again():
    built: list[Countdown] = []

    def make() -> Countdown:
        built.append(Countdown(fail_at=1))
        return built[-1]

    adapter = EnvAdapter(toy_spec(make))
    for _ in range(3):
        adapter.reset(0)
        with pytest.raises(EnvironmentFailure):
            adapter.step(ZERO)
    assert len(built) == 3
