"""Success is declared and typed: what counts as true and false, every form of a rule, and what
breaks the contract.
"""

from __future__ import annotations

import pickle
from functools import partial
from typing import Any

import gymnasium
import numpy as np
import pytest

from alltrades.data.actions import ActionSpec
from alltrades.data.fields import Field
from alltrades.envs import registry
from alltrades.envs.adapter import EnvAdapter, EnvironmentFailure
from alltrades.envs.rollouts.rollout import Job, results, rollout
from alltrades.envs.spec import EnvSpec
from alltrades.envs.success import Success, described, either
from alltrades.errors import UserError

ABSENT = "says nothing"


class Teller(gymnasium.Env):
    """Rewards 1 a step, ends by itself in step `end`, and says `said[t]` under `key` in step t."""

    observation_space = gymnasium.spaces.Box(-1, 1, (1,), np.float32)
    action_space = gymnasium.spaces.Box(-1, 1, (1,), np.float32)

    def __init__(self, said: tuple[Any, ...], key: str = "success", end: int = 99) -> None:
        self.said, self.key, self.end = said, key, end

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[Any, dict]:
        self.steps = 0
        return np.zeros(1, np.float32), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict]:
        said = self.said[min(self.steps, len(self.said) - 1)]
        self.steps += 1
        info = {"distance": 0.5} | (
            {} if isinstance(said, str) and said == ABSENT else {self.key: said}
        )
        return np.zeros(1, np.float32), 1.0, self.steps >= self.end, False, info


def spec_of(said: tuple[Any, ...], key: str = "success", end: int = 99, **facts: Any) -> EnvSpec:
    make = partial(Teller, said, key, end)
    box = ActionSpec((-1.0,), (1.0,))
    return EnvSpec("toy/teller", make, {"state": Field.state(1)}, box, **{"max_steps": 4, **facts})


def successes(spec: EnvSpec) -> list[bool | None]:
    """What every step of an episode says."""
    adapter = EnvAdapter(spec)
    adapter.reset(7)
    out = [adapter.step(np.zeros(1))]
    while not out[-1].done:
        out.append(adapter.step(np.zeros(1)))
    return [r.success for r in out]


class OnDevice:
    """Converts to an array, as tensors of other libraries do."""

    def __array__(self, dtype: Any = None, copy: Any = None) -> np.ndarray:
        return np.array([1.0])


@pytest.mark.parametrize(
    ("said", "truth"),
    [
        *[(v, True) for v in (True, 1, 1.0, np.bool_(True), np.int64(1), np.float32(1))],
        *[(v, True) for v in (np.array([True]), np.array(1), np.array([[1.0]]), OnDevice())],
        *[(v, False) for v in (False, 0, 0.0, np.bool_(False), np.array([0.0]), np.uint8(0))],
    ],
)
@pytest.mark.parametrize("key", ["success", "is_success"])
def test_true_and_false_are_read_as_a_boolean(said, truth, key):
    found = successes(spec_of((said,), key, stop_at_success=False))
    assert found == [truth] * 4 and all(type(x) is bool for x in found)


@pytest.mark.parametrize(
    ("said", "found"),
    [
        (float("nan"), "nan"),
        (-1, "-1"),
        (0.5, "0.5"),
        (2, "2"),
        (np.float32("nan"), "nan"),
        ({}, r"\{\}"),
        ("yes", "'yes'"),
        ("True", "'True'"),
        (None, "None"),
        ([True], r"\[True\]"),
        (np.array([True, False]), r"an array of shape \(2,\)"),
        (np.array([]), r"an array of shape \(0,\)"),
        (np.array(["yes"]), "array"),
        (1 + 0j, r"\(1\+0j\)"),
        (10**400, "1000"),
    ],
)
@pytest.mark.parametrize("rule", ["info", "info:success"])
def test_what_is_neither_true_nor_false_is_refused_with_its_place(said, found, rule):
    spec = spec_of((False, said), success=rule)
    with pytest.raises(UserError) as refused:
        successes(spec)
    line = str(refused.value)
    assert "\n" not in line and len(line) < 320
    with pytest.raises(
        UserError,
        match=rf"^environment 'toy/teller', episode with seed 7, step 1: .*success.* is .*{found}.*"
        "expected True or False",
    ):
        successes(spec)


