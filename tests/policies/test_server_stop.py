"""What the server lets no request do: move a stopped robot, or jump from what a robot was sent."""

from __future__ import annotations

import threading
import time
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("msgpack", reason="needs: pip install alltrades[serve]")
pytest.importorskip("websockets", minversion="16", reason="needs: pip install alltrades[serve]")


from alltrades.errors import UserError
from alltrades.policies.client.client import PolicyClient
from alltrades.policies.client.messages import pack
from alltrades.policies.model.policy import DiffusionPolicy
from alltrades.policies.server import PolicyServer, ServerSettings
from alltrades.policies.server.batcher import Batcher, Job
from alltrades.policies.server.requests import read_request
from alltrades.policies.server.session import Sessions
from tests.policies.serving import LARGE, expected, make_policy, metric, observation, running


@pytest.fixture(scope="module")
def policy() -> DiffusionPolicy:
    return make_policy()


# ---- stop ----------------------------------------------------------------------------------------
def test_a_stop_repeats_the_last_action_and_going_on_knows_what_was_seen_meanwhile(
    policy: DiffusionPolicy,
) -> None:
    frames = [observation(i) for i in range(4)]
    with running(policy) as server, PolicyClient(port=server.port) as client:
        client.reset(environment=LARGE, seed=5)
        first = client.infer({"observation": frames[0]})
        server.hold()
        for frame in frames[1:3]:
            reply = client.infer({"observation": frame})
            assert reply["held"] is True
            np.testing.assert_array_equal(
                reply["actions"], np.repeat(first["actions"][-1:], 4, axis=0)
            )
        assert metric(server.port, "alltrades_held") == 1
        server.hold(False)
        reply = client.infer({"observation": frames[3]})
        assert reply["held"] is False
        np.testing.assert_array_equal(
            reply["actions"], expected(policy, LARGE, [frames[0], np.stack(frames[1:])], 5)[1]
        )


def test_a_stop_brings_robots_to_their_stop_action_within_the_limits_given(tmp_path: Path) -> None:
    limits = tmp_path / "limits.yaml"
    limits.write_text('"*": {rate: 0.05}\n')
    with (
        running(make_policy(1, stop=(0.25, None)), limits=limits) as server,
        PolicyClient(port=server.port) as client,
    ):
        actions = client.infer({"observation": observation(0, 2)})["actions"]
        server.hold()
        held = np.concatenate(
            [
                actions[-1:],
                *(client.infer({"observation": observation(i, 2)})["actions"] for i in range(8)),
            ]
        )
        assert np.abs(np.diff(held, axis=0)).max() <= 0.05 * 1.001
        assert held[-1].tolist() == [0.25, actions[-1, 1]] and (held[:, 1] == actions[-1, 1]).all()
        assert (
            metric(server.port, "alltrades_guard_refusals_total") == 0
        )  # the way to rest is no fault of the policy


def test_a_stopped_robot_of_which_nothing_is_known_gets_the_stop_action_or_a_reason(
    policy: DiffusionPolicy,
) -> None:
    with running(policy) as server, PolicyClient(port=server.port) as client:
        server.hold()
        for _ in range(2):
            with pytest.raises(
                UserError, match="operator has stopped the robots, and this one has no last action"
            ):
                client.infer({"observation": observation(0), "environment": LARGE, "seed": 4})
        server.hold(False)  # what was refused has started nothing
        reply = client.infer({"observation": observation(1), "environment": LARGE, "seed": 4})
        np.testing.assert_array_equal(
            reply["actions"], expected(policy, LARGE, [observation(1)], 4)[0]
        )
    with (
        running(make_policy(1, stop=(0.25, -0.5))) as server,
        PolicyClient(port=server.port) as client,
    ):
        server.hold()
        for reset in (False, True):
            reply = client.infer({"observation": observation(0, 2), "reset": reset})
            assert reply["held"] is True and (reply["actions"] == [0.25, -0.5]).all()


