"""Where nothing says success all goes by return; where success may not be seen, by nothing."""

import json
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import gymnasium
import numpy as np
import pytest

from alltrades import cli
from alltrades.data.episode import UNKNOWN, Episode
from alltrades.data.store import EpisodeStore
from alltrades.data.weights.estimate import base_measure, estimate_weights, kept_episodes
from alltrades.data.weights.settings import WeightSettings
from alltrades.envs import registry
from alltrades.envs.rollouts.differences import (
    improvement,
    paired_difference,
    sequential_difference,
)
from alltrades.envs.rollouts.evaluation import (
    RETURN,
    SUCCESS,
    EnvironmentResult,
    Evaluation,
    agreed,
    measures,
)
from alltrades.errors import UserError
from alltrades.pipeline.advice import Lesson, Rate, Returns, advice_line, best_teacher
from alltrades.pipeline.collection import collect
from alltrades.pipeline.rollouts import rollout_statistics
from alltrades.pipeline.visits import best_teachers, taught, visit
from alltrades.report.tables import plain_text
from alltrades.robots.deploy import lines
from alltrades.settings.distill import RoundSettings
from alltrades.settings.load import load_settings
from alltrades.settings.rollouts import RolloutSettings
from alltrades.settings.run import RunSettings
from alltrades.system.reporting import Report
from tests.alltrades.contexts import context_of


class Wage(gymnasium.Env):
    """Three steps of a reward that the seed alone decides; `says`: whether it was above a half."""

    observation_space = gymnasium.spaces.Box(-1, 1, (1,), np.float32)
    action_space = gymnasium.spaces.Box(-1, 1, (1,), np.float32)

    def __init__(self, says: bool = False) -> None:
        self.says = says

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[Any, dict]:
        self.rng, self.steps = np.random.default_rng(seed), 0
        self.reward = float(self.rng.uniform())
        return self.look(), {}

    def look(self) -> np.ndarray:
        return self.rng.uniform(-1, 1, 1).astype(np.float32)

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict]:
        self.steps += 1
        last = self.steps == 3
        info = {"success": self.reward > 0.5} if self.says and last else {}
        return self.look(), self.reward, last, False, info


def still(observation: Any) -> np.ndarray:
    return np.zeros(1)


def spec_of(name: str, says: bool = False, **facts: Any):
    make, expert = partial(Wage, says), still
    registry.register(name, make, replace=True, expert=expert, max_steps=5, **facts)
    return registry.get(name)


SILENT, TELLING = "toy/wage", "toy/telling-wage"
ONE = RolloutSettings(lanes=4, workers=0)


@pytest.fixture(autouse=True)
def environments():
    return spec_of(SILENT), spec_of(TELLING, says=True)


def returns_of(store: Path, name: str = SILENT) -> list[float]:
    return [e.return_ for e in EpisodeStore.open(store).episodes(name)]


def result(
    name: str, returns: list[float], first: list[int] | None = None, **facts: Any
) -> EnvironmentResult:
    n = len(returns)
    return EnvironmentResult(
        name,
        tuple(range(n)),
        None if first is None else tuple(first),
        tuple(returns),
        (0.0,) * n,
        10,
        "",
        **facts,
    )


# ---- demonstrations ------------------------------------------------------------------------------
def test_demonstrations_of_an_environment_without_success_are_all_kept(environments, tmp_path):
    rates = collect(environments, 4, 1, tmp_path / "s", ONE)
    assert rates[SILENT]["n"] == 4 and rates[SILENT]["successes"] is None
    assert rates[TELLING]["successes"] == 4 <= rates[TELLING]["n"]
    store = EpisodeStore.open(tmp_path / "s")
    told = {e.environment: e.success for e in store.episodes()}
    assert told == {SILENT: None, TELLING: True}


def test_the_top_share_keeps_the_highest_returns_in_the_order_of_their_seeds(
    environments, tmp_path
):
    collect(environments[:1], 8, 1, tmp_path / "all", ONE, keep="all")
    rates = collect(environments[:1], 4, 1, tmp_path / "top", ONE, keep="top:0.5")
    every = returns_of(tmp_path / "all")
    assert returns_of(tmp_path / "top") == [r for r in every if r in sorted(every)[-4:]]
    assert rates[SILENT] == {
        "n": 8,
        "successes": None,
        "kept": 4,
        "return": pytest.approx(np.mean(every)),
    }
    with pytest.raises(UserError, match="has 4 episodes.*cannot be continued"):
        collect(environments[:1], 6, 1, tmp_path / "top", ONE, keep="top:0.5")


