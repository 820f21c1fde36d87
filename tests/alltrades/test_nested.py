"""Merging: mappings key by key, `{}` clears, wherever settings come from."""

import pytest

from alltrades.settings.distill import DistillSettings
from alltrades.settings.load import dump_yaml, load_settings
from alltrades.settings.nested import flatten, merge, nest, without
from alltrades.settings.run import RunSettings

DISTILL = {"preference": {"planar/reach": 3}, "rollouts": 7}


def from_python(generalists):
    return RunSettings(distill=DISTILL, generalists=generalists)


def from_yaml(generalists, folder):
    import yaml

    path = folder / "recipe.yaml"
    path.write_text(yaml.safe_dump({"distill": DISTILL, "generalists": generalists}))
    return load_settings(RunSettings, defaults_file=path)[0]


@pytest.mark.parametrize("source", ["python", "yaml"])
@pytest.mark.parametrize(
    ("plain", "expected"),
    [
        ({"preference": {}}, {}),
        ({}, {"planar/reach": 3.0}),
        ({"preference": {"planar/push": 1}}, {"planar/reach": 3.0, "planar/push": 1.0}),
    ],
)
def test_an_empty_preference_of_a_further_generalist_clears_that_of_distill(
    source, plain, expected, tmp_path
):
    generalists = {"plain": plain}
    found = from_python(generalists) if source == "python" else from_yaml(generalists, tmp_path)
    assert found.generalists["plain"].preference == expected
    assert found.generalists["plain"].rollouts == 7
    assert found.distill.preference == {"planar/reach": 3.0}


def test_a_cleared_preference_survives_saving_and_loading(tmp_path):
    settings = from_python({"plain": {"preference": {}}})
    path = tmp_path / "settings.yaml"
    path.write_text(dump_yaml(settings))
    assert load_settings(RunSettings, defaults_file=path)[0] == settings


def test_a_model_in_place_of_a_mapping_is_inherited_from_and_kept():
    plain = DistillSettings(rollouts=3)
    found = RunSettings(
        distill=DistillSettings(**DISTILL), generalists={"a": {"rollouts": 9}, "b": plain}
    )
    assert found.generalists["a"].preference == {"planar/reach": 3.0}
    assert found.generalists["a"].rollouts == 9
    assert found.generalists["b"] == plain


def test_merge_leaves_its_arguments_alone():
    base, layer = {"a": {"b": 1, "c": {"d": 2}}}, {"a": {"c": {}}, "e": None}
    assert merge(base, layer) == {"a": {"b": 1, "c": {}}, "e": None}
    assert base == {"a": {"b": 1, "c": {"d": 2}}} and layer == {"a": {"c": {}}, "e": None}


def test_a_value_replaces_a_mapping_and_a_mapping_a_value():
    assert merge({"a": {"b": 1}, "c": 1}, {"a": 2, "c": {"d": 3}}) == {"a": 2, "c": {"d": 3}}


def test_flat_keys_name_values_and_empty_mappings():
    assert dict(flatten({"a": {"b": 1, "c": {}}, "d": [2]})) == {"a.b": 1, "a.c": {}, "d": [2]}
    assert nest(("a", "b"), 1) == {"a": {"b": 1}}
    assert without({"a": {"b": 1, "c": 2}, "d": 3}, ["a.b", "d"]) == {"a": {"c": 2}}
