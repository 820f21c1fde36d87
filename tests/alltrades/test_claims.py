"""Verdicts on experiments, from tables whose answer is known; every recipe with claims has the
columns that they read.
"""

import pytest

from alltrades.settings.load import load_settings, packaged_recipes
from alltrades.studies import study_of
from alltrades.studies.claims import CLAIMS, judge
from alltrades.studies.evidence import change, level, no_lower, positive, said, signed
from tests.alltrades.claim_tables import beside, differences, success, verdicts


def test_every_claim_is_of_a_packaged_study_of_that_name_and_of_what_it_varies():
    studies = {n.split("/")[1]: study_of(n) for n in packaged_recipes() if "/" in n}
    for name, (columns, _) in CLAIMS.items():
        settings, _ = load_settings(studies[name].Settings, defaults_file=f"experiments/{name}")
        assert settings.name == name  # what `alltrades run` judges by
        assert set(getattr(settings, "sweep", {})) <= set(columns)
    assert judge("quickstart", {"tables": {}}) == []


@pytest.mark.parametrize("name", CLAIMS)
def test_what_was_not_measured_leaves_a_claim_undecided_and_other_studies_have_no_claims(name):
    other = success("policy.depth", generalist={2: 0.5})
    assert judge(name, {"tables": other}) == []  # a user's study of the same name
    columns = [
        *CLAIMS[name][0],
        "row",
        "success",
        "low",
        "high",
        "measure",
        "front",
        "against",
        "weights active in",
    ]
    pairs = [*CLAIMS[name][0], "a - b", "difference", "low", "high", "verdict"]
    empty = {"success": {"columns": columns, "rows": []}, "gaps": {"columns": columns, "rows": []}}
    empty |= {
        n: {"columns": pairs, "rows": []}
        for n in ("differences", "differences_psnr", "requirements")
    }
    assert set(verdicts(name, empty).values()) <= {"undecided"}
    values = [5 if c in CLAIMS[name][0] else 0.5 for c in columns]
    values[columns.index("row")] = "generalist"
    assert set(
        verdicts(name, empty | {"success": {"columns": columns, "rows": [values]}}).values()
    ) <= {"undecided"}


def test_change_between_cells_is_the_square_and_add_interval_of_newcombe():
    """Newcombe (1998), Statistics in Medicine 17:873, table II, method 10: 56/70 - 48/80 is 0.2
    [0.0524, 0.3339].
    """
    from alltrades.envs.rollouts.statistics import wilson

    a, b = (
        {"success": k / n, "low": wilson(k, n)[0], "high": wilson(k, n)[1]}
        for k, n in ((56, 70), (48, 80))
    )
    assert change(a, b) == pytest.approx((0.2, 0.0524, 0.3339), abs=5e-5)


@pytest.mark.parametrize(
    ("rule", "held", "refuted", "undecided"),
    [
        (
            level,
            [(-0.04, 0.04), (0.01, 0.04)],
            [(0.06, 0.09), (-0.09, -0.06)],
            [(-0.06, 0.0), (0.02, 0.1)],
        ),
        (
            lambda c: no_lower([c]),
            [(-0.04, 0.2), (0.1, 0.2)],
            [(-0.2, -0.06)],
            [(-0.1, 0.1), (-0.1, -0.01)],
        ),
        (positive, [(0.01, 0.02)], [(-0.02, 0.04), (-0.3, -0.1)], [(-0.02, 0.1)]),
        (signed, [(0.01, 0.02)], [(-0.02, -0.01)], [(-0.01, 0.01)]),
    ],
)
def test_rules_hold_refute_and_leave_open_by_intervals(rule, held, refuted, undecided):
    from alltrades.studies.evidence import Change

    for word, intervals in (("held", held), ("refuted", refuted), ("undecided", undecided)):
        assert {rule(Change((low + high) / 2, low, high)) for low, high in intervals} == {word}


def test_numbers_are_said_in_the_order_of_the_setting_with_signs_for_differences():
    assert (
        said([{"n": 5, "difference": 0.1, "low": -0.1, "high": 0.3}], "n")
        == "5: +0.100 [-0.100, +0.300]"
    )