def test_keeping_all_keeps_failures_too_and_counts_successes(environments, tmp_path):
    rates = collect(environments[1:], 8, 1, tmp_path / "s", ONE, keep="all")
    kept = [e.success for e in EpisodeStore.open(tmp_path / "s").episodes()]
    assert len(kept) == 8 and rates[TELLING]["successes"] == sum(kept) < 8


def test_successes_cannot_be_kept_where_nothing_says_them(environments, tmp_path):
    with pytest.raises(UserError, match=f"nothing says success in 10 episodes of '{SILENT}'"):
        collect(environments[:1], 2, 1, tmp_path / "s", ONE, keep="successes")


def test_collect_takes_what_is_kept_as_an_option(tmp_path, capsys):
    words = ["collect", "--environments", SILENT, "--demos.episodes", "2"]
    words += ["--rollout.workers", "0", "--rollout.timeout", "0", "--out"]
    assert cli.main([*words, str(tmp_path / "a"), "--keep", "top:0.25"]) == 0
    assert "kept 2 demonstrations of 8 tries of the expert (success unknown, mean return" in (
        capsys.readouterr().out
    )
    assert cli.main([*words, str(tmp_path / "b"), "--keep", "best"]) == 2
    assert "expected all, successes or top:SHARE" in capsys.readouterr().err


# ---- filters and rounds --------------------------------------------------------------------------
def steps_of(tmp_path: Path, returns: list[float], lengths: list[int] | None = None, told=None):
    episodes = [
        Episode.from_arrays(
            {"state": np.random.default_rng(i).normal(size=(n, 2))},
            np.zeros((n, 1)),
            "a",
            rewards=[r / n] * n,
            successes=None if told is None else [told[i]] * n,
            source="scratch",
            seed=i,
        )
        for i, (r, n) in enumerate(zip(returns, lengths or [4] * len(returns)))
    ]
    EpisodeStore.write(tmp_path, episodes)
    return EpisodeStore.open(tmp_path).steps()


def test_a_filter_keeps_the_top_share_of_returns_where_nothing_says_success(tmp_path):
    steps = steps_of(tmp_path / "s", [1, 8, 3, 6, 5])
    assert steps.first_success.tolist() == [UNKNOWN] * 5
    assert kept_episodes(steps, 0.4).tolist() == [False, True, False, True, False]
    assert kept_episodes(steps, 0.01).sum() == 1 and kept_episodes(steps, 1.0).all()
    told = steps_of(tmp_path / "t", [1, 8, 3], told=[True, False, False])
    assert kept_episodes(told, 0.4).tolist() == [True, False, False]


def test_equal_returns_are_not_told_apart_by_a_filter(tmp_path):
    assert kept_episodes(steps_of(tmp_path / "s", [2.0] * 6), 0.5).all()


@pytest.mark.parametrize("kind", ["success", "success*ratio"])
def test_weights_of_success_kinds_filter_by_return(tmp_path, kind):
    demos = steps_of(tmp_path / "d", [0.0] * 6)
    rollouts = steps_of(tmp_path / "r", [1, 8, 3, 6, 5, 7])
    settings = WeightSettings(kind=kind, top=0.5)
    found = estimate_weights(demos, rollouts, settings, np.random.default_rng(0))
    mass = np.bincount(rollouts.episode_of_step, found.rollout_base)
    assert mass == pytest.approx(np.array([0, 1, 0, 1, 0, 1]) / 3)


def test_states_that_never_move_leave_weights_equal(tmp_path):
    demos, rollouts = (steps_of(tmp_path / n, [1, 8, 3, 6, 5, 7]) for n in "dr")
    demos, rollouts = (
        replace(s, observation={"state": np.zeros((len(s), 2), np.float32)})
        for s in (demos, rollouts)
    )
    found = estimate_weights(demos, rollouts, WeightSettings(), np.random.default_rng(0))
    assert found.auc == pytest.approx(0.5) and found.rollout_weight == pytest.approx(1.0)


def test_to_end_early_is_no_merit_where_nothing_says_success(tmp_path):
    steps = steps_of(tmp_path / "s", [1.0, 1.0], [2, 10])
    mass = np.bincount(steps.episode_of_step, base_measure(steps, discount=0.5))
    assert mass == pytest.approx([0.5, 0.5])


