"""State teachers and policies that look, in one run."""

import json
from base64 import b64encode
from dataclasses import replace

import pytest

from alltrades.data.store import EpisodeStore
from alltrades.envs import registry
from alltrades.envs.perturbations import PICTURES
from alltrades.envs.rendering import with_cameras
from alltrades.envs.rollouts.seeding import evaluation_seeds, plot_seeds
from alltrades.errors import UserError
from alltrades.pipeline.eye_errors import eye_lines
from alltrades.pipeline.eyes import sight_of
from alltrades.pipeline.runner import run
from alltrades.policies.model.encoders.weights import EncoderWeights
from alltrades.policies.model.loading import load_policy
from alltrades.report.page import write_report
from alltrades.settings.load import load_settings
from alltrades.settings.run import RunSettings
from alltrades.system.files import slug
from tests.alltrades import looking  # noqa: F401
from tests.alltrades.contexts import context_of

LOOKS = """
--environments [looking/spot] --plugins [tests.alltrades.looking] --specialist.observe [state]
--policy.observe [images.top,proprioception] --policy.encoder.pretrain state
--policy.encoder.frozen true --rollout.workers 0 --rollout.timeout 0 --rollout.lanes 8
--tracking.wandb disabled --no-report --eyes.train.batch 64 --labeled_only.batch 32
--specialist.train.batch 32 --distill.train.batch 32
--evaluation.rows [specialists,state,estimated,labeled_only_end_to_end,labeled_only,generalist]
""".split()

SEEN = ("--eyes.train.steps", "200", "--eyes.starts", "60", "--rendering.size", "16")


def settings(*more: str) -> RunSettings:
    words = [w.replace(",", ", ") for w in (*LOOKS, *more)]
    return load_settings(RunSettings, defaults_file="planar_cameras", small=True, overrides=words)[
        0
    ]


def spec(given: RunSettings):
    observe = [p for kind in given.observed() for p in kind or ()]
    return with_cameras(registry.get("looking/spot"), given.rendering, observe)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    folder = tmp_path_factory.mktemp("looks")
    return folder, run(settings(*SEEN), folder)


def test_state_teachers_act_and_policies_look_through_eyes_that_told_the_state(finished):
    folder, result = finished
    teacher = load_policy(folder / "policies/specialists/scratch/looking__spot")
    policy = load_policy(folder / "policies/generalist")
    assert list(teacher.environments[0].observation) == ["state"]
    assert set(policy.environments[0].observation) == {"images.top", "proprioception"}
    eyes = EncoderWeights.load(str(folder / "policies/eyes"), "convolution")
    for name in ("generalist", "labeled_only"):
        given = load_policy(folder / "policies" / name)
        assert given.settings.encoder.weights == eyes.digest() and given.settings.encoder.frozen
    assert set(result.evaluations) >= {"specialists", "state", "labeled_only", "generalist"}
    assert list(load_policy(folder / "policies/state").environments[0].observation) == ["state"]


def test_the_controls_of_eyes_are_measured_on_the_same_starts(finished):
    folder, result = finished
    estimated, generalist = (result.evaluations[n] for n in ("estimated", "generalist"))
    assert [r.seeds for r in estimated.rows] == [r.seeds for r in generalist.rows]
    alone = load_policy(folder / "policies/labeled_only_end_to_end")
    assert alone.settings.encoder.weights is None and not alone.settings.encoder.frozen
    assert alone.settings.observe == ("images.top", "proprioception")


@pytest.mark.parametrize("row", ["estimated", "labeled_only_end_to_end"])
def test_controls_of_eyes_without_eyes_are_refused(row):
    more = ("--policy.encoder.pretrain", "null", "--policy.encoder.frozen", "false")
    with pytest.raises(UserError, match=f"row '{row}', and no encoder is taught"):
        settings(*more, "--evaluation.rows", f"[{row}]")


def test_encoders_may_go_on_telling_the_state_while_policies_learn(tmp_path, capsys):
    more = ("--policy.encoder.frozen", "false", "--eyes.starts", "4")
    more += ("--evaluation.rows", "[labeled_only,generalist]", "--evaluation.looks", "false")
    joint = ("--distill.privileged", "1", "--labeled_only.privileged", "0.5")
    digests = []
    for name, words in (("alone", ()), ("joint", joint), ("joint", joint)):
        run(settings(*more, *words), tmp_path / name)
        policies = [tmp_path / name / "policies" / n for n in ("generalist", "labeled_only")]
        digests.append([load_policy(p).digest() for p in policies])
    assert digests[1] == digests[2] and not set(digests[0]) & set(digests[1])
    assert "beside." not in str(list(load_policy(policies[0]).state_dict()))
    for word in ("distill", "labeled_only"):
        with pytest.raises(UserError, match=f"{word}.privileged = 1 and policy.encoder.frozen"):
            settings(f"--{word}.privileged", "1")
    with pytest.raises(UserError, match="privileged = 1 with targets = score"):
        settings(*more, "--distill.privileged", "1", "--distill.targets", "score")


