"""Mappings: rotations, and mistakes in them."""

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from alltrades.cli import main
from alltrades.data.formats.rotations import FORMS, turned
from tests.data.formats import made


@pytest.mark.parametrize("source", FORMS)
@pytest.mark.parametrize("to", FORMS)
def test_a_rotation_is_the_same_in_every_form(source, to):
    given = Rotation.from_quat(np.random.default_rng(0).normal(size=(20, 4)))
    quaternion = given.as_quat()
    written = turned(quaternion, "quat_xyzw", source)
    assert written.shape == (20, FORMS[source])
    again = turned(turned(written, source, to), to, "matrix").reshape(-1, 3, 3)
    np.testing.assert_allclose(again, given.as_matrix(), atol=1e-9)


def test_forms_are_those_of_their_names():
    quarter = Rotation.from_euler("z", 90, degrees=True).as_quat()[None]  # x becomes y
    half = np.sqrt(0.5)
    np.testing.assert_allclose(turned(quarter, "quat_xyzw", "quat_wxyz")[0], [half, 0, 0, half])
    np.testing.assert_allclose(turned(quarter, "quat_xyzw", "rpy")[0], [0, 0, np.pi / 2])
    columns, rows = (turned(quarter, "quat_xyzw", f)[0] for f in ("rot6d", "rot6d_rows"))
    np.testing.assert_allclose(columns, [0, 1, 0, -1, 0, 0], atol=1e-12)
    np.testing.assert_allclose(rows, [0, -1, 0, 1, 0, 0], atol=1e-12)


@pytest.mark.parametrize(
    ("mapping", "expected"),
    [
        ("fields: 3", "map.yaml: fields: Input should be"),
        ("{}", "map.yaml: fields: Field required"),
        ("fields: {}", "no fields; expected at least one"),
        ("feilds: {state: {from: state}}", "map.yaml: fields: Field required"),
        ("fields: {state: {from: state, frm: 1}}", "map.yaml: fields.state.frm: Extra inputs"),
        ("fields: {state: {from: state, text: a}}", "expected one of from, parts and text"),
        ("fields: {'a b': {from: state}}", "a field called 'a b'"),
        ("fields: {state: {from: stat}}", "no 'stat', which the mapping names, did you mean"),
        ("fields: {state: {from: state, dims: '0:9'}}", "'state' has 3 numbers; expected those"),
        ("fields: {state: {from: state, dims: '2:1'}}", "'state' has 3 numbers; expected those"),
        ("fields: {state: {from: state, dims: [0, 7]}}", "'state' has 3 numbers; expected those"),
        ("fields: {state: {from: state, dims: 'a'}}", "dims 'a'; expected a slice"),
        ("fields: {state: {from: state, scale: [1, 2]}}", "expected as many in scale and offset"),
        ("fields: {state: {from: state, names: [a]}}", "1 names of 'state', which has 3 numbers"),
        ("fields: {state: {from: state, rotation: {from: quat, to: rpy}}}", "did you mean 'quat_"),
        (
            "fields: {state: {from: state, rotation: {from: quat_xyzw, to: rpy}}}",
            "a quat_xyzw at 0",
        ),
        ("fields: {state: {from: state, as: image}}", "'state' is float32 of shape"),
        ("fields: {state: {from: state}}\nsuccess: {from: action}", "expected one per step"),
        ("fields: {state: {from: state}}\ncontrol_hz: 0", "control_hz: Input should be greater"),
        ("!!python/object/apply:os.getcwd []", "no YAML (could not determine a constructor"),
        ("- state", "expected a mapping as --dry-run prints it"),
    ],
)
def test_mistakes_of_a_mapping_are_one_line(tmp_path, capsys, mapping, expected):
    source, file = made.zarr_store(tmp_path / "a.zarr"), tmp_path / "map.yaml"
    file.write_text(mapping)
    out = tmp_path / "b.zarr"
    words = ["data", "import", str(source), "--environment", "a/b", "--out", str(out)]
    assert main([*words, "--map", str(file)]) == 2
    said = capsys.readouterr().err
    assert expected in said and said.count("alltrades:") == 1
    assert {p.name for p in tmp_path.iterdir()} == {"a.zarr", "map.yaml"}


def test_an_episode_of_another_size_is_refused_by_its_name(tmp_path, capsys):
    source, out = made.npz(tmp_path / "set"), tmp_path / "b.zarr"
    e = made.numbers()[1]
    np.savez(source / "1.npz", task="put down", **(e | {"state": e["state"][:, :2]}))
    words = ["data", "import", str(source), "--environment", "a/b", "--out", str(out)]
    assert main(words) == 2
    said = capsys.readouterr().err
    assert "1.npz: 'state' is a state of 2 numbers, not a state of 3 numbers" in said
    assert main([*words, "--skip-damaged"]) == 0
    assert "warning:" in capsys.readouterr().err
