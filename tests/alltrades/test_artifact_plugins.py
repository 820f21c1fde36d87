"""Commands that are given a policy take its environments and the plugins that they need from it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from alltrades.cli import main
from alltrades.policies.artifact import facts_of
from alltrades.system.reading import write_sealed
from alltrades.system.trust import check_environments, remember
from tests.alltrades.fake_run import fake_run

pytest.importorskip("onnx", reason="needs: pip install alltrades[export]")
pytest.importorskip("onnxruntime", reason="needs: pip install alltrades[export]")

PLUGIN = """
from dataclasses import replace
from alltrades.envs import registry
from alltrades.policies.model.backbones import BACKBONES, ResidualMLP

print("the plugin is loaded")
spec, expert = registry.get("planar/reach"), registry.expert("planar/reach")
registry.register(replace(spec, id="own/reach"), expert)

class Tiny(ResidualMLP):
    pass

BACKBONES.register("tiny", Tiny)
"""
MAKE = """
import sys
from alltrades.envs import registry
from alltrades.policies.onnx.export import export_onnx
from tests.policies.toys import SMALL, make_policy

registry.load_plugins(["own_plugin.py"])
infos = [registry.get("own/reach").interface]
for backbone in ("mlp", "tiny"):
    policy = make_policy(infos, SMALL.model_copy(update={"backbone": backbone}))
    policy.save(f"made/{backbone}")
export_onnx(policy, "made/graph.onnx")
"""
LOADED = "the plugin is loaded"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("plugins")
    (folder / "own_plugin.py").write_text(PLUGIN)
    python(folder, "-c", MAKE)
    return folder


def python(folder: Path, *words: str, env: dict[str, str] | None = None) -> str:
    done = ended(folder, *words, env=env)
    assert done.returncode == 0, done.stderr
    return done.stdout


def ended(
    folder: Path, *words: str, env: dict[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    top = str(Path(__file__).parents[2])
    run = f"import sys, runpy; sys.path.insert(0, {top!r})"
    if words[0] == "-c":
        words = ("-c", f"{run}\n{words[1]}")
    return subprocess.run(
        [sys.executable, *words],
        capture_output=True,
        text=True,
        cwd=folder,
        timeout=300,
        env=os.environ | (env or {}),
    )


def command(folder: Path, *words: str) -> str:
    (folder / "elsewhere").mkdir(exist_ok=True)
    return python(folder / "elsewhere", "-m", "alltrades.cli", *words)


def test_an_artifact_names_the_plugins_of_its_training(folder: Path) -> None:
    for file in ("mlp/policy.json", "graph.json"):
        facts = json.loads((folder / "made" / file).read_text())
        assert facts["plugins"] == [str((folder / "own_plugin.py").resolve())]


@pytest.mark.parametrize("artifact", ["mlp", "graph.onnx"])
def test_a_policy_is_deployed_on_the_environment_of_a_plugin_that_is_not_named(
    folder: Path, artifact: str
) -> None:
    out = command(
        folder,
        "deploy",
        f"../made/{artifact}",
        "--robot",
        "env:own/reach",
        "--steps",
        "3",
        "--fast",
    )
    assert LOADED in out and "own/reach on env:own/reach" in out


def test_a_policy_is_evaluated_in_its_own_environments_when_none_are_given(folder: Path) -> None:
    words = ["--small", "--evaluation.episodes", "2", "--rollout.workers", "2"]
    out = command(folder, "evaluate", "../made/mlp", *words, "--out", "result.json")
    rows = json.loads((folder / "elsewhere" / "result.json").read_text())["rows"]
    assert LOADED in out and [r["environment"] for r in rows] == ["own/reach"]


@pytest.mark.parametrize("asked", ["own/reach", "own/*", "by a recipe"])
@pytest.mark.parametrize("name", ["evaluate", "rollout"])
def test_environments_that_are_asked_for_bring_the_policys_plugins(
    folder: Path, tmp_path: Path, name: str, asked: str
) -> None:
    words = {
        "evaluate": ["--evaluation.episodes", "2"],
        "rollout": ["--episodes", "2", "--out", str(tmp_path / "rolled.zarr")],
    }[name]
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text("environments: [own/reach]\n")
    which = ["--config", str(recipe)] if " " in asked else ["--environments", asked]
    out = command(folder, name, "../made/mlp", *words, "--rollout.workers", "0", *which)
    assert LOADED in out and "own/reach" in out


SIZES = """
from argparse import Namespace
from alltrades.commands.command import recipe_settings
from alltrades.data.fields import Field
from alltrades.envs import registry
from alltrades.system.trust import remember
from alltrades.data.layout import Layout
from alltrades.policies.learning.initial import build_policy
from alltrades.policies.model.normalizer import Normalizer
from tests.policies.toys import SMALL
from dataclasses import replace

plugin = "own_plugin.py"
spec = registry.get("planar/reach")
fields = dict(spec.observation) | {"images.top": Field.image(24, 24)}
seen = [replace(spec.interface, id="own/reach", observation=fields)]
normalizer = Normalizer(Layout(seen))
normalizer.fitted.fill_(1.0)
policy = build_policy(SMALL, seen, normalizer, 0)
registry._REGISTRY.plugins.append(plugin)
policy.save("made/looks")
registry._REGISTRY.plugins.clear()
remember(plugin)
for asked in ([], ["--environments", "own/reach"]):
    args = Namespace(policy="made/looks", config=None, small=False, overrides=asked)
    print("drawn at", recipe_settings(args)[0].rendering.size)