def test_limits_that_shut_out_the_stop_action_are_refused(tmp_path: Path) -> None:
    limits = tmp_path / "limits.yaml"
    limits.write_text('"*": {low: 0.1}\n')
    with pytest.raises(
        UserError, match=r"limits.yaml: toy/small: the stop action \[0, None\] lies outside"
    ):
        PolicyServer(make_policy(1, stop=(0.0, None)), ServerSettings(port=0, limits=limits))


def test_the_page_has_the_limits_that_the_guard_has(tmp_path: Path) -> None:
    limits = tmp_path / "limits.yaml"
    limits.write_text(f"{LARGE}: {{low: -0.25}}\n")
    with (
        running(make_policy(), limits=limits, dashboard=True) as server,
        PolicyClient(port=server.port) as client,
    ):
        client.infer({"observation": observation(0), "environment": LARGE})
        assert server._pages.state()["bounds"] == {LARGE: [[-0.25] * 3, [1.0] * 3]}


# ---- what a robot was sent -----------------------------------------------------------------------
def test_a_quick_episode_goes_on_from_what_was_sent_and_a_later_one_may_start_anywhere() -> None:
    """Time is what the requests say: a chunk of 8 actions at 10 Hz, and a second to go
    elsewhere.
    """
    policy = make_policy(1, rate=(0.01, 0.01))
    sessions, done = Sessions(1), threading.Semaphore(0)
    batcher = Batcher(
        policy,
        sessions,
        1,
        1,
        0.0,
        True,
        lambda jobs: done.release(),
        lambda *arguments: None,
        lambda count: None,
    )
    session = sessions.open("here", None)
    assert session is not None
    batcher.start()

    def ask(now: float, seed: int) -> np.ndarray:
        job = Job(
            session,
            read_request(
                pack({"observation": observation(seed, 2), "reset": True, "seed": seed}),
                policy,
                session.environment,
            ),
            now,
        )
        batcher.submit(job)
        assert done.acquire(timeout=60)
        session.late(now, 4, 10.0, True)
        assert job.actions is not None
        return job.actions

    def jump(a: np.ndarray, b: np.ndarray) -> float:
        return float(np.abs(b[0] - a[-1]).max())

    chunks = [ask(now, seed) for seed, now in enumerate((100.0, 100.4, 102.0, 103.9))]
    jumps = [jump(a, b) for a, b in zip(chunks, chunks[1:])]
    assert max(jumps[:2]) <= 0.0101 < jumps[2]
    session.replies = 3  # an episode that a robot can have come from, however soon
    assert jump(chunks[-1], ask(103.91, 9)) > 0.0101
    batcher.close(60)


def test_an_empty_list_of_known_actions_is_no_way_around_the_rate_limit() -> None:
    empty = np.zeros((0, 2), np.float32)
    with (
        running(make_policy(1, rate=(0.01, 0.01))) as server,
        PolicyClient(port=server.port) as client,
    ):
        last, jumps = None, []
        for i in range(6):
            actions = client.infer({"observation": observation(i, 2), "known": empty})["actions"]
            jumps += [] if last is None else [np.abs(actions[0] - last).max(axis=1).min()]
            last = actions
        assert max(jumps) <= 0.0101
        with pytest.raises(UserError, match="'known' begins with"):
            client.infer({"observation": observation(9, 2), "known": last[:1] + 0.5})
        assert client.infer({"observation": observation(9, 2), "known": last[2:4]})[
            "actions"
        ].shape == (8, 2)


def test_a_robot_that_waits_for_chunks_over_known_has_as_many_actions_as_it_executes(
    policy: DiffusionPolicy,
) -> None:
    """4 of 8 at 10 Hz: after 0.4 s and a control period it starves."""
    empty = np.zeros((0, 3), np.float32)
    with running(policy) as server, PolicyClient(port=server.port) as client:
        client.infer({"observation": observation(0), "environment": LARGE, "known": empty})
        time.sleep(0.65)
        assert client.infer({"observation": observation(1), "known": empty})["starved"] == 1
