"""Runs on recordings of robots that nobody can simulate, alone and beside simulated ones."""

import json

import pytest

from alltrades.bench.kills import differing, run_results
from alltrades.cli import main
from alltrades.data.layout import Layout
from alltrades.data.store import EpisodeStore
from alltrades.pipeline import runner
from alltrades.policies.model.loading import load_policy
from alltrades.system.files import slug
from tests.alltrades.recordings import FOLLOW, follow

TINY = """
--tracking.wandb disabled --rollout.workers 0 --rollout.timeout 0 --trainings 1
--policy.width 32 --policy.depth 1 --labeled_only.batch 32
--specialist.width 16 --specialist.train.steps 10 --specialist.train.batch 32
--labeled_only.steps 100 --labeled_only.lr 0.003
--distill.train.steps 10 --distill.train.batch 32 --distill.rollouts 2 --distill.label_steps 2
""".split()


def run(*words) -> int:
    return main(["run", "--small", *TINY, *map(str, words)])


@pytest.fixture(scope="module")
def recordings(tmp_path_factory):
    return follow(tmp_path_factory.mktemp("recordings") / "follow.zarr")


@pytest.fixture(scope="module")
def recorded_run(recordings, tmp_path_factory):
    folder = tmp_path_factory.mktemp("run") / "run"
    assert run("--demos.path", recordings, "--out", folder) == 0
    return folder


def test_recordings_alone_make_a_run_with_an_open_loop_table(recorded_run, recordings, capsys):
    capsys.readouterr()
    assert run("--demos.path", recordings, "--out", recorded_run) == 0  # all of it is there
    out, err = capsys.readouterr()
    assert f"{FOLLOW}: 10 of 10 episodes, 2 of them held out" in out
    for word in ("open loop", "hold the last action", "mean action", "generalist", "specialists"):
        assert word in out
    assert "no simulator of lab/follow: not rolled out" in err
    facts = json.loads((recorded_run / "open_loop.json").read_text())[FOLLOW]
    assert facts["episodes"] == 2 and facts["learned"] == 8
    assert set(facts["rows"]) == {
        "specialists",
        "labeled_only",
        "labeled_only_rounds",
        "generalist",
    }
    learned = facts["rows"]["labeled_only"]["share"]
    assert learned < facts["baselines"]["mean action"]["share"]
    page = (recorded_run / "report.html").read_text()
    assert "Open loop" in page and FOLLOW in page
    assert FOLLOW in json.loads((recorded_run / "advice.json").read_text())


def test_nothing_in_a_run_learns_from_held_out_episodes(recorded_run, recordings, tmp_path):
    """Other actions in the held-out episodes change the table, and no network."""
    store = EpisodeStore.open(recordings)
    kept = {int(s) for s in _held_out(recorded_run)}
    other = [e if e.seed not in kept else _reversed(e) for e in store.episodes()]
    EpisodeStore.write(tmp_path / "other.zarr", other)
    assert run("--demos.path", tmp_path / "other.zarr", "--out", tmp_path / "run") == 0
    mine, theirs = run_results(recorded_run), run_results(tmp_path / "run")
    networks = [name for name in mine if name.endswith(".safetensors") and "policies" in name]
    assert networks and all(mine[name] == theirs[name] for name in networks)
    tables = [(f / "open_loop.json").read_text() for f in (recorded_run, tmp_path / "run")]
    assert tables[0] != tables[1]


def _held_out(folder):
    from alltrades.pipeline.holdout import held_out_mask

    steps = EpisodeStore.open(folder / "stores" / "demos.zarr").steps()
    return steps.seed[held_out_mask(steps, {FOLLOW: 0.2}, 0)]


def _reversed(episode):
    return type(episode)(**{**vars(episode), "actions": -episode.actions})


