"""Settings: one merge order, and every mistake is one line that says what is accepted."""

import subprocess
import sys
from pathlib import Path
from typing import Literal

import pytest
import yaml
from pydantic import BaseModel, ConfigDict, Field, model_validator

from alltrades.errors import UserError
from alltrades.settings.load import (
    describe,
    dump_yaml,
    find_recipe,
    load_settings,
    packaged_recipes,
)


class Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Train(Frozen):
    steps: int = Field(100, ge=1, description="gradient steps")
    lr: float = Field(1e-3, gt=0, description="peak rate")
    clip: float | None = Field(1.0, gt=0)


class Policy(Frozen):
    kind: Literal["mlp", "unet"] = Field("mlp", description="network")
    horizon: int = Field(16, ge=1)
    n_action_steps: int = Field(8, ge=1)
    train: Train = Train(steps=500)

    @model_validator(mode="after")
    def _consistent(self) -> "Policy":
        if self.n_action_steps > self.horizon:
            raise ValueError(
                f"n_action_steps = {self.n_action_steps} exceeds horizon = {self.horizon}; lower "
                "n_action_steps"
            )
        return self


class Run(Frozen):
    name: str = "toy"
    seed: int = Field(0, ge=0)
    environments: tuple[str, ...] = ("planar",)
    limits: tuple[int, ...] = ()
    report: bool = True
    note: str | None = None
    policy: Policy = Policy()
    generalists: dict[str, Policy] = Field(default_factory=dict, description="further policies")
    preference: dict[str, float] = Field(default_factory=dict)


def load(
    tmp_path: Path, text: str, *overrides: str, small: bool = False
) -> tuple[Run, dict[str, str]]:
    path = tmp_path / "recipe.yaml"
    path.write_text(text)
    return load_settings(Run, defaults_file=path, small=small, overrides=overrides)


def message(*overrides: str) -> str:
    with pytest.raises(UserError) as caught:
        load_settings(Run, overrides=overrides)
    assert "\n" not in str(caught.value)
    return str(caught.value)


FILE = """
seed: 1
policy: {horizon: 32, train: {lr: 0.1}}
small:
  seed: 2
  policy: {train: {steps: 3, lr: 0.2}}
"""


def test_each_source_overrides_the_one_before_it(tmp_path):
    def values(run: Run) -> tuple:
        return run.seed, run.policy.horizon, run.policy.train.steps, run.policy.train.lr

    assert values(Run()) == (0, 16, 500, 1e-3)
    assert values(load(tmp_path, FILE)[0]) == (1, 32, 500, 0.1)
    assert values(load(tmp_path, FILE, small=True)[0]) == (2, 32, 3, 0.2)
    settings, origins = load(tmp_path, FILE, "--seed", "7", "--policy.train.steps=9", small=True)
    assert values(settings) == (7, 32, 9, 0.2)
    assert origins == {
        "seed": "command line",
        "policy.horizon": "recipe",
        "policy.train.lr": "recipe (small)",
        "policy.train.steps": "command line",
    }


def test_without_small_the_small_block_has_no_effect_but_is_checked(tmp_path):
    assert load(tmp_path, FILE)[0].seed == 1
    with pytest.raises(UserError, match=r"unknown setting 'sed' in recipe \(small\)"):
        load(tmp_path, "small: {sed: 1}")


def test_a_group_set_in_part_keeps_the_defaults_its_field_gives_it():
    # Policy.train has 500 steps, Train alone 100.
    settings, _ = load_settings(Run, overrides=["--policy.train.lr", "0.5"])
    assert settings.policy.train == Train(steps=500, lr=0.5)


def test_small_without_a_small_block_is_refused(tmp_path):
    with pytest.raises(UserError, match="no `small:` block"):
        load(tmp_path, "seed: 1", small=True)
    with pytest.raises(UserError, match="without a recipe"):
        load_settings(Run, small=True)


def test_extends_merges_the_other_recipe_first_and_empty_mappings_clear(tmp_path):
    (tmp_path / "base.yaml").write_text(
        "seed: 5\ngeneralists: {a: {horizon: 20}}\npreference: {x: 1}\n"
        "small: {name: little, generalists: {a: {n_action_steps: 1}}}\n"
    )
    settings, origins = load(
        tmp_path, "extends: base\npreference: {y: 2}\ngeneralists: {}\n", small=True
    )
    assert settings.seed == 5 and origins["seed"] == "base"
    assert settings.name == "little" and origins["name"] == "base (small)"
    assert settings.preference == {"x": 1.0, "y": 2.0}
    assert settings.generalists == {}