class Idle:
    """A policy that does nothing, for visits."""

    def __init__(self, monkeypatch) -> None:
        module = "alltrades.pipeline.visits"
        monkeypatch.setattr(f"{module}.acting", lambda *_: None)
        monkeypatch.setattr(f"{module}.Controller", lambda *_, **__: self)
        self.lanes = 4

    def digest(self) -> str:
        return "idle"

    def begin(self, lane: int, environment: str, seed: int) -> None: ...

    def plan(self, frames: Any) -> dict[int, np.ndarray]:
        return {lane: np.zeros((1, 1)) for lane in frames}


def test_visits_try_low_returns_again_and_teach_by_high_ones(environments, tmp_path, monkeypatch):
    context = context_of(environments, ONE)
    settings = RoundSettings(count=1, episodes=8, tries=2, top=0.25)
    visit(context, Idle(monkeypatch), settings, 3, "round", tmp_path / "v", Report())
    store = EpisodeStore.open(tmp_path / "v")
    first, second = store.provenance["tries"]
    returns = returns_of(tmp_path / "v")
    assert first[SILENT]["successes"] is None and first[SILENT]["kept"] == 2
    assert second[SILENT]["n"] == 6 and first[SILENT]["return"] == pytest.approx(np.mean(returns))
    assert second[TELLING]["n"] == 8 - first[TELLING]["successes"]
    marked = taught(store, [SILENT, TELLING], blind=False)
    silent = marked.environment == SILENT
    assert (
        sorted(marked.return_[silent & marked.episode_success]) == sorted(returns)[-2:]
        and (marked.episode_success[~silent] == (marked.return_[~silent] > 1.5)).all()
    )
    assert taught(store, [SILENT, TELLING], blind=True).episode_success.all()


def test_the_best_teacher_has_the_highest_lower_end_of_its_return_where_none_says_success():
    def facts(mean: float, half: float) -> dict[str, Any]:
        return {"n": 9, "successes": None, "return_interval": [mean - half, mean + half]}

    statistics = {
        "self": {"a": facts(10, 9), "b": {"n": 9, "successes": 1, "return_interval": [50, 60]}},
        "scratch": {"a": facts(8, 1), "b": {"n": 9, "successes": 7, "return_interval": [1, 2]}},
        "joint_init": {"a": {"n": 1, "successes": None, "return_interval": None}},
    }
    assert best_teachers(statistics) == {"a": "scratch", "b": "scratch"}


def test_statistics_of_rollouts_have_returns_and_no_successes(environments, tmp_path):
    collect(environments, 4, 1, tmp_path / "s", ONE)
    found = rollout_statistics(tmp_path / "s")
    assert (found[SILENT]["successes"], found[TELLING]["successes"]) == (None, 4)
    (low, high), mean = found[SILENT]["return_interval"], found[SILENT]["return"]
    assert low < mean < high and mean == pytest.approx(np.mean(returns_of(tmp_path / "s")))


# ---- evaluations ---------------------------------------------------------------------------------
def mixed(name: str, shift: float, first: list[int]) -> Evaluation:
    rng = np.random.default_rng(5)
    return Evaluation(
        name,
        (
            result("silent", list(100 * rng.uniform(size=40) + shift)),
            result("telling", [0.0] * 40, first),
        ),
    )


def test_a_record_without_success_says_null_and_the_returns():
    record = json.loads(json.dumps(Evaluation("x", (result("a", [1.0, 3.0]),)).to_json()))
    (row,) = record["rows"]
    assert row["successes"] is row["first_success"] is row["interval"] is record["mean"] is None
    assert row["returns"] == [1.0, 3.0] and record["return"]["mean"] == 2.0
    assert Evaluation.from_json(record) == Evaluation("x", (result("a", [1.0, 3.0]),))


def test_one_table_for_success_and_one_for_returns():
    a, b = mixed("a", 5.0, [1] * 40), mixed("b", 0.0, [-1] * 40)
    assert measures([a, b]) == {SUCCESS: ["telling"], RETURN: ["silent"]}
    text = plain_text({"a": a, "b": b}, {"pairs": []})
    success, returns = text.split("\n\n")
    assert success.startswith("success, 95 % interval") and "silent" not in success
    assert returns.startswith("return, 95 % interval") and "telling" not in returns
    assert "1.00 [0.91, 1.00]" in success and "0.00 [0.00, 0.09]" in success


