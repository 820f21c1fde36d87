"""Weights on planar tasks, where the occupancy of the expert can be sampled to any precision.

Half of the rollouts fail and visit states that the expert does not: the shift is the failure. What
every kind of weights makes of E|x - mean|^2 (in deviations, under the expert's occupancy) is held
against 300 further episodes of the expert.
"""

from pathlib import Path

import numpy as np
import pytest

from alltrades.data.steps import Steps
from alltrades.data.store import EpisodeStore
from alltrades.data.weights.estimate import base_measure, estimate_weights
from alltrades.data.weights.settings import WeightSettings
from alltrades.envs import registry
from alltrades.envs.rollouts.rollout import Job, rollout
from alltrades.envs.rollouts.seeding import episode_seed
from tests.data.stores import states


class FailsHalfTheTime:
    """The scripted expert, or in half of the episodes a policy that leaves for elsewhere: to
    another goal, or away.
    """

    def __init__(self, name: str) -> None:
        self.expert, self.leaves, self.fails = registry.expert(name), name == "planar/reach", False

    def reset(self, seed: int) -> None:
        self.fails = bool(np.random.default_rng([seed, 2]).random() < 0.5)
        self.expert.reset(seed)

    def __call__(self, observation: np.ndarray) -> np.ndarray:
        if not self.fails:
            return self.expert(observation)
        if self.leaves:
            return np.array([0.8, -0.5], np.float32)
        seen = observation.copy()
        seen[[8, 12]] += 0.3  # goal, and goal minus object
        return self.expert(seen)


def record(path: Path, name: str, episodes: int, purpose: str, expert: object = None) -> Steps:
    spec = registry.resolve([name])[0]
    store = EpisodeStore.create(path / f"{purpose}.zarr", provenance={"kind": "rollouts"})
    jobs = [Job(name, episode_seed(0, purpose, name, i), "expert") for i in range(episodes)]
    store.append(
        list(
            rollout(
                jobs,
                {name: spec},
                {},
                lanes=1,
                source=purpose,
                experts=None if expert is None else {name: expert},
            )
        )
    )
    return store.steps()


@pytest.fixture(scope="module", params=["planar/reach", "planar/push"])
def sampled(request, tmp_path_factory) -> tuple[Steps, Steps, np.ndarray, np.ndarray]:
    """Demonstrations, rollouts, and of the steps of both |x - mean|^2, in units of its mean over
    the expert's occupancy.
    """
    path, name = tmp_path_factory.mktemp("planar"), request.param
    demos, rollouts = (
        record(path, name, 30, "demos"),
        record(path, name, 80, "rollout", FailsHalfTheTime(name)),
    )
    many = record(path, name, 300, "evaluation")
    occupancy = base_measure(many)
    mean = occupancy @ states(many)
    scale = np.sqrt(occupancy @ (states(many) - mean) ** 2)
    moves = scale > 1e-6
    size = moves.sum()  # of the expert's occupancy, exactly
    return (
        demos,
        rollouts,
        *(
            (((states(s) - mean)[:, moves] / scale[moves]) ** 2).sum(1) / size
            for s in (demos, rollouts)
        ),
    )


def test_half_of_the_rollouts_fail_and_misjudge_the_occupancy(sampled):
    demos, rollouts, of_demos, of_rollouts = sampled
    assert 0.4 < rollouts.episode_success.mean() < 0.65 and demos.episode_success.all()
    assert base_measure(rollouts) @ of_rollouts > 1.5 and base_measure(
        demos
    ) @ of_demos == pytest.approx(1.0, abs=0.1)


@pytest.mark.parametrize("kind", ["ratio", "rulsif", "classifier-mlp", "success", "success*ratio"])
def test_every_kind_of_weights_moves_rollouts_to_the_experts_occupancy(sampled, kind):
    demos, rollouts, of_demos, of_rollouts = sampled

    def error(p: np.ndarray, q: np.ndarray) -> float:
        return abs(float(p @ of_demos + q @ of_rollouts) - 1)

    result = estimate_weights(demos, rollouts, WeightSettings(kind=kind), np.random.default_rng(0))
    unweighted = error(0.2 * base_measure(demos), 0.8 * base_measure(rollouts))
    assert result.active is (kind != "success") and result.warnings == []
    assert error(*result.row_probability()) < 0.25 * unweighted
