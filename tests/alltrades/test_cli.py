import subprocess
import sys
from dataclasses import replace

import pytest

from alltrades import cli
from alltrades.envs.rollouts.evaluation import EnvironmentResult, Evaluation
from alltrades.envs.rollouts.evaluation_files import write_evaluation
from alltrades.envs.rollouts.seeding import episode_seed
from alltrades.errors import UserError


def run(*argv: str) -> int:
    return cli.main(list(argv))


@pytest.mark.parametrize("command", [c.name for c in cli.COMMANDS])
def test_every_command_has_help_with_an_example(command, capsys):
    with pytest.raises(SystemExit) as end:
        run(command, "--help")
    assert end.value.code == 0
    assert f"example: alltrades {command}" in capsys.readouterr().out


@pytest.mark.parametrize("command", cli.COMMANDS, ids=lambda c: c.name)
def test_examples_parse(command):
    import shlex

    words = shlex.split(command.example)
    own, _ = cli.split_overrides(words)
    assert cli.parser().parse_args(own).command == command.name


def test_help_imports_nothing_heavy():
    code = (
        "import sys; from alltrades.cli import parser; parser().format_help(); print([m for m in "
        "('torch', 'zarr', 'mujoco', 'sklearn', 'wandb', 'pydantic') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize(
    ("argv", "expected"),
    [
        (["run", "--distil.steps", "3"], "did you mean 'distill'"),
        (["run", "--distill.train.stepz", "3"], "distill.train.stepz"),
        (["run", "--distill.train.steps", "many"], "distill.train.steps"),
        (["run", "no_such_recipe"], "no_such_recipe"),
        (["run", "--evaluation.rows", "[nobody]"], "nobody"),
        (["run", "--policy.n_action_steps", "99"], "n_action_steps"),
        (["run", "--environments", "[planar/reech]"], "did you mean 'planar/reach'"),
        (["evaluate", "nowhere", "--environments", "[planar/reach]"], "no policy"),
        (["data", "info", "nowhere.zarr"], "no such store"),
        (["rnu"], "rnu"),
        (["export"], "policy"),
        (["doctor", "--wrong"], "--wrong"),
        (["compare", "a.json"], "expected two"),
        (["report", "nowhere"], "nowhere"),
        (["bench", "kills", "--count", "0"], "argument --count: 0; expected a whole number"),
        (["compare", "list.json", "list.json"], "list.json: cannot be read"),
        (["run", "--small", "--rollout.workers", "100000"], "rollout.workers = 100000 on"),
        (["compare", ".", "list.json"], "--rows generalist labeled_only"),
        (["compare", "run", "--rows", "generalist", "labeled_onl"], "did you mean 'labeled_only'"),
        (["evaluate", "nowhere", "--out", "notes.txt"], "something else than JSON is there"),
        (["envs", "check", "--json", "s3://b/f.json"], "expected a path on this machine"),
        (["envs", "check", "--json", "notes.txt"], "something else than JSON is there"),
    ],
)
def test_mistakes_give_one_line_and_exit_code_2(argv, expected, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "list.json").write_text("[1, 2]")
    (tmp_path / "notes.txt").write_text("precious")
    result = EnvironmentResult("a", (0, 1), (1, -1), (1.0, 0.0), (1.0, 0.0), 9, "")
    (tmp_path / "run" / "evaluation").mkdir(parents=True)
    for row in ("generalist", "labeled_only"):
        file = tmp_path / "run" / "evaluation" / f"{row}.json"
        write_evaluation(file, Evaluation(row, (result,)))
    assert run(*argv) == 2
    assert (tmp_path / "notes.txt").read_text() == "precious"
    assert not (tmp_path / "s3:").exists()
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and error.startswith("alltrades: ") and expected in error
    assert not list(tmp_path.glob("runs/*/stores"))  # nothing was begun


def test_overrides_do_not_swallow_positional_arguments():
    words = ["run", "--seed", "1", "metaworld_mt10", "--small", "--no-report", "--a.b=c"]
    own, overrides = cli.split_overrides(words)
    assert own == ["run", "metaworld_mt10", "--small"]
    assert overrides == ["--seed", "1", "--no-report", "--a.b=c"]


BROKEN = """
import gymnasium
import numpy as np

from alltrades.envs import register


class Broken(gymnasium.Env):
    observation_space = gymnasium.spaces.Box(-1, 1, (2,))
    action_space = gymnasium.spaces.Box(-1, 1, (1,))

    def reset(self, *, seed=None, options=None):
        self.steps = 0
        return np.zeros(2), {}

    def step(self, action):
        self.steps += 1
        if self.steps == 3:
            raise RuntimeError("the arm\\ncame off")
        return np.zeros(2), 0.0, False, False, {"success": False}


register("mine/broken", Broken, expert=lambda observation: np.zeros(1), max_steps=9)
"""


def test_an_environment_that_raises_ends_the_command_with_its_name_seed_and_step(
    capsys, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "broken_env.py").write_text(BROKEN)
    words = ["--plugins", "[broken_env.py]", "--environments", "[mine/broken]"]
    assert run("collect", *words, "--out", "a.zarr", "--rollout.errors", "fail") == 1
    *before, error = capsys.readouterr().err.splitlines()
    assert [line for line in before if "cannot be sent to a worker process" not in line] == []
    assert error.startswith("alltrades: environment 'mine/broken' failed at step 2")
    assert (
        f"seed {episode_seed(0, 'demos', 'mine/broken', 0)}" in error
        and "the arm came off" in error
    )


def test_options_may_stand_between_names():
    words = ["envs", "check", "--episodes", "3", "planar/reach", "--timeout", "9", "planar/push"]
    args = cli.parser().parse_args(words)
    assert args.names == ["check", "planar/reach", "planar/push"]
    assert (args.episodes, args.timeout) == (3, 9.0)
    with pytest.raises(UserError, match="unrecognized arguments: --episode"):
        cli.parser().parse_args(["envs", "check", "--episode", "3"])


def test_traceback_shows_where_an_error_comes_from_before_its_line(capsys):
    assert run("envs", "planar/raech", "--traceback") == 2
    shown = capsys.readouterr().err.splitlines()
    assert shown[0].startswith("Traceback") and any("in resolve" in line for line in shown)
    assert shown[-1].startswith("alltrades: no environment or suite 'planar/raech'")
    assert run("--traceback", "envs", "planar/raech") == 2
    assert capsys.readouterr().err.splitlines() == shown


def test_help_answers_without_waiting_for_libraries():
    code = (
        "import sys\nfrom alltrades import cli\n"
        "try:\n    cli.main(['--help'])\n"
        "finally:\n    heavy = {'torch', 'mujoco', 'gymnasium', 'zarr'} & {*sys.modules}\n"
        "    print('loaded:', *heavy)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "metaworld_mt10" in done.stdout or "quickstart" in done.stdout
    assert done.stdout.splitlines()[-1].strip() == "loaded:"


def test_bug_is_not_hidden_behind_exit_code_2(monkeypatch):
    monkeypatch.setattr(
        cli, "COMMANDS", [replace(c, call=lambda args: 1 / 0) for c in cli.COMMANDS]
    )
    with pytest.raises(ZeroDivisionError):
        run("doctor")
