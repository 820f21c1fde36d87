"""The doctor: what is there, what is not, and how to get it."""

import io
import subprocess
from importlib import metadata
from types import SimpleNamespace

import pytest
from rich.console import Console

from alltrades.commands import doctor
from alltrades.commands.doctor import Check, check, render


def found(checks: list[Check]) -> dict[str, Check]:
    assert len({c.name for c in checks}) == len(checks)
    return {c.name: c for c in checks}


@pytest.fixture
def versions(monkeypatch):
    """Installed versions that a test may change; None hides a package."""
    changed: dict[str, str | None] = {}
    real = metadata.version

    def version(name: str) -> str:
        answer = changed[name] if name in changed else real(name)
        if answer is None:
            raise metadata.PackageNotFoundError(name)
        return answer

    monkeypatch.setattr(doctor.metadata, "version", version)
    return changed


def test_core_packages_show_their_versions():
    checks = found(check(draw=False))
    assert checks["numpy"] == Check("numpy", True, metadata.version("numpy"))
    assert checks["python"].ok and checks["processor"].ok
    assert {
        f"extra {name}" for name in ("metaworld", "pusht", "serve", "export", "report", "notebook")
    } <= set(checks)
    assert "pytest" not in checks and "torch threads" in checks["processor"].found


def test_a_missing_extra_is_no_failure_and_names_the_line_to_get_it(versions):
    versions["msgpack"] = None
    c = found(check(draw=False))["extra serve"]
    assert (
        c.ok and "msgpack not installed" in c.found and 'pip install "alltrades[serve]"' in c.remedy
    )


def test_an_extra_of_the_wrong_version_says_which_is_wanted(versions):
    versions["metaworld"] = "2.0.0"
    c = found(check(draw=False))["extra metaworld"]
    assert (
        c.ok
        and "metaworld 2.0.0" in c.found
        and "(wanted metaworld==3.1.1)" in c.found
        and "alltrades[metaworld]" in c.remedy
    )


def test_missing_or_old_core_packages_are_failures(versions):
    versions.update({"scipy": None, "zarr": "2.18.0"})
    checks = found(check(draw=False))
    assert (
        not checks["scipy"].ok
        and checks["scipy"].found == "not installed"
        and "scipy" in checks["scipy"].remedy
    )
    assert (
        not checks["zarr"].ok
        and checks["zarr"].found == "2.18.0"
        and "zarr>=3.1" in checks["zarr"].remedy
    )


def test_a_checkout_that_is_not_installed_is_told_so(monkeypatch):
    def requires(name: str) -> list[str]:
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setattr(doctor.metadata, "requires", requires)
    (only,) = check(draw=False)
    assert not only.ok and "pip install -e" in only.remedy


@pytest.mark.parametrize(
    "codes, ok_text",
    [
        ({"egl": 0}, "egl draws"),
        ({"egl": 1, "osmesa": 0}, "osmesa draws"),
        ({"egl": 1, "osmesa": 1}, None),
    ],
)
def test_drawing_tries_each_backend(monkeypatch, codes, ok_text):
    monkeypatch.delenv("MUJOCO_GL", raising=False)
    monkeypatch.delenv("DISPLAY", raising=False)

    def run(command: list[str], env: dict[str, str], **kwargs: object) -> SimpleNamespace:
        return SimpleNamespace(
            returncode=codes[env["MUJOCO_GL"]], stderr="Traceback\nImportError: no library\n"
        )

    monkeypatch.setattr(subprocess, "run", run)
    c = found(check())["drawing"]
    assert c.ok  # nothing but cameras needs it
    if ok_text:
        assert ok_text in c.found and not c.remedy
    else:
        assert "egl: ImportError: no library" in c.found and "libegl1" in c.remedy


def test_the_table_marks_what_is_missing_and_keeps_brackets():
    out = io.StringIO()
    render(
        [
            Check("a", True, "1.0"),
            Check("b", True, "not installed", 'pip install "alltrades[b]"'),
            Check("c", False, "0.1", "pip install c"),
        ],
        Console(file=out, width=120),
    )
    lines = [line.split() for line in out.getvalue().splitlines()[1:]]
    assert [line[0] for line in lines] == ["ok", "optional", "missing"]
    assert 'pip install "alltrades[b]"' in out.getvalue()
