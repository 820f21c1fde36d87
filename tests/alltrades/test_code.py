"""Edited code is not "unchanged": which files and versions stand behind a run's results, and what a
stage says when it is kept or runs again.
"""

import copy
import functools
import importlib
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from alltrades.data.actions import ActionSpec
from alltrades.data.episode import Episode
from alltrades.data.fields import Field
from alltrades.data.store import EpisodeStore
from alltrades.envs import registry
from alltrades.envs.spec import EnvSpec
from alltrades.errors import UserError
from alltrades.pipeline import own_code as own
from alltrades.pipeline.changes import code_changes, key_changes
from alltrades.pipeline.code import code_of
from alltrades.pipeline.collection import open_or_create
from alltrades.pipeline.rundir import RunDir

FILES = {
    "cc_plugin.py": "import cc_used\nfrom cc_pack.inside import thing\n"
    "SCENE = 'arm.xml'\n\ndef make(): ...\n\nclass Base: ...\n",
    "cc_used.py": "def lazily():\n    import cc_lazy\n",
    "cc_lazy.py": "LENGTH = 1\n",
    "cc_pack/__init__.py": "",
    "cc_pack/inside.py": "thing = 1\n",
    "cc_pack/unused.py": "",
    "assets/arm.xml": '<mujoco><compiler meshdir="meshes"/><mesh file="hand.stl"/></mujoco>',
    "assets/meshes/hand.stl": "solid",
    "arm.xml": '<mujoco><include file="assets/arm.xml"/></mujoco>',
    "notes.txt": "read by nobody",
    "cc_other.py": "import functools\nfrom cc_plugin import Base\n\nclass Sub(Base): ...\n"
    "@functools.cache\ndef wrapped(): ...\n",
    "cc_whole/__init__.py": "",
    "cc_whole/deep/part.py": "",
    "cc_whole/deep/model.xml": "<mujoco/>",
}
USED = {
    "cc_plugin.py",
    "cc_used.py",
    "cc_lazy.py",
    "cc_pack/__init__.py",
    "cc_pack/inside.py",
    "arm.xml",
    "assets/arm.xml",
    "assets/meshes/hand.stl",
}


@pytest.fixture
def place(tmp_path, monkeypatch):
    """A folder of modules that nobody installed."""
    for name, text in FILES.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    monkeypatch.syspath_prepend(str(tmp_path))
    yield tmp_path
    for name in [n for n in sys.modules if n.startswith("cc_")]:
        del sys.modules[name]


def spec(make, **more) -> EnvSpec:
    action = ActionSpec((-1.0,), (1.0,))
    return EnvSpec("own/code", make, {"state": Field.state(1)}, action, 5, **more)


def files(found: dict[str, str]) -> set[str]:
    return {name for name in found if Path(name).suffix}


def test_a_plugin_is_its_file_what_that_imports_and_the_models_that_it_names(place):
    found = code_of([], [str(place / "cc_plugin.py")])
    assert files(found) == USED
    assert not [name for name in sys.modules if name.startswith("cc_")]  # nothing was run


@pytest.mark.parametrize("name", sorted(USED))
def test_an_edit_of_any_file_behind_a_plugin_is_named(place, name):
    before = code_of([], ["cc_plugin"])
    with (place / name).open("a") as file:
        file.write("\n")
    assert code_changes(before, code_of([], ["cc_plugin"])) == [f"{name} was edited"]


@pytest.mark.parametrize("name", ["notes.txt", "cc_pack/unused.py", "cc_other.py"])
def test_an_edit_of_a_file_that_is_not_behind_it_changes_nothing(place, name):
    before = code_of([], ["cc_plugin"])
    (place / name).write_text("# edited")
    assert code_of([], ["cc_plugin"]) == before


def test_a_plugin_package_is_all_its_files(place):
    found = code_of([], ["cc_whole"])
    assert files(found) == {
        "cc_whole/__init__.py",
        "cc_whole/deep/part.py",
        "cc_whole/deep/model.xml",
    }