def test_privileged_teachers_see_the_state_and_what_learns_of_them_looks(tmp_path):
    more = ("--distill.teachers", "[joint_init,labeled_only_privileged]")
    rows = "[labeled_only_privileged,labeled_only,generalist]"
    run(settings(*more, "--evaluation.rows", rows, "--eyes.starts", "4"), tmp_path)
    for name in ("labeled_only_privileged", "specialists/joint_init/looking__spot"):
        found = load_policy(tmp_path / "policies" / name)
        assert list(found.environments[0].observation) == ["state"]
    width = load_policy(tmp_path / "policies/labeled_only").settings.width
    assert found.settings.width == width  # fine-tuned, not from scratch
    sources = EpisodeStore.open(tmp_path / "stores/rollouts_labeled_only_privileged.zarr")
    assert set(sources.columns()["source"]) == {"labeled_only_privileged"}
    seen = load_policy(tmp_path / "policies/generalist").environments[0].observation
    assert set(seen) == {"images.top", "proprioception"}


def test_a_privileged_policy_that_sees_what_the_others_do_is_refused():
    with pytest.raises(UserError, match="'labeled_only_privileged' sees what specialists do"):
        load_settings(
            RunSettings,
            defaults_file="quickstart",
            overrides=["--distill.teachers", "[labeled_only_privileged]"],
        )


def test_eyes_are_measured_on_frames_that_they_have_not_seen(finished, capsys):
    found = json.loads((finished[0] / "eyes.json").read_text())["looking/spot"]
    (goal,) = found["numbers"]  # x is proprioception
    assert goal["name"] == "state[1]" and found["held_out_frames"] > 5
    assert goal["held_out"] < 0.3  # goals deviate by 0.58
    parts = [goal[kind]["held_out"] for kind in ("starts", "episodes")]
    assert min(parts) < goal["held_out"] < max(parts) and found["rollouts"] == 4
    (line,) = eye_lines({"looking/spot": found})
    assert line.startswith("looking/spot: held-out error state[1] 0.")


def test_eyes_are_those_of_the_recipe_whichever_rows_are_measured(finished, tmp_path):
    rows = ("--evaluation.rows", "[labeled_only]", "--evaluation.looks", "false")
    run(settings(*SEEN, *rows), tmp_path)
    digests = [
        EncoderWeights.load(str(folder / "policies/eyes"), "convolution").digest()
        for folder in (finished[0], tmp_path)
    ]
    assert digests[0] == digests[1]


def test_random_starts_are_no_evaluation_starts_and_are_continued(finished):
    store = EpisodeStore.open(finished[0] / "stores" / "starts.zarr")
    assert len(store) == 60 and 60 < store.n_steps <= 120  # some end at once
    own = registry.get("looking/spot")
    seeds = set(store.columns()["seed"].astype(int))
    assert len(seeds) == 60 and not seeds & set(evaluation_seeds(own, 0, 500))


def test_a_run_that_goes_on_keeps_its_eyes(finished):
    folder = finished[0]
    before = {p: p.stat().st_mtime_ns for p in folder.rglob("*.safetensors")}
    more = ("--eyes.train.steps", "200", "--eyes.starts", "60", "--rendering.size", "16")
    run(settings(*more), folder)
    assert {p: p.stat().st_mtime_ns for p in folder.rglob("*.safetensors")} == before


def test_the_generalist_is_measured_under_perturbations_on_its_starts(finished):
    folder, result = finished
    found = json.loads((folder / "perturbations.json").read_text())
    assert found == result.perturbations and found["row"] == "generalist"
    whole, rows = result.evaluations["generalist"], found["evaluations"]
    assert set(rows) == {"unperturbed", *PICTURES}
    assert all(r["rows"][0]["seeds"] == list(whole.rows[0].seeds) for r in rows.values())
    assert rows["unperturbed"]["rows"][0]["returns"] == list(whole.rows[0].returns)
    assert len(found["pairs"]) == len(PICTURES)
    more = ("--eyes.train.steps", "200", "--eyes.starts", "60", "--rendering.size", "16")
    assert run(settings(*more, "--evaluation.perturbations", "[]"), folder).perturbations is None


