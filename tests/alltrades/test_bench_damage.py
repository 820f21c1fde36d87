"""Files of every kind, damaged: `alltrades bench damage`."""

import json

import numpy as np
import pytest

from alltrades import cli
from alltrades.bench import damage as bench
from alltrades.bench.damage_kinds import KINDS, LIMITS, Kind
from alltrades.bench.mutations import OF_BYTES, OF_FILES, OF_TEXT, mutate
from alltrades.errors import UserError


def test_every_way_of_damage_happens_and_is_mended_by_the_seed_alone(tmp_path):
    text = json.dumps({"a": [1, 2.5], "b": {"c": "word"}}, indent=1)
    whole, other = tmp_path / "whole", tmp_path / "other"
    seen, contents = set(), []
    for repeat in range(2):
        contents.append([])
        for number in range(300):
            for folder, more in ((whole, ""), (other, " ")):
                folder.mkdir(exist_ok=True)
                for name in ("a.json", "b.bin"):
                    if (folder / name).is_dir():
                        (folder / name).rmdir()
                    (folder / name).write_text(text + more)
            files = [whole / "a.json", whole / "b.bin"]
            what, touched = mutate(whole, files, other, np.random.default_rng(number))
            seen.add(what.split(":")[0])
            contents[repeat].append([p.read_bytes() if p.is_file() else b"" for p in files])
            assert set(touched) <= set(files)
    assert seen == {*OF_BYTES, *OF_TEXT, *OF_FILES} and contents[0] == contents[1]


def judged(folder, use, promise="sealed", shown=lambda folder, found: False):
    kind = Kind("toy", ("*",), use, promise, shown)
    return bench._judged(kind, folder, bench.plain("before"), [], "what")[0]


def test_each_outcome_is_told_apart(monkeypatch, tmp_path):
    def crash(folder):
        raise KeyError("x")

    def refuse(folder):
        raise UserError("no")

    def slow(folder):
        end = bench.time.process_time() + 0.2
        while bench.time.process_time() < end:
            pass

    monkeypatch.setattr(bench, "SECONDS", 0.1)
    assert judged(tmp_path, crash) == "TRACEBACKS" and judged(tmp_path, refuse) == "refused"
    assert judged(tmp_path, slow) == "HANGS"
    assert judged(tmp_path, lambda folder: "before") == "equal"
    assert judged(tmp_path, lambda folder: "after") == "OTHER RESULTS"
    assert judged(tmp_path, lambda folder: "after", "plain") == "shown"
    assert judged(tmp_path, lambda folder: "after", "written") == "OTHER RESULTS"
    assert judged(tmp_path, lambda folder: "after", "written", lambda *_: True) == "shown"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("0.05", "0.025"),
        ("rate: 0.2", "rate: 0.01"),
        ("[-0.5, -0.5]", "[-0.25, -0.5]"),
        ("-0.75", "-0.5"),
    ],
)
def test_limits_are_shown_when_they_are_those_of_the_file(tmp_path, text, words):
    limits = KINDS["limits"]
    (tmp_path / "limits.yaml").write_text(LIMITS.replace(text, words))
    changed = limits.use(tmp_path)
    assert limits.shown(tmp_path, changed)
    (tmp_path / "limits.yaml").write_text(LIMITS)
    assert limits.shown(tmp_path, limits.use(tmp_path)) and not limits.shown(tmp_path, changed)


def test_a_recipe_is_shown_when_every_setting_has_its_value(tmp_path):
    recipe = KINDS["recipe"]
    (tmp_path / "recipe.yaml").write_text("environments: [planar]\nseed: 3\nsmall: {seed: 4}\n")
    resolved = recipe.use(tmp_path)
    assert recipe.shown(tmp_path, resolved)
    assert not recipe.shown(tmp_path, resolved.replace("seed: 3", "seed: 5"))


def test_an_unknown_kind_is_named(capsys):
    assert cli.main(["bench", "damage", "--kinds", "stores"]) == 2
    assert "--kinds stores; expected some of store, " in capsys.readouterr().err


@pytest.mark.slow
def test_damaged_files_of_every_kind_are_refused_or_read_as_they_were(tmp_path, capsys):
    out = tmp_path / "found.json"
    assert cli.main(["bench", "damage", "--count", "40", "--json", str(out)]) == 0
    found = {one["kind"]: one for one in json.loads(out.read_text())}
    assert set(found) == set(KINDS) and all(one["ok"] for one in found.values())
    assert all(one["refused"] > 0 for one in found.values())
