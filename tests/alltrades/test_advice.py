"""Advice names the cause: each is starved in turn in a run that is otherwise well fed."""

import math

import pytest

from alltrades.data.store import EpisodeStore
from alltrades.pipeline.advice import Lesson, Rate, above, advice_line, best_teacher
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
    "--rollout.timeout",
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
        "30 steps, loss still falling): train them longer",
    ),
}


@pytest.fixture(scope="module")
def fed(tmp_path_factory):
    """A run in which nothing is scarce: the others take over from it what is equal."""
    folder = tmp_path_factory.mktemp("fed")
    settings, origins = load_settings(RunSettings, defaults_file="quickstart_paper", overrides=FED)
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
    assert fed[1]["neighbour_error"] < fed[1]["blind_error"] and fed[1]["steps"] == 600
    assert list(fed[1]["losses"]) == sorted(fed[1]["losses"], reverse=True)
    stores = [
        set(EpisodeStore.open(fed[0] / "stores" / f"{name}.zarr").columns()["seed"].tolist())
        for name in ("held_out", "demos", "rollouts_scratch")
    ]
    assert len(stores[0]) == 5 and not stores[0] & (stores[1] | stores[2])


@pytest.mark.parametrize("cause", STARVED)
def test_advice_names_what_was_scarce(cause, fed, tmp_path):
    overrides, words = STARVED[cause]
    settings, origins = load_settings(
        RunSettings, defaults_file="quickstart_paper", overrides=[*FED, *overrides]
    )
    found = run(settings, tmp_path, origins, relatives=[fed[0]]).advice["planar/obstacle"]
    assert found["line"].endswith(words), found
    generalises = found["held_out_error"] < 1.5 * fed[1]["held_out_error"]
    assert generalises is (cause not in ("demonstrations", "steps of the specialists")), found


HALF, WELL = Rate(50, 100), Rate(80, 100)
FALLING, FLAT = (0.3, 0.15, 0.12, 0.1), (0.3, 0.11, 0.1, 0.1)
KNOWS = Lesson(
    0.05, 0.06, 0.7, 0.3, 600, FALLING
)  # training, held out, knowing nothing, neighbours


@pytest.mark.parametrize(
    ("generalist", "teacher", "gap", "lesson", "auc_low", "ess", "words"),
    [
        (Rate(96, 100), Rate(100, 100), 0.5, KNOWS, 0.99, 0.1, "solved"),
        (HALF, None, None, Lesson(), None, None, "roll one out"),
        (HALF, WELL, 0.2, KNOWS, 0.5, 0.9, "more distillation steps or width"),
        (HALF, WELL, 0.01, KNOWS, 0.5, 0.9, "copies them: more rollouts"),
        (
            HALF,
            WELL,
            None,
            KNOWS,
            0.5,
            0.9,
            "without having seen rollouts of theirs: more rollouts",
        ),
        # no more than chance apart
        (Rate(10, 20), Rate(13, 20), 0.2, Lesson(0.1), 0.5, 0.9, "more demonstrations (now 5)"),
        (Rate(18, 20), Rate(20, 20), 0.2, KNOWS, 0.5, 0.9, "as good as its teachers"),
        # hard to predict, also for neighbours
        (HALF, HALF, 0.2, Lesson(0.2, None, 0.7, 0.5), 0.5, 0.9, "(0.50): more demonstrations"),
        (HALF, HALF, 0.01, KNOWS, 0.6, 0.1, "other states than the demonstrations (ESS 0.10)"),
        (HALF, HALF, 0.01, KNOWS, 0.97, 1.0, "than the demonstrations (AUC above 0.97)"),
    ],
)
def test_line_follows_from_the_numbers(generalist, teacher, gap, lesson, auc_low, ess, words):
    assert words in advice_line(generalist, teacher, gap, lesson, auc_low, ess, 5)


@pytest.mark.parametrize(
    ("lesson", "words"),
    [
        # hardly better than knowing nothing, or than neighbours: whatever the held-out error is
        (Lesson(0.37, 0.51, 0.69, None, 50, FALLING), "loss still falling): train them longer"),
        (Lesson(0.37, 0.51, 0.69, None, 50, FLAT), "loss flat): more capacity of theirs"),
        (Lesson(0.37, 0.51, 0.69, None, 50), "50 steps): train them longer, or with more width"),
        (Lesson(0.20, 0.22, 0.69, 0.25, 50, FALLING), "neighbours' 0.25; 50 steps"),
        # it knows its own and not the others
        (Lesson(0.05, 0.40, 0.69, 0.30, 9000, FLAT), "more demonstrations (now 206)"),
        (Lesson(0.05, 0.40, 0.69, 0.30, 9000, FALLING), "more demonstrations (now 206)"),
        # both alike
        (Lesson(0.10, 0.12, 0.69, 0.30, 600, FALLING), "train them longer"),
        (Lesson(0.10, 0.12, 0.69, 0.30, 600, FLAT), "more capacity of theirs (width, depth)"),
    ],
)
def test_teachers_train_longer_before_they_get_more_demonstrations(lesson, words):
    line = advice_line(HALF, HALF, 0.01, lesson, 0.5, 0.9, 206)
    assert words in line
    assert ("more demonstrations" in line) is lesson.overfits


def test_the_line_says_the_figures_that_it_goes_by():
    line = advice_line(
        HALF, HALF, 0.01, Lesson(0.37, 0.51, 0.69, 0.26, 50, FALLING), 0.99, 0.1, 206
    )
    assert (
        "(errors training 0.37, held-out 0.51, knowing nothing 0.69, neighbours' 0.26; 50 steps, "
        "loss still falling)" in line
    )


def test_difference_of_rates_has_newcombes_interval():
    # Newcombe (1998), table II, method 10: 56/70 - 48/80 has the interval 0.0524 to 0.3339
    assert math.isclose(above(Rate(56, 70), Rate(48, 80)), 0.0524, abs_tol=5e-5)


def test_best_teacher_is_not_one_that_was_lucky_in_few_episodes():
    assert best_teacher({"scratch": Rate(2, 2), "labeled_only": Rate(90, 100)}) == "labeled_only"
    assert best_teacher({}) is None