# ---- 1 -------------------------------------------------------------------------------------------
DEMOS = {
    "tracks or exceeds the specialists": (
        "specialists",
        {"held": (0.0, 0.1), "refuted": (-0.1, 0.1), "undecided": (-0.04, 0.1)},
    ),
    "is above labeled-only at 10": (
        "labeled_only",
        {"held": (0.1, -0.1), "refuted": (-0.1, 0.0), "undecided": (0.01, 0.1)},
    ),
    "caught up": (
        "labeled_only",
        {"held": (0.1, -0.2), "refuted": (0.1, 0.2), "undecided": (0.1, 0.05)},
    ),
}


@pytest.mark.parametrize(
    ("claim", "expected"), [(c, w) for c in DEMOS for w in ("held", "refuted", "undecided")]
)
@pytest.mark.parametrize("row", ["generalist", "filtered", "practice"])
def test_demonstrations(row, claim, expected):
    other, values = DEMOS[claim]
    tables = differences(
        "demos.episodes", **{f"{row}__{other}": dict(zip((5, 50), values[expected]))}
    )
    (word,) = [v for text, v in verdicts("demos", tables).items() if claim in text and row in text]
    assert word == expected


@pytest.mark.parametrize(
    ("lead", "expected"), [(0.1, "held"), (-0.1, "refuted"), (0.0, "undecided")]
)
@pytest.mark.parametrize(
    ("row", "claim"), [("filtered", "better teachers"), ("practice", "and rounds")]
)
def test_teachers_are_compared_under_the_success_filter(row, claim, lead, expected):
    found = verdicts(
        "demos",
        differences(
            "demos.episodes", **{f"{row}__labeled_only_plus": {2: lead, 10: 0.1, 50: -0.5}}
        ),
    )
    assert [v for text, v in found.items() if claim in text] == [expected]


def test_labeled_only_is_not_said_to_have_caught_up_where_fewer_demonstrations_were_tried():
    found = verdicts(
        "demos", differences("demos.episodes", generalist__labeled_only={5: 0.1, 10: 0.0})
    )
    assert found["labeled-only has caught up with generalist at 50 demonstrations"] == "undecided"


# ---- 2, 4, 5 -------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("widest", "half", "expected"),
    [
        (0.81, 0.02, "held"),
        (0.95, 0.05, "held"),
        (0.76, 0.05, "undecided"),
        (0.79, 0.02, "undecided"),
        (0.60, 0.02, "refuted"),
    ],
)
def test_generalist_that_gets_worse_with_width_refutes_that_it_does_not(widest, half, expected):
    found = verdicts(
        "generalist_width",
        success(
            "policy.width",
            half,
            generalist={32: 0.78, 64: 0.82, 128: widest},
            labeled_only={32: 0.7, 128: 0.7},
        ),
    )
    assert found["generalist does not get worse with width"] == expected
    assert found["labeled_only does not get worse with width"] == (
        "held" if half == 0.02 else "undecided"
    )


@pytest.mark.parametrize(
    ("curve", "half", "expected"),
    [
        ((0.4, 0.7, 0.5), 0.02, "held"),
        ((0.6, 0.6, 0.61), 0.02, "refuted"),
        ((0.4, 0.6, 0.8), 0.02, "refuted"),
        ((0.4, 0.7, 0.69), 0.02, "undecided"),
        ((0.4, 0.69, 0.7), 0.02, "undecided"),
        ((0.6, 0.6, 0.61), 0.1, "undecided"),
    ],
)
def test_inverted_u_needs_a_peak_inside_and_is_refuted_by_a_flat_curve_or_a_peak_at_an_end(
    curve, half, expected
):
    widths = (32, 128, 512)
    table = success(
        "specialist.width",
        half,
        specialists=dict(zip(widths, curve)),
        generalist=dict(zip(widths, [c + 0.05 for c in curve])),
    )
    found = verdicts("specialist_width", beside(table, demos__episodes=5))
    assert found["5 demonstrations: success is an inverted U in the specialists' width"] == expected
    follows = "undecided" if expected == "refuted" and curve[0] == 0.6 else "held"
    assert found["the generalist follows the specialists' width"] == follows


def test_following_is_asked_at_equal_demonstrations():
    """More demonstrations help specialists and generalist alike: that is no sign that one follows
    the other's width.
    """
    widths, rows = (32, 128, 512), []
    for n, up in ((5, 0.0), (10, 0.3)):
        table = success(
            "specialist.width",
            specialists=dict(zip(widths, (0.4 + up, 0.5 + up, 0.4 + up))),
            generalist=dict(zip(widths, (0.45 + up, 0.4 + up, 0.45 + up))),
        )
        rows.append(beside(table, demos__episodes=n)["success"])
    table = {"success": {"columns": rows[0]["columns"], "rows": rows[0]["rows"] + rows[1]["rows"]}}
    assert (
        verdicts("specialist_width", table)["the generalist follows the specialists' width"]
        == "refuted"
    )


