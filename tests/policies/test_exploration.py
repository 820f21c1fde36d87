import numpy as np
import pytest

from alltrades.policies.control.controller import Controller
from alltrades.policies.control.exploration import Exploration

from .test_controller import LARGE, SMALL, Recorder, real_policy


def play(controller, env_id: str, seed: int, chunks: int = 3, lane: int = 0) -> np.ndarray:
    controller.begin(lane, env_id, seed)
    dims = 2 if env_id == SMALL else 5
    return np.concatenate(
        [controller.plan({lane: np.full((1, dims), 0.1 * i)})[lane] for i in range(chunks)]
    )


def exploring(policy, lanes: int, *settings) -> Controller:
    return Controller(policy, lanes, execution=Exploration(*settings))


def test_the_first_try_is_the_policy_itself():
    policy = real_policy()
    plain = play(Controller(policy, 2), LARGE, 5)
    assert np.array_equal(play(exploring(policy, 2, 0, (0.1, 0.2), 0.5), LARGE, 5), plain)
    assert not np.array_equal(play(exploring(policy, 2, 1, (0.1, 0.2)), LARGE, 5), plain)


def test_a_try_is_a_function_of_seed_and_attempt_whatever_its_lane():
    policy = real_policy()
    first = play(exploring(policy, 3, 2, (0.1, 0.2), 0.5), SMALL, 7)
    assert np.array_equal(
        play(exploring(policy, 3, 2, (0.1, 0.2), 0.5), SMALL, 7, lane=2),
        first,
    )
    assert not np.array_equal(play(exploring(policy, 3, 3, (0.1, 0.2), 0.5), SMALL, 7), first)


def offsets(attempt: int, scale: tuple[float, float], renew: float, seeds: int = 400) -> np.ndarray:
    """(seeds, chunks, 2) offsets of the first and third dimension, in units of half the action box
    (10 here).
    """
    controller = exploring(Recorder(box=10.0), 1, attempt, scale, renew)
    found = []
    for seed in range(seeds):
        controller.begin(0, LARGE, seed)
        chunks = [controller.plan({0: np.zeros((1, 5))})[0] for _ in range(6)]
        found.append(
            [[c[0, 0], c[0, 2] - 1.0] for c in chunks]
        )  # the recorder's actions are 0 and the environment's index
    return np.array(found) / 10.0


def test_an_offset_lasts_for_the_whole_try_and_has_the_scale_asked_for():
    found = offsets(1, (0.1, 0.1), 0.0)
    assert np.allclose(found, found[:, :1], atol=1e-6)
    assert found[:, 0].std(axis=0) == pytest.approx([0.1, 0.1], rel=0.1)
    assert abs(np.corrcoef(found[:, 0].T)[0, 1]) < 0.15


def test_offsets_are_renewed_as_often_as_asked_for():
    found = offsets(1, (0.1, 0.1), 0.25)
    changed = np.abs(np.diff(found[..., 0], axis=1)) > 1e-6
    assert changed.mean() == pytest.approx(0.25, abs=0.04)


def test_exploring_stays_in_the_box_without_a_word_of_the_guard(caplog):
    controller = exploring(Recorder(box=1.0), 1, 1, (5.0, 5.0))
    assert np.abs(play(controller, LARGE, 0)).max() == 1.0
    assert not caplog.records and not sum(controller.refusals.values())
