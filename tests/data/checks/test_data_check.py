"""`alltrades data check` as a user calls it."""

import json

import numpy as np
import pytest

from alltrades.cli import main
from alltrades.data.episode import Episode
from alltrades.data.store import EpisodeStore
from tests.data.checks.planted import check, recordings, store


@pytest.fixture
def faulty(tmp_path):
    raw = recordings(16)
    raw[3]["state"][9, 1] = np.nan
    raw[6] = raw[2]
    for name in ("state", "action"):
        raw[8][name] = np.concatenate([raw[8][name][:1].repeat(20, 0), raw[8][name]])
    raw[8]["timestamp"] = (np.arange(len(raw[8]["state"])) / 10)[:, None].astype(np.float32)
    raw[8]["successes"] = np.arange(len(raw[8]["state"])) == len(raw[8]["state"]) - 1
    return store(tmp_path / "faulty.zarr", raw)


def test_findings_are_printed_and_written_and_an_error_is_exit_code_1(faulty, tmp_path, capsys):
    file = tmp_path / "found.json"
    assert main(["data", "check", str(faulty.path), "--json", str(file)]) == 1
    out = capsys.readouterr().out
    assert "error: not finite: lab/pick, episode 3, step 9: state[1] is NaN" in out
    said = json.loads(file.read_text())
    assert said["counts"]["error"] == 2
    first = next(f for f in said["findings"] if f["kind"] == "duplicate")
    assert (first["severity"], first["episode"], first["environment"]) == ("error", 6, "lab/pick")
    assert all(f["what"] and f["remedy"] for f in said["findings"])


def test_a_cleaned_copy_has_none_of_it_and_says_what_was_changed(faulty, tmp_path, capsys):
    before, out = faulty.digest(), tmp_path / "clean.zarr"
    main(["data", "check", str(faulty.path), "--fix", str(out)])
    said = capsys.readouterr().out
    clean = EpisodeStore.open(out)
    assert EpisodeStore.open(faulty.path).digest() == before
    assert [int(s) for s in clean.columns()["seed"]] == [i for i in range(16) if i not in (3, 6)]
    assert len(clean.episode(6)) == len(faulty.episode(8)) - 18  # two of the idle steps stay
    assert clean.columns()["success"].all()
    changes = clean.provenance["changes"]
    assert len(changes) == 3 and all(change in said for change in changes)
    assert clean.provenance["sources"][0]["digest"] == before
    assert main(["data", "check", str(out)]) == 0


def test_a_clean_store_is_exit_code_0(tmp_path, capsys):
    kept = store(tmp_path / "a.zarr", recordings(8))
    assert main(["data", "check", str(kept.path)]) == 0
    assert "0 errors, 0 warnings" in capsys.readouterr().out


@pytest.mark.parametrize("argument", ["nowhere.zarr", "."])
def test_misuse_is_exit_code_2(argument, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(["data", "check", argument]) == 2
    assert capsys.readouterr().err.count("\n") == 1


def test_what_a_store_says_itself_is_not_told(faulty, capsys):
    assert main(["data", "check", str(faulty.path), "--environment", "lab/other"]) == 2
    assert "--environment lab/other says what foreign stores are of" in capsys.readouterr().err


def test_something_at_the_copy_is_refused_before_anything_is_checked(faulty, tmp_path, capsys):
    (tmp_path / "there").mkdir()
    assert main(["data", "check", str(faulty.path), "--fix", str(tmp_path / "there")]) == 2
    assert "something is there already" in capsys.readouterr().err


def test_a_step_or_two_at_an_extreme_are_no_limit(tmp_path):
    """In a store of few steps the largest value is always that of a twentieth of them."""
    rng = np.random.default_rng(0)
    raw = rng.normal(size=(20, 3)).astype(np.float32)
    clipped = raw.clip(-0.5, 0.5)
    for name, state, kinds in (("free", raw, set()), ("clipped", clipped, {"saturated"})):
        episode = Episode.from_arrays({"state": state}, raw[:, :2], "lab/arm")
        made = EpisodeStore.write(tmp_path / f"{name}.zarr", [episode])
        assert {f.kind for f in check(made)} & {"saturated"} == kinds
