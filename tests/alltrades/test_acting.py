"""Graphs that actors share between threads."""

import threading
import time

from alltrades.pipeline.acting import acting
from alltrades.settings.rollouts import RolloutSettings
from tests.policies.toys import SMALL, info, make_policy


def test_threads_export_one_graph_at_a_time_and_each_graph_once(monkeypatch):
    running, most, exported = 0, 0, []

    def compiled(policy, batch):
        nonlocal running, most
        running += 1
        most = max(most, running)
        time.sleep(0.02)
        running -= 1
        exported.append(policy.digest())
        return object()

    monkeypatch.setattr("alltrades.policies.onnx.export.compiled", compiled)
    monkeypatch.setattr("alltrades.pipeline.acting._graphs", {})
    policies = [make_policy([info("a")], SMALL, seed=seed) for seed in (0, 1)]
    found = [[], []]
    settings = RolloutSettings(engine="onnx")
    threads = [
        threading.Thread(
            target=lambda k=k: found[k % 2].append(acting(policies[k % 2], settings, 1))
        )
        for k in range(6)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert most == 1 and sorted(exported) == sorted(p.digest() for p in policies)
    assert all(len(graphs) == 3 and len(set(map(id, graphs))) == 1 for graphs in found)
