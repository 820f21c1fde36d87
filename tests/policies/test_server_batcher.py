"""Which thread calls the policy: its own, or the network's where one client is alone and calls have
proven short.
"""

import threading

import numpy as np
import pytest

pytest.importorskip("msgpack", reason="needs: pip install alltrades[serve]")
pytest.importorskip("websockets", minversion="16", reason="needs: pip install alltrades[serve]")

from alltrades.policies.client.client import PolicyClient
from alltrades.policies.model.policy import DiffusionPolicy
from alltrades.policies.server import batcher

from .serving import SMALL, expected, make_policy, observation, running


@pytest.fixture
def callers(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the threads that called the policy, one after another."""
    found: list[str] = []
    act = DiffusionPolicy.act

    def noted(self: DiffusionPolicy, *inputs: np.ndarray) -> np.ndarray:
        found.append(threading.current_thread().name)
        return act(self, *inputs)

    monkeypatch.setattr(DiffusionPolicy, "act", noted)
    monkeypatch.setattr(batcher, "PROVEN", 3)
    return found


def ask(client: PolicyClient, count: int, first: int = 0) -> list[np.ndarray]:
    return [
        client.infer({"observation": observation(first + i, 2)})["actions"] for i in range(count)
    ]


def test_a_lone_client_of_a_quick_policy_is_answered_without_a_change_of_thread(
    callers: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(batcher, "SHORT", 1e9)
    policy = make_policy()
    with running(policy, batch=8) as server, PolicyClient(port=server.port) as client:
        callers.clear()
        client.reset(SMALL, 4)
        answers = ask(client, 8)
        assert server.metrics.value("requests", outcome="answered") == 8
    assert set(callers[:3]) == {"policy"} and len(callers) == 8
    assert "policy" not in callers[3:]
    for answer, alone in zip(
        answers, expected(policy, SMALL, [observation(i, 2) for i in range(8)], 4)
    ):
        assert np.array_equal(answer, alone)


def test_several_clients_or_a_policy_that_takes_its_time_keep_the_network_free(
    callers: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(batcher, "SHORT", 0.0)
    with running(make_policy()) as server, PolicyClient(port=server.port) as client:
        client.reset(SMALL, 0)
        ask(client, 8)
        assert set(callers) == {"policy"}
        monkeypatch.setattr(batcher, "SHORT", 1e9)
        ask(client, 3)
        callers.clear()
        with PolicyClient(port=server.port) as other:
            other.reset(SMALL, 1)
            ask(other, 1)
            ask(client, 1)
            ask(other, 1)
    assert set(callers) == {"policy"}


def test_a_failure_in_the_networks_thread_is_reported_and_the_service_goes_on(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(batcher, "SHORT", 1e9)
    monkeypatch.setattr(batcher, "PROVEN", 1)
    with running(make_policy()) as server, PolicyClient(port=server.port) as client:
        client.reset(SMALL, 0)
        ask(client, 3)
        with monkeypatch.context() as broken:
            broken.setattr(server._batcher._controller, "plan", lambda *arguments: 1 / 0)
            with pytest.raises(Exception, match="ZeroDivisionError"):
                ask(client, 1)
        assert np.isfinite(ask(client, 1)[0]).all()