def test_a_recipe_that_extends_itself_is_refused(tmp_path):
    (tmp_path / "other.yaml").write_text("extends: recipe\n")
    with pytest.raises(UserError, match="extends itself .recipe -> other -> recipe"):
        load(tmp_path, "extends: other\n")


@pytest.mark.parametrize(
    "tokens, expected",
    [
        (["--report"], {"report": True}),
        (["--no-report"], {"report": False}),
        (["--report", "false"], {"report": False}),
        (["--report=no"], {"report": False}),
        (["--environments", "a/b,c/d"], {"environments": ("a/b", "c/d")}),
        (["--environments", "[a, b]"], {"environments": ("a", "b")}),
        (["--environments", "a", "b"], {"environments": ("a", "b")}),
        (["--environments", "5"], {"environments": ("5",)}),
        (["--limits", "300"], {"limits": (300,)}),
        (["--limits", "[]"], {"limits": ()}),
        (["--name", "off"], {"name": "off"}),
        (["--name", "007"], {"name": "007"}),
        (["--note", "null"], {"note": None}),
        (["--seed", "1", "--seed", "2"], {"seed": 2}),
        (["--policy.train.lr", "1e-4"], {"policy": Policy(train=Train(steps=500, lr=1e-4))}),
        (["--policy.train.clip", "null"], {"policy": Policy(train=Train(steps=500, clip=None))}),
        (["--generalists.wide.horizon", "64"], {"generalists": {"wide": Policy(horizon=64)}}),
        (["--preference.planar/reach", "0.5"], {"preference": {"planar/reach": 0.5}}),
        (["--preference.gym:A.b", "2"], {"preference": {"gym:A.b": 2.0}}),
        (["--preference", "{a: 1}"], {"preference": {"a": 1.0}}),
    ],
)
def test_command_line_tokens_set_values(tokens, expected):
    settings, origins = load_settings(Run, overrides=tokens)
    assert settings == Run(**expected)
    assert set(origins.values()) == {"command line"}


def test_unknown_keys_name_the_full_path_and_the_nearest_key():
    found = message("--policy.train.stps", "3")
    assert "'policy.train.stps'" in found and "did you mean 'steps'" in found
    assert "did you mean 'policy'" in message("--polcy.horizon", "3")
    assert "expected one of kind, horizon" in message("--policy.zzz", "1")
    assert "'generalists.a.hrizon'" in message("--generalists.a.hrizon", "3")
    assert "no keys below it" in message("--seed.x", "3")


def test_unknown_keys_in_a_file_name_the_file(tmp_path):
    with pytest.raises(
        UserError, match="unknown setting 'policy.train.stps' in recipe; .*did you mean 'steps'"
    ):
        load(tmp_path, "policy: {train: {stps: 4}}")
    with pytest.raises(UserError, match="unknown setting 'True' in recipe"):
        load(tmp_path, "on: 4")


@pytest.mark.parametrize(
    "tokens, parts",
    [
        (["--seed", "abc"], ["seed = abc (command line)", "an integer >= 0"]),
        (["--seed", "-1"], ["seed = -1", "an integer >= 0"]),
        (["--seed", "1.5"], ["seed = 1.5", "an integer >= 0"]),
        (["--seed", "true"], ["seed = true", "an integer >= 0"]),
        (["--seed"], ["--seed has no value", "an integer >= 0"]),
        (["--no-seed"], ["--no-seed", "true/false", "an integer"]),
        (["--report", "maybe"], ["report = maybe", "true or false"]),
        (["--policy.kind", "mpl"], ["policy.kind = mpl", "one of mlp, unet"]),
        (["--policy.train.clip", "x"], ["policy.train.clip = x", "a number > 0, or null"]),
        (["--limits", "[1, x]"], ["limits.1 = x", "a list of (an integer)"]),
        (["--policy", "3"], ["policy = 3", "a group of settings", "horizon"]),
        (["--generalists.a.horizon", "x"], ["generalists.a.horizon = x", "an integer >= 1"]),
        (
            ["--policy.n_action_steps", "20"],
            ["policy: n_action_steps = 20 exceeds horizon = 16; lower n_action_steps"],
        ),
        (
            ["--seed", "x", "--policy.kind", "y", "--policy.horizon", "z"],
            ["seed = x", "(and 2 more)"],
        ),
        (["--preference.a", "[1"], ["--preference.a", "not a YAML value", "a number"]),
        (["seed", "1"], ["unexpected 'seed'", "--seed 1"]),
    ],
)
def test_wrong_values_name_field_value_and_what_is_accepted(tokens, parts):
    found = message(*tokens)
    assert all(part in found for part in parts), found
    assert "more)" in found or "(and" not in str(parts)