def test_a_broken_contract_is_no_failure_of_an_episode_and_reaches_who_rolls_out():
    """Also from a worker process: it is never counted as a failed episode."""
    spec = spec_of((0.5,))
    for workers in (0, 1):
        with pytest.raises(UserError, match=r"step 0: info\['success'\] is 0.5"):
            list(results([Job(spec.id, 3, "expert")], {spec.id: spec}, {}, workers=workers,
                         experts={spec.id: still}))  # fmt: skip


def still(observation: Any) -> np.ndarray:
    return np.zeros(1)


def test_a_reset_that_says_nonsense_is_refused_too():
    class Reset(Teller):
        def reset(self, **_: Any) -> tuple[Any, dict]:
            return super().reset()[0], {"success": float("nan")}

    spec = spec_of((False,))
    object.__setattr__(spec, "make", partial(Reset, (False,)))
    with pytest.raises(UserError, match=r"step 0: info\['success'\] is nan"):
        EnvAdapter(spec).reset(1)


def test_two_names_that_contradict_each_other_are_refused_until_one_is_declared():
    class Both(Teller):
        def step(self, action: Any) -> tuple[Any, float, bool, bool, dict]:
            *rest, info = super().step(action)
            return *rest, info | {"is_success": True}  # type: ignore[return-value]

    spec = spec_of((False,))
    object.__setattr__(spec, "make", partial(Both, (False,)))
    with pytest.raises(UserError, match=r"info\['success'\] is False and info\['is_success'\]"):
        successes(spec)
    declared = spec_of((False,), success="info:success")
    object.__setattr__(declared, "make", partial(Both, (False,)))
    assert successes(declared) == [False] * 4


def test_nothing_said_is_nothing_known():
    assert successes(spec_of((ABSENT,), end=2)) == [None, None]  # terminated with a reward: a fall


def test_success_that_is_said_at_the_last_step_alone_is_that_of_the_episode():
    spec = spec_of((ABSENT, ABSENT, True), end=3)
    assert successes(spec) == [None, None, True]
    jobs, specs = [Job(spec.id, s, "expert") for s in (1, 2)], {spec.id: spec}
    (first, _) = rollout(jobs, specs, {}, experts={spec.id: still})
    assert (first.success, first.first_success) == (True, 3)
    assert first.successes.tolist() == [False, False, True]


def test_an_episode_that_nothing_was_said_of_has_unknown_success_in_every_form():
    spec = spec_of((ABSENT,), end=2)
    jobs, specs, experts = [Job(spec.id, 1, "expert")], {spec.id: spec}, {spec.id: still}
    (episode,) = rollout(jobs, specs, {}, experts=experts)
    (result,) = results(jobs, specs, {}, experts=experts)
    assert episode.success is None and episode.first_success is None
    assert result.first_success is None and result.return_ == episode.return_ == 2.0


@pytest.mark.parametrize(
    ("rule", "expected"),
    [
        ("info:reached", [False, True, True, True]),
        ("info:reached?", [False, True, True, True]),
        ("info:distance <= 0.5", [True] * 4),
        ("info:distance<0.5", [False] * 4),
        ("return >= 4", [False, False, False, True]),  # judged at the end
        ("return > 4", [False] * 4),
        ("return <= 1e3", [False, False, False, True]),
        ("reward >= 1.0", [True] * 4),
        ("terminated", [False] * 4),
        (None, [None] * 4),
    ],
)
def test_a_specification_says_how_success_is_read(rule, expected):
    spec = spec_of((ABSENT, True), "reached", success=rule, stop_at_success=False)
    assert successes(spec) == expected
    assert successes(pickle.loads(pickle.dumps(spec))) == expected


def test_values_inside_of_values_are_found_by_their_way():
    spec = spec_of(({"solved": True},), "final", success="info:final.solved", stop_at_success=False)
    assert successes(spec) == [True] * 4


def test_ending_by_itself_is_success_where_that_is_declared():
    assert successes(spec_of((ABSENT,), end=2, success="terminated")) == [False, True]


