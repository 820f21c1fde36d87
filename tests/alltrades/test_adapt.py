"""`alltrades adapt`: a new environment for a trained generalist, without forgetting."""

import json
import shutil

import numpy as np
import pytest
import torch

from alltrades.cli import main
from alltrades.data.episode import Episode
from alltrades.data.steps import Steps
from alltrades.data.store import EpisodeStore
from alltrades.envs import registry
from alltrades.pipeline.adapting import losses
from alltrades.policies.learning.adaptation import Source, adaptation_rows, labelled, shares
from alltrades.policies.learning.batches import TrainingData
from alltrades.policies.learning.distillation import RECORDED
from alltrades.policies.learning.initial import build_policy, grow_policy, make_normalizer
from alltrades.policies.learning.training import Trainer
from alltrades.policies.model.loading import load_policy
from alltrades.policies.settings import PolicySettings
from tests.alltrades.recordings import FOLLOW, follow
from tests.policies.toys import SMALL, info, make_policy, make_steps

OLD, NEW = ("planar/reach", "planar/push"), "planar/drawer"
HERE = ["--small", "--rollout.workers", "0", "--rollout.timeout", "0"]
FEW = ["--specialist.train.steps", "4", "--specialist.finetune.steps", "3"]
FEW += ["--adapt.train.steps", "4", "--distill.label_steps", "2", "--evaluation.episodes", "2"]
TINY = PolicySettings(width=16, depth=1, embedding=4, sampling_steps=2)


def collect(out, *environments, episodes=2):
    names = json.dumps(environments)
    words = ["collect", *HERE, "--environments", names, "--demos.episodes", str(episodes)]
    assert main([*words, "--out", str(out)]) == 0
    return out