@pytest.mark.parametrize(
    ("curve", "rises", "levels"),
    [
        ((0.5, 0.7, 0.7), "held", "held"),
        ((0.5, 0.5, 0.7), "held", "refuted"),
        ((0.7, 0.7, 0.7), "refuted", "held"),
        ((0.5, 0.6, 0.66), "held", "undecided"),
        ((0.705, 0.85, 0.73), "undecided", "refuted"),
    ],
)
@pytest.mark.parametrize("row", ["generalist", "filtered"])
def test_rollouts_are_to_help_and_then_no_more(row, curve, rises, levels):
    table = success("distill.rollouts", **{row: dict(zip((0, 100, 400), curve))})
    found = verdicts("rollouts", beside(table, policy__width=64))
    assert [v for text, v in found.items() if text.startswith(row)] == [rises, levels]


# ---- 7 -------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("raw", "network", "expected"),
    [(-0.5, -0.1, "held"), (0.2, 0.2, "refuted"), (-0.01, 0.01, "undecided")],
)
def test_estimators_are_judged_by_intervals_of_their_errors(raw, network, expected):
    half = 0.02 if expected != "undecided" else 0.1
    pairs = {"quadratic, relative - quadratic, raw": raw, "rulsif - mlp in-sample, raw": network}
    rows = [
        [pair, d, n, v, v - half, v + half]
        for pair, v in pairs.items()
        for d in (10, 30)
        for n in (5, 25)
    ]
    table = {"columns": ["a - b", "d", "demos", "difference", "low", "high"], "rows": rows}
    assert list(verdicts("estimators", {"differences": table}).values()) == [expected] * 2


# ---- 3, 8 ----------------------------------------------------------------------------------------
def test_elasticities_that_grow_with_the_generalist_refute_the_exact_claim():
    flat, steep, wide = (
        {"value": v, "interval": [v - h, v + h]} for v, h in ((0.0, 0.1), (1.0, 0.1), (0.3, 0.2))
    )
    tables = {"requirements": {"columns": ["method", "elasticity"], "rows": []}}
    for d_g, others, expected in (
        (flat, steep, "held"),
        (steep, flat, "refuted"),
        (wide, wide, "undecided"),
        (None, None, "undecided"),
    ):
        facts = {
            "score n d_G": d_g,
            "score n d_H": others,
            "labeled n d_G": others,
            "noise N d_G": others,
        }
        assert list(verdicts("exact", tables, elasticities=facts).values()) == [expected] * 4


@pytest.mark.parametrize(
    ("gaps", "volume", "expected"),
    [
        ((0.1, 0.02, 0.1), 0.1, "held"),
        ((0.1, 0.02, 0.1), 0.0, "undecided"),
        ((0.1, -0.02, 0.1), 0.1, "undecided"),
        ((-0.1, -0.1, 0.1), 0.0, "refuted"),
        ((0.1, 0.0, 0.0), -0.1, "refuted"),
        ((0.1, -0.1, 0.1), 0.1, "undecided"),
    ],
)
def test_a_front_lies_above_another_at_every_preference_and_in_volume_or_below_it(
    gaps, volume, expected
):
    rows = [
        [
            "linear",
            "labeled_only",
            "success",
            str(i),
            g,
            g - 0.05,
            g + 0.05,
            "BETTER" if g > 0.05 else "WORSE" if g < -0.05 else "UNDERPOWERED",
        ]
        for i, g in enumerate(gaps)
    ]
    rows.append(["linear", "labeled_only", "return", "0", -9.0, -9.5, -8.5, "WORSE"])
    columns = [
        "front",
        "against",
        "measure",
        "lambda",
        "weighed by lambda",
        "low",
        "high",
        "verdict",
    ]
    volumes = [
        {
            "front": "linear",
            "against": "labeled_only",
            "measure": m,
            "difference": v,
            "interval": [v - 0.05, v + 0.05],
        }
        for m, v in (("return", -1.0), ("success", volume))
    ]
    found = verdicts("pareto", {"gaps": {"columns": columns, "rows": rows}}, differences=volumes)
    assert list(found.values()) == [expected]


