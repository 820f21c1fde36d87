"""The controller behind a server, against the same policy in this process."""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("msgpack", reason="needs: pip install alltrades[serve]")
pytest.importorskip("websockets", minversion="15", reason="needs: pip install alltrades[serve]")

from alltrades.data.errors import UserError
from alltrades.policies.client import PolicyClient
from alltrades.policies.controller import Controller
from alltrades.policies.remote_controller import RemoteController
from tests.policies.serving import LARGE, SMALL, make_policy, observation, running


def test_it_gives_the_actions_of_a_controller_bit_for_bit_from_episode_to_episode() -> None:
    policy = make_policy()
    local = Controller(policy, lanes=8)  # the server's batch
    with running(policy) as server:
        remote = RemoteController(PolicyClient(port=server.port))
        assert remote.digest() == policy.digest() and [e.id for e in remote.environments] == [SMALL, LARGE]
        for name, dim, seed in ((SMALL, 2, 4), (LARGE, 5, 5), (LARGE, 5, 4)):
            remote.reset(environment=name, seed=seed)
            local.begin(0, name, seed)
            for k in range(10):  # two chunks of 4 and a half
                frame = observation(k, dim)
                np.testing.assert_array_equal(remote.act(frame)[0], local.act({0: frame})[0])
        remote.close()


def test_a_stopped_robot_asks_again_at_every_step_until_it_may_go_on() -> None:
    policy = make_policy()
    with running(policy) as server:
        remote = RemoteController(PolicyClient(port=server.port))
        remote.reset(environment=SMALL, seed=1)
        for k in range(4):
            last = remote.act(observation(k, 2))
        server.hold()
        for k in range(3):
            np.testing.assert_array_equal(remote.act(observation(k, 2)), last)
            assert remote.held
        server.hold(False)
        moved = [remote.act(observation(9, 2)) for _ in range(2)]
        assert not remote.held and (moved[1] != last).any()
        remote.close()


def test_a_refused_observation_and_a_lost_server_are_user_errors() -> None:
    with running(make_policy()) as server:
        remote = RemoteController(PolicyClient(port=server.port))
        remote.reset(environment=SMALL, seed=1)
        with pytest.raises(UserError, match="observation of shape"):
            remote.act(np.zeros(3, np.float32))
        remote.reset(environment=SMALL, seed=1)
        remote.act(np.zeros(2, np.float32))
    remote.reset(environment=SMALL, seed=2)
    with pytest.raises(UserError, match="no answer"):
        remote.act(np.zeros(2, np.float32))
