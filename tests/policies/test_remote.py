"""Asynchronous robots over the server: what a request may freeze, and the served policy as a policy
of this process.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

pytest.importorskip("msgpack", reason="needs: pip install alltrades[serve]")
pytest.importorskip("websockets", minversion="16", reason="needs: pip install alltrades[serve]")

from alltrades.errors import UserError
from alltrades.policies.client.client import PolicyClient
from alltrades.policies.client.messages import pack
from alltrades.policies.client.remote import RemotePolicy
from alltrades.policies.control.controller import Controller
from alltrades.policies.control.realtime import RealTimeController
from alltrades.policies.model.policy import DiffusionPolicy
from alltrades.policies.server.requests import read_request
from tests.policies.background import Clock, Immediate, Later
from tests.policies.serving import LARGE, SETTINGS, SMALL, make_policy, observation, running


@pytest.fixture(scope="module")
def policy() -> DiffusionPolicy:
    return make_policy()


def inputs(policy: DiffusionPolicy, environments: list[int], seed: int = 0) -> dict[str, Any]:
    rng, rows = np.random.default_rng(seed), len(environments)
    index = np.array(environments)
    dims = policy.layout.state_dim
    state = rng.normal(size=(rows, policy.n_obs_steps, dims)).astype(np.float32)
    known = rng.uniform(-0.5, 0.5, (rows, policy.horizon, policy.action_dim)).astype(np.float32)
    for row, i in enumerate(environments):
        state[row, :, policy.environments[i].state_dim :] = 0
        known[row, :, policy.environments[i].action_dim :] = 0
    keep = np.tile(np.array([1, 1, 1, 0.5, 0.25, 0, 0, 0], np.float32), (rows, 1))
    noise = rng.standard_normal(
        (rows, policy.draws, policy.horizon, policy.action_dim), dtype=np.float32
    )
    return {
        "window": {"state": state},
        "environment": index,
        "noise": noise,
        "known": known * (keep[:, :, None] > 0),
        "keep": keep,
    }


def of_row(arguments: dict[str, Any], row: int) -> dict[str, Any]:
    window = {key: v[[row]] for key, v in arguments["window"].items()}
    return {k: v[[row]] for k, v in arguments.items() if k != "window"} | {"window": window}


def small(policy: DiffusionPolicy, chunk: np.ndarray, environments: list[int]) -> np.ndarray:
    """Zeros where an environment has no action."""
    out = chunk.copy()
    for row, i in enumerate(environments):
        out[row, :, policy.environments[i].action_dim :] = 0
    return out


# ---- the served policy as a policy ---------------------------------------------------------------
@pytest.mark.parametrize("environments", [[1], [0], [1, 0, 1]])
def test_a_remote_policy_acts_like_the_policy_itself(
    policy: DiffusionPolicy, environments: list[int]
) -> None:
    given = inputs(policy, environments)
    free = {k: v for k, v in given.items() if k not in ("known", "keep")}
    with running(policy, guard=False, batch=1) as server:
        remote = RemotePolicy(port=server.port)
        for arguments in (given, free, given):
            want = np.concatenate(
                [policy.act(**of_row(arguments, row)) for row in range(len(environments))]
            )
            np.testing.assert_array_equal(
                remote.act(**arguments), small(policy, want, environments)
            )
        assert remote.digest() == policy.digest() and remote.environments == policy.environments
        assert not remote.held
        remote.close()


def test_a_controller_over_the_server_gives_the_actions_of_one_in_process(
    policy: DiffusionPolicy,
) -> None:
    def episode(controller: Any) -> np.ndarray:
        with controller:
            controller.reset(environment=LARGE, seed=3)
            return np.stack([controller.act(observation(i)) for i in range(12)])

    def asynchronous(acting: Any) -> RealTimeController:
        return RealTimeController(acting, executor=Immediate(), clock=Clock(), delay=0.2)

    with running(policy, batch=1) as server:
        remote = RemotePolicy(port=server.port)
        np.testing.assert_array_equal(episode(Controller(remote)), episode(Controller(policy)))
        np.testing.assert_array_equal(episode(asynchronous(remote)), episode(asynchronous(policy)))
        remote.close()


def test_the_guard_of_the_robots_own_process_has_the_last_word() -> None:
    policy = make_policy(1)
    with running(policy, guard=False) as server:
        remote = RemotePolicy(port=server.port)
        honest = remote.act
        remote.act = lambda *a: honest(*a) * np.float32(np.nan)  # type: ignore[method-assign]  # a hostile server
        with RealTimeController(remote, executor=Immediate(), clock=Clock()) as controller:
            out = controller.act(observation(0, 2))
            assert np.isfinite(out).all() and controller.refusals["finite"] == 1
        remote.close()


def test_a_client_that_lost_its_server_holds_and_goes_on_with_the_next_one(
    policy: DiffusionPolicy,
) -> None:
    clock = Clock()
    executor = Later(clock)

    def act(steps: range) -> np.ndarray:
        out = []
        for i in steps:
            executor.deliver()
            out.append(controller.act({0: observation(i, 2)})[0])
        return np.array(out)

    with running(policy) as server:
        remote = RemotePolicy(port=server.port, timeout=0.5)
        controller = RealTimeController(remote, executor=executor, clock=clock, delay=0.1)
        controller.reset(environment=SMALL)
        act(range(3))
    out = act(range(3, 15))  # a chunk has eight actions
    assert (
        (out[5:] == out[4]).all()
        and controller.refusals["hold"] == 7
        and controller.statistics()["failures"] > 0
    )
    with running(policy) as server:
        remote._options["port"] = (
            server.port
        )  # a new server has no reason to be elsewhere, but for this test
        out = act(range(15, 18))
        assert (
            controller.statistics()["chunks"] == 2
            and controller.refusals["hold"] == 8
            and len(np.unique(out)) > 2
        )
        remote.close()


def test_a_stopped_robot_that_waits_for_chunks_stays_where_it_is(policy: DiffusionPolicy) -> None:
    """Not where the end of a horizon would have brought it, of which it executed half."""
    with running(policy, batch=1) as server:
        remote = RemotePolicy(port=server.port)
        controller = Controller(remote)
        controller.reset(environment=LARGE, seed=3)
        last = [controller.act(observation(i)) for i in range(4)][-1]
        server.hold()
        assert all((controller.act(observation(i)) == last).all() for i in range(6)) and remote.held
        controller.reset(environment=LARGE, seed=4)
        remote.close()


@pytest.mark.parametrize("asynchronous", [False, True])
def test_a_stopped_robot_comes_to_its_stop_action_within_the_limits_and_goes_on_from_there(
    asynchronous: bool,
) -> None:
    policy = make_policy(
        1,
        stop=(0.25, None),
        rate=(0.05, 0.05),
        acceleration=(0.02, 0.02),
    )
    with running(policy, batch=1) as server:
        remote = RemotePolicy(port=server.port)
        controller: Controller | RealTimeController = Controller(remote)
        if asynchronous:
            controller = RealTimeController(remote, executor=Immediate(), clock=Clock(), delay=0.2)
        actions = []
        for i in range(80):
            if i in (8, 64):
                server.hold(i == 8)
            actions.append(controller.act(observation(i, 2)))
        remote.close()
    steps = np.diff(actions, axis=0)
    assert (
        np.abs(steps).max() <= 0.05 * 1.001 and np.abs(np.diff(steps, axis=0)).max() <= 0.02 * 1.01
    )
    assert actions[63][0] == pytest.approx(0.25) and np.abs(steps[50:62]).max() < 1e-6
    assert np.abs(steps[66:]).max() > 1e-3


def test_a_new_episode_may_start_anywhere_and_a_second_robot_needs_a_policy_of_its_own() -> None:
    policy = make_policy(1, rate=(0.01, 0.01))
    with running(policy, batch=1) as server:
        remote = RemotePolicy(port=server.port)
        here, there = Controller(policy), Controller(remote)
        starts = []
        for seed in (1, 2):
            for controller in (here, there):
                controller.reset(seed=seed)
            starts.append(here.act(observation(seed, 2)))
            np.testing.assert_array_equal(there.act(observation(seed, 2)), starts[-1])
            last = [there.act(observation(i, 2)) for i in range(15)][-1]  # four chunks
        assert np.abs(starts[1] - last).max() > 0.02 and np.abs(starts[1] - starts[0]).max() > 0.02
        with pytest.raises(UserError, match="make a RemotePolicy for each"):
            Controller(remote, lanes=2).reset()
        remote.close()


def test_a_server_with_another_kind_of_policy_is_refused_when_it_is_met_again(
    policy: DiffusionPolicy,
) -> None:
    given = inputs(policy, [1])
    with running(policy) as server:
        remote = RemotePolicy(port=server.port, timeout=5)
    ddpm = {"process": "vp", "sampler": "ddpm", "prediction": "noise"}
    faster = make_policy()
    faster.environments = tuple(replace(e, control_hz=20.0) for e in faster.environments)
    others = {
        "draws": make_policy(settings=SETTINGS.model_copy(update=ddpm)),
        "horizon": make_policy(settings=SETTINGS.model_copy(update={"horizon": 16})),
        "environments": faster,
    }
    for changed, other in others.items():
        with running(other) as server:
            remote._options["port"] = server.port
            remote.close()
            for _ in range(2):
                with pytest.raises(
                    UserError,
                    match=f"another policy than before, with other {changed}; expected the same",
                ):
                    remote.act(**given)


# ---- requests ------------------------------------------------------------------------------------
def test_known_actions_are_kept_and_the_reply_is_the_whole_horizon(policy: DiffusionPolicy) -> None:
    known = np.full((3, 3), 0.25, np.float32)
    with running(policy) as server, PolicyClient(port=server.port) as client:
        client.reset(environment=LARGE, seed=1)
        reply = client.infer({"observation": observation(0), "known": known})
        assert reply["actions"].shape == (8, 3)
        np.testing.assert_allclose(reply["actions"][:3], known, atol=1e-6)
        free = client.infer({"observation": observation(0), "known": np.zeros((0, 3), np.float32)})[
            "actions"
        ]
        assert free.shape == (8, 3) and np.abs(free[:3] - known).max() > 1e-2
        assert client.infer({"observation": observation(0)})["actions"].shape == (4, 3)


def test_noise_that_a_client_brings_makes_the_chunk_a_function_of_the_request(
    policy: DiffusionPolicy,
) -> None:
    noise = np.random.default_rng(0).standard_normal((1, 8, 3), dtype=np.float32)
    request = {
        "observation": np.stack([observation(0), observation(1)]),
        "known": np.zeros((0, 3)),
        "noise": noise,
    }
    with running(policy) as server, PolicyClient(port=server.port) as client:
        client.reset(environment=LARGE, seed=1)
        first, second = (client.infer(request)["actions"] for _ in range(2))
        np.testing.assert_array_equal(first, second)
        other = client.infer(request | {"noise": -noise})["actions"]
        assert np.abs(first - other).max() > 1e-3


@pytest.mark.parametrize(
    ("more", "reason"),
    [
        ({"known": np.zeros((9, 3))}, "k <= 8"),
        ({"known": np.zeros((1, 2))}, "shape"),
        ({"known": np.zeros(3)}, "shape"),
        ({"known": np.full((1, 3), np.nan)}, "finite"),
        ({"known": "x"}, "numbers"),
        ({"known": None}, "numbers"),
        ({"known": np.zeros((2, 3)), "keep": [1.0]}, "weight for each"),
        ({"known": np.zeros((1, 3)), "keep": [1.1]}, r"\[0, 1\]"),
        ({"known": np.zeros((1, 3)), "keep": [np.nan]}, "finite"),
        ({"keep": [1.0]}, "without 'known'"),
        ({"noise": np.zeros((1, 8, 3))}, "without 'known'"),
        ({"known": np.zeros((1, 3)), "noise": np.zeros((2, 8, 3))}, "noise"),
        ({"known": np.zeros((1, 3)), "noise": np.full((1, 8, 3), np.inf)}, "finite"),
    ],
)
def test_what_is_frozen_is_checked_like_every_other_field(
    policy: DiffusionPolicy, more: dict, reason: str
) -> None:
    with pytest.raises(UserError, match=reason):
        read_request(
            pack({"observation": observation(0), "environment": LARGE, **more}), policy, None
        )


def test_a_held_robot_executes_what_it_has_frozen_and_holds_the_last_of_it(
    policy: DiffusionPolicy,
) -> None:
    known = np.arange(12, dtype=np.float32).reshape(4, 3) / 20
    with running(policy) as server, PolicyClient(port=server.port) as client:
        client.reset(environment=LARGE)
        server.hold()
        reply = client.infer(
            {"observation": observation(0), "known": known, "keep": [1, 1, 0.5, 0.2]}
        )
        assert reply["held"] is True
        np.testing.assert_array_equal(reply["actions"], [known[0], *[known[1]] * 7])


def test_the_limits_of_the_server_reach_the_guard_of_the_client(
    policy: DiffusionPolicy, tmp_path: Any
) -> None:
    limits = tmp_path / "limits.yaml"
    limits.write_text('"*": {low: -0.25, rate: 0.125}\n')
    with running(policy, limits=limits) as server:
        remote = RemotePolicy(port=server.port)
        assert all(
            set(e.action.low) == {-0.25} and set(e.action.rate or ()) == {0.125}
            for e in remote.environments
        )
        # across chunks too, of which the server does not know how many actions were executed
        controller = Controller(remote)
        controller.reset(environment=LARGE, seed=0)
        actions = np.stack([controller.act(observation(i)) for i in range(20)])
        assert (
            np.abs(np.diff(actions, axis=0)).max() <= 0.125 * (1 + 1e-4) and actions.min() >= -0.25
        )
        remote.close()
