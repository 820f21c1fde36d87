"""`alltrades bench store` measures what its lines and its JSON say."""

import json

import numpy as np
import pytest

from alltrades.bench import store as bench
from alltrades.bench.store_slopes import MEASURES, STEPS, fitted, planned
from alltrades.bench.synthetic import synthetic, write_synthetic
from alltrades.cli import main


def test_a_synthetic_store_has_so_many_steps_and_is_a_function_of_its_seed(tmp_path):
    store = write_synthetic(tmp_path / "s", 3000, 3, seed=1)
    assert (store.n_steps, len(store), len(store.interfaces())) == (3000, 30, 3)
    first, again, other = (next(synthetic(100, 1, seed)) for seed in (1, 1, 2))
    assert np.array_equal(first.observations["state"], again.observations["state"])
    assert np.array_equal(first.observations["state"], store.episode(0).observations["state"])
    assert not np.array_equal(first.observations["state"], other.observations["state"])


def test_every_part_is_measured_and_slopes_are_fitted(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(bench, "SWEEP", ((400, 2),))
    run = (
        bench._run
    )  # of the two whole commands only that they are begun: they have their own tests
    monkeypatch.setattr(bench, "_run", lambda w: "" if "alltrades" in w[2:3] else run(w))
    file = tmp_path / "b.json"
    words = ["bench", "store", "--sweep", "--count", "1", "--data", str(tmp_path)]
    assert main([*words, "--json", str(file)]) == 0
    *cases, last = json.loads(file.read_text())
    assert [(x["steps"], x["environments"], x["episodes"]) for x in cases] == [(400, 2, 4)]
    for case in cases:
        measured = [*MEASURES, *STEPS]
        assert all(np.isfinite(case[name]) for name in measured)
        assert case["append_s"] > 0 and case["store_start_s"] > case["index_s"] > 0
        assert case["disk_bytes"] > 200 * 48 and case["store_windows_per_s"] > 0
    assert last["slopes"].keys() == MEASURES.keys()
    said = capsys.readouterr().out
    assert "400 steps of 2 environments:" in said and "more a thousand environments" in said
    assert {p.name for p in tmp_path.iterdir()} == {"b.json"}  # stores are deleted


def test_slopes_are_those_of_the_plane_that_was_measured():
    sizes = [(10**4, 10), (10**5, 10), (10**6, 10), (10**6, 100), (10**6, 1000)]
    found = [
        {"steps": s, "environments": k, "x": 0.5 + 3e-7 * s + 2e-3 * k, "flat": 7.0}
        for s, k in sizes
    ]
    slopes = fitted(found, "x")
    assert np.allclose(list(slopes.values()), [0.5, 3e-7, 2e-3], rtol=1e-6)
    assert np.allclose(list(fitted(found, "flat").values()), [7, 0, 0], atol=1e-9)


@pytest.mark.parametrize(
    "words",
    [
        ["--environments", "0"],
        ["--steps", "50"],
        ["--steps", "1000", "--environments", "11"],
    ],
)
def test_sizes_that_no_store_can_have_are_refused(capsys, words):
    assert main(["bench", "store", *words]) == 2
    assert "expected an environment or more, 100 steps or more of each" in capsys.readouterr().err


def test_a_plan_is_the_slopes_at_its_size_and_the_steps_of_large_stores():
    slopes = {name: {"base": 1.0, "step": 1e-8, "environment": 1e-3} for name in MEASURES}
    sizes = ((10, 9.0), (10**6, 0.25), (10**6, 0.5), (10**7, 0.75))
    found = [{"steps": s, "environments": 10, **dict.fromkeys(STEPS, t)} for s, t in sizes]
    plan = planned(slopes, found)
    assert all(plan[name] == pytest.approx(1 + 1 + 1) for name in MEASURES)
    assert plan["appends_processor_s"] == pytest.approx(3 * 10**6)  # of 100 steps each
    assert plan["store_pass_processor_s"] == pytest.approx(10**8 / 256 * 0.5)  # not of small ones
