"""A training in a group of a cluster's processes: how often it begins again."""

from types import SimpleNamespace

import pytest

from alltrades.errors import UserError
from alltrades.system.compute import ray_group


def tried(monkeypatch, reached):
    """`together` with groups that are lost at these steps, in words, or end where it is None."""
    said, steps = [], iter(reached)

    def group(cluster, pool, task, logged):
        step = next(steps)
        if step is None:
            return ray_group.DONE, "a policy"
        logged["loss"] = max(step, logged.get("loss", -1))
        return "lost", "its node is gone"

    monkeypatch.setattr(ray_group, "_tried", group)
    task = SimpleNamespace(count=2, ears=SimpleNamespace(say=said.append))
    return ray_group.together(None, None, task), said


def test_a_training_goes_on_as_long_as_its_groups_get_on(monkeypatch):
    found, said = tried(monkeypatch, [10, 10, 20, 20, 30, 40, None])
    assert found == "a policy" and len(said) == 6
    assert all("goes on from its last checkpoint" in line for line in said)


def test_groups_that_get_no_further_end_it(monkeypatch):
    with pytest.raises(UserError, match="3 groups .* in a row were lost, the last because: its no"):
        tried(monkeypatch, [10, 10, 10, None])
