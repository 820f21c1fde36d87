"""The rooms of the code: what may import what."""

import ast
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
FOLDERS = {
    "alltrades": "alltrades",
    "policies": "alltrades.policies",
    "envs": "alltrades.envs",
    "data": "alltrades.data",
    "configs": "alltrades.configs",
}
# from the ground up: a room imports from those below it alone
ROOMS = (
    "alltrades",
    "errors",
    "configs",
    "system",
    "data",
    "data.editing",
    "data.formats",
    "data.checks",
    "data.weights",
    "envs.boundary",
    "envs.instructions",
    "envs.rendering",
    "envs.perturbations",
    "envs",
    "envs.planar",
    "envs.suites",
    "envs.rollouts",
    "envs.checking",
    "envs.robots",
    "policies",
    "policies.model",
    "policies.learning",
    "policies.control",
    "policies.onnx",
    "policies.client",
    "policies.server",
    "settings",
    "report",
    "robots",
    "pipeline",
    "studies",
    "bench",
    "commands",
    "cli",
    "__main__",
)


@cache
def modules() -> dict[str, Path]:
    """{dotted name below alltrades: file}"""
    found = {}
    for folder, package in FOLDERS.items():
        for path in (ROOT / folder).rglob("*.py"):
            parts = [*package.split("."), *path.relative_to(ROOT / folder).with_suffix("").parts]
            found[".".join(parts[1:] if parts[-1] != "__init__" else parts[1:-1])] = path
    return found


@cache
def imports(module: str) -> frozenset[str]:
    """Modules of the project that one imports, anywhere in it."""
    found = set()
    for node in ast.walk(ast.parse(modules()[module].read_text())):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            names = [
                n
                for alias in node.names
                for n in (node.module or "", f"{node.module}.{alias.name}")
            ]
        else:
            continue
        found |= {
            name.removeprefix("alltrades").removeprefix(".")
            for name in names
            if name.split(".")[0] == "alltrades"
        }
    return frozenset((found & set(modules())) - {module})


def room_of(module: str) -> str:
    return max(
        (r for r in ROOMS if module == r or module.startswith(r + ".")),
        key=len,
        default="alltrades",
    )


def test_every_module_has_a_room():
    assert {room_of(m) for m in modules()} == set(ROOMS)
    assert [m for m in modules() if room_of(m) == "alltrades"] == [""]


def test_imports_go_one_way():
    """A room imports from those below it; so there is no circle between rooms either."""
    floor = {name: i for i, name in enumerate(ROOMS)}
    up = [(a, b) for a in modules() for b in imports(a) if floor[room_of(b)] > floor[room_of(a)]]
    assert not up


@pytest.mark.parametrize("room", ROOMS)
def test_no_file_of_a_room_imports_itself_over_others(room):
    """Imports inside functions and those of types alone count too. A package's `__init__` only
    names what is inside it.
    """
    files = {m for m in modules() if room_of(m) == room} - {m.rpartition(".")[0] for m in modules()}
    left = {m: imports(m) & files for m in files}
    while free := [m for m, needed in left.items() if not needed & left.keys()]:
        for module in free:
            del left[module]
    assert not left


@pytest.mark.parametrize("folder", ["alltrades", "policies", "envs"])
def test_few_loose_modules_at_the_top(folder):
    assert len(list((ROOT / folder).glob("*.py"))) <= 12
