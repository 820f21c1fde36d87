"""Names resolve, mistakes are explained, plugins join, and listing loads no simulator."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from types import SimpleNamespace

import pytest

from alltrades.envs import registry
from alltrades.errors import UserError
from tests.envs.toys import toy_spec


@pytest.fixture
def fresh(monkeypatch):
    """A registry of the test's own."""
    monkeypatch.setattr(registry, "_REGISTRY", registry._Registry())


def test_registered_environment_is_found_with_its_expert(fresh):
    registry.register(toy_spec(), expert=len)
    assert registry.get("toy/countdown") == toy_spec()
    assert registry.expert("toy/countdown") is len
    assert "toy/countdown" in registry.list_environments()


def test_taken_name_is_refused_unless_replaced(fresh):
    registry.register(toy_spec(), expert=len)
    with pytest.raises(UserError, match="registered already"):
        registry.register(toy_spec())
    registry.register(toy_spec(max_steps=99), replace=True)
    assert registry.get("toy/countdown").max_steps == 99
    assert registry.expert("toy/countdown") is None
    with pytest.raises(UserError, match="registered already"):
        registry.register(toy_spec(env_id="planar/reach"))


@pytest.mark.parametrize(
    "wrong, nearest",
    [
        ("planar/reech", "planar/reach"),
        ("MT11", "MT10"),
        ("metaworld/push-v2", "metaworld/push-v3"),
        ("pusht/keypoint-v0", "pusht/keypoints-v0"),
    ],
)
def test_unknown_name_suggests_the_nearest(wrong, nearest):
    with pytest.raises(
        UserError, match=f"no environment or suite '{wrong}', did you mean '{nearest}'"
    ):
        registry.resolve([wrong])


def test_suites_ids_and_globs_resolve_in_order_without_repeats(fresh):
    for name in ("b", "a", "c"):
        registry.register(toy_spec(env_id=f"toy/{name}"))
    registry.register_suite("toys", ["toy/c", "toy/a"])
    assert [s.id for s in registry.resolve(["toy/b", "toys", "toy/*"])] == [
        "toy/b",
        "toy/c",
        "toy/a",
    ]
    assert registry.list_suites()["toys"] == ["toy/c", "toy/a"]
    with pytest.raises(UserError, match="no environment matches 'toyz/"):
        registry.resolve(["toyz/*"])


def test_meta_world_suites_have_their_published_sizes_and_members():
    suites = registry.list_suites()
    assert len(suites["MT10"]) == 10 and len(suites["MT50"]) == 50
    assert set(suites["MT10"]) < set(suites["MT50"]) <= set(registry.list_environments())
    assert suites["MT10:hidden"] == [f"{i}:hidden" for i in suites["MT10"]]


@pytest.mark.parametrize(
    "name, extra, module",
    [("MT10", "metaworld", "metaworld"), ("pusht/keypoints-v0", "pusht", "gym_pusht")],
)
def test_missing_extra_is_answered_by_the_pip_line(monkeypatch, name, extra, module):
    real = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda n, *a: None if n == module else real(n, *a)
    )
    with pytest.raises(UserError, match=rf'pip install "alltrades\[{extra}\]"'):
        registry.resolve([name])
    assert "metaworld/reach-v3" in registry.list_environments()  # listed all the same


def test_listing_imports_no_simulator_of_an_extra():
    code = (
        "import sys; from alltrades.envs import registry; registry.list_environments(); "
        "registry.list_suites(); sys.exit(any(m in sys.modules for m in ('metaworld', 'gym_pusht', "
        "'pymunk', 'torch')))"
    )
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


class _Point(SimpleNamespace):
    name, value = "toys", "package:hook"

    def load(self):
        return self.hook() if self.raises else self.hook


def test_entry_points_of_other_packages_are_loaded_once(fresh, monkeypatch):
    def hook() -> None:
        registry.register(toy_spec(env_id="other/env"))

    monkeypatch.setattr(registry, "entry_points", lambda group: [_Point(hook=hook, raises=False)])
    assert registry.get("other/env").id == "other/env"
    assert "other/env" in registry.list_environments()


def test_broken_entry_point_is_named(fresh, monkeypatch):
    def hook() -> None:
        raise ImportError("no module named lost")

    monkeypatch.setattr(registry, "entry_points", lambda group: [_Point(hook=hook, raises=True)])
    with pytest.raises(UserError, match="'toys = package:hook'.*no module named lost"):
        registry.list_environments()


PLUGIN = """
from alltrades.envs.registry import register
from tests.envs.toys import toy_spec
register(toy_spec(env_id="plugin/{name}"), replace=True)
"""


@pytest.fixture
def import_path(monkeypatch):
    monkeypatch.setattr(sys, "path", list(sys.path))


