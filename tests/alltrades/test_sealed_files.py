"""Files that the program writes for itself: changed, they are refused in one line; files of other
programs are checked.
"""

import json
from dataclasses import replace

import numpy as np
import pytest

from alltrades import cli
from alltrades.data.weights.estimate import WeightResult
from alltrades.envs.rollouts.evaluation import EnvironmentResult, Evaluation
from alltrades.envs.rollouts.evaluation_files import read_evaluation, write_evaluation
from alltrades.errors import UserError
from alltrades.pipeline.rundir import RunDir
from alltrades.settings.load import dump_yaml, load_settings
from alltrades.settings.run import RunSettings
from alltrades.system.reading import parse_json, read_json, sealed, write_sealed
from alltrades.system.tracking import Tracker, read_metrics
from alltrades.system.yaml_files import parse_yaml


def evaluation(name="generalist"):
    row = EnvironmentResult(
        "planar/reach", (7, 8, 9), (4, -1, 6), (1.0, 0.25, 1.0), (1.0, 0.5, 1.0), 100, "abc"
    )
    return Evaluation(name, (row,))


def test_a_sealed_file_reads_as_it_was_written_and_not_when_a_value_changed(tmp_path):
    path, value = tmp_path / "a.json", {"x": [1, 2.5, None], "name": "é", "deep": {"y": True}}
    write_sealed(path, value)
    assert read_json(path, "x", "y") == value
    text = path.read_text()
    path.write_text(text.replace(" ", ""))
    assert read_json(path, "x", "y") == value
    for old, new in (("2.5", "2.6"), ('"x"', '"z"'), ("true", "false"), ("_seal", "seal")):
        path.write_text(text.replace(old, new))
        with pytest.raises(UserError, match="a.json: cannot be read .it was changed after"):
            read_json(path, "x", "y")
    without = {k: v for k, v in sealed(value).items() if k != "written_by"}
    path.write_text(json.dumps(without))
    with pytest.raises(UserError, match="changed after"):
        read_json(path, "x", "y")
    path.write_text(json.dumps(value))
    assert read_json(path, "x", "y") == value  # of another program


@pytest.mark.parametrize(
    "text",
    [b"[" * 100_000, b"{", b"\xff\xfe", b'{"a": NaN}', b"[1e999]", b"1" * 5000, b"", b'"\x00"'],
)
def test_what_is_no_json_is_one_line(tmp_path, text):
    path = tmp_path / "a.json"
    path.write_bytes(text)
    with pytest.raises(UserError, match="a.json: cannot be read") as error:
        read_json(path, "an evaluation", "evaluate again")
    assert "expected an evaluation; evaluate again" in str(error.value)
    assert "\n" not in str(error.value) and len(str(error.value)) < 400
    for wrong in (tmp_path, tmp_path / "none", path / "below", tmp_path / "n\0"):
        with pytest.raises(UserError, match="cannot be read"):
            read_json(wrong, "x", "y")


BOMB = "a: &a [x,x,x,x,x,x,x,x,x]\n" + "".join(
    f"{b}: &{b} [{','.join([f'*{a}'] * 9)}]\n" for a, b in zip("abcdefgh", "bcdefghi")
)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (BOMB, "aliases repeat"),
        ("a: &a [*a]", "stands inside"),
        ("[" * 50_000, "nested too deeply"),
        ("a: 1\na: 2", "line 2, column 1 .key 'a' is given twice"),
        ("a: !!bool x", "not YAML"),
        ("a: !!timestamp x", "not YAML"),
        ("a: 2001-99-99", "not YAML"),
        ("a: " + "1" * 5000, "not YAML"),
        ("? [a]\n: b", "line 1"),
        ("a: !!python/object:os.system x", "could not determine a constructor"),
        ("\x01", "not YAML"),
    ],
)
def test_what_is_no_yaml_is_one_kind_of_error(text, words):
    with pytest.raises(ValueError, match=words):
        parse_yaml(text)


def test_yaml_with_a_few_aliases_is_read():
    assert parse_yaml("a: &a {x: 1}\nb: *a\nc: {<<: *a, y: 2}")["c"] == {"x": 1, "y": 2}