def adapt(generalist, *words, out, demos):
    own = [*FEW, *map(str, words)]
    return main(["adapt", str(generalist), *HERE, "--demos", str(demos), *own, "--out", str(out)])


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Demonstrations of all three, a generalist of two that was not trained, and the third."""
    folder = tmp_path_factory.mktemp("adapt")
    old = EpisodeStore.open(collect(folder / "old.zarr", *OLD)).steps()
    collect(folder / "new.zarr", NEW)
    environments = [registry.get(name).interface for name in OLD]
    policy = build_policy(TINY, environments, make_normalizer(old, environments, TINY), 0)
    with torch.no_grad():
        for parameter in policy.parameters():
            parameter.add_(0.02 * torch.ones_like(parameter))
    policy.save(folder / "generalist")
    return folder


@pytest.fixture(scope="module")
def adapted(made):
    out = made / "g2"
    assert adapt(made / "generalist", out=out, demos=made / "new.zarr") == 0
    return out


def test_the_adapted_artifact_acts_in_all_environments_and_says_what_it_is(adapted, made, capsys):
    policy = load_policy(adapted)
    assert policy.layout.ids == (*OLD, NEW)
    training = json.loads((adapted / "policy.json").read_text())["training"]
    before = load_policy(made / "generalist")
    assert training["adapted from"] == before.digest()
    assert training["new environments"] == [NEW]
    assert torch.equal(policy.normalizer.obs_mean[:2], before.normalizer.obs_mean)
    assert main(["evaluate", str(adapted), *HERE, "--evaluation.episodes", "1"]) == 0
    said = capsys.readouterr().out
    assert all(name in said for name in (*OLD, NEW))


@pytest.mark.parametrize("observe", [None, ("state", "images.front", "task")])
def test_a_generalist_that_looks_takes_an_environment_of_other_fields(tmp_path, made, observe):
    store = EpisodeStore.open(follow(tmp_path / "seen.zarr", camera=True))
    settings = TINY.model_copy(update={"observe": observe})
    environments = [store.interfaces()[FOLLOW].seeing(observe)]
    policy = build_policy(
        settings, environments, make_normalizer(store.steps(), environments, settings), 0
    )
    policy.save(tmp_path / "generalist")
    words = ["--replay", store.path]
    out = tmp_path / "g2"
    assert adapt(tmp_path / "generalist", *words, out=out, demos=made / "new.zarr") == 0
    fields = {e.id: set(e.observation) for e in load_policy(out).environments}
    assert fields == {FOLLOW: {"state", "images.front", "task"}, NEW: {"state"}}
    words = ["evaluate", str(out), *HERE, "--evaluation.episodes", "1"]
    assert main([*words, "--out", str(tmp_path / "found.json")]) == 0
    rows = json.loads((tmp_path / "found.json").read_text())["rows"]
    assert [row["environment"] for row in rows] == [NEW]  # the other has no simulator


def test_the_report_says_who_was_chosen_what_was_replayed_and_what_was_gained(adapted):
    report = json.loads((adapted / "adapt.json").read_text())
    assert report["old"] == list(OLD) and report["new"] == [NEW]
    assert "2 rollouts of the generalist in each of planar/reach, planar/push" in report["replay"]
    kinds = {row["candidate"] for row in report["candidates"]}
    chosen = [row for row in report["candidates"] if row["chosen"]]
    assert kinds == {"scratch", "finetuned"} and len(chosen) == 1
    assert chosen[0]["worth"] == max(row["worth"] for row in report["candidates"])
    old, new = (report["comparisons"][of]["pairs"][0] for of in ("old", "new"))
    assert (old["a"], old["b"], new["b"]) == ("after", "before", "scratch")
    assert set(old["per_environment"]) == set(OLD) and set(new["per_environment"]) == {NEW}
    before, after = (
        json.loads((adapted / "evaluation" / f"{name}.json").read_text())["rows"]
        for name in ("before", "after")
    )
    assert [r["seeds"] for r in before] == [r["seeds"] for r in after]


def test_what_is_done_is_not_done_again_and_what_was_cut_off_ends_with_the_same_bits(
    adapted, made, monkeypatch, tmp_path
):
    def refused(*_):
        raise AssertionError("trained again")

    copied = tmp_path / "g2"
    shutil.copytree(adapted, copied)
    with monkeypatch.context() as patched:
        patched.setattr(Trainer, "fit", refused)
        assert adapt(made / "generalist", out=copied, demos=made / "new.zarr") == 0
    (copied / "policy.json").unlink()

    def cut(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(Trainer, "fit", cut)
        assert adapt(made / "generalist", out=copied, demos=made / "new.zarr") == 130
    assert not (copied / "policy.json").exists()
    assert adapt(made / "generalist", out=copied, demos=made / "new.zarr") == 0
    assert load_policy(copied).digest() == load_policy(adapted).digest()


def test_starts_of_practice_choice_replay_and_evaluation_are_apart(adapted):
    stores = [*adapted.glob("stores/visits_*/*.zarr"), adapted / "stores" / "replay.zarr"]
    used = [set(EpisodeStore.open(path).columns()["seed"].tolist()) for path in stores]
    for kind in ("selection", "evaluation"):
        for path in adapted.glob(f"{kind}/*.json"):
            rows = json.loads(path.read_text())["rows"]
            seeds = {x for r in rows for x in r["seeds"]}
            assert seeds and not any(seeds & of for of in used)


def test_recordings_alone_are_taken_and_candidates_are_judged_open_loop(made, tmp_path, capsys):
    several = follow(tmp_path / "several.zarr", 4, camera=True)
    out = tmp_path / "g2"
    replayed = ["--replay", made / "old.zarr"]
    assert adapt(made / "generalist", *replayed, out=out, demos=several) == 0
    said = capsys.readouterr()
    assert "replay: stored episodes of planar/reach, planar/push" in said.err
    report = json.loads((out / "adapt.json").read_text())
    assert {row["metric"] for row in report["candidates"]} == {"open loop"}
    assert FOLLOW in json.loads((out / "open_loop.json").read_text())
    policy = load_policy(out)
    assert sorted(policy.environments[2].observation) == ["images.front", "state", "task"]
    again = ["--replay", several, made / "old.zarr"]
    single = follow(tmp_path / "single.zarr", 2, True, "lab/second")
    assert adapt(out, *again, out=tmp_path / "g3", demos=single) == 0
    said = capsys.readouterr()
    assert f"before and after: no simulator of {FOLLOW}: what adapting changes there is" in said.err
    assert "nan" not in said.out + said.err


def test_one_recording_alone_is_learned_as_it_is_and_that_is_said(made, tmp_path, capsys):
    single = follow(tmp_path / "single.zarr", 1)
    words = ["--replay", made / "old.zarr", "--adapt.replay_labels", "recorded"]
    assert adapt(made / "generalist", *words, out=tmp_path / "g2", demos=single) == 0
    said = capsys.readouterr().err
    assert "neither a simulator nor held-out episodes to choose by; the recorded actions" in said
    assert json.loads((tmp_path / "g2" / "adapt.json").read_text())["candidates"] == []


def test_success_that_nothing_may_see_chooses_nothing(made, tmp_path, capsys):
    words = ["--simulator.success", "never", "--replay", made / "old.zarr"]
    out = tmp_path / "g2"
    assert adapt(made / "generalist", *words, out=out, demos=made / "new.zarr") == 0
    assert json.loads((out / "policy.json").read_text())["training"]["success_uses"] == []
    assert not list(out.glob("stores/visits*"))


def test_nothing_is_replayed_only_where_that_is_said(made, tmp_path, capsys):
    words = ["--replay", "none", "--adapt.rounds.count", "0", "--adapt.candidates", "[scratch]"]
    assert adapt(made / "generalist", *words, out=tmp_path / "g2", demos=made / "new.zarr") == 0
    assert "replay: none; without it they are forgotten" in capsys.readouterr().err


@pytest.fixture(scope="module")
def unknown(made):
    """A generalist of an environment that nobody can simulate."""
    lab = EpisodeStore.open(follow(made / "lab.zarr", 2))
    environments = list(lab.interfaces().values())
    policy = build_policy(TINY, environments, make_normalizer(lab.steps(), environments, TINY), 0)
    return policy.save(made / "lab")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ((), "no replay of lab/follow: no store has episodes of it and there is no simulator"),
        (("--replay", "new.zarr"), "expected some of lab/follow, which the generalist knows"),
        (("--replay", "none", "old.zarr"), "expected stores, or none alone"),
        (("--policy.width", "64"), "--policy.width: the network is the generalist's"),
        (("--environments", "[lab/follow]"), "the generalist knows 'lab/follow' already"),
        (("--demos", "lab.zarr"), "episodes of lab/follow, which the generalist knows already"),
        (("--adapt.replay", "0.2"), "adapt.replay = 0.2"),
        (("--device", "meteor"), "device = meteor: not there"),
        (("--adapt.candidates", "[scratch, scratch]"), "expected each once"),
    ],
)
def test_what_cannot_be_is_said_in_one_line_before_anything_is_made(
    unknown, made, tmp_path, capsys, words, said
):
    demos = made / "new.zarr"
    own = [made / word if word.endswith(".zarr") else word for word in words]
    if "--demos" in own:
        demos, own = own[1], own[2:]
    assert adapt(unknown, *own, out=tmp_path / "g2", demos=demos) == 2
    found = capsys.readouterr().err.strip().splitlines()
    assert said in found[-1] and not list(tmp_path.glob("g2/stores/*"))


def test_a_policy_that_no_adaptation_wrote_is_not_adapted_into(made, capsys):
    before = sorted(made.glob("generalist/*"))
    assert adapt(made / "generalist", out=made / "generalist", demos=made / "new.zarr") == 2
    assert "a policy is there already, which no adaptation wrote" in capsys.readouterr().err
    assert sorted(made.glob("generalist/*")) == before


def test_rows_of_an_environment_are_shared_by_its_sources_and_episodes_count_alike():
    demos, rollouts = make_steps("new", 1, 10), make_steps("new", 4, 20)
    old = Steps.concatenate([make_steps("a", 2, 10), make_steps("b", 1, 30)])
    rows = adaptation_rows(
        [
            Source(demos, {"new": RECORDED}, 0.25),
            Source(rollouts, {"new": RECORDED}, 0.75),
            Source(old, {"a": 0, "b": 0}, old=True),
        ]
    )
    of_step = rows.steps.environment[rows.steps.episode_of_step]
    assert rows.probability[:10].sum() == pytest.approx(0.25)
    np.testing.assert_allclose(rows.probability[10:90], 0.75 / 80)
    assert [rows.probability[of_step == name].sum() for name in "ab"] == pytest.approx([1, 1])
    assert set(rows.teacher[of_step == "a"]) == {0} and set(rows.teacher[:90]) == {RECORDED}


def test_a_batch_holds_the_share_of_every_environment_and_old_ones_are_labelled_by_the_generalist():
    before = make_policy([info("a"), info("b")])
    new = make_steps("new", obs_dim=5, action_dim=4)
    after = grow_policy(before, new, [info("new", 5, 4)], seed=0)
    old = Steps.concatenate([make_steps("a"), make_steps("b")])
    sources = [Source(new, {"new": RECORDED}), Source(old, {"a": 0, "b": 0}, old=True)]
    teachers = {"generalist": {"a": before, "b": before}}
    rows = labelled(adaptation_rows(sources), teachers, after, steps=SMALL.sampling_steps, seed=0)
    of = shares(("a", "b"), ("new",), 0.6)
    assert of == pytest.approx({"a": 0.3, "b": 0.3, "new": 0.4})
    import dataclasses

    data = TrainingData(dataclasses.replace(rows, shares=of), after)
    counts = np.zeros(3)
    for step in range(20):
        batch, drawn = data.batch(50, 0, step)
        counts += np.bincount(batch.environment.numpy(), minlength=3)
        for row, chunk, env in zip(drawn, batch.action.numpy(), batch.environment.tolist()):
            if env < 2:
                label = rows.labels.chunks[rows.labels.of_row[row]]
                assert np.array_equal(chunk, label) and not chunk[:, 2:].any()
    np.testing.assert_allclose(counts / counts.sum(), [0.3, 0.3, 0.4], atol=0.01)


def test_a_loss_beyond_its_interval_is_warned_of_and_a_smaller_one_is_not():
    def pair(metric, **facts):
        each = {n: {"mean": m, "interval": i, "verdict": v} for n, (m, i, v) in facts.items()}
        return {"metric": metric, "per_environment": each}

    lost = pair(
        "success",
        much=(-0.2, (-0.3, -0.1), "WORSE"),
        little=(-0.015, (-0.02, -0.01), "WORSE"),
        open=(-0.2, (-0.5, 0.1), "UNDERPOWERED"),
    )
    returns = pair("return", run=(-50.0, (-80.0, -20.0), "WORSE"), same=(0.0, (-1, 1), "SAME"))
    lines = losses({"pairs": [lost, returns]})
    assert [line.split()[0] for line in lines] == ["much", "run"]
    assert "lost 20 points of success, at least 10" in lines[0]


def test_replayed_episodes_without_actions_are_labelled_by_the_generalist(made, tmp_path):
    store = EpisodeStore.open(made / "old.zarr")
    silent = []
    for i in range(len(store)):
        e = store.episode(i)
        silent.append(
            Episode(
                e.observations,
                None,
                e.rewards,
                e.successes,
                e.environment,
                "logs",
                e.seed,
                e.success,
                e.first_success,
                e.return_,
            )
        )
    EpisodeStore.write(tmp_path / "logs.zarr", silent)
    words = ["--replay", tmp_path / "logs.zarr", "--adapt.replay_labels", "recorded"]
    out = tmp_path / "g2"
    single = follow(tmp_path / "single.zarr", 1)
    assert adapt(made / "generalist", *words, out=out, demos=single) == 0
    assert load_policy(out).layout.ids == (*OLD, FOLLOW)
