"""Verdicts on the studies of weights, shares, outcomes and teachers."""

import itertools

import pytest

from alltrades.studies import weighing_claims
from alltrades.studies.claims import judge
from tests.alltrades.claim_tables import differences, verdicts


def weights(active, half=0.01, large=0.0, small=0.0, filtered=0.0):
    names = [
        "specialist.train.steps",
        "policy.width",
        "a - b",
        "difference",
        "low",
        "high",
        "verdict",
        "seed 0",
    ]
    tables = {"differences": {"columns": names, "rows": []}}
    for steps, (width, d) in itertools.product((1200, 150), ((256, large), (24, small))):
        found = differences(
            "policy.width",
            half,
            generalist__mixture={width: d},
            success_mixture__mixture={width: filtered},
        )["differences"]
        tables["differences"]["rows"] += [[steps, *r] for r in found["rows"]]
    return tables | {
        "success": {
            "columns": [
                "specialist.train.steps",
                "policy.width",
                "row",
                "success",
                "low",
                "high",
                "weights active in",
            ],
            "rows": [
                [s, w, "generalist", 0.8, 0.7, 0.9, active] for s in (1200, 150) for w in (256, 24)
            ],
        }
    }


@pytest.mark.parametrize(
    ("cost", "half", "active", "expected"),
    [
        (0.0, 0.01, "6 6 5", "held"),
        (-0.015, 0.01, "6 6 5", "held"),
        (-0.05, 0.01, "6 6 5", "refuted"),
        (-0.02, 0.02, "6 6 5", "undecided"),
        (-0.04, 0.02, "6 6 5", "undecided"),
        (0.0, 0.01, "0 0 0", "undecided"),
    ],
)
def test_ratio_weights_are_judged_by_their_pooled_cost_where_they_were_active(
    cost, half, active, expected
):
    claims = judge("weights", {"tables": weights(active, half, cost + 0.01, cost - 0.01)})
    assert (
        claims[0].verdict == expected
        and f"{cost:+.3f}" in claims[0].numbers
        and active in claims[0].numbers
    )


@pytest.mark.parametrize(
    ("large", "small", "filtered", "expected"),
    [(0.0, 0.1, 0.1, "held"), (0.2, -0.1, -0.1, "refuted"), (0.05, 0.0, 0.0, "undecided")],
)
def test_weights_by_size_of_the_generalist_and_the_success_filter(large, small, filtered, expected):
    found = list(verdicts("weights", weights("6 6 6", 0.01, large, small, filtered)).values())
    assert found[1:] == [expected] * 3


@pytest.mark.parametrize(
    ("none", "more", "expected"),
    [
        (0.06, 0.01, ["held", "held"]),
        (0.06, -0.06, ["held", "refuted"]),
        (-0.06, 0.01, ["refuted", "refuted"]),
        (0.0, 0.0, ["undecided", "held"]),
        (0.0, -0.04, ["undecided", "refuted"]),
        (0.0, -0.02, ["undecided", "held"]),
    ],
)
def test_a_quarter_of_demonstrations_is_judged_against_none_and_against_more(none, more, expected):
    pairs = {
        f"{row}_25__{row}_{share}": {2: value}
        for row in ("share", "filtered")
        for share, value in ((0, none), (50, more), (75, more))
    }
    assert list(verdicts("shares", differences("demos.episodes", **pairs)).values()) == expected * 2


@pytest.mark.parametrize(
    ("own", "ahead", "expected"),
    [
        (0.0, 0.06, ["held", "held"]),
        (0.1, -0.06, ["refuted", "refuted"]),
        (0.0, 0.0, ["held", "undecided"]),
    ],
)
def test_weights_at_the_state_and_at_the_resultant_one_are_judged_against_none(
    own, ahead, expected
):
    rows = ("resultant_8", "resultant_16", "resultant_32", "progress")
    pairs = {f"{row}__executed": {"success": ahead, "limit": 0.0} for row in rows}
    pairs |= {"state__executed": {"success": own, "limit": 0.0}}
    found = list(verdicts("resultant", differences("demos.ends", **pairs)).values())
    assert found == [expected[0], *[expected[1]] * 4, "held", *["undecided"] * 4]


@pytest.mark.parametrize(
    ("few", "many", "expected"),
    [
        (0.06, 0.0, ["held", "held"]),
        (0.06, -0.06, ["refuted", "held"]),
        (-0.06, 0.06, ["refuted", "refuted"]),
        (0.0, 0.0, ["held", "undecided"]),
    ],
)
def test_outcome_conditioning_is_judged_everywhere_and_from_the_fewest(few, many, expected):
    rows = ("conditioned", "guided_2", "guided_4")
    pairs = {f"{row}__filtered": {2: few, 10: many} for row in rows}
    pairs |= {"conditioned_longer__filtered_longer": {10: 2 * many}}
    found = list(verdicts("outcome", differences("demos.episodes", **pairs)).values())
    assert found == [expected[0], *[expected[1]] * 3, "refuted" if many < 0 else "held"]


@pytest.mark.parametrize(
    ("unequal", "equal", "expected"),
    [
        (0.06, 0.0, ["held", "held"]),
        (-0.06, 0.1, ["refuted", "refuted"]),
        (0.0, 0.0, ["undecided", "held"]),
    ],
)
def test_weights_under_conflict_are_judged_by_how_unequal_the_shift_is(unequal, equal, expected):
    rows = ("generalist__mixture", "resultant__executed", "success_ratio__success_mixture")
    pairs = dict.fromkeys(rows, {20: equal, 5: unequal})
    found = verdicts("conflict", differences(weighing_claims.FEWER, **pairs))
    assert list(found.values()) == [*[expected[0]] * 3, expected[1]]


@pytest.mark.parametrize(
    ("own", "gain", "expected"),
    [
        (0.0, 0.06, ["held", "held"]),
        (-0.12, -0.06, ["refuted", "refuted"]),
        (0.1, 0.0, ["held", "undecided"]),
    ],
)
def test_teachers_of_blind_generalists_are_judged_against_themselves(own, gain, expected):
    pairs = {f"lo_recorded__{row}": {10: own} for row in ("labeled_only", "specialists")}
    pairs |= {f"lo_{row}__lo_executed": {10: gain} for row in ("resultant", "progress")}
    found = list(verdicts("blind", differences("demos.episodes", **pairs)).values())
    assert found == [expected[0]] * 2 + [expected[1]] * 2 + ["undecided"]