@pytest.mark.parametrize(
    "how", ["class", "partial", "argument", "lambda", "base", "wrapped", "success", "expert"]
)
def test_an_environment_is_the_modules_of_whatever_its_specification_holds(place, monkeypatch, how):
    plugin, other = importlib.import_module("cc_plugin"), importlib.import_module("cc_other")
    make = {
        "class": plugin.Base,
        "partial": functools.partial(plugin.make),
        "argument": functools.partial(dict, a=plugin.make),
        "lambda": (lambda made: lambda: made())(plugin.make),
        "base": other.Sub,
        "wrapped": other.wrapped,
    }.get(how, dict)
    more = {"evaluation_seed": plugin.make} if how == "success" else {}
    monkeypatch.setattr(registry, "expert", lambda _: plugin.make if how == "expert" else None)
    assert "cc_plugin.py" in code_of([spec(make, **more)], [])


def test_an_installed_environment_is_the_version_of_its_package(monkeypatch):
    pytest.importorskip("metaworld")
    found = code_of(registry.resolve(["metaworld/button-press-topdown-v3"]), [])
    assert found["metaworld"][0].isdigit() and not files(found)
    assert not files(code_of(registry.resolve(["planar", "gym:Pendulum-v1"]), []))


def test_what_else_the_process_loaded_is_no_part_of_a_runs_code(place, monkeypatch):
    registered = registry._REGISTRY
    monkeypatch.setattr(registered, "plugins", [*registered.plugins])
    monkeypatch.setattr(registered, "specs", {**registered.specs})
    registered.specs.pop("gym:Pendulum-v1", None)  # described again, by this process
    specs = registry.resolve(["gym:Pendulum-v1"])
    before = code_of(specs, [])
    registry.load_plugins([str(place / "cc_plugin.py")])
    registered.specs.pop("gym:Pendulum-v1")
    after = registry.resolve(["gym:Pendulum-v1"])
    assert code_of(after, []) == before == code_of(copy.deepcopy(after), [])


def test_a_gymnasium_id_is_the_module_that_it_names(place):
    (place / "cc_gym.py").write_text(
        "import gymnasium\nfrom gymnasium.envs.classic_control import PendulumEnv\n"
        "class Own(PendulumEnv): ...\n"
        "gymnasium.register('cc/Own-v0', 'cc_gym:Own', max_episode_steps=3)\n"
    )
    found = code_of(registry.resolve(["gym:cc_gym:cc/Own-v0"]), [])
    assert files(found) == {"cc_gym.py"}


def test_alltrades_and_the_libraries_below_are_part_of_the_code(monkeypatch):
    found = own.own_code()
    assert {"alltrades", "torch", "gymnasium", "mujoco"} <= set(found)
    own.own_code.cache_clear()
    monkeypatch.setattr(own, "version", lambda name: "9.9.9")
    try:
        assert f"torch {found['torch']} -> 9.9.9" in code_changes(found, own.own_code())
    finally:
        own.own_code.cache_clear()
    edited = {**found, "alltrades": found["alltrades"].replace("(", "(0")}
    assert code_changes(found, edited) == ["alltrades was edited"]


def test_changes_are_said_by_name_with_old_and_new():
    old = {"policy": {"width": 64}, "demos": ["a" * 64], "same": 1, "gone": True}
    new = {"policy": {"width": 128}, "demos": ["b" * 64], "same": 1}
    assert key_changes(old, new) == [
        "policy.width 64 -> 128",
        "demos is another",
        "gone True -> None",
    ]
    assert code_changes(None, {}) == ["it was made before code was recorded"]
    assert code_changes({"a.py": "0" * 12}, {"b.py": "0" * 12}) == [
        "b.py came in",
        "a.py is used no more",
    ]


def test_a_store_is_continued_by_the_code_that_began_it_alone(tmp_path):
    reach, push = registry.resolve(["planar/reach", "planar/push"])
    facts, code = {"kind": "demonstrations", "seed": 0}, {"torch": "2.6.0", "a.py": "0" * 12}

    def begin(specs: list[EnvSpec], code: dict[str, str] | None) -> None:
        open_or_create(tmp_path / "s", specs, facts, grows=True, code=code).close()

    begin([reach], code)
    with EpisodeStore.open(tmp_path / "s", "a") as store:
        store.append([_episode(reach)])
    begin([reach, push], code | {"b.py": "0" * 12})  # of a further environment
    begin([reach], code)
    for name in ("a.py", "b.py"):
        with pytest.raises(UserError, match=f"{name} was edited.*--no-same_code"):
            begin([reach, push], code | {name: "1" * 12})
    begin([reach], None)


