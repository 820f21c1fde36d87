"""The page of extension points, run as it is written."""

import importlib
import importlib.metadata
import json
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from alltrades.cli import main
from alltrades.envs import registry

PAGE = (Path(__file__).parents[2] / "docs" / "extending.md").read_text(encoding="utf-8")
EXAMPLES = re.findall(r"```python\n(# (\w+\.py)\n.*?)```", PAGE, re.S)
COMMANDS = re.search(r"```bash\n(.*?)```", PAGE, re.S)[1].replace("\\\n", "").splitlines()
FAST = """
--tracking.wandb disabled --no-report --rollout.workers 0 --rollout.timeout 0
--policy.width 16 --policy.depth 1 --specialist.width 16
--specialist.train.steps 5 --labeled_only.steps 5 --distill.train.steps 5
--distill.rollouts 4 --distill.label_steps 2 --demos.episodes 4
""".split()


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """The plugins of the page, in a folder."""
    folder = tmp_path_factory.mktemp("plugins")
    for text, name in EXAMPLES:
        (folder / name).write_text(text)
    return folder


def test_page_has_a_short_example_of_every_extension_point():
    assert {name for _, name in EXAMPLES} == {
        *(f"my_{p}.py" for p in ("cart", "backbone", "encoder", "estimator", "csv", "cart_robot")),
        "record_logs.py",
    }
    for text, name in EXAMPLES:
        body = [line for line in text.splitlines() if line.strip() and "import" not in line]
        assert len(body) <= 20, f"{name} has {len(body)} lines"


def test_commands_of_the_page_run_with_the_parts_of_the_page(folder):
    """In processes of their own: a module's name belongs to one file of a process."""

    def python(*words):
        done = subprocess.run([sys.executable, *words], cwd=folder, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        return done.stdout

    run, evaluate, deploy, bring = (shlex.split(line)[1:] for line in COMMANDS)
    python("-m", "alltrades.cli", *run, *FAST)
    loaded = python(
        "-c",
        "from alltrades import load_policy; p = load_policy('runs/cart/policies/generalist'); "
        "print(p.settings.backbone, p.settings.encoder.name, type(p.backbone).__module__)",
    )
    assert loaded.split() == ["gated", "coarse", "my_backbone"]
    weights = json.loads((folder / "runs/cart/weights/generalist.json").read_text())
    assert weights["mine/cart"]["auc"] is not None
    python("-m", "alltrades.cli", *evaluate, "--rollout.workers", "0", "--rollout.timeout", "0")
    python("-m", "alltrades.cli", *deploy)
    python("record_logs.py")
    assert "3 episodes, 60 steps, 10 Hz" in python("-m", "alltrades.cli", *bring)


@pytest.mark.parametrize(
    "key", ["--policy.backbone", "--policy.encoder.name", "--distill.weights.kind"]
)
def test_name_that_nothing_brings_is_refused_before_anything_trains(
    key, tmp_path, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)
    assert main(["run", "--small", *FAST, key, "gatedd", "--out", "x"]) == 2
    err = capsys.readouterr().err
    assert "gatedd" in err and "--plugins" in err and "specialists" not in err


def test_entry_points_of_a_package_bring_the_same(folder, tmp_path, monkeypatch):
    """A package that declares what the page does, on the path as an installed one is."""
    package = tmp_path / "my_package"
    package.mkdir()
    modules = {
        "cart": "my_cart",
        "networks": None,
        "weights": "my_estimator",
        "logs": "my_csv",
        "robot": "my_cart_robot",
    }
    for module, source in modules.items():
        names = [source] if source else ["my_backbone", "my_encoder"]
        text = "\n".join((folder / f"{name}.py").read_text() for name in names)
        text = re.sub(
            r"^(BACKBONES|ENCODERS|ESTIMATORS|FORMATS|ROBOTS)\.register.*$", "", text, flags=re.M
        )
        (package / f"{module}.py").write_text(text.replace("mine/cart", "package/cart"))
    info = tmp_path / "my_package-1.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: my-package\nVersion: 1\n")
    declared = re.search(r"```toml\n(.*?)```", PAGE, re.S)[1]
    lines = re.sub(r'\[project\.entry-points\."(.*?)"\]', r"[\1]", declared).replace('"', "")
    (info / "entry_points.txt").write_text(lines)
    monkeypatch.syspath_prepend(str(tmp_path))
    importlib.invalidate_caches()
    from alltrades.data.formats import FORMATS
    from alltrades.data.weights.estimators import ESTIMATORS
    from alltrades.envs.robots.load import ROBOTS
    from alltrades.policies.model.backbones import BACKBONES
    from alltrades.policies.model.encoders import ENCODERS

    groups = {BACKBONES: "gated", ENCODERS: "coarse", ESTIMATORS: "means", ROBOTS: "my_cart_robot"}
    groups[FORMATS] = "csv"
    for extensions, name in groups.items():
        (point,) = importlib.metadata.entry_points(group=extensions.group, name=name)
        assert name in extensions.names() and point.load().__module__.startswith("my_package")
    (point,) = importlib.metadata.entry_points(group=registry.ENTRY_POINTS, name="cart")
    point.load()
    assert registry.get("package/cart").simulated
    assert "my_package.cart" in sys.modules