def test_one_bad_value_of_a_union_is_one_problem():
    assert "more" not in message("--policy.train.clip", "x")


@pytest.mark.parametrize(
    "text, part",
    [
        ("seed: [1", "not YAML at line"),
        ("- 1", "expected a mapping"),
        ("seed: 1\nseed: 2", "'seed' is given twice"),
        ("policy:", "policy = null"),
        ("? [a]\n: 1", "not YAML at line"),
        ("small: 3", "small = 3"),
        ("extends: [a]", "expected the name of one recipe"),
        ("extends: nowhere", "'nowhere' not found"),
    ],
)
def test_broken_recipes_are_one_line(tmp_path, text, part):
    with pytest.raises(UserError) as caught:
        load(tmp_path, text)
    assert part in str(caught.value) and "\n" not in str(caught.value)


def test_an_empty_recipe_is_the_defaults(tmp_path):
    assert load(tmp_path, "") == (Run(), {})


def test_saved_settings_load_back_and_name_their_origin(tmp_path):
    tokens = ["--generalists.a.n_action_steps", "2", "--name", "no", "--note", "a: b # c"]
    settings, origins = load(tmp_path, FILE, *tokens, small=True)
    text = dump_yaml(settings, origins)
    assert load(tmp_path, text)[0] == settings
    lines = {line.strip() for line in text.splitlines()}
    assert {
        "seed: 2  # recipe (small)",
        "horizon: 32  # recipe",
        "n_action_steps: 2  # command line",
        "report: true",
    } <= lines
    assert yaml.safe_load(text) == settings.model_dump(mode="json")


def test_labels_never_hold_a_path_of_the_machine(tmp_path):
    _, origins = load(tmp_path, FILE)
    assert set(origins.values()) == {"recipe"}


def test_packaged_recipes_are_found_by_name_and_by_their_checkout_path(tmp_path, monkeypatch):
    names = packaged_recipes()
    assert "quickstart" in names
    monkeypatch.chdir(
        tmp_path
    )  # away from the checkout, where configs/quickstart.yaml does not exist
    for name in names:
        found = find_recipe(name)
        assert found[0] == name and isinstance(yaml.safe_load(found[1]), dict)
        assert find_recipe(f"configs/{name}.yaml") == found
        assert find_recipe(Path(f"configs/{name}")) == found


def test_a_file_comes_before_a_packaged_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("configs").mkdir()
    Path("configs/quickstart.yaml").write_text("seed: 4")
    assert load_settings(Run, defaults_file="configs/quickstart.yaml")[0].seed == 4


def test_an_unknown_recipe_names_the_nearest():
    with pytest.raises(UserError, match="'quikstart' not found; .*did you mean 'quickstart'"):
        find_recipe("quikstart")
    with pytest.raises(UserError, match="not found"):
        find_recipe("elsewhere/quickstart.yaml")


def test_describe_lists_every_setting_with_type_default_and_help():
    rows = {key: rest for key, *rest in describe(Run)}
    assert rows["policy.train.steps"] == ["an integer >= 1", "500", "gradient steps"]
    assert rows["policy.kind"] == ["one of mlp, unet", "mlp", "network"]
    assert rows["policy.train.clip"][0] == "a number > 0, or null"
    assert rows["generalists.NAME.KEY"] == ["the keys of policy", "{}", "further policies"]
    assert rows["preference.NAME"][0] == "a number"
    assert rows["environments"][:2] == ["a list of (text)", "[planar]"]


def test_importing_settings_and_run_folder_stays_light():
    code = (
        "import sys, alltrades.settings.load, alltrades.pipeline.rundir\n"
        "print(*{'torch', 'wandb', 'rich', 'numpy'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ""
