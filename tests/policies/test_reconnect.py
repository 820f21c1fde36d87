"""A client whose server goes away and comes back; seeds of any size; environments nobody knows."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

pytest.importorskip("msgpack", reason="needs: pip install alltrades[serve]")
pytest.importorskip("websockets", minversion="16", reason="needs: pip install alltrades[serve]")

from alltrades.errors import UserError
from alltrades.policies.client import client as module
from alltrades.policies.client.client import NotNow, PolicyClient, with_backoff
from alltrades.policies.client.remote import RemotePolicy
from alltrades.policies.control.controller import Controller
from alltrades.policies.model.policy import DiffusionPolicy
from tests.policies.serving import LARGE, SMALL, expected, make_policy, observation, running


@pytest.fixture(scope="module")
def policy() -> DiffusionPolicy:
    return make_policy()


def said(caplog: pytest.LogCaptureFixture, words: str) -> int:
    return sum(words in r.getMessage() for r in caplog.records)


def test_an_episode_whose_connection_is_lost_is_over_until_a_reset_begins_another(
    policy: DiffusionPolicy, caplog: pytest.LogCaptureFixture
) -> None:
    with running(policy) as server:
        client = PolicyClient(port=server.port, timeout=5, environment=LARGE)
        client.reset(seed=1)
        client.infer({"observation": observation(0)})
        port = server.port
    with running(policy, port=port):
        for i in range(3):  # never goes on without the history, however often it is asked
            with pytest.raises(UserError, match=r"history is lost: call reset\(\)"):
                client.infer({"observation": observation(i)})
        client.reset(seed=7)  # the environment is the one before
        got = [client.infer({"observation": observation(i)})["actions"] for i in range(2)]
        np.testing.assert_array_equal(
            got, expected(policy, LARGE, [observation(i) for i in range(2)], 7)
        )
        client.close()
    assert said(caplog, "connected again at try 1") == 1


def test_a_client_that_was_idle_for_too_long_begins_its_next_episode_by_itself(
    policy: DiffusionPolicy, caplog: pytest.LogCaptureFixture
) -> None:
    with running(policy, idle_seconds=0.4) as server:
        with PolicyClient(port=server.port, environment=LARGE) as client:
            client.infer({"observation": observation(0)})
            time.sleep(1.5)
            client.reset(environment=LARGE, seed=3)
            got = client.infer({"observation": observation(1)})["actions"]
    np.testing.assert_array_equal(got, expected(policy, LARGE, [observation(1)], 3)[0])
    assert said(caplog, "connected again at try 1") == 1


def test_a_remote_policy_goes_on_with_the_episode_over_a_new_connection(
    policy: DiffusionPolicy, caplog: pytest.LogCaptureFixture
) -> None:
    here = Controller(policy)
    here.reset(environment=LARGE, seed=5)
    want = np.array([here.act(observation(i)) for i in range(24)])
    with running(policy, batch=1) as server:
        remote = RemotePolicy(port=server.port)
        there = Controller(remote)
        there.reset(environment=LARGE, seed=5)
        got = [there.act(observation(i)) for i in range(9)]
        port = server.port
    with running(policy, batch=1, port=port):
        got += [there.act(observation(i)) for i in range(9, 24)]
        remote.close()
    np.testing.assert_array_equal(got, want)  # history and noise are the client's
    assert said(caplog, "connected again") == 1 and said(caplog, "no answer") == 1


def test_tries_are_further_and_further_apart_and_said(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    now, tried = [0.0], []
    monkeypatch.setattr(module.time, "monotonic", lambda: now[0])
    monkeypatch.setattr(module.time, "sleep", lambda s: now.__setitem__(0, now[0] + s))

    def failing(times: int) -> Callable[[], str]:
        def connect() -> str:
            tried.append(round(now[0], 3))
            if len(tried) <= times:
                raise NotNow("nobody there")
            return "in"

        return connect

    assert with_backoff(failing(8), "ws://x", 60) == "in"
    assert tried == [0, 0.1, 0.3, 0.7, 1.5, 3.1, 6.3, 11.3, 16.3]
    assert said(caplog, "nobody there; trying again for up to 60 s") == 1
    assert said(caplog, "connected again at try 9") == 1
    tried.clear()
    with pytest.raises(NotNow, match="given up after 4 tries in 1 s"):
        with_backoff(failing(99), "ws://x", 1)


def test_a_server_that_says_no_is_not_asked_again(policy: DiffusionPolicy, tmp_path: Any) -> None:
    (tmp_path / "token").write_text("a secret of some length".replace(" ", "-"))
    with running(policy) as server:
        client = PolicyClient(port=server.port, timeout=30, environment=LARGE)
        port = server.port
    with running(policy, port=port, token_file=tmp_path / "token"):
        begun = time.monotonic()
        with pytest.raises(UserError, match="401"):
            client.infer({"observation": observation(0)})
        assert time.monotonic() - begun < 5


def test_a_server_with_another_policy_is_refused_when_it_is_met_again(
    policy: DiffusionPolicy,
) -> None:
    with running(policy) as server:
        client = PolicyClient(port=server.port, environment=SMALL)
        port = server.port
    with running(make_policy(1), port=port):
        with pytest.raises(UserError, match="another policy than before, with other environments"):
            client.infer({"observation": observation(0, 2)})


@pytest.mark.parametrize("name", ["toy/lrage", "", "\x1b[31m"])
def test_an_environment_that_nobody_knows_fails_at_connect_and_leaves_no_connection(
    name: str, policy: DiffusionPolicy
) -> None:
    with running(policy) as server:
        with pytest.raises(UserError, match="does not know environment.*toy/small") as caught:
            PolicyClient(port=server.port, environment=name)
        assert str(caught.value).isprintable()
        end = time.monotonic() + 5
        while len(server.sessions) and time.monotonic() < end:
            time.sleep(0.02)
        assert not len(server.sessions)


@pytest.mark.parametrize("seed", [0, -1, -(2**40), 2**63, 2**64, 2**200, -(2**200), np.int64(-3)])
def test_a_seed_of_any_integer_gives_the_same_noise_here_and_there(
    seed: int, policy: DiffusionPolicy
) -> None:
    frames = [observation(i) for i in range(2)]
    want = expected(policy, LARGE, frames, seed)
    here = Controller(policy, batch=8)
    here.reset(environment=LARGE, seed=seed)
    np.testing.assert_allclose(here.act(frames[0]), want[0][0], atol=1e-6)
    with running(policy) as server, PolicyClient(port=server.port) as client:
        for _ in range(2):
            client.reset(environment=LARGE, seed=seed)
            got = [client.infer({"observation": f})["actions"] for f in frames]
            np.testing.assert_array_equal(got, want)
        request = {"observation": frames[0], "environment": LARGE, "seed": seed, "reset": True}
        np.testing.assert_array_equal(client.infer(request)["actions"], want[0])


def test_seeds_that_differ_by_sign_or_by_64_bits_give_other_noise(policy: DiffusionPolicy) -> None:
    starts = [
        expected(policy, LARGE, [observation(0)], seed)[0]
        for seed in (3, -3, 3 + 2**32, 3 + 2**64, 3 + 2**200)
    ]
    assert len(np.unique(starts, axis=0)) == 5


@pytest.mark.parametrize("seed", [1.5, "7", True, [1], np.float64(2)])
def test_a_seed_that_is_no_integer_is_refused(seed: Any, policy: DiffusionPolicy) -> None:
    with running(policy) as server, PolicyClient(port=server.port) as client:
        with pytest.raises(UserError, match="expected an integer"):
            client.reset(environment=LARGE, seed=seed)
    if not isinstance(seed, list):
        with pytest.raises(UserError, match="expected an integer"):
            Controller(policy).reset(environment=LARGE, seed=seed)


def test_a_reset_after_a_negative_seed_counts_on_from_it(policy: DiffusionPolicy) -> None:
    controller = Controller(policy, lanes=2)
    controller.reset(environment=LARGE, seed=-5)
    controller.reset()
    assert [state.seed for state in controller.states] == [-3, -2]
