"""`weigh` and `distill`: what one hands to the other, and what an interrupted distillation goes on
from.
"""

import json
import shutil
from dataclasses import replace

import pytest

from alltrades import cli
from alltrades.data.store import EpisodeStore
from alltrades.policies.model.loading import load_policy
from alltrades.policies.model.policy import DiffusionPolicy

SMALL = ["--config", "quickstart_paper", "--environments", "[planar/reach, planar/push]", "--small"]
ROLL = ["--rollout.workers", "0", "--rollout.timeout", "0", "--rollout.lanes", "8"]


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    folder = tmp_path_factory.mktemp("made")
    for words in (
        ["collect", "--out", f"{folder}/demos.zarr"],
        [
            "train",
            "specialists",
            "--demos",
            f"{folder}/demos.zarr",
            "--out",
            f"{folder}/specialists",
        ],
        [
            "rollout",
            f"{folder}/specialists",
            "--episodes",
            "4",
            *ROLL,
            "--out",
            f"{folder}/rollouts.zarr",
        ],
        [
            "weigh",
            f"{folder}/rollouts.zarr",
            "--demos",
            f"{folder}/demos.zarr",
            "--out",
            f"{folder}/weights",
        ],
    ):
        assert cli.main([*words, *SMALL]) == 0
    return folder


def distill(made, out, *more, teacher="scratch"):
    teacher = f"{teacher}={made}/specialists:{made}/rollouts.zarr"
    return cli.main(
        [
            "distill",
            "--demos",
            f"{made}/demos.zarr",
            "--teacher",
            teacher,
            "--out",
            str(out),
            *SMALL,
            "--distill.train.steps",
            "12",
            *more,
        ]
    )


def test_distill_takes_the_weights_that_weigh_wrote_and_estimates_the_same_ones_itself(
    made, tmp_path, monkeypatch
):
    assert distill(made, tmp_path / "own") == 0
    monkeypatch.setattr("alltrades.pipeline.weighing.weigh", None)
    assert distill(made, tmp_path / "given", "--weights", f"{made}/weights") == 0
    assert load_policy(tmp_path / "own").digest() == load_policy(tmp_path / "given").digest()


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (["--demos.episodes", "3"], "other demonstrations"),
        (["--distill.rollouts", "3"], "other rollouts"),
        (["--distill.weights.kind", "success"], "other settings"),
    ],
)
def test_weights_of_other_rows_or_settings_are_refused(made, tmp_path, capsys, change, said):
    assert distill(made, tmp_path, "--weights", f"{made}/weights", *change) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and f"the weights were estimated with {said}" in error
    assert distill(made, tmp_path, "--weights", f"{made}/demos.zarr") == 2
    assert "expected a folder that `alltrades weigh` wrote" in capsys.readouterr().err


def test_distill_takes_logs_beside_rollouts_and_not_in_the_place_of_demonstrations(
    made, tmp_path, capsys
):
    seen = EpisodeStore.create(tmp_path / "seen.zarr")
    seen.append(
        [replace(e, actions=None) for e in EpisodeStore.open(made / "rollouts.zarr").episodes()]
    )
    assert distill(made, tmp_path / "without") == 0
    assert distill(made, tmp_path / "with", "--distill.logs", f"[{seen.path}]") == 0
    assert load_policy(tmp_path / "with").digest() != load_policy(tmp_path / "without").digest()
    capsys.readouterr()
    assert distill(made, tmp_path / "no", "--demos", str(seen.path)) == 2
    assert (
        "have no actions, and some of them must; give others with --demos"
        in capsys.readouterr().err
    )
    for logs, said in (
        (made / "demos.zarr", "of demonstrations, of which some are held out"),
        (f"{seen.path}, {seen.path}", f"of {seen.path}"),
    ):
        assert distill(made, tmp_path / "no", "--distill.logs", f"[{logs}]") == 2
        error = capsys.readouterr().err
        assert error.count("\n") == 1 and f"has the episodes {said}; expected other ones" in error
    empty = EpisodeStore.create(tmp_path / "empty.zarr")
    assert distill(made, tmp_path / "no", "--distill.logs", f"[{empty.path}]") == 2
    assert "no episodes of planar/reach" in capsys.readouterr().err
    narrow = EpisodeStore.create(tmp_path / "narrow.zarr")
    narrow.append(
        [
            replace(e, actions=None, observations={"state": e.observations["state"][:, :3]})
            for e in seen.episodes()
        ]
    )
    capsys.readouterr()
    assert distill(made, tmp_path / "no", "--distill.logs", f"[{narrow.path}]") == 2
    assert "'state' is a state of 3 numbers, not a state of 16" in capsys.readouterr().err