@pytest.mark.parametrize("stage", ["imported", "weigh", "train_generalist", "judge", "advise"])
def test_run_on_recordings_that_is_stopped_ends_with_the_same_bits(
    recorded_run, recordings, tmp_path, monkeypatch, stage
):
    whole = getattr(runner, stage)

    def stopped(*args, **kwargs):
        whole(*args, **kwargs)
        raise KeyboardInterrupt

    folder = tmp_path / "run"
    with monkeypatch.context() as patch:
        patch.setattr(runner, stage, stopped)
        assert run("--demos.path", recordings, "--out", folder) == 130
    assert run("--demos.path", recordings, "--out", folder) == 0
    assert differing(run_results(folder), run_results(recorded_run)) == []
    assert (folder / "open_loop.json").read_bytes() == (
        recorded_run / "open_loop.json"
    ).read_bytes()


def test_recorded_and_simulated_environments_share_a_run(recordings, tmp_path, capsys):
    reach, folder = tmp_path / "reach.zarr", tmp_path / "run"
    words = ["--environments", "planar/reach", "--demos.episodes", "3", "--out", str(reach)]
    assert main(["collect", *words]) == 0
    capsys.readouterr()
    rounds = "--distill.rounds.count 1 --distill.rounds.episodes 1 --distill.rounds.selection 1"
    assert (
        run(
            *["--demos.path", reach, "--demos.path", recordings, "--out", folder],
            *[*rounds.split(), "--distill.rounds.train.steps", 5],
        )
        == 0
    )
    out, err = capsys.readouterr()
    for stage, what in (
        ("rollouts/scratch", "not rolled out"),
        ("rounds of generalist", "not visited"),
        ("evaluate", "judged open loop"),
        ("trajectories", "not drawn"),
    ):
        assert f"{stage}: no simulator of {FOLLOW}: {what}" in err
    evaluation = json.loads((folder / "evaluation" / "generalist.json").read_text())
    assert [row["environment"] for row in evaluation["rows"]] == ["planar/reach"]
    assert list(json.loads((folder / "open_loop.json").read_text())) == [FOLLOW]
    assert set(json.loads((folder / "advice.json").read_text())) == {FOLLOW, "planar/reach"}
    assert load_policy(folder / "policies" / "generalist").layout.ids == ("planar/reach", FOLLOW)


def test_evaluate_judges_a_policy_on_recordings(recorded_run, recordings, tmp_path, capsys):
    policy, out = recorded_run / "policies" / "generalist", tmp_path / "out.json"
    assert main(["evaluate", str(policy), "--demos", str(recordings), "--out", str(out)]) == 0
    assert "hold the last action" in capsys.readouterr().out
    run_facts = json.loads((recorded_run / "open_loop.json").read_text())
    facts = json.loads(out.read_text())[FOLLOW]
    assert facts["rows"]["generalist"] == run_facts[FOLLOW]["rows"]["generalist"]
    assert facts["unseen"]


@pytest.mark.parametrize(
    "kind, options, seen",
    [
        ("generalist", ["--demos.holdout", "0.1"], False),
        ("generalist", ["--demos.holdout", "0.4"], True),  # more than training held out
        ("generalist", ["--evaluation.seed", "1"], True),
        ("specialists/scratch", [], False),
    ],
)
def test_a_policy_is_said_to_know_no_episode_only_where_that_is_so(
    recorded_run, recordings, tmp_path, capsys, kind, options, seen
):
    policy, out = str(recorded_run / "policies" / kind), tmp_path / "out.json"
    words = ["evaluate", policy, "--demos", str(recordings), "--out", str(out), *options]
    assert main(words) == 0
    said = capsys.readouterr()
    assert ("nothing says that" in said.err) == seen == ("not known" in said.out)
    assert json.loads(out.read_text())[FOLLOW]["unseen"] != seen