def test_plugin_file_registers_its_environments(fresh, import_path, tmp_path):
    file = tmp_path / "my_plugin_by_path.py"
    file.write_text(PLUGIN.format(name="file"))
    registry.load_plugins([str(file)])
    assert registry.get("plugin/file").id == "plugin/file"
    registry.load_plugins([str(file)])  # twice does no harm
    assert (
        importlib.util.find_spec("my_plugin_by_path") is not None
    )  # a worker finds what it pickled


def test_plugin_module_registers_its_environments(fresh, import_path, tmp_path):
    (tmp_path / "my_plugin_by_name.py").write_text(PLUGIN.format(name="module"))
    sys.path.insert(0, str(tmp_path))
    registry.load_plugins(["my_plugin_by_name"])
    assert registry.get("plugin/module").id == "plugin/module"


@pytest.mark.parametrize("name", ["not_there.py", "not_there_at_all", "not_there.at_all"])
def test_plugin_that_does_not_exist_is_refused(name):
    with pytest.raises(UserError, match="not_there"):
        registry.load_plugins([name])


@pytest.mark.parametrize(
    "text, line, said",
    [
        (
            "import a_package_that_is_missing\n",
            1,
            "ModuleNotFoundError: .*a_package_that_is_missing",
        ),
        ("x = 1\nimport json\njson.loads('{')\n", 3, "JSONDecodeError: Expecting property name"),
        ("\n\ndef f(:\n", 3, "SyntaxError: "),
        ("\nraise SystemExit(3)\n", 2, "SystemExit: 3"),
        ("import alltrades.envs as e\ne.register('planar/reach', dict)\n", 2, "registered already"),
    ],
)
def test_plugin_whose_own_import_fails_says_which_file_and_line(
    import_path, tmp_path, text, line, said
):
    file = tmp_path / "my_plugin_broken.py"
    file.write_text(text)
    place = rf"plugin .*my_plugin_broken.py cannot be imported: .*{said}.*\({file}, line {line}\)"
    with pytest.raises(UserError, match=place) as caught:
        registry.load_plugins([str(file)])
    assert "\n" not in str(caught.value)


def test_a_folder_of_no_code_is_no_plugin(import_path, tmp_path, monkeypatch):
    (tmp_path / "my_demos").mkdir()
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(UserError, match="my_demos: a folder without __init__.py"):
        registry.load_plugins(["my_demos"])


def test_a_plugin_package_that_fails_names_its_own_file(import_path, tmp_path):
    package = tmp_path / "my_broken_package"
    package.mkdir()
    (package / "__init__.py").write_text("from . import inner\n")
    (package / "inner.py").write_text("import json\n\njson.loads('')\n")
    sys.path.insert(0, str(tmp_path))
    with pytest.raises(UserError, match=rf"plugin my_broken.* \({package}/inner.py, line 3\)"):
        registry.load_plugins(["my_broken_package"])


def test_plugins_that_a_file_names_run_only_where_the_user_has_named_them(
    fresh, import_path, tmp_path, monkeypatch
):
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    file = tmp_path / "my_plugin_of_a_file.py"
    file.write_text(PLUGIN.format(name="named"))
    refused = f"policy.json names the plugin {file}, .*--trust, or --plugins {file}"
    with pytest.raises(UserError, match=refused):
        registry.load_named_plugins([str(file)], "policy.json")
    assert "my_plugin_of_a_file" not in sys.modules
    for _ in range(2):
        registry.load_plugins([str(file)])
        monkeypatch.setattr(registry._REGISTRY, "plugins", [])  # as in another process
    registry.load_named_plugins([str(file)], "policy.json")
    assert registry.loaded_plugins() == [str(file)]
    assert (tmp_path / "state" / "alltrades" / "plugins.txt").read_text() == f"{file}\n"


def test_a_module_of_the_same_name_elsewhere_is_another_plugin(
    fresh, import_path, tmp_path, monkeypatch
):
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    for place in ("mine", "theirs"):
        (tmp_path / place).mkdir()
        (tmp_path / place / "my_twice_named.py").write_text(PLUGIN.format(name="twice"))
    sys.path.insert(0, str(tmp_path / "mine"))
    registry.load_plugins(["my_twice_named"])
    monkeypatch.setattr(registry._REGISTRY, "plugins", [])
    sys.path[0] = str(tmp_path / "theirs")
    monkeypatch.delitem(sys.modules, "my_twice_named")
    importlib.invalidate_caches()
    with pytest.raises(UserError, match="names the plugin my_twice_named"):
        registry.load_named_plugins(["my_twice_named"], "policy.json")


def test_plugin_file_with_the_name_of_a_loaded_module_is_refused(import_path, tmp_path):
    (tmp_path / "json.py").write_text("")
    with pytest.raises(UserError, match="belongs to another module"):
        registry.load_plugins([str(tmp_path / "json.py")])
