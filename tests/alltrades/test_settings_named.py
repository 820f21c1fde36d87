"""No setting without a use: each is set by a recipe or named by a page for users."""

import re
from pathlib import Path

import yaml
from pydantic import BaseModel

from alltrades.settings.nested import flatten
from alltrades.settings.run import RunSettings
from alltrades.settings.schema import mapping_value, model_of

ROOT = Path(__file__).parents[2]
Setting = tuple[type[BaseModel], str]


def settings(model: type[BaseModel], path: str = "") -> dict[str, Setting]:
    """{dotted key: (model that declares it, field)} of every setting."""
    found: dict[str, Setting] = {}
    for name, field in model.model_fields.items():
        group = model_of(field.annotation)
        if group is None:
            found[path + name] = (_owner(model, name), name)
        else:
            found |= settings(group, f"{path}{name}.")
    return found


def _owner(model: type[BaseModel], name: str) -> type[BaseModel]:
    return next(c for c in model.__mro__ if name in vars(c).get("__annotations__", {}))


def named() -> set[str]:
    """Dotted keys that recipes set and pages name, of further generalists those of `distill`."""
    keys = set()
    for path in (ROOT / "configs").rglob("*.yaml"):
        recipe = yaml.safe_load(path.read_text())
        for block in (recipe, recipe.get("small") or {}):
            keys |= {key for key, _ in flatten(block)} | set(block.get("sweep") or {})
    for path in (ROOT / "README.md", *(ROOT / "docs").glob("*.md")):
        for span in re.findall(r"```.*?```|`[^`]+`", path.read_text(), flags=re.DOTALL):
            keys |= set(re.findall(r"[a-z_]+(?:\.[a-z_]+)*", span))
    return {re.sub(r"^generalists\.\w+\.", "distill.", key) for key in keys}


def test_every_setting_is_set_by_a_recipe_or_named_by_a_page():
    """Settings of one model in several places, such as those of a training, are named once."""
    every, said = settings(RunSettings), named()
    known = {setting for key, setting in every.items() if _covers(said, key)}
    assert sorted(key for key, setting in every.items() if setting not in known) == []


def _covers(said: set[str], key: str) -> bool:
    return key in said or any(x.startswith(key + ".") for x in said if "." in x)


def test_mappings_of_models_are_those_of_the_tree():
    """So that their keys are named where the tree's are."""
    groups = {model_of(f.annotation) for f in RunSettings.model_fields.values()}
    for field in RunSettings.model_fields.values():
        items = mapping_value(field.annotation)
        assert items is None or model_of(items) in groups
