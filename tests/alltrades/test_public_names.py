"""What users import from `alltrades`: each name in a fresh process, at no needless cost."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import alltrades

HEAVY = ("torch", "zarr", "mujoco", "sklearn", "wandb", "pydantic", "numpy", "scipy", "gymnasium")
WITHOUT_TORCH = (
    "ActionSpec",
    "Controller",
    "EnvSpec",
    "Episode",
    "OnnxPolicy",
    "PolicyClient",
    "RealTimeController",
    "RemotePolicy",
    "UserError",
    "register",
)


def fresh(code: str) -> str:
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


@pytest.mark.parametrize("name", alltrades.__all__)
def test_a_public_name_is_there_in_a_fresh_process(name):
    code = (
        f"from alltrades import {name} as found; import alltrades, sys; assert callable(found) and "
        f"found.__name__ == '{name}'; assert alltrades.{name} is found; print('torch' in "
        "sys.modules)"
    )
    has_torch = fresh(code) == "True"
    if name in WITHOUT_TORCH:
        assert not has_torch


def test_importing_the_package_imports_nothing_else():
    code = f"import alltrades, sys; print([m for m in {HEAVY} if m in sys.modules])"
    assert fresh(code) == "[]"
    seconds = (
        "import time; t = time.perf_counter(); import alltrades; print(time.perf_counter() - t)"
    )
    assert min(float(fresh(seconds)) for _ in range(3)) < 0.05


def test_editors_and_type_checkers_see_the_names_where_they_are_found():
    stub = ast.parse(Path(alltrades.__file__).with_suffix(".pyi").read_text())
    typed = {
        alias.name: node.module
        for node in stub.body
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
        if alias.asname == alias.name
    }
    assert typed == alltrades._HOMES
    assert sorted(typed) == sorted(alltrades.__all__)


def test_dir_lists_the_names_before_they_are_used():
    code = "import alltrades; print(set(alltrades.__all__) <= set(dir(alltrades)))"
    assert fresh(code) == "True"


def test_run_is_the_function_also_after_the_pipeline_was_imported():
    code = "import alltrades.pipeline.runner, alltrades; print(callable(alltrades.run))"
    assert fresh(code) == "True"


def test_a_name_that_is_not_there_is_an_attribute_error():
    with pytest.raises(AttributeError, match="no attribute 'Controler'"):
        alltrades.Controler  # noqa: B018


def test_a_robots_computer_deploys_an_exported_policy_with_numpy_and_onnxruntime_alone():
    code = (
        "import sys; before = set(sys.modules)\n"
        "import alltrades.cli, alltrades.robots.deploy\n"
        "from alltrades import Controller, OnnxPolicy, RealTimeController, RemotePolicy\n"
        "ours = {'alltrades', 'numpy'} | set(sys.stdlib_module_names)\n"
        "files = {n: getattr(m, '__file__', None) or '' for n, m in sys.modules.items()"
        " if n not in before}\n"
        "print(*sorted({n.partition('.')[0] for n, f in files.items() if 'site-packages' in f}"
        " - ours))"
    )
    assert [name for name in fresh(code).split() if not name.startswith("__editable__")] == []
