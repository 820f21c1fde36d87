"""`alltrades bench data` measures what its lines and its JSON say."""

import json

import numpy as np

from alltrades.bench import recordings as bench
from alltrades.cli import main


def test_every_row_has_a_ratio_of_what_was_imported_and_checked(tmp_path, monkeypatch, capsys):
    small = {"EPISODES": 6, "STEPS": 20, "CAMERA": (3, 10, 32), "MANY": (8, 30), "ROUNDS": 2}
    for name, value in small.items():
        monkeypatch.setattr(bench, name, value)
    file = tmp_path / "b.json"
    assert main(["bench", "data", "--json", str(file)]) == 0
    said = capsys.readouterr().out
    rows = {row["what"]: row for row in json.loads(file.read_text())}
    assert {k: r["steps"] for k, r in rows.items() if "steps" in r} == {
        "import zarr": 120,
        "import parquet": 120,
        "import video": 30,
        "check": 240,
    }
    assert rows["size"]["ratio"] == rows["size"]["bytes"] / rows["size"]["source_bytes"]
    for row in rows.values():
        ratios = [v for k, v in row.items() if "ratio" in k or "times" in k]
        assert ratios and all(np.isfinite(r) and r > 0 for r in ratios)
    assert "import of video" in said and "frames/s" in said and "check of 240 steps" in said
