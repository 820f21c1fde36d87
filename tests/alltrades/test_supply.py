"""What is installed: lowest and locked versions; where the package runs."""

from __future__ import annotations

import importlib.util
import re
import subprocess
import sys
import tomllib
from pathlib import Path

from packaging.requirements import Requirement
from packaging.version import Version

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
REQUIREMENTS = [
    Requirement(line)
    for group in [PROJECT["dependencies"], *PROJECT["optional-dependencies"].values()]
    for line in group
    if not line.startswith("alltrades[")
]


def plain(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def locked() -> dict[str, set[str]]:
    found: dict[str, set[str]] = {}
    for line in (ROOT / "requirements.lock").read_text().splitlines():
        if match := re.match(r"([A-Za-z0-9._-]+)==([^ ;]+)", line):
            found.setdefault(plain(match[1]), set()).add(match[2])
    return found


def test_the_lock_holds_every_requirement_but_torch_in_a_version_that_is_allowed() -> None:
    versions = locked()
    for wanted in REQUIREMENTS:
        if wanted.name == "torch":
            continue
        found = versions.get(plain(wanted.name))
        assert found, f"{wanted.name} is not in requirements.lock: run .ci/lock"
        assert all(wanted.specifier.contains(Version(v)) for v in found), wanted
    assert not [name for name in versions if name in ("torch", "triton") or "nvidia" in name]


def test_the_lock_has_hashes_and_names_no_index() -> None:
    text = (ROOT / "requirements.lock").read_text()
    pinned = re.findall(r"^[A-Za-z0-9._-]+==.*\n    --hash=sha256:[0-9a-f]{64}", text, re.MULTILINE)
    assert len(pinned) == sum(map(len, locked().values())) > 50
    assert "://" not in text and "index-url" not in text and "find-links" not in text


def test_every_requirement_has_a_lowest_version() -> None:
    spec = importlib.util.spec_from_file_location("lowest", ROOT / ".ci" / "lowest.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    found = module.lowest(PROJECT)
    missing = {r.name for r in REQUIREMENTS} - set(found)
    assert missing == {"torch", "types-PyYAML"}
    assert Version(found["zarr"]) >= Version("3.1") and "alltrades" not in found


def test_python_versions_that_are_named_are_those_that_are_allowed() -> None:
    named = {c.rpartition(" ")[2] for c in PROJECT["classifiers"] if "Python :: 3." in c}
    assert named == {"3.11", "3.12", "3.13"} and PROJECT["requires-python"] == ">=3.11,<3.14"


WITHOUT_POSIX = """
import importlib, os, pkgutil, sys
sys.modules["fcntl"] = sys.modules["resource"] = None
import alltrades
for module in pkgutil.walk_packages(alltrades.__path__, "alltrades."):
    if "__main__" not in module.name:
        importlib.import_module(module.name)
from alltrades.errors import UserError
from alltrades.system.lock import Lock
lock = Lock("folder", "run")
os.name, sys.platform = "nt", "win32"
try:
    lock.acquire()
except UserError as error:
    print(error)
os.name = "posix"
"""


def test_no_module_needs_locks_to_be_imported_and_the_first_write_says_what_is_missing(
    tmp_path: Path,
) -> None:
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT_POSIX], capture_output=True, text=True, cwd=tmp_path
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout == (
        "writing to a run, which is locked meanwhile, cannot work on this system (win32); expected "
        "Linux, or macOS; on Windows use WSL\n"
    )
    assert not list(tmp_path.iterdir())