def test_an_evaluation_is_read_as_written_and_refused_when_changed(tmp_path, capsys):
    path, other = tmp_path / "a.json", tmp_path / "b.json"
    write_evaluation(path, evaluation())
    write_evaluation(other, evaluation("other"))
    assert read_evaluation(path) == evaluation()
    path.write_text(path.read_text().replace("-1", "5"))
    assert cli.main(["compare", str(path), str(other)]) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and "a.json" in said and "changed after it was written" in said


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("seeds", [7, 8]),
        ("seeds", ["7", "8", "9"]),
        ("seeds", []),
        ("seeds", [7, 8, 7]),
        ("first_success", [4, "no", 6]),
        ("first_success", [4, None, 6]),
        ("returns", [1.0, [2.0], 3.0]),
        ("max_rewards", None),
        ("max_steps", "100"),
        ("max_steps", 0),
        ("environment", 5),
    ],
)
def test_an_evaluation_of_another_program_is_checked(tmp_path, key, value):
    path, facts = tmp_path / "a.json", evaluation().to_json()
    path.write_text(json.dumps(facts))
    assert read_evaluation(path) == evaluation()
    facts["rows"][0][key] = value
    path.write_text(json.dumps(facts))
    with pytest.raises(UserError, match="not an evaluation"):
        read_evaluation(path)


def test_an_environment_is_in_an_evaluation_once(tmp_path):
    path, facts = tmp_path / "a.json", evaluation().to_json()
    facts["rows"] += facts["rows"][:1]
    path.write_text(json.dumps(facts))
    with pytest.raises(UserError, match="not an evaluation .an environment twice"):
        read_evaluation(path)


def test_a_return_that_is_no_number_reads_back(tmp_path):
    path, own = tmp_path / "a.json", evaluation()
    (row,) = own.rows
    returns = (1.0, float("nan"), 3.0)
    write_evaluation(path, replace(own, rows=(replace(row, returns=returns),)))
    assert np.array_equal(read_evaluation(path).rows[0].returns, returns, equal_nan=True)


def test_a_changed_manifest_ends_the_run_before_anything_is_removed(tmp_path):
    def body():
        (tmp_path / "a.txt").write_text("made")

    with RunDir(tmp_path, seed=3) as run:
        run.manifest.stage("a", {"x": 1}, [tmp_path / "a.txt"], body)
    manifest = tmp_path / "manifest.json"
    text = manifest.read_text()
    for old, new in (('"seed": 3', '"seed": 4'), ('"a.txt"', '"b.txt"'), ('"key"', '"kez"')):
        assert old in text
        manifest.write_text(text.replace(old, new))
        with pytest.raises(UserError, match="changed after it was written"):
            RunDir(tmp_path).__enter__()
    assert (tmp_path / "a.txt").read_text() == "made"


def test_damaged_notes_of_a_stage_cost_no_more_than_the_stage(tmp_path):
    ran = []

    def body():
        ran.append(1)
        (tmp_path / "a").mkdir(exist_ok=True)
        (tmp_path / "a" / "x").write_text("made")

    for damage in (None, '{"a": 5}', "{", '{"a": ["x", 5]}'):
        if damage is not None:
            (tmp_path / "work" / "a" / "outputs.json").write_text(damage)
        with RunDir(tmp_path, seed=3) as run:
            run.manifest.stage("a", {"x": 1}, [tmp_path / "a"], body)
    assert (tmp_path / "a" / "x").read_text() == "made" and len(ran) <= 4


def test_weights_are_refused_when_either_of_their_files_changed(tmp_path):
    rows = [np.array([0.5, 1.5]), np.array([1.0, 2.0, 0.0]), np.full(2, 0.5), np.full(3, 1 / 3)]
    result = WeightResult(*rows, demo_mass=0.5, base_demo_mass=0.5, auc_interval=(0.5, 0.7))
    result.save(tmp_path / "w")
    found = WeightResult.load(tmp_path / "w")
    assert found.auc_interval == (0.5, 0.7)
    np.testing.assert_array_equal(found.rollout_weight, rows[1])
    for name in ("weights.safetensors", "weights.json"):
        file = tmp_path / "w" / name
        data = file.read_bytes()
        for at in range(0, len(data), 7):
            file.write_bytes(data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :])
            with pytest.raises(UserError, match=name):
                WeightResult.load(tmp_path / "w")
        file.unlink()
        with pytest.raises(UserError, match=name):
            WeightResult.load(tmp_path / "w")
        file.write_bytes(data)
    WeightResult.load(tmp_path / "w")


