"""Advice names the cause: each is starved in turn in a run that is otherwise well fed."""

import math

import pytest

from alltrades.data.store import EpisodeStore
from alltrades.pipeline.advice import Rate, above, advice_line, best_teacher
from alltrades.pipeline.runner import run
from alltrades.settings.load import load_settings
from alltrades.settings.run import RunSettings

FED = [
    "--environments",
    "[planar/obstacle]",
    "--optional_environments",
    "[]",
    "--generalists",
    "{}",
    "--demos.episodes",
    "30",
    "--policy.width",
    "96",
    "--policy.depth",
    "2",
    "--distill.weights.kind",
    "none",
    "--specialist.width",
    "64",
    "--specialist.train.steps",
    "600",
    "--distill.train.steps",
    "1500",
    "--distill.rollouts",
    "150",
    "--evaluation.rows",
    "[specialists, generalist]",
    "--evaluation.episodes",
    "60",
    "--tracking.wandb",
    "disabled",
    "--no-report",
    "--rollout.workers",
    "0",
]
STARVED = {
    "demonstrations": (["--demos.episodes", "2"], "more demonstrations (now 2)"),
    # few, and more than one: over the states of one rollout the gap alone says little
    "rollouts": (["--distill.rollouts", "3", "--demos.episodes", "30"], "more rollouts"),
    "steps": (["--distill.train.steps", "30"], "more distillation steps or width"),
    "width": (["--policy.width", "8", "--policy.depth", "1"], "more distillation steps or width"),
    "steps of the specialists": (
        ["--specialist.train.steps", "30"],
        "more steps or width of the teachers",
    ),
}


@pytest.fixture(scope="module")
def fed(tmp_path_factory):
    """A run in which nothing is scarce: the others take over from it what is equal."""
    folder = tmp_path_factory.mktemp("fed")
    settings, origins = load_settings(RunSettings, defaults_file="quickstart", overrides=FED)
    return folder, run(settings, folder, origins).advice["planar/obstacle"]


def test_nothing_is_asked_for_where_nothing_is_scarce(fed):
    assert fed[1]["line"].startswith(("solved", "as good as its teachers"))


def test_shift_is_measured_also_where_stage_2_used_no_ratio(fed):
    """Weights are `none` here; teachers that succeed visit states like those of their 30
    demonstrations.
    """
    assert 0.3 < fed[1]["auc"] < 0.75 and fed[1]["ess"] > 0.4


def test_error_of_teachers_is_measured_on_demonstrations_that_nothing_was_trained_on(fed):
    assert fed[1]["demonstration_error"] < fed[1]["held_out_error"] < fed[1]["neighbour_error"]
    stores = [
        set(EpisodeStore.open(fed[0] / "stores" / f"{name}.zarr").columns()["seed"].tolist())
        for name in ("held_out", "demos", "rollouts_scratch")
    ]
    assert len(stores[0]) == 5 and not stores[0] & (stores[1] | stores[2])


@pytest.mark.parametrize("cause", STARVED)
def test_advice_names_what_was_scarce(cause, fed, tmp_path):
    overrides, words = STARVED[cause]
    settings, origins = load_settings(
        RunSettings, defaults_file="quickstart", overrides=[*FED, *overrides]
    )
    found = run(settings, tmp_path, origins, relatives=[fed[0]]).advice["planar/obstacle"]
    assert found["line"].endswith(words), found
    generalises = found["held_out_error"] < 1.5 * fed[1]["held_out_error"]
    assert generalises is (cause not in ("demonstrations", "steps of the specialists")), found


@pytest.mark.parametrize(
    ("generalist", "teacher", "gap", "missed", "neighbours", "auc_low", "ess", "words"),
    [
        (Rate(96, 100), Rate(100, 100), 0.5, 0.5, 0.5, 0.99, 0.1, "solved"),
        (Rate(50, 100), None, None, None, None, None, None, "roll one out"),
        (Rate(50, 100), Rate(80, 100), 0.2, 0.0, 0.2, 0.5, 0.9, "more distillation steps or width"),
        (Rate(50, 100), Rate(80, 100), 0.01, 0.0, 0.2, 0.5, 0.9, "copies them: more rollouts"),
        (
            Rate(50, 100),
            Rate(80, 100),
            None,
            0.0,
            0.2,
            0.5,
            0.9,
            "without having seen rollouts of theirs: more rollouts",
        ),
        (
            Rate(10, 20),
            Rate(13, 20),
            0.2,
            0.0,
            0.2,
            0.5,
            0.9,
            "more demonstrations (now 5)",
        ),  # no more than chance apart
        (Rate(18, 20), Rate(20, 20), 0.2, 0.0, 0.2, 0.5, 0.9, "as good as its teachers"),
        (Rate(50, 100), Rate(50, 100), 0.2, 0.2, 0.25, 0.5, 0.9, "of the teachers"),
        (
            Rate(50, 100),
            Rate(50, 100),
            0.2,
            0.2,
            0.5,
            0.5,
            0.9,
            "(0.50): more demonstrations (now 5)",
        ),  # hard to predict
        (
            Rate(50, 100),
            Rate(50, 100),
            0.01,
            0.2,
            None,
            0.6,
            0.1,
            "other states than the demonstrations (ESS 0.10)",
        ),
        (
            Rate(50, 100),
            Rate(50, 100),
            0.01,
            0.2,
            None,
            0.97,
            1.0,
            "other states than the demonstrations (AUC above 0.97)",
        ),
    ],
)
def test_line_follows_from_the_numbers(
    generalist, teacher, gap, missed, neighbours, auc_low, ess, words
):
    assert words in advice_line(generalist, teacher, gap, missed, neighbours, auc_low, ess, 5)


def test_difference_of_rates_has_newcombes_interval():
    # Newcombe (1998), table II, method 10: 56/70 - 48/80 has the interval 0.0524 to 0.3339
    assert math.isclose(above(Rate(56, 70), Rate(48, 80)), 0.0524, abs_tol=5e-5)


def test_best_teacher_is_not_one_that_was_lucky_in_few_episodes():
    assert best_teacher({"scratch": Rate(2, 2), "labeled_only": Rate(90, 100)}) == "labeled_only"
    assert best_teacher({}) is None