def test_a_negative_return_is_not_judged_before_the_episode_is_over():
    """Every partial sum of rewards is above the bound: only the whole one counts."""
    reader = Success("return >= -1.5")
    reader.begin({})
    said = [reader({}, -1.0, False, False, last) for last in (False, False, True)]
    assert said == [False, False, False]  # -3 in the end
    reader.begin({})
    assert [reader({}, -0.5, False, False, last) for last in (False, True)] == [False, True]


def near(info: dict[str, Any]) -> bool:
    return info["distance"] < 0.6


def earned(return_: float, over: bool) -> bool:
    return over and return_ >= 4


def earned_at_least(bound: float, return_: float, **facts: Any) -> np.bool_:
    return np.bool_(return_ >= bound and facts["steps"] == 3)


@pytest.mark.parametrize(
    ("rule", "expected"),
    [
        (near, [True] * 4),
        (lambda i: i["distance"] > 1, [False] * 4),
        (earned, [False, False, False, True]),
        (partial(earned_at_least, 3), [False, False, True, False]),
        (lambda **facts: facts["steps"] == 2, [False, True, False, False]),
    ],
)
def test_a_function_is_given_the_facts_that_it_names(rule, expected):
    assert successes(spec_of((ABSENT,), success=rule, stop_at_success=False)) == expected


def test_a_function_keeps_the_contract_too_and_its_errors_have_their_place():
    with pytest.raises(UserError, match="step 0: the success function <lambda> is None; expected"):
        successes(spec_of((ABSENT,), success=lambda info: None))
    with pytest.raises(EnvironmentFailure, match="step 0 of the episode with seed 7: .*KeyError"):
        successes(spec_of((ABSENT,), success=lambda info: info["nothing"]))


@pytest.mark.parametrize(
    "rule",
    ["sucess", "return", "return >= ", "return >= high", "return >= nan", "info >= 2", "info:"]
    + ["reward = 1", "terminated > 0", "", 3, lambda reward, score: True],
)
def test_a_rule_that_says_nothing_is_refused_where_it_is_written(rule):
    with pytest.raises(ValueError, match="toy/teller: .*expected"):
        spec_of((ABSENT,), success=rule)


def test_a_declared_value_that_is_never_there_is_refused_and_may_be_declared_open():
    with pytest.raises(UserError, match="step 3: its info has 'distance' and had no 'sucess' at"):
        successes(spec_of((ABSENT,), success="info:sucess"))
    assert successes(spec_of((ABSENT,), success="info:success?")) == [False] * 4


@pytest.mark.parametrize("value", [float("inf"), "near", None, np.zeros(2)])
def test_what_is_compared_with_a_bound_is_a_finite_number(value):
    with pytest.raises(UserError, match=r"info\['left'\] is .*; expected a finite number"):
        successes(spec_of((value,), "left", success="info:left < 1"))


def test_registering_takes_success_as_a_fact_none_included():
    registry.register("toy/declared", partial(Teller, (True,)), max_steps=3, success="reward > 2")
    registry.register("toy/none", partial(Teller, (True,)), max_steps=3, success=None)
    assert successes(registry.get("toy/declared")) == [False] * 3
    assert successes(registry.get("toy/none")) == [None] * 3
    registry.register("toy/bad", partial(Teller, (True,)), max_steps=3, success="good")
    with pytest.raises(UserError, match="environment 'toy/bad': success = 'good'; expected info"):
        registry.get("toy/bad")


@pytest.mark.parametrize("name", ["planar/reach", "restoration/denoise", "pusht/keypoints-v0"])
def test_built_in_suites_declare_their_success(name):
    assert registry.get(name).success == "info:success"


def test_a_rule_is_described_alike_in_every_process():
    assert [described(rule) for rule in ("return > 1", None, near)] == [
        "return > 1",
        "none",
        "tests.envs.test_success:near",
    ]
    assert described(partial(earned_at_least, 3)).endswith("earned_at_least (3,)")


def test_either_of_two_moments_counts_and_silence_is_no_failure():
    assert either(None, None) is None and either(None, False) is False
    assert either(False, None) is False and either(True, None) is True and either(None, True)