"""


def test_what_a_plugins_environment_shows_is_drawn_as_in_training(folder: Path) -> None:
    """Whether the environment is named or not."""
    assert python(folder, "-c", SIZES).count("drawn at (24, 24)") == 2


def test_adapt_brings_the_generalists_plugins_beside_those_of_the_new_environment(
    folder: Path, tmp_path: Path
) -> None:
    (tmp_path / "other.py").write_text(
        PLUGIN.replace("own/reach", "own/push").replace("planar/reach", "planar/push")
    )
    other = ["--plugins", f"[{tmp_path / 'other.py'}]"]
    demos, few = str(tmp_path / "new.zarr"), ["--small", "--rollout.workers", "0"]
    new = ["--environments", "own/push"]
    command(folder, "collect", *few, *new, *other, "--demos.episodes", "2", "--out", demos)
    few += ["--specialist.train.steps", "2", "--specialist.finetune.steps", "2"]
    few += ["--adapt.train.steps", "2", "--adapt.rounds.count", "0", "--evaluation.episodes", "1"]
    out = command(
        folder,
        "adapt",
        "../made/mlp",
        "--demos",
        demos,
        *few,
        *new,
        *other,
        "--out",
        str(tmp_path / "both"),
    )
    assert out.count(LOADED) == 2 and "own/reach" in out and "own/push" in out
    facts = facts_of(tmp_path / "both")
    assert len(facts["plugins"]) == 2


def test_a_foreign_artifacts_plugins_do_not_matter_to_other_environments(
    folder: Path, tmp_path: Path
) -> None:
    (folder / "elsewhere").mkdir(exist_ok=True)
    for name, said in (("own/reach", "names the plugin"), ("own/reech", "no environment or suite")):
        words = ["evaluate", "../made/mlp", "--small", "--environments", name]
        done = ended(
            folder / "elsewhere",
            "-m",
            "alltrades.cli",
            *words,
            env={"XDG_STATE_HOME": str(tmp_path)},
        )
        assert done.returncode == 2 and said in done.stderr and LOADED not in done.stdout


def test_a_plugin_is_loaded_only_where_the_work_needs_it(folder: Path) -> None:
    for backbone in ("mlp", "tiny"):
        out = command(folder, "export", f"../made/{backbone}", "--out", f"{backbone}.onnx")
        assert (LOADED in out) == (backbone == "tiny")
    robot = ["--robot", "env:planar/reach", "--environment", "own/reach", "--steps", "2", "--fast"]
    assert LOADED not in command(folder, "deploy", "../made/mlp", *robot)


SMALL = ["--small", "--evaluation.episodes", "2", "--rollout.workers", "0"]
COMMANDS = {
    "evaluate": ["evaluate", "../made/mlp", *SMALL],
    "rollout": ["rollout", "../made/mlp", "--episodes", "2", "--small", "--out", "foreign.zarr"],
    "deploy": ["deploy", "../made/mlp", "--robot", "env:own/reach", "--steps", "2", "--fast"],
    "deploy a graph": ["deploy", "../made/graph.onnx", "--robot", "env:own/reach", "--fast"],
    "export": ["export", "../made/tiny", "--out", "foreign.onnx"],
    "serve": ["serve", "../made/tiny", "--port", "0"],
    "bench": ["bench", "latency", "--policy", "../made/tiny"],
}


@pytest.mark.parametrize("name", COMMANDS)
def test_plugins_of_a_foreign_artifact_are_named_and_not_run(
    folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    name: str,
) -> None:
    (folder / "elsewhere").mkdir(exist_ok=True)
    monkeypatch.chdir(folder / "elsewhere")
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    assert main(COMMANDS[name]) == 2
    said, plugin = capsys.readouterr(), str((folder / "own_plugin.py").resolve())
    assert said.err.count("\n") == 1 and f"names the plugin {plugin}" in said.err
    assert "add --trust" in said.err and LOADED not in said.out and not list(tmp_path.iterdir())


def test_a_foreign_artifact_that_is_trusted_is_used_and_known_from_then_on(
    folder: Path, tmp_path: Path
) -> None:
    for allowed in (["--trust"], []):
        words = ["-m", "alltrades.cli", *COMMANDS["deploy a graph"], "--steps", "2", *allowed]
        env = {"XDG_STATE_HOME": str(tmp_path)}
        assert LOADED in python(folder / "elsewhere", *words, env=env)


def test_pareto_and_report_of_a_foreign_run_run_no_code_of_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    run = fake_run(tmp_path / "run")
    (tmp_path / "foreign.py").write_text("open('foreign code ran', 'w')")
    settings = (run / "settings.yaml").read_text()
    (run / "settings.yaml").write_text(settings + "\nplugins: [foreign.py, foreign]\n")
    assert main(["pareto", "run"]) == 2
    assert "run names the plugin foreign.py" in capsys.readouterr().err
    assert main(["report", "run"]) == 0
    rows = ["--rows", "generalist", "specialists"]
    assert main(["compare", "run", *rows]) == 0
    assert not (tmp_path / "foreign code ran").exists() and "foreign" not in sys.modules


def test_a_module_that_a_foreign_artifacts_environment_names_is_not_imported(
    folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    monkeypatch.syspath_prepend(str(tmp_path))
    (tmp_path / "foreign_gym.py").write_text("raise SystemExit('foreign code ran')")
    facts = facts_of(folder / "made" / "mlp")
    facts["environments"][0]["id"] = "gym:foreign_gym:X-v0"
    write_sealed(tmp_path / "policy" / "policy.json", facts)
    assert main(["evaluate", str(tmp_path / "policy"), *SMALL]) == 2
    assert "module foreign_gym no command of yours has named" in capsys.readouterr().err
    remember("foreign_gym")
    check_environments(["gym:foreign_gym:X-v0", "gym:Pendulum-v1", "planar/reach"], "policy")