def test_a_run_says_what_its_generalist_looks_at(finished):
    folder, _ = finished
    found = json.loads((folder / "looks.json").read_text())
    own = found["environments"]["looking/spot"]
    assert found["row"] == "generalist"
    assert set(own["fields"]) == {"images.top", "proprioception", "everything"}
    film = own["film"]
    assert film["seed"] == plot_seeds(registry.get("looking/spot"), 0, 1)[0]
    assert film["cameras"]["images.top"]["steps"][-1] == film["steps"] - 1
    page = write_report(folder, folder / "page.html").read_text()
    for said in ("What it looks at: generalist", "generalist under perturbations", "occlusion"):
        assert said in page
    for picture in (own["saliency"]["images.top"], film["cameras"]["images.top"]):
        assert picture["url"].startswith("data:image/") and picture["url"] in page
    (moving,) = (folder / "films").iterdir()
    assert moving.name == f"{slug('looking/spot')}.gif"
    url = f"data:image/gif;base64,{b64encode(moving.read_bytes()).decode()}"
    assert url in page


def test_what_is_told_is_what_teachers_see_and_policies_do_not():
    given = settings()
    sight, specs = sight_of(context_of([spec(given)], settings=given))
    assert sight.cameras == ("images.top",) and sight.known == ("proprioception",)
    assert sight.told == {("looking/spot", "state"): (1,)} and [s.id for s in specs]


def test_groups_of_axes_are_said_as_distances():
    numbers = [
        {"name": f"goal_{a}", "unit": "m", "held_out": v, "trained": v / 2}
        for a, v in (("x", 0.03), ("y", 0.04))
    ]
    (line,) = eye_lines({"a": {"numbers": numbers, "rollouts": 20}})
    assert line == "a: held-out error goal 0.05 m"


@pytest.mark.parametrize(
    ("starts", "episodes", "rollouts", "words"),
    [
        (0.02, None, 20, "; more starts (eyes.starts) would help"),
        (0.012, 0.02, 60, "; more rollouts (eyes.rollouts above 60) would help"),
        (
            0.02,
            0.02,
            20,
            "; more rollouts (eyes.rollouts above 20) and starts (eyes.starts) would help",
        ),
        (None, 0.02, 0, "; more demonstrations would help"),
        (0.012, 0.012, 20, ""),
    ],
)
def test_more_is_advised_of_what_is_told_worse_where_it_was_not_seen(
    starts, episodes, rollouts, words
):
    number = {"name": "x", "unit": "", "held_out": 0.02, "trained": 0.01}
    for kind, error in (("starts", starts), ("episodes", episodes)):
        number |= {} if error is None else {kind: {"held_out": error, "trained": 0.01}}
    (line,) = eye_lines({"a": {"numbers": [number], "rollouts": rollouts}})
    assert line == "a: held-out error x 0.02" + words


def test_a_run_in_which_nothing_looks_is_refused():
    given = settings("--policy.observe", "[state]", "--distill.teachers", "[scratch]")
    plain = replace(registry.get("looking/spot"))
    with pytest.raises(UserError, match="no environment has both a camera"):
        sight_of(context_of([plain], settings=given))


def test_a_run_in_which_nothing_is_to_be_told_is_refused_before_anything_is_made(tmp_path):
    nothing = ("--policy.observe", "[state,images.top]", "--specialist.observe", "[state]")
    with pytest.raises(UserError, match="no environment has both a camera"):
        run(settings(*nothing, "--evaluation.rows", "[specialists]"), tmp_path)
    assert not (tmp_path / "stores").exists()


def test_specialists_that_look_do_so_through_the_eyes(tmp_path):
    more = ("--specialist.observe", "[state,images.top]", "--evaluation.rows", "[specialists]")
    run(settings(*more, "--eyes.starts", "4", "--evaluation.looks", "false"), tmp_path)
    eyes = EncoderWeights.load(str(tmp_path / "policies/eyes"), "convolution")
    found = load_policy(tmp_path / "policies/specialists/scratch/looking__spot")
    assert found.settings.encoder.weights == eyes.digest()
    assert not (tmp_path / "stores/rollouts_scratch.zarr").exists()  # nothing learned from them


def test_what_is_looked_at_may_be_another_row_than_before(tmp_path):
    more = ("--evaluation.perturbations", "[]", "--eyes.starts", "4")
    for row in ("generalist", "labeled_only"):
        run(settings(*more, "--evaluation.rows", f"[{row}]"), tmp_path)
        assert json.loads((tmp_path / "looks.json").read_text())["row"] == row
