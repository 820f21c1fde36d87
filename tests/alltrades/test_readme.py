"""Every command of the README parses, and runs in its small form, in the order in which the README
gives them.
"""

import re
import shlex
from pathlib import Path

import pytest

from alltrades import cli

README = (Path(__file__).parents[2] / "README.md").read_text()
QUICK = ["--rollout.workers", "0", "--tracking.wandb", "disabled"]


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", README, flags=re.DOTALL)


def commands() -> list[list[str]]:
    """The words after `alltrades`, of fenced blocks and of the recipes' table."""
    lines = [
        part.strip()
        for block in blocks("bash")
        for line in block.splitlines()
        for part in line.split("&&")
    ]
    lines += re.findall(r"`(alltrades [^`]+)`", README)
    return [
        shlex.split(" ".join(line.split()))[1:] for line in lines if line.startswith("alltrades")
    ]


@pytest.mark.parametrize("words", commands(), ids=" ".join)
def test_command_parses(words):
    own, _ = cli.split_overrides(words, cli.parser())
    if "--help-settings" in words:
        with pytest.raises(SystemExit) as end:
            cli.parser().parse_args(own)
        assert end.value.code == 0
    else:
        assert cli.parser().parse_args(own).command == words[0]


def test_setup_commands_are_the_two_that_were_promised():
    installs = [
        line for block in blocks("bash") for line in block.splitlines() if line.startswith("pip")
    ]
    assert installs == [
        'pip install -e ".[metaworld,report]" && alltrades run',
        'pip install -e ".[all,test]" && pytest',
    ]


def test_commands_run_in_their_small_form(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    for name in ("my_env.py", "my_robot.py"):
        (tmp_path / name).write_text(next(b for b in blocks("python") if f"# {name}" in b))
    ran = []
    for block in blocks("bash"):
        for line in block.splitlines():
            words = shlex.split(line)
            if words[:1] != ["alltrades"] or words[1] == "serve":
                continue
            if words[1] == "export":
                pytest.importorskip("onnxruntime", reason='needs: pip install "alltrades[export]"')
            entry = next(c for c in cli.COMMANDS if c.name == words[1])
            small = ["--small", *QUICK] if entry.settings else []
            if words[1] == "rollout":
                words[words.index("--episodes") + 1] = "4"
            assert cli.main([*words[1:], *small]) == 0, (line, capsys.readouterr().err)
            ran.append(words[1])
    assert {
        "run",
        "collect",
        "train",
        "rollout",
        "weigh",
        "distill",
        "evaluate",
        "compare",
        "export",
        "deploy",
        "data",
    } <= set(ran)
    assert (tmp_path / "runs" / "mine" / "evaluation" / "generalist.json").exists()