# ---- 9, 10 ---------------------------------------------------------------------------------------
BUDGETS = (250, 800, 2500)


@pytest.mark.parametrize(
    ("score", "noise", "expected"),
    [
        ((0.6, 0.8, 0.8), (0.4, 0.7, 0.8), ["held", "held", "held"]),
        (
            (0.4, 0.6, 0.7),
            (0.6, 0.8, 0.8),
            ["refuted", "refuted", "refuted"],
        ),  # score never gets there
        (
            (0.4, 0.6, 0.8),
            (0.4, 0.8, 0.8),
            ["refuted", "held", "refuted"],
        ),  # noise gets there first
        (
            (0.8, 0.8, 0.8),
            (0.8, 0.8, 0.8),
            ["held", "held", "undecided"],
        ),  # both are there at once: the budgets are too large
        ((0.4, 0.6, 0.84), (0.4, 0.6, 0.8), ["held", "undecided", "undecided"]),
    ],
)
def test_score_targets_are_credited_with_the_steps_that_they_save(score, noise, expected):
    key = "distill.train.steps"
    tables = success(key, score=dict(zip(BUDGETS, score)), generalist=dict(zip(BUDGETS, noise)))
    tables |= differences(
        key, score__generalist={x: a - b for x, a, b in zip(BUDGETS, score, noise)}
    )
    assert list(verdicts("targets", tables).values()) == expected


@pytest.mark.parametrize(
    ("gaps", "half", "expected"),
    [
        ((-0.2, -0.1, -0.05), 0.02, "held"),
        ((-0.2, -0.2, -0.2), 0.02, "refuted"),
        ((-0.2, -0.15, -0.15), 0.02, "undecided"),
        ((-0.02, 0.0, 0.0), 0.02, "undecided"),
        ((-0.2, -0.1, -0.05), 0.15, "undecided"),
        ((-0.2, -0.2, -0.2), 0.1, "undecided"),
    ],
)
def test_rounds_are_judged_only_where_there_is_a_gap(gaps, half, expected):
    tables = differences(
        "distill.rounds.count",
        half,
        generalist__specialists=dict(enumerate(gaps)),
        self__specialists=dict(enumerate(gaps)),
    )
    assert set(verdicts("rounds", tables).values()) == {expected}


# ---- 11, 12 --------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("labeled", "generalist", "lead", "expected"),
    [
        ((0.5, 0.7), (0.7, 0.7), (0.0, 0.2), ["held"] * 3),
        ((0.7, 0.5), (0.7, 0.5), (0.2, 0.0), ["refuted"] * 3),
        ((0.5, 0.51), (0.7, 0.67), (0.0, 0.01), ["undecided"] * 3),
    ],
)
def test_adding_environments_is_judged_in_those_that_every_run_has(
    labeled, generalist, lead, expected
):
    key, many = "environments", (2, 16)
    tables = success(
        key,
        name="success_common",
        labeled_only=dict(zip(many, labeled)),
        generalist=dict(zip(many, generalist)),
    )
    tables |= success(
        key, labeled_only=dict.fromkeys(many, 0.5), generalist=dict.fromkeys(many, 0.5)
    )
    tables |= differences(
        key, name="differences_common", generalist__labeled_only=dict(zip(many, lead))
    )
    tables |= differences(key, generalist__labeled_only=dict.fromkeys(many, 0.0))
    assert list(verdicts("environments", tables).values()) == expected


@pytest.mark.parametrize(
    ("lead", "half", "expected"),
    [
        ((1.0, 0.2), 0.05, ["held", "held"]),
        ((0.0, 0.5), 0.04, ["refuted", "refuted"]),
        ((0.0, 0.0), 0.5, ["undecided"] * 2),
        ((-1.0, -1.0), 0.05, ["refuted", "undecided"]),
    ],
)
def test_equal_at_the_fewest_pairs_refutes_the_lead_in_restoration(lead, half, expected):
    tables = {}
    for metric in ("psnr", "ssim"):
        values = dict(zip((50, 1000), lead))
        tables |= differences(
            "demos.episodes",
            half,
            f"differences_{metric}",
            generalist__labeled_only=values,
            generalist__labeled_only_holdout=values,
        )
    assert list(verdicts("restoration_pairs", tables).values()) == expected * 4