def test_logs_of_which_nothing_says_success_are_refused_where_success_chooses(
    made, tmp_path, capsys
):
    def logs(name, **facts):
        store = EpisodeStore.create(tmp_path / name)
        episodes = EpisodeStore.open(made / "rollouts.zarr").episodes()
        store.append([replace(e, actions=None, **facts) for e in episodes])
        return f"[{store.path}]"

    kind = ("--distill.weights.kind", "success")
    untold = logs("untold.zarr", success=None, first_success=None)
    assert distill(made, tmp_path / "no", *kind, "--distill.logs", untold) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and "nothing says which of its episodes succeeded" in error
    assert distill(made, tmp_path / "yes", *kind, "--distill.logs", logs("told.zarr")) == 0


def test_a_teacher_is_named_as_its_episodes_are(made, tmp_path, capsys):
    assert distill(made, tmp_path, teacher="joint_init") == 2
    error = capsys.readouterr().err
    assert (
        error.count("\n") == 1
        and "were recorded by 'scratch'; expected 'joint_init'; write scratch=" in error
    )


def test_rollouts_of_nobody_are_refused(made, tmp_path, capsys):
    words = ["--teacher", " ", "--out", str(tmp_path / "r.zarr")]
    assert cli.main(["rollout", f"{made}/specialists", *SMALL, *words]) == 2
    assert "expected the name of who acts" in capsys.readouterr().err
    assert not (tmp_path / "r.zarr").exists()


def test_a_missing_policy_to_start_from_is_answered_in_one_line(made, tmp_path, capsys):
    assert (
        distill(made, tmp_path / "g", "--distill.init", "labeled_only", "--labeled-only", "nowhere")
        == 2
    )
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and "nowhere: no policy here" in error


def test_distill_says_where_weights_that_it_estimates_are_off(made, tmp_path, capsys):
    assert distill(made, tmp_path / "g", "--demos.episodes", "3") == 0
    assert (
        "weights: planar/reach, planar/push: 3 demonstrations; expected at least 4 to estimate a "
        "ratio: weights off\n" in capsys.readouterr().err
    )


def test_distill_says_that_it_makes_no_rounds(made, tmp_path, capsys):
    assert distill(made, tmp_path / "g", "--distill.rounds.count", "2") == 0
    assert capsys.readouterr().err.count("before rounds") == 1


def test_an_interrupted_distillation_goes_on_and_one_of_other_inputs_begins_anew(
    made, tmp_path, monkeypatch
):
    def killed(self, folder, extra=None):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(DiffusionPolicy, "save", killed)
        for name in ("same", "seed", "store"):
            assert distill(made, tmp_path / name, "--training.checkpoint_every", "5") == 130
            assert list((tmp_path / name / ".stage" / "work").rglob("*.safetensors"))
    other = tmp_path / "other"
    shutil.copytree(made, other)
    for path in ("demos.zarr", "rollouts.zarr"):
        shutil.rmtree(other / path)
        store = EpisodeStore.open(made / path)
        EpisodeStore.write(other / path, list(store.episodes())[:6])
    for name, folder, more in (
        ("same", made, ()),
        ("seed", made, ("--seed", "1")),
        ("store", other, ()),
    ):
        assert distill(folder, tmp_path / name, *more, "--training.checkpoint_every", "5") == 0
        assert (
            distill(folder, tmp_path / f"{name}-whole", *more, "--training.checkpoint_every", "5")
            == 0
        )
        assert (
            load_policy(tmp_path / name).digest()
            == load_policy(tmp_path / f"{name}-whole").digest()
        ), name
        assert not list((tmp_path / name / ".stage" / "work").rglob("*.safetensors"))


def test_evaluation_and_export_execute_as_many_actions_of_a_chunk_as_they_are_told(
    made, tmp_path, capsys
):
    def evaluated(name, *more):
        out = tmp_path / f"{name}.json"
        assert (
            cli.main(["evaluate", f"{made}/specialists", *SMALL, *ROLL, "--out", str(out), *more])
            == 0
        )
        return json.loads(out.read_text())["rows"][0]

    trained, same, often = (
        evaluated("trained"),
        evaluated("same", "--n-action-steps", "8"),
        evaluated("often", "--n-action-steps", "1"),
    )
    assert (
        same == trained
        and often["policy"] != trained["policy"]
        and often["returns"] != trained["returns"]
    )
    assert cli.main(["evaluate", f"{made}/specialists", *SMALL, "--n-action-steps", "17"]) == 2
    assert "n_action_steps = 17; expected 1 to 16" in capsys.readouterr().err
    both = ["--n-action-steps", "4", "--ensemble", "0.1"]
    assert cli.main(["evaluate", f"{made}/specialists", *SMALL, *both]) == 2
    assert "--n-action-steps 4 with --ensemble" in capsys.readouterr().err

    graph = tmp_path / "policy.onnx"
    assert (
        cli.main(
            [
                "export",
                f"{made}/specialists/planar__reach",
                "--out",
                str(graph),
                "--n-action-steps",
                "3",
            ]
        )
        == 0
    )
    assert json.loads(graph.with_suffix(".json").read_text())["n_action_steps"] == 3
