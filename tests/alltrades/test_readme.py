"""Every command of the README and of the pages in docs/ parses; those of fenced blocks run in their
small form, page after page in the order of the README's table.
"""

import ast
import importlib
import re
import runpy
import shlex
from pathlib import Path

import pytest

from alltrades import cli

ROOT = Path(__file__).parents[2]
README = ROOT / "README.md"
PAGES = [
    README,
    *(ROOT / p for p in re.findall(r"^\| \[\w+\]\((docs/\w+\.md)\)", README.read_text(), re.M)),
]
TEXT = "\n".join(page.read_text() for page in PAGES)
QUICK = """--rollout.workers 0 --rollout.timeout 0 --tracking.wandb disabled
--policy.width 48 --policy.depth 1 --specialist.width 24
--evaluation.episodes 1 --distill.rollouts 2 --distill.rounds.episodes 1
--distill.rounds.selection 1""".split()


def test_the_readme_leads_to_every_page():
    assert sorted(PAGES[1:]) == sorted((ROOT / "docs").glob("*.md"))


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.name)
def test_links_and_files_that_a_page_names_are_there(page):
    text = page.read_text()
    for target in re.findall(r"\]\((?!https?:)([^)]+)\)", text):
        path, _, anchor = target.partition("#")
        linked = page.parent / path if path else page
        assert linked.is_file(), target
        headings = re.findall(r"^#+ (.*)", linked.read_text(), flags=re.M)
        assert not anchor or anchor in [h.lower().replace(" ", "-") for h in headings], target
    for path in re.findall(
        r"`((?:alltrades|configs|data|envs|notebooks|policies|tests)/[^` ]*\.\w+)`", text
    ):
        assert (ROOT / path).is_file(), path


@pytest.mark.parametrize("block", range(len(re.findall("```python\n", TEXT))))
def test_what_python_examples_import_is_there(block):
    for node in ast.walk(ast.parse(blocks("python")[block])):
        if isinstance(node, ast.ImportFrom) and node.module.startswith("alltrades"):
            for alias in node.names:
                assert hasattr(importlib.import_module(node.module), alias.name), alias.name


def blocks(language: str, text: str = TEXT) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", text, flags=re.DOTALL)


def commands() -> list[list[str]]:
    """The words after `alltrades`, of fenced blocks and of tables and prose."""
    lines = [
        part.strip()
        for block in blocks("bash")
        for line in block.splitlines()
        for part in line.split("&&")
    ]
    lines += re.findall(r"`(alltrades [^`]+)`", TEXT)
    return [
        shlex.split(" ".join(line.split()))[1:] for line in lines if line.startswith("alltrades")
    ]


@pytest.mark.parametrize("words", commands(), ids=" ".join)
def test_command_parses(words):
    own, _ = cli.split_overrides(words)
    if "--help-settings" in words:
        with pytest.raises(SystemExit) as end:
            cli.parser().parse_args(own)
        assert end.value.code == 0
    else:
        assert cli.parser().parse_args(own).command == words[0]


def test_setup_commands_are_the_two_that_were_promised():
    lines = [line for b in blocks("bash", README.read_text()) for line in b.splitlines()]
    installs = [line for line in lines if line.startswith("pip")]
    assert installs == [
        'pip install -e ".[metaworld,report]" && alltrades run',
        'pip install -e ".[all,test]" && pytest',
    ]


def test_commands_run_in_their_small_form(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    for text in blocks("python"):
        named = re.match(r"# (\w+\.py)\n", text)
        if named:
            assert not (tmp_path / named[1]).exists(), f"two pages have a {named[1]}"
            (tmp_path / named[1]).write_text(text)
            if named[1].startswith("record_"):
                runpy.run_path(named[1])
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
            if words[1] == "adapt":  # its network is the generalist's
                small = [w for i, w in enumerate(small) if "--policy" not in f"{small[i - 1]} {w}"]
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
