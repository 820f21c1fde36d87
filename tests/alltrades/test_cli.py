import subprocess
import sys

import pytest

from alltrades import cli


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
    own, _ = cli.split_overrides(words, cli.parser())
    assert cli.parser().parse_args(own).command == command.name


def test_help_imports_nothing_heavy():
    code = ("import sys; from alltrades.cli import parser; parser().format_help(); "
            "print([m for m in ('torch', 'zarr', 'mujoco', 'sklearn', 'wandb', 'pydantic') if m in sys.modules])")
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize(("argv", "expected"), [
    (["run", "--distil.steps", "3"], "did you mean 'distill'"),
    (["run", "--distill.train.stepz", "3"], "distill.train.stepz"),
    (["run", "--distill.train.steps", "many"], "distill.train.steps"),
    (["run", "no_such_recipe"], "no_such_recipe"),
    (["run", "--evaluation.rows", "[nobody]"], "nobody"),
    (["run", "--policy.execute", "99"], "execute"),
    (["run", "--environments", "[planar/reech]"], "did you mean 'planar/reach'"),
    (["evaluate", "nowhere", "--environments", "[planar/reach]"], "no policy"),
    (["data", "info", "nowhere.zarr"], "no such store"),
    (["rnu"], "rnu"),
    (["export"], "policy"),
    (["doctor", "--wrong"], "--wrong"),
    (["compare", "a.json"], "expected two"),
    (["report", "nowhere"], "nowhere"),
])
def test_mistakes_give_one_line_and_exit_code_2(argv, expected, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert run(*argv) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and error.startswith("alltrades: ") and expected in error
    assert not list(tmp_path.glob("runs/*/stores"))  # nothing was begun


def test_overrides_do_not_swallow_positional_arguments():
    words = ["run", "--seed", "1", "metaworld_mt10", "--small", "--no-report", "--a.b=c"]
    own, overrides = cli.split_overrides(words, cli.parser())
    assert own == ["run", "metaworld_mt10", "--small"]
    assert overrides == ["--seed", "1", "--no-report", "--a.b=c"]


def test_bug_is_not_hidden_behind_exit_code_2(monkeypatch):
    monkeypatch.setattr("alltrades.commands.doctor", lambda args: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        run("doctor")
