import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
ROOMS = {
    "alltrades": "alltrades",
    "policies": "alltrades/policies",
    "envs": "alltrades/envs",
    "data": "alltrades/data",
    "configs": "alltrades/configs",
}
SUFFIXES = (".py", ".yaml", ".xml", ".html", ".css", ".js", ".typed", ".pyi")


def _expected() -> set[str]:
    out = set()
    for room, inside in ROOMS.items():
        for path in (ROOT / room).rglob("*"):
            if path.is_file() and path.suffix in SUFFIXES or path.name == "py.typed":
                out.add(f"{inside}/{path.relative_to(ROOT / room).as_posix()}")
    return out


def test_every_package_folder_is_listed():
    listed = set(
        tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["packages"]
    )
    found = {
        str(Path(p).parent).replace("/", ".") for p in _expected() if p.endswith("__init__.py")
    }
    assert listed == found
    with_code = {str(Path(p).parent).replace("/", ".") for p in _expected() if p.endswith(".py")}
    assert with_code <= listed


def test_wheel_holds_what_the_checkout_holds(tmp_path):
    """Built from a copy, so that no build folder is left in the checkout."""
    import shutil

    source = tmp_path / "source"
    ignore = shutil.ignore_patterns(
        "__pycache__", ".git", "runs", "wandb", "*.egg-info", "build", "dist", ".venv", "*_cache"
    )
    shutil.copytree(ROOT, source, ignore=ignore)
    command = [
        sys.executable,
        "-m",
        "pip",
        "wheel",
        "-q",
        "--no-deps",
        "-w",
        str(tmp_path / "dist"),
        str(source),
    ]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    names = set(zipfile.ZipFile(next((tmp_path / "dist").glob("*.whl"))).namelist())
    inside = {n for n in names if not n.split("/")[0].endswith(".dist-info")}
    assert inside == _expected()
    assert any(n.endswith("licenses/LICENSE") for n in names)


@pytest.mark.parametrize("room", ["data", "envs", "policies", "configs"])
def test_rooms_do_not_import_under_their_folder_name(room):
    """A module imported under two names is two modules."""
    for path in ROOT.rglob("*.py"):
        if any(part in {"build", ".venv", "runs"} for part in path.parts):
            continue
        text = path.read_text()
        assert f"\nfrom {room}." not in text and f"\nimport {room}\n" not in text, path
