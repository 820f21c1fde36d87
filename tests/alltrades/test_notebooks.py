from pathlib import Path

import pytest

NOTEBOOKS = sorted((Path(__file__).parents[2] / "notebooks").glob("*.ipynb"))


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda p: p.name)
def test_notebook_runs_in_small_form(path, tmp_path, monkeypatch):
    nbformat = pytest.importorskip("nbformat", reason='needs: pip install "alltrades[notebook]"')
    nbclient = pytest.importorskip("nbclient", reason='needs: pip install "alltrades[notebook]"')
    pytest.importorskip("matplotlib", reason='needs: pip install "alltrades[notebook]"')
    monkeypatch.setenv("ALLTRADES_SMALL", "1")
    notebook = nbformat.read(path, as_version=4)
    nbclient.NotebookClient(notebook, timeout=240, resources={"metadata": {"path": str(tmp_path)}}).execute()
    outputs = [o for cell in notebook.cells if cell.cell_type == "code" for o in cell.outputs]
    assert any("image/png" in o.get("data", {}) for o in outputs)
    assert (tmp_path / "runs" / "notebook-small" / "evaluation" / "generalist.json").exists()
