"""Verdicts on experiments, from tables whose answer is known; every recipe with claims has the columns that they read."""

import pytest

from alltrades.config import load_settings, packaged_recipes
from alltrades.studies import study_of
from alltrades.studies.claims import CLAIMS, judge


def differences(key, pair, *values, half=0.02, name="differences", **more):
    """One row per (value of the setting, difference), with an interval of +-half."""
    rows = [[x, pair, d, d - half, d + half, "BETTER" if d > half else "WORSE" if d < -half else "SAME", d, *more.values()]
            for x, d in values]
    return {name: {"columns": [key, "a - b", "difference", "low", "high", "verdict", "seed 0", *more], "rows": rows}}


def success(key, half=0.02, **rows):
    return {"columns": [key, "row", "success", "low", "high"],
            "rows": [[x, row, v, v - half, v + half] for row, values in rows.items() for x, v in values.items()]}


def verdicts(name, tables, **facts):
    return {claim.text: claim.verdict for claim in judge(name, {"tables": tables, **facts})}


def test_every_claim_is_of_a_packaged_study_of_that_name():
    studies = {n.split("/")[1]: study_of(n) for n in packaged_recipes() if "/" in n}
    for name in CLAIMS:
        settings, _ = load_settings(studies[name].Settings, defaults_file=f"experiments/{name}")
        assert settings.name == name  # what `alltrades run` judges by
    assert judge("quickstart", {"tables": {}}) == []


@pytest.mark.parametrize(("widest", "expected"), [(0.80, "held"), (0.90, "held"), (0.76, "undecided"), (0.60, "refuted")])
def test_generalist_that_gets_worse_with_width_refutes_that_it_does_not(widest, expected):
    half = 0.02 if expected != "undecided" else 0.05
    found = verdicts("generalist_width", {"success": success("policy.width", half, generalist={32: 0.78, 64: 0.82, 128: widest},
                                                             labeled_only={32: 0.7, 128: 0.7})})
    assert found["generalist does not get worse with width"] == expected
    assert found["labeled_only does not get worse with width"] == "held"


@pytest.mark.parametrize(("curve", "expected"), [((0.4, 0.7, 0.5), "held"), ((0.6, 0.6, 0.61), "refuted"),
                                                 ((0.4, 0.6, 0.8), "refuted"), ((0.4, 0.7, 0.69), "undecided")])
def test_inverted_u_needs_a_peak_inside_and_both_ends_below_it(curve, expected):
    table = success("specialist.width", specialists=dict(zip((32, 128, 512), curve)),
                    generalist=dict(zip((32, 128, 512), [c + 0.05 for c in curve])))
    table = {"columns": ["demos.episodes", *table["columns"]], "rows": [[5, *r] for r in table["rows"]]}
    found = verdicts("specialist_width", {"success": table})
    assert found["5 demonstrations: success is an inverted U in the specialists' width"] == expected
    assert found["the generalist follows the specialists"] == "held"


@pytest.mark.parametrize(("cost", "expected"), [(0.0, "held"), (-0.02, "held"), (-0.05, "refuted")])
def test_ratio_weights_are_judged_by_their_pooled_cost(cost, expected):
    keys = ("specialist.train.steps", "policy.width")
    both = [(1200, 256, cost + 0.01), (1200, 24, cost - 0.01), (150, 256, cost), (150, 24, cost)]
    columns = [*keys, "a - b", "difference", "low", "high", "verdict", "seed 0"]
    rows = [[s, w, pair, d, d - 0.01, d + 0.01, "SAME", d] for s, w, d in both
            for pair in ("generalist - none", "success - none")]
    table = {"columns": [*keys, "row", "success", "low", "high", "weights active in"],
             "rows": [[s, w, "generalist", 0.8, 0.7, 0.9, "6 6 5"] for s, w, _ in both]}
    claims = judge("weights", {"tables": {"differences": {"columns": columns, "rows": rows}, "success": table}})
    assert claims[0].verdict == expected and f"{cost:+.3f}" in claims[0].numbers and "6 6 5" in claims[0].numbers


@pytest.mark.parametrize(("gaps", "expected"), [((-0.2, -0.1, -0.05), "held"), ((-0.2, -0.2, -0.2), "refuted"),
                                                ((-0.2, -0.15, -0.15), "undecided"), ((-0.02, 0.0, 0.0), "undecided")])
def test_rounds_are_judged_only_where_there_is_a_gap(gaps, expected):
    key = "distill.rounds.count"
    tables = differences(key, "generalist - specialists", *enumerate(gaps))
    tables["differences"]["rows"] += differences(key, "self - specialists", *enumerate(gaps))["differences"]["rows"]
    assert set(verdicts("rounds", tables).values()) == {expected}


def test_score_targets_are_credited_with_the_steps_that_they_save():
    tables = differences("distill.train.steps", "score - generalist", (250, 0.2), (800, 0.1), (2500, 0.0))
    tables["success"] = success("distill.train.steps", score={250: 0.6, 800: 0.8, 2500: 0.8},
                                generalist={250: 0.4, 800: 0.7, 2500: 0.8})
    assert set(verdicts("targets", tables).values()) == {"held"}
    tables["differences"]["rows"][0][2:6] = [-0.2, -0.25, -0.15, "WORSE"]
    assert "refuted" in verdicts("targets", tables).values()


def test_demonstrations_at_which_labeled_only_wins_refute_the_method():
    key, tables = "demos.episodes", {}
    for pair, values in {"generalist - specialists": (0.0, 0.0), "filtered - specialists": (0.1, 0.0),
                         "generalist - labeled_only": (-0.1, 0.0), "filtered - labeled_only": (0.1, 0.0),
                         "filtered - labeled_only_plus": (0.1, 0.0)}.items():
        found = differences(key, pair, *zip((5, 50), values))["differences"]
        tables.setdefault("differences", {"columns": found["columns"], "rows": []})["rows"] += found["rows"]
    found = verdicts("demos", tables)
    assert found["generalist is above labeled-only at 10 demonstrations and fewer"] == "refuted"
    assert found["filtered is above labeled-only at 10 demonstrations and fewer"] == "held"
    assert found["labeled-only is level with filtered at 50 demonstrations"] == "held"
    assert found["generalist tracks or exceeds the specialists at every number of demonstrations"] == "held"


def test_elasticities_that_grow_with_the_generalist_refute_the_exact_claim():
    flat, steep = {"value": 0.0, "interval": [-0.1, 0.1]}, {"value": 1.0, "interval": [0.9, 1.1]}
    facts = {"score n d_G": flat, "score n d_H": steep, "labeled n d_G": steep, "noise N d_G": None}
    assert list(verdicts("exact", {}, elasticities=facts).values()) == ["held", "held", "held", "undecided"]
    facts["score n d_G"] = steep
    assert list(verdicts("exact", {}, elasticities=facts).values())[0] == "refuted"
