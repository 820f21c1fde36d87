"""What is installed, what is missing, and the line that gets it."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from importlib import metadata
from typing import TYPE_CHECKING

from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

from alltrades.envs.rendering.backends import REMEDY, candidates, tried
from alltrades.system.machine import processors

if TYPE_CHECKING:
    from rich.console import Console

EXTRAS = {
    "metaworld": "Meta-World environments",
    "pusht": "the PushT environment",
    "restoration": "restoration of photographs",
    "serve": "alltrades serve",
    "export": "alltrades export",
    "report": "HTML reports, alltrades data view --html",
    "formats": "alltrades data import and export",
    "teleop": "alltrades collect --teleop",
    "vision": "pretrained encoders of images (policy.encoder.name)",
    "view": "alltrades data view --rrd",
    "ray": "work on many machines (--compute ray)",
    "remote": "stores and policies at s3://, gs://, az:// and https://",
    "notebook": "the notebooks",
}


@dataclass(frozen=True)
class Check:
    """One finding. What is optional and missing is `ok`, with the remedy that would add it."""

    name: str
    ok: bool
    found: str
    remedy: str = ""


def check(draw: bool = True) -> list[Check]:
    """Look at Python, the core packages, the processor, each extra, drawing and wandb.

    Args:
        draw: try to draw one picture per GL backend (a second each, in a process of its own).
    """
    try:
        declared = metadata.requires("alltrades") or []
        supported = metadata.metadata("alltrades")["Requires-Python"]
    except metadata.PackageNotFoundError:
        return [
            Check(
                "alltrades",
                False,
                "imported from a folder that is not installed",
                'pip install -e "."',
            )
        ]
    checks = [_python(supported)]
    checks += [_package(requirement) for requirement, extra in _split(declared) if extra is None]
    checks.append(_torch())
    for name, purpose in EXTRAS.items():
        wanted = [requirement for requirement, extra in _split(declared) if extra == name]
        checks.append(_extra(name, purpose, wanted))
    if draw:
        checks.append(_drawing())
    checks.append(_wandb())
    return checks


def render(checks: Sequence[Check], console: Console | None = None) -> None:
    """Print the findings as a table."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table("", "what", "found", "to do", box=None, pad_edge=False)
    for c in checks:
        mark = (
            Text("missing", "red")
            if not c.ok
            else Text("optional", "yellow")
            if c.remedy
            else Text("ok", "green")
        )
        table.add_row(mark, Text(c.name), Text(c.found), Text(c.remedy))
    (console or Console()).print(table)


def _split(declared: Iterable[str]) -> list[tuple[Requirement, str | None]]:
    """(requirement, extra or None) from the package's metadata, so that nothing is declared
    twice.
    """
    found = []
    for line in declared:
        requirement = Requirement(line)
        extra = re.search(r"extra == ['\"]([\w-]+)['\"]", str(requirement.marker or ""))
        requirement.marker = None
        found.append((requirement, extra[1] if extra else None))
    return found


def _meets(requirement: Requirement) -> tuple[str, str, bool]:
    """(distribution, version or "not installed", whether the requirement is met)."""
    try:
        version = metadata.version(requirement.name)
    except metadata.PackageNotFoundError:
        return requirement.name, "not installed", False
    met = requirement.specifier.contains(version, prereleases=True)
    return requirement.name, version, met


def _python(supported: str | None) -> Check:
    version = ".".join(map(str, sys.version_info[:3]))
    ok = SpecifierSet(supported or "").contains(version, prereleases=True)
    return Check("python", ok, version, "" if ok else f"use Python {supported}")


def _package(requirement: Requirement) -> Check:
    name, version, ok = _meets(requirement)
    return Check(name, ok, version, "" if ok else f'pip install "{requirement}"')


def _torch() -> Check:
    try:
        import torch
    except Exception as error:  # a broken install raises whatever its libraries raise
        return Check(
            "processor",
            False,
            f"torch does not import ({_short(error)})",
            "pip install --force-reinstall torch",
        )
    found = f"{processors()} CPUs, {torch.get_num_threads()} torch threads"
    if torch.cuda.is_available():
        return Check("processor", True, f"{found}, CUDA: {torch.cuda.get_device_name(0)}")
    return Check("processor", True, f"{found}, no CUDA (not needed)")


def _extra(name: str, purpose: str, requirements: Sequence[Requirement]) -> Check:
    found = [_meets(requirement) for requirement in requirements]
    text = ", ".join(f"{n} {v}" for n, v, _ in found)
    if found and all(ok for *_, ok in found):
        return Check(f"extra {name}", True, text)
    wrong = [
        requirement
        for requirement, (_, v, ok) in zip(requirements, found)
        if not ok and v != "not installed"
    ]
    if wrong:
        text += f" (wanted {', '.join(map(str, wrong))})"
    return Check(
        f"extra {name}",
        True,
        text or "not declared",
        f'for {purpose}: pip install "alltrades[{name}]"',
    )


def _drawing() -> Check:
    failures = []
    for backend in candidates():
        found = tried(backend)
        if found.fault is None:
            return Check("drawing", True, f"{backend} draws: cameras use it")
        failures.append(f"{backend}: {found.fault}")
    return Check("drawing", True, "; ".join(failures), f"for cameras: {REMEDY}")


def _wandb() -> Check:
    name, version, ok = _meets(Requirement("wandb"))
    if not ok:
        return Check(
            "wandb mode", True, "not installed", "--tracking.wandb disabled, or pip install wandb"
        )
    return Check("wandb mode", True, "offline unless --tracking.wandb online is given")


def _short(error: object) -> str:
    return " ".join(str(error).split())[:80]