@pytest.mark.parametrize(
    "words, line",
    [
        (["evaluate", "POLICY"], "--demos.path STORE"),
        (["rollout", "POLICY", "--demos.path", "STORE", "--out", "x"], "nothing to roll out"),
        (
            ["run", "--demos.path", "STORE", "--distill.rounds.count", "1"]
            + ["--evaluation.rows", "[generalist_round1]", "--out", "x"],
            "rounds need a simulator",
        ),
        (["pareto", "RUN", "--divisions", "2"], "fronts are measured by success"),
    ],
)
def test_what_needs_a_simulator_says_so_in_one_line(
    recorded_run, recordings, tmp_path, monkeypatch, capsys, words, line
):
    monkeypatch.chdir(tmp_path)
    places = {
        "POLICY": str(recorded_run / "policies" / "generalist"),
        "STORE": str(recordings),
        "RUN": str(recorded_run),
    }
    assert main([places.get(word, word) for word in words]) == 2
    last = capsys.readouterr().err.strip().splitlines()[-1]
    assert last.startswith("alltrades: ") and line in last


def test_fewer_demonstrations_than_asked_for_are_refused(recordings, tmp_path, capsys):
    words = ["train", "labeled_only", "--small", "--demos", str(recordings), "--demos.episodes"]
    assert main([*words, "9", "--out", str(tmp_path / "p")]) == 2  # two of ten are held out
    assert f"8 demonstrations of '{FOLLOW}' to learn from; expected 9" in capsys.readouterr().err


def test_generalist_of_a_camera_learns_from_teachers_of_states(tmp_path):
    """Every kind of network sees its own fields; the labels are of the same steps."""
    store, folder = follow(tmp_path / "s.zarr", camera=True), tmp_path / "run"
    seeing = {
        "--specialist.observe": "state",
        "--policy.observe": "images.*,task",
        "--labeled_only.observe": "state,task",
    }
    words = [word for pair in seeing.items() for word in pair]
    steps = ["--labeled_only.steps", 10]
    only = ["--evaluation.rows", "[specialists, labeled_only, generalist]"]
    assert run("--demos.path", store, "--out", folder, *words, *steps, *only) == 0
    policies = folder / "policies"
    seen = {
        "generalist": {"images.front", "task"},
        "labeled_only": {"state", "task"},
        f"specialists/scratch/{slug(FOLLOW)}": {"state"},
    }
    for name, fields in seen.items():
        policy = load_policy(policies / name)
        assert set(policy.environments[0].observation) == fields, name
        assert isinstance(policy.layout, Layout)
    table = json.loads((folder / "open_loop.json").read_text())[FOLLOW]["rows"]
    assert set(table) == {"specialists", "labeled_only", "generalist"}


def test_further_generalist_sees_fields_of_its_own(tmp_path):
    store, folder = follow(tmp_path / "s.zarr", camera=True), tmp_path / "run"
    recipe = tmp_path / "own.yaml"
    recipe.write_text(
        "extends: quickstart_paper\n"
        f"environments: [{FOLLOW}]\noptional_environments: []\n"
        "policy: {observe: [state]}\n"
        "generalists:\n  blind: {observe: [task], train: {steps: 10}}\n"
        "evaluation: {rows: [generalist, blind], compare: []}\n"
    )
    words = ["--demos.path", str(store), "--out", str(folder)]
    assert main(["run", str(recipe), *TINY, *words]) == 0
    for name, fields in (("generalist", ["state"]), ("blind", ["task"])):
        (environment,) = load_policy(folder / "policies" / name).environments
        assert list(environment.observation) == fields


@pytest.mark.parametrize(
    "key", ["policy.observe", "specialist.observe", "labeled_only.observe", "distill.observe"]
)
def test_field_that_no_environment_has_is_one_line_with_the_nearest(
    recordings, tmp_path, capsys, key
):
    assert run("--demos.path", recordings, "--out", tmp_path / "x", f"--{key}", "sate") == 2
    line = capsys.readouterr().err.strip().splitlines()[-1]
    assert f"{key} = sate: no environment has such a field" in line and "'state'" in line


def test_generalist_that_goes_on_from_the_labeled_only_policy_sees_the_same(
    recordings, tmp_path, capsys
):
    words = ["--distill.init", "labeled_only", "--distill.observe", "state"]
    assert run("--demos.path", recordings, "--out", tmp_path / "x", *words) == 2
    assert "goes on from the labeled-only policy" in capsys.readouterr().err