def test_returns_are_compared_in_deviations_of_their_own():
    a, b = mixed("a", 5.0, [1] * 40), mixed("b", 0.0, [-1] * 40)
    returns = paired_difference(a.only(["silent"]), b.only(["silent"]), metric=RETURN)
    assert (returns.mean, returns.verdict) == (pytest.approx(5.0), "BETTER")
    near = paired_difference(
        mixed("a", 0.5, [1] * 40).only(["silent"]), b.only(["silent"]), metric=RETURN
    )
    assert near.verdict == "BETTER"  # paired on common starts, half a point is no chance
    same = paired_difference(b.only(["silent"]), b.only(["silent"]), metric=RETURN)
    assert same.verdict == "SAME"
    with pytest.raises(UserError, match="nothing says success in 'silent'"):
        paired_difference(a.only(["silent"]), b.only(["silent"]))


def test_the_gain_of_a_round_joins_success_and_returns_in_one_unit():
    a, b = mixed("a", 5.0, [1] * 20 + [-1] * 20), mixed("b", 0.0, [-1] * 40)
    spread = np.std(b.rows[0].returns)
    assert improvement(a, b).mean == pytest.approx((0.5 + 5.0 / spread) / 2)
    told = [e.only(["telling"]) for e in (a, b)]
    assert improvement(*told) == paired_difference(*told)


def test_an_environment_that_tells_of_success_alone_told_others_of_failures():
    told = Evaluation("a", (result("e", [1.0, 2.0], [3, -1]),))
    silent = Evaluation("b", (result("e", [1.0, 2.0]),))
    assert agreed({"a": told, "b": silent})["b"].rows[0].successes == 0
    assert paired_difference(told, silent).mean == 0.5


def test_sequential_comparison_of_returns_counts_the_higher_one():
    a = Evaluation("a", (result("e", [1e6] * 60),))
    b = Evaluation("b", (result("e", [999.0] * 60),))
    found = sequential_difference(a, b, metric=RETURN)
    assert found.verdict == "BETTER" and found.rounds < 30


@pytest.mark.parametrize("more", [[], ["--metric", "return"], ["--letters"], ["--sequential"]])
def test_compare_goes_by_return_where_nothing_says_success(tmp_path, capsys, more):
    rng = np.random.default_rng(0)
    base = rng.normal(size=60)
    for name, shift in (("a", 1.0), ("b", 0.0)):
        found = Evaluation(name, (result("e", list(base + shift)),))
        (tmp_path / f"{name}.json").write_text(json.dumps(found.to_json()))
    files = [str(tmp_path / "a.json"), str(tmp_path / "b.json")]
    assert cli.main(["compare", *files, *more]) == 0
    out = capsys.readouterr().out
    assert "a - b, return" in out and "BETTER" in out
    assert cli.main(["compare", *files, "--metric", "success"]) == 2
    assert "nothing says success in e" in capsys.readouterr().err


def test_compare_shows_both_figures_of_mixed_rows_and_return_of_all_when_asked(tmp_path, capsys):
    for e in (mixed("a", 5.0, [1] * 40), mixed("b", 0.0, [-1] * 40)):
        (tmp_path / f"{e.name}.json").write_text(json.dumps(e.to_json()))
    files = [str(tmp_path / "a.json"), str(tmp_path / "b.json")]
    assert cli.main(["compare", *files]) == 0
    out = capsys.readouterr().out
    assert "success, 40 episodes" in out and "return, 40 episodes" in out
    assert cli.main(["compare", *files, "--metric", "return"]) == 0
    assert "return, 80 episodes" in capsys.readouterr().out


# ---- advice, robots ------------------------------------------------------------------------------
def test_advice_goes_by_return_where_nothing_says_success():
    rng = np.random.default_rng(0)
    low, high = Returns(rng.normal(10, 1, 50)), Returns(rng.normal(20, 1, 50))
    assert best_teacher({"a": low, "b": high}) == "b"
    line = advice_line(low, high, 0.5, Lesson(), None, None, 3)
    assert line.startswith("generalist 10.") and "trails its teachers' 20" in line
    assert not Returns(np.full(5, 1e9)).solved and Rate(20, 20).solved


def test_deploy_reports_returns_where_a_robot_says_no_success():
    def said(success: list[bool | None]) -> str:
        episodes = [{"success": s, "return": 2.0} for s in success]
        counts = {"latency_ms": dict.fromkeys(("p50", "p95", "p99", "max"), 0.0), "chunks": None}
        names = ("steps", "measured_rate", "missed", "held", "paused")
        facts = dict.fromkeys(names, 0) | {"observations": {}, "refusals": {}, "robot": "r"}
        return lines(facts | counts | {"episodes": episodes, "environment": "e"})[0]

    assert "2 episodes, success unknown, mean return 2" in said([None, None])
    assert "1 of 2 episodes succeeded," in said([True, False])
    assert "1 of 2 episodes succeeded (1 do not say)" in said([True, None])