def test_a_store_without_episodes_is_begun_again_by_whatever_code_and_environments(tmp_path):
    (spec,) = registry.resolve(["planar/reach"])
    path, facts = tmp_path / "s", {"kind": "demonstrations", "seed": 0}
    bare = replace(spec, observation={"state": Field.state(3)}, parts={}, cameras={})
    open_or_create(path, [bare], facts, code={"a.py": "0" * 12}).close()
    for seed in (1, 2):  # of an edited plugin, whose expert raised again
        store = open_or_create(path, [spec], facts | {"seed": seed}, code={"a.py": "1" * 12})
        store.close()
    again = EpisodeStore.open(path)
    assert again.interfaces() == {spec.id: spec.interface}
    assert again.provenance["code"] == {"a.py": "1" * 12} and again.provenance["seed"] == 2
    with EpisodeStore.open(path, "a") as store:
        store.append([_episode(spec)])
        with pytest.raises(UserError, match="1 episodes; expected none"):
            store.begin_again([], {})
    for other in ({"code": {"a.py": "2" * 12}}, {"provenance": facts}):
        with pytest.raises(UserError, match="a store is there already"):
            open_or_create(path, [spec], **{"provenance": facts | {"seed": 2}, **other})
    assert len(EpisodeStore.open(path)) == 1


def _episode(spec: EnvSpec) -> Episode:
    fields = {name: np.zeros((3, *f.shape)) for name, f in spec.observation.items()}
    return Episode.from_arrays(fields, np.zeros((3, spec.interface.action_dim)), spec.id)


# ---- stages --------------------------------------------------------------------------------------
def stage(folder: Path, width: int = 64, same_code: bool = True, **versions: str) -> str:
    """Run a stage of a run; what was said."""
    said: list[str] = []
    with RunDir(folder, seed=0) as run:
        run.manifest.code = {"torch": "2.6.0", "my_env.py": "0" * 12} | versions
        run.manifest.same_code = same_code
        out = folder / "out"
        ran = run.manifest.stage(
            "s", {"policy": {"width": width}}, [out], lambda: _write(out), said.append
        )
    assert ran == (not said or " again: " in said[0])
    return said[0] if said else ""


def _write(out: Path) -> None:
    assert not out.exists()
    out.write_text("made")


def test_a_stage_says_why_it_is_kept_and_why_it_runs_again(tmp_path):
    assert stage(tmp_path) == ""
    assert stage(tmp_path).startswith("s  kept: same settings, inputs, code and outputs as at 20")
    assert stage(tmp_path, torch="2.7.0") == "s  again: torch 2.6.0 -> 2.7.0"
    assert stage(tmp_path, torch="2.7.0", width=128) == "s  again: policy.width 64 -> 128"
    edited = {"my_env.py": "1" * 12}
    assert stage(tmp_path, width=128, **edited) == (
        "s  again: torch 2.7.0 -> 2.6.0; my_env.py was edited"
    )
    (tmp_path / "out").write_text("other")
    assert stage(tmp_path, width=128, **edited) == "s  again: out was changed or is missing"


def test_stages_of_other_code_are_kept_where_that_is_asked_for_and_said_so_each_time(tmp_path):
    stage(tmp_path)
    for _ in range(2):
        said = stage(tmp_path, same_code=False, torch="2.7.0")
        assert "s  kept from 20" in said and "although torch 2.6.0 -> 2.7.0" in said
    assert stage(tmp_path, torch="2.7.0") == "s  again: torch 2.6.0 -> 2.7.0"


def test_partial_work_of_other_code_is_not_continued(tmp_path):
    def fail() -> None:
        _write(tmp_path / "out")
        raise KeyboardInterrupt

    with RunDir(tmp_path, seed=0) as run, pytest.raises(KeyboardInterrupt):
        run.manifest.code = {"my_env.py": "0" * 12}
        run.manifest.stage("s", {}, [tmp_path / "out"], fail)
    with RunDir(tmp_path, seed=0) as run:
        run.manifest.code = {"my_env.py": "1" * 12}
        assert run.manifest.stage("s", {}, [tmp_path / "out"], lambda: _write(tmp_path / "out"))


def test_a_relatives_stage_of_other_code_is_not_copied(tmp_path):
    stage(tmp_path / "first")
    with RunDir(tmp_path / "second", seed=0, relatives=[tmp_path / "first"]) as run:
        run.manifest.code = {"torch": "2.6.0", "my_env.py": "1" * 12}
        out, made = tmp_path / "second" / "out", []
        key = {"policy": {"width": 64}}
        run.manifest.stage("s", key, [out], lambda: made.append(out.write_text("own")))
        assert made
