"""The controller against a policy whose every output can be computed by hand, and against the real
one.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pytest
import torch

from alltrades.data.actions import ActionSpec
from alltrades.data.fields import Field
from alltrades.data.interface import Interface
from alltrades.data.layout import Layout
from alltrades.envs.rollouts.seeding import policy_generator
from alltrades.errors import UserError
from alltrades.policies.acting import ActingPolicy
from alltrades.policies.control.controller import Controller
from alltrades.policies.control.guard import ActionGuard
from alltrades.policies.model.normalizer import Normalizer
from alltrades.policies.model.policy import DiffusionPolicy
from alltrades.policies.settings import PolicySettings

SMALL, LARGE = "toy/small", "toy/large"


class Recorder(ActingPolicy):
    """Remembers what it was asked; action t of row i is (first observation + t, environment, noise,
    ...).
    """

    def __init__(
        self, n_obs_steps: int = 3, horizon: int = 6, n_action_steps: int = 4, box: float = 1e6
    ) -> None:
        self.n_obs_steps, self.horizon = n_obs_steps, horizon
        self.n_action_steps = n_action_steps
        self.draws = 2
        self.environments = tuple(
            Interface(i, {"state": Field.state(d)}, ActionSpec((-box,) * a, (box,) * a), 50, 10.0)
            for i, d, a in [(SMALL, 2, 2), (LARGE, 5, 3)]
        )
        self.windows: list[np.ndarray] = []
        self.index: list[np.ndarray] = []
        self.noise: list[np.ndarray] = []
        self.broken = False  # its chunks are not finite

    def act(
        self,
        window: Mapping[str, np.ndarray],
        environment: np.ndarray,
        noise: np.ndarray,
        known: np.ndarray | None = None,
        keep: np.ndarray | None = None,
    ) -> np.ndarray:
        state = window["state"]
        assert (
            noise.shape == (len(state), self.draws, self.horizon, self.action_dim)
            and noise.dtype == np.float32
        )
        self.windows.append(state.copy())
        self.index.append(environment.copy())
        self.noise.append(noise[:, 0, 0, 0].copy())
        chunk = np.zeros((len(state), self.horizon, self.action_dim), dtype=np.float32)
        chunk[:, :, 0] = state[:, -1, :1] + np.arange(self.horizon)
        chunk[:, :, 1] = noise[:, 0, 0, :1]
        chunk[:, :, 2] = environment[:, None]
        return np.full_like(chunk, np.nan) if self.broken else chunk


def real_policy(n_obs_steps: int = 2, backbone: str = "mlp") -> DiffusionPolicy:
    torch.manual_seed(0)
    infos = [
        Interface(SMALL, {"state": Field.state(2)}, ActionSpec((-1.0, -1.0), (1.0, 1.0)), 50, 10.0),
        Interface(LARGE, {"state": Field.state(5)}, ActionSpec((-1.0,) * 3, (1.0,) * 3), 50, 10.0),
    ]
    settings = PolicySettings(
        n_obs_steps=n_obs_steps, horizon=8, n_action_steps=4, width=32, depth=1, backbone=backbone
    )
    normalizer = Normalizer(Layout(infos))
    normalizer.fitted.fill_(1)
    policy = DiffusionPolicy(settings, infos, normalizer)
    with (
        torch.no_grad()
    ):  # last layers may start at zero, where an output would not depend on its input
        for parameter in policy.parameters():
            parameter.add_(0.05 * torch.randn(parameter.shape))
    return policy.eval()


def test_the_history_is_padded_with_the_first_frame_then_slides() -> None:
    policy = Recorder(n_obs_steps=3)
    controller = Controller(policy, lanes=2)
    controller.begin(1, SMALL, seed=5)
    frame = np.arange(20, dtype=np.float32).reshape(10, 2)
    controller.plan({1: frame[:1]})
    controller.plan({1: frame[1:2]})
    controller.plan({1: frame[2:4]})
    controller.plan({1: frame[4:9]})  # more frames than the window holds
    seen = [w[1, :, :2] for w in policy.windows]
    for window, rows in zip(seen, ([0, 0, 0], [0, 0, 1], [1, 2, 3], [6, 7, 8])):
        np.testing.assert_array_equal(window, frame[rows])
    assert all(
        (w[1, :, 2:] == 0).all() for w in policy.windows
    )  # dimensions the environment does not have


def test_several_frames_at_the_start_are_padded_by_the_first_of_them() -> None:
    policy = Recorder(n_obs_steps=4)
    controller = Controller(policy)
    controller.begin(0, SMALL, seed=0)
    frame = np.arange(4, dtype=np.float32).reshape(2, 2)
    controller.plan({0: frame})
    np.testing.assert_array_equal(policy.windows[0][0, :, :2], frame[[0, 0, 0, 1]])


def test_a_new_episode_forgets_the_window_of_the_last_one() -> None:
    policy = Recorder(n_obs_steps=3)
    controller = Controller(policy)
    controller.begin(0, LARGE, seed=0)
    controller.plan({0: np.full((3, 5), 9, dtype=np.float32)})
    controller.begin(0, SMALL, seed=1)
    controller.plan({0: np.ones((1, 2), dtype=np.float32)})
    np.testing.assert_array_equal(policy.windows[1][0], [[1, 1, 0, 0, 0]] * 3)
    assert policy.index[1][0] == 0


def test_a_plan_has_the_executed_actions_in_the_dimensions_of_the_environment() -> None:
    controller = Controller(Recorder(), lanes=3)
    controller.begin(0, SMALL, seed=0)
    controller.begin(2, LARGE, seed=1)
    out = controller.plan({0: np.full((1, 2), 7, np.float32), 2: np.full((1, 5), -3, np.float32)})
    assert set(out) == {0, 2} and out[0].shape == (4, 2) and out[2].shape == (4, 3)
    np.testing.assert_array_equal(out[0][:, 0], [7, 8, 9, 10])
    np.testing.assert_array_equal(out[2][:, [0, 2]], [[-3, 1], [-2, 1], [-1, 1], [0, 1]])


@pytest.mark.parametrize(("batch", "calls"), [(8, 5), (3, 5), (2, 6), (1, 8)])
def test_every_call_has_the_same_rows_and_only_asking_lanes_draw_noise(
    batch: int, calls: int
) -> None:
    policy = Recorder()
    controller = Controller(policy, lanes=3, batch=batch)
    for lane in range(3):
        controller.begin(lane, SMALL, seed=100 + lane)
    frame = np.zeros((1, 2), dtype=np.float32)
    asked: list[list[int]] = [[0, 1, 2], [1], [1], [0], [2, 0]]
    for lanes in asked:
        controller.plan({lane: frame for lane in lanes})
    rows = min(batch, 3)
    assert len(policy.windows) == calls and all(w.shape == (rows, 3, 5) for w in policy.windows)
    groups = [lanes[i : i + rows] for lanes in asked for i in range(0, len(lanes), rows)]
    for lane in range(3):
        drawn = [
            noise[group.index(lane)] for noise, group in zip(policy.noise, groups) if lane in group
        ]
        own = policy_generator(100 + lane)
        assert drawn == [own.standard_normal((2, 6, 2), dtype=np.float32)[0, 0, 0] for _ in drawn]


@pytest.mark.parametrize("backbone", ["mlp", "unet1d", "transformer"])
def test_an_episode_does_not_depend_on_its_neighbours_bit_for_bit(backbone: str) -> None:
    frames = np.random.default_rng(0).normal(size=(4, 1, 5)).astype(np.float32)

    def episode(lane: int, others: int) -> np.ndarray:
        controller = Controller(real_policy(backbone=backbone), lanes=4)
        for other in range(others):
            controller.begin((lane + 1 + other) % 4, SMALL, seed=other)
        controller.begin(lane, LARGE, seed=42)
        out = []
        for i, frame in enumerate(frames):
            asking = {lane: frame}
            for other in range(others):
                if i % (other + 1) == 0:
                    asking[(lane + 1 + other) % 4] = np.full(
                        (1, 2), 0.1 * other + i, dtype=np.float32
                    )
            out.append(controller.plan(asking)[lane])
        return np.concatenate(out)

    alone = episode(0, 0)
    assert alone.std() > 1e-3
    np.testing.assert_array_equal(alone, episode(0, 3))
    np.testing.assert_array_equal(alone, episode(2, 1))


def test_the_real_policy_gives_the_chunk_of_a_direct_call() -> None:
    policy = real_policy(n_obs_steps=2)
    controller = Controller(policy, lanes=1, guard=False)
    controller.begin(0, LARGE, seed=3)
    frame = np.random.default_rng(1).normal(size=(2, 5)).astype(np.float32)
    planned = controller.plan({0: frame})[0]
    noise = policy_generator(3).standard_normal((1, 1, 8, 3), dtype=np.float32)
    np.testing.assert_array_equal(
        planned, policy.act({"state": frame[None]}, np.array([1]), noise)[0, :4]
    )


def test_the_guard_is_on_by_default_and_knows_the_last_action_of_its_lane() -> None:
    policy = Recorder(box=2.0)
    controller = Controller(policy)
    controller.begin(0, SMALL, seed=0)
    assert controller.plan({0: np.zeros((1, 2), np.float32)})[0][:, 0].tolist() == [0, 1, 2, 2]
    assert controller.refusals == {
        "finite": 0,
        "box": 1,
        "rate": 0,
        "acceleration": 0,
        "hold": 0,
        "stop": 0,
    }
    policy.broken = True
    held = controller.plan({0: np.zeros((1, 2), np.float32)})[0]
    assert held[:, 0].tolist() == [2, 2, 2, 2] and controller.refusals["finite"] == 4
    policy.broken = False
    raw = Controller(policy, guard=False)
    raw.begin(0, SMALL, seed=0)
    assert raw.plan({0: np.zeros((1, 2), np.float32)})[0][:, 0].tolist() == [0, 1, 2, 3]
    mine = Controller(policy, guard=ActionGuard(ActionSpec([-1, -1], [1, 1], rate=[0.25, 1])))
    mine.begin(0, SMALL, seed=0)
    assert mine.plan({0: np.zeros((1, 2), np.float32)})[0][:, 0].tolist() == [0, 0.25, 0.5, 0.75]
    assert mine.plan({0: np.zeros((1, 2), np.float32)})[0][0, 0] == 0.5  # from .75 towards 0


def test_actions_of_one_plan_are_not_overwritten_by_the_next() -> None:
    controller = Controller(Recorder(), guard=False)
    controller.begin(0, SMALL, seed=0)
    first = controller.plan({0: np.zeros((1, 2), np.float32)})[0]
    controller.plan({0: np.full((1, 2), 50, np.float32)})
    assert first[:, 0].tolist() == [0, 1, 2, 3]


def test_acting_plans_every_execute_steps_with_all_frames_in_between() -> None:
    policy = Recorder(n_obs_steps=3, n_action_steps=4)
    controller = Controller(policy, lanes=2)
    controller.reset(environment=SMALL, seed=0)
    frame = np.arange(18, dtype=np.float32).reshape(9, 1, 2).repeat(2, axis=1)
    actions = np.stack([controller.act(f) for f in frame])
    assert len(policy.windows) == 3 and actions.shape == (9, 2, 2)
    np.testing.assert_array_equal(policy.windows[1][0, :, :2], frame[[2, 3, 4], 0])
    np.testing.assert_array_equal(actions[:, 0, 0], [0, 1, 2, 3, 8, 9, 10, 11, 16])


def test_the_chunk_queue_never_survives_a_reset() -> None:
    policy = Recorder(n_action_steps=4)
    controller = Controller(policy, lanes=2)
    controller.reset(environment=SMALL, seed=0)
    controller.act(np.zeros((2, 2), np.float32))  # three actions are left in each queue
    controller.reset(np.array([False, True]))
    out = controller.act(np.full((2, 2), 100, np.float32))
    assert out[0, 0] == 1 and out[1, 0] == 100
    np.testing.assert_array_equal(
        policy.windows[1][1, :, :2], np.full((3, 2), 100)
    )  # nor does the history


def test_lanes_may_act_one_at_a_time_and_padded_observations_are_accepted() -> None:
    policy = Recorder()
    controller = Controller(policy, lanes=2)
    controller.reset(environment=[SMALL, LARGE], seed=[4, 5])
    out = controller.act({0: np.array([3.0, 4, 0, 0, 0])})
    assert list(out) == [0] and out[0].shape == (2,) and out[0][0] == 3
    out = controller.act({1: np.array([6.0, 0, 0, 0, 8])})
    assert list(out) == [1] and out[1].tolist()[::2] == [6, 1]


def test_the_answer_has_the_form_of_the_question_and_the_size_of_the_environment() -> None:
    alone = Controller(Recorder())
    for environment, dim in ((SMALL, 2), (LARGE, 3)):
        alone.reset(environment=environment, seed=0)
        size = alone.environment(0).of_kind("state")["state"].shape[0]
        assert alone.act({"state": np.zeros(size)}).shape == (dim,)
        assert alone.act(np.zeros(size)).shape == (dim,)
        assert alone.act(np.zeros((1, size))).shape == (1, dim)
        assert {k: v.shape for k, v in alone.act({0: np.zeros(size)}).items()} == {0: (dim,)}


def test_rows_of_lanes_with_actions_of_other_sizes_are_refused_and_change_nothing() -> None:
    policy = Recorder()
    controller = Controller(policy, lanes=2)
    controller.reset(environment=[SMALL, LARGE], seed=0)
    with pytest.raises(UserError, match="2 to 3 dimensions; expected {lane: observation}"):
        controller.act(np.zeros((2, 5)))
    assert not policy.windows


def test_an_action_of_one_dimension_is_an_array_of_one_number() -> None:
    one = Interface("one", {"state": Field.state(3)}, ActionSpec([-9.0], [9.0]), 10, 10.0)
    policy = Recorder()
    policy.environments = (*policy.environments, one)
    controller = Controller(policy)
    controller.reset(environment="one")
    action = controller.act(np.array([3.0, 0, 0]))
    assert action.tolist() == [3.0] and action.dtype == np.float32


def test_a_reset_without_a_seed_gives_new_noise_and_with_a_seed_the_same() -> None:
    policy = Recorder()
    controller = Controller(policy, lanes=2)
    frame = np.zeros((2, 2), np.float32)
    for seed in (9, None, None, 9):
        controller.reset(environment=SMALL, seed=seed)
        controller.act(frame)
    noise = np.array(policy.noise)
    np.testing.assert_array_equal(noise[0], noise[3])
    assert len(np.unique(noise[:3])) == 6


def test_a_refused_observation_leaves_no_trace() -> None:
    policy = Recorder(n_obs_steps=2)
    controller = Controller(policy, lanes=2)
    controller.reset(environment=SMALL, seed=0)
    with pytest.raises(UserError, match="shape"):
        controller.act({0: np.zeros(2, np.float32), 1: np.zeros(3, np.float32)})
    assert not policy.windows
    controller.act(np.ones((2, 2), np.float32))
    np.testing.assert_array_equal(policy.windows[0][0, :, :2], np.ones((2, 2)))


def test_a_policy_that_fails_leaves_every_frame_in_the_history_once() -> None:
    policy = Recorder(n_obs_steps=6)
    controller = Controller(policy)
    controller.reset(environment=SMALL, seed=0)
    frame = np.arange(6, dtype=np.float32).reshape(3, 1, 2)
    honest = policy.act
    policy.act = lambda *a: 1 / 0  # type: ignore[method-assign, assignment, return-value]
    for row in frame[:2]:
        with pytest.raises(ZeroDivisionError):
            controller.act(row)
    policy.act = honest  # type: ignore[method-assign]
    controller.act(frame[2])
    np.testing.assert_array_equal(policy.windows[0][0, :, :2], frame[[0, 0, 0, 0, 1, 2], 0])


@pytest.mark.parametrize(
    "frames",
    [
        {0: np.zeros(2)},
        {0: np.zeros((1, 5))},
        {0: np.zeros((0, 2))},
        {1: np.zeros((1, 2))},
        {7: np.zeros((1, 2))},
    ],
)
def test_frames_that_do_not_fit_are_a_user_error(frames: dict) -> None:
    controller = Controller(Recorder(), lanes=2)
    controller.begin(0, SMALL, seed=0)
    with pytest.raises(UserError, match="expected"):
        controller.plan(frames)


def test_an_environment_is_needed_where_the_policy_has_several_and_must_be_known() -> None:
    controller = Controller(Recorder())
    with pytest.raises(UserError, match="no environment given"):
        controller.act(np.zeros(2, np.float32))
    with pytest.raises(UserError, match="toy/none"):
        controller.begin(0, "toy/none", seed=0)


def test_queued_actions_pass_the_guard_when_they_leave_not_when_they_are_planned() -> None:
    controller = Controller(Recorder(box=2.0))
    controller.reset(environment=SMALL, seed=0)
    frame = np.zeros((1, 2), np.float32)
    controller.act(frame)
    controller.states[0].queue[-1][:] = np.nan  # what damages a queue must not reach the machine
    assert controller.refusals["finite"] == 0
    assert (
        controller.act(frame)[0, 0] == 0.0 and controller.refusals["finite"] == 1
    )  # the action before it is held
    assert [controller.act(frame)[0, 0] for _ in range(2)] == [2, 2] and controller.refusals[
        "box"
    ] == 1