# ---- settings ------------------------------------------------------------------------------------
def loaded(*words: str) -> RunSettings:
    return load_settings(RunSettings, overrides=list(words))[0]


def test_the_command_line_says_how_success_is_read():
    from alltrades.pipeline.resolution import resolve

    def rules(*words: str) -> list[Any]:
        environments = f"[{SILENT}, {TELLING}]"
        specs, _ = resolve(loaded("--environments", environments, *words))
        return [spec.success for spec in specs]

    assert rules() == ["info", "info"]
    assert rules("--simulator.success", "return >= 2") == ["return >= 2"] * 2
    assert rules("--simulator.success", "none") == [None, None]
    by_name = ["--simulator.rules", f'{{"{SILENT}": "return >= 2"}}']
    assert rules(*by_name) == ["return >= 2", "info"]
    with pytest.raises(
        UserError, match="simulator: success = 'won'; expected declared, none, never or info"
    ):
        loaded("--simulator.success", "won")
    with pytest.raises(UserError, match="names 'toy/wag', which is none of the run's environments"):
        rules("--simulator.rules", '{"toy/wag": "return >= 2"}')


def test_a_blind_run_sees_success_nowhere_but_in_its_evaluation(environments):
    words = ["--simulator.success", "never", "--distill.weights.kind", "success*ratio"]
    settings = loaded(*words, "--distill.weights.discount", "0.9").seeing
    weights, rounds = settings.distill.weights, settings.distill.rounds
    assert (weights.kind, weights.filtered, weights.discount, rounds.tries) == (
        "ratio",
        False,
        1,
        1,
    )
    context = context_of(environments, settings=settings)
    assert [(s.success, s.stop_at_success) for s in context.practised] == [(None, False)] * 2
    assert [s.success for s in context.simulated] == ["info", "info"]


def test_without_a_filter_the_best_of_several_teachers_is_learned_from_and_no_attempt_of_ones_own():
    never = ["--simulator.success", "never", "--distill.reuse_labels", "true"]
    union = ["--distill.teachers", "[scratch, joint_init, labeled_only]"]
    rounds = ["--distill.rounds.count", "2"]
    filtered = ["--distill.weights.kind", "success"]
    seen = loaded(*never, *union, *rounds, *filtered).seeing
    assert (seen.distill.teachers, seen.distill.demo_share) == (("labeled_only",), 0.5)
    assert seen.distill.rounds.count == 0 and not seen.distill.executed
    assert seen.seeing == seen and "generalist_round0" not in seen.rows()
    best = loaded(*never, *union, *rounds, *filtered, "--distill.rounds.teacher", "best").seeing
    assert best.distill.rounds.count == 2
    asked = loaded(*never, *union, *rounds, "--distill.weights.kind", "none").seeing.distill
    assert (len(asked.teachers), asked.demo_share, asked.rounds.count) == (3, 0.25, 2)
    alone = loaded(*never, "--distill.teachers", "[scratch]", *filtered).seeing.distill
    assert alone.teachers == ("scratch",)
    with pytest.raises(UserError, match="evaluation names row 'generalist_round0'"):
        loaded(*never, *rounds, *filtered, "--evaluation.rows", "[generalist_round0]")


def test_what_success_was_used_for_is_read_off_the_episodes(tmp_path):
    from alltrades.pipeline import generalist

    def uses(told: list[bool] | None, kind: str) -> set[str]:
        steps = steps_of(tmp_path / f"{told}{kind}", [1.0, 2.0], told=told)
        sources = SimpleNamespace(
            demos=SimpleNamespace(context=None), stores=[], unpaired=lambda _: steps
        )
        settings = loaded("--distill.weights.kind", kind).distill
        return set(generalist.uses_of(sources, settings, ()))  # type: ignore[arg-type]

    assert uses(None, "success") == set() and uses(None, "ratio") == set()
    assert uses([True, False], "ratio") == {"ends episodes"}
    assert uses([True, False], "success") == {"ends episodes", "filters"}


def test_flags_of_recordings_are_true_or_false():
    for odd in ([0, float("nan")], [1, 2], ["yes", "no"], [0.5, 1]):
        with pytest.raises(ValueError, match="successes hold .*; expected True or False"):
            Episode.from_arrays({"state": np.zeros((2, 1))}, None, "a", successes=odd)
    episode = Episode.from_arrays({"state": np.zeros((2, 1))}, None, "a", successes=[0.0, 1.0])
    assert episode.first_success == 2 and replace(episode, success=None).success is None