def test_a_damaged_line_of_metrics_is_named_and_a_cut_last_line_is_left_out(tmp_path):
    tracker = Tracker(tmp_path, mode="disabled")
    for step in (1, 2, 3):
        tracker.log("train", step, {"loss": 1.0 / step})
    path = tracker.path("train")
    text = path.read_text()
    path.write_text(text[:-5])
    assert [x["step"] for x in read_metrics(tmp_path, "train")] == [1, 2]
    for wrong in (text.replace('"step": 2', '"step": "x"'), text.replace("0.5", "[0.5]")):
        path.write_text(wrong)
        with pytest.raises(UserError, match="train.jsonl: line 2 is damaged"):
            read_metrics(tmp_path, "train")
    path.write_bytes(b"\xff" + text.encode())
    with pytest.raises(UserError, match="train.jsonl: cannot be read .no UTF-8"):
        read_metrics(tmp_path, "train")


def test_json_nested_within_reason_is_read():
    assert parse_json("[[[[1]]]]") == [[[[1]]]]


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("advice.json", '{"planar/reach": {}}'),
        ("comparison.json", '{"pairs": [{"a": 1}]}'),
        ("manifest.json", '{"version": 1}'),
        ("rollouts.json", '{"scratch": 5}'),
        ("trajectories.json", '{"planar/reach": {"generalist": "x"}}'),
        ("settings.yaml", "evaluation: [rows]"),
        ("settings.yaml", "evaluation: {limits: [x]}"),
        ("settings.yaml", "[" * 5000),
        ("settings.yaml", "a: &a [*a]"),
    ],
)
def test_a_run_folder_with_a_file_of_another_form_is_one_line(tmp_path, capsys, name, content):
    (tmp_path / "evaluation").mkdir()
    for row in ("generalist", "specialists"):
        write_evaluation(tmp_path / "evaluation" / f"{row}.json", evaluation(row))
    assert cli.main(["report", str(tmp_path)]) == 0
    (tmp_path / name).write_text(content)
    capsys.readouterr()
    assert cli.main(["report", str(tmp_path)]) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and str(tmp_path) in said


def test_rows_of_a_run_are_those_that_it_wrote(tmp_path, capsys):
    with RunDir(tmp_path, seed=3) as run:
        for row in ("generalist", "specialists"):
            out = tmp_path / "evaluation" / f"{row}.json"
            run.manifest.stage(
                row, {}, [out], lambda out=out, row=row: write_evaluation(out, evaluation(row))
            )
    words = ["compare", str(tmp_path), "--rows", "generalist", "specialists"]
    assert cli.main(words) == 0
    write_evaluation(tmp_path / "evaluation" / "specialists.json", evaluation("generalist"))
    capsys.readouterr()
    assert cli.main(words) == 2
    assert "specialists.json: it was changed after the run wrote it" in capsys.readouterr().err


@pytest.mark.parametrize(
    "words",
    [
        ["--simulator.success", "declared"],
        ["--simulator.success", "none"],
        ["--simulator.success", "return >= 900"],
        ["--simulator.rules", "{gym:A-v0: 'return >= 1'}"],
    ],
)
def test_settings_that_a_run_wrote_are_read_as_the_same(tmp_path, words):
    settings, origins = load_settings(RunSettings, defaults_file="quickstart", overrides=words)
    (tmp_path / "settings.yaml").write_text(dump_yaml(settings, origins))
    assert load_settings(RunSettings, defaults_file=tmp_path / "settings.yaml")[0] == settings


def test_a_number_of_rounds_that_would_fill_the_memory_is_refused_at_once():
    with pytest.raises(UserError, match="distill.rounds.count"):
        load_settings(RunSettings, overrides=["--distill.rounds.count", "1000000000000"])
