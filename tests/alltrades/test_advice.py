"""Advice names the cause: each is starved in turn in a run that is otherwise well fed."""

import math

import numpy as np
import pytest

from alltrades import cli
from alltrades.data.store import EpisodeStore
from alltrades.envs import registry
from alltrades.pipeline.acting import load_policies
from alltrades.pipeline.advice import Lesson, Rate, above, advice_line, best_teacher
from alltrades.pipeline.artifacts import training_of
from alltrades.pipeline.runner import run
from alltrades.policies.learning.diagnosis import (
    blind_error,
    demonstration_error,
    neighbour_error,
)
from alltrades.settings.load import load_settings
from alltrades.settings.run import RunSettings
from alltrades.system.files import slug

NAME = "planar/obstacle"
PLAIN = ["--environments", f"[{NAME}]", "--optional_environments", "[]"]
FED = [
    *PLAIN,
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
    "800",
    "--distill.train.lr",
    "0.003",
    "--distill.rollouts",
    "100",
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
    "steps": (["--distill.train.steps", "20"], "more distillation steps or width"),
    "width": (
        ["--policy.width", "8", "--policy.depth", "1", "--distill.train.steps", "300"],
        "more distillation steps or width",
    ),
    "steps of the specialists": (
        ["--specialist.train.steps", "30"],
        "): train them longer",
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
# a cycle of the learning rate ends in a loss that falls by some 5 %, learned or not
FALLING, FLAT = (0.3, 0.15, 0.12, 0.1), (0.3, 0.11, 0.1, 0.096)
KNOWS = Lesson(0.05, 0.06, 0.7, 0.3, 600, FALLING, 150)  # training, held out, chance, neighbours


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
        (HALF, HALF, 0.01, KNOWS, 0.6, 0.1, "leave the demonstrations' states (ESS 0.10)"),
        (HALF, HALF, 0.01, KNOWS, 0.97, 1.0, "demonstrations' states (AUC above 0.97)"),
    ],
)
def test_line_follows_from_the_numbers(generalist, teacher, gap, lesson, auc_low, ess, words):
    line = advice_line(generalist, teacher, gap, lesson, auc_low, ess, 5)
    assert words in line and len(line) <= 120


@pytest.mark.parametrize(
    ("lesson", "words"),
    [
        # hardly better than chance, or than neighbours: whatever the held-out error is
        (Lesson(0.37, 0.51, 0.69, None, 50, FALLING, 200), "chance 0.69): train them longer"),
        (Lesson(0.37, 0.51, 0.69, None, 50, FLAT, 20), "chance 0.69): train them longer"),
        (Lesson(0.37, 0.51, 0.69, None, 50, FLAT, 200), "0.69): more width or depth"),
        (Lesson(0.37, 0.51, 0.69, None, 50), "chance 0.69): more steps or width"),
        (Lesson(0.20, 0.22, 0.69, 0.25, 50, FALLING, 20), "(error 0.2, neighbours 0.25)"),
        # it knows its own and not the others
        (Lesson(0.05, 0.40, 0.69, 0.30, 9000, FLAT, 900), "more demonstrations (now 206)"),
        (Lesson(0.05, 0.40, 0.69, 0.30, 9000, FALLING, 9), "(error 0.05, others 0.4)"),
        # both alike
        (Lesson(0.10, 0.12, 0.69, 0.30, 600, FALLING, 200), "train them longer"),
        (Lesson(0.10, 0.12, 0.69, 0.30, 600, FLAT, 200), "more width or depth"),
    ],
)
def test_teachers_train_longer_before_they_get_more_demonstrations(lesson, words):
    line = advice_line(HALF, HALF, 0.01, lesson, 0.5, 0.9, 206)
    assert words in line and len(line) <= 120
    assert ("more demonstrations" in line) is lesson.overfits


@pytest.mark.parametrize(
    ("width", "steps", "remedy"),
    [(8, 600, "more width or depth"), (64, 60, "train them longer")],
)
def test_a_narrow_teacher_needs_capacity_and_a_hurried_one_more_steps(
    fed, tmp_path, width, steps, remedy
):
    demos, size = fed[0] / "stores" / "demos.zarr", ["--specialist.width", str(width)]
    words = ["train", "specialists", "--config", "quickstart_paper", *PLAIN, *size]
    words += ["--demos", str(demos), "--specialist.train.steps", str(steps)]
    words += ["--specialist.depth", "1" if width == 8 else "2"]
    assert cli.main([*words, "--out", str(tmp_path)]) == 0
    seen, specs = EpisodeStore.open(demos).steps(), registry.resolve([NAME])
    acting = load_policies(tmp_path, specs, "cpu")[NAME]
    rng, losses = np.random.default_rng(0), training_of(tmp_path / slug(NAME))["losses"]
    lesson = Lesson(
        demonstration_error(acting, seen, NAME, rng),
        None,
        blind_error(acting, seen, NAME, rng),
        neighbour_error(acting, seen, NAME, rng),
        steps,
        tuple(losses),
        steps * 256 / int(seen.ends[-1]),
    )
    assert lesson.little and lesson.remedy == remedy, lesson


def test_difference_of_rates_has_newcombes_interval():
    # Newcombe (1998), table II, method 10: 56/70 - 48/80 has the interval 0.0524 to 0.3339
    assert math.isclose(above(Rate(56, 70), Rate(48, 80)), 0.0524, abs_tol=5e-5)


def test_best_teacher_is_not_one_that_was_lucky_in_few_episodes():
    assert best_teacher({"scratch": Rate(2, 2), "labeled_only": Rate(90, 100)}) == "labeled_only"
    assert best_teacher({}) is None
