from pathlib import Path

import pytest

from alltrades import cli

NOTEBOOKS = Path(__file__).parents[2] / "notebooks"


@pytest.fixture
def execute(tmp_path, monkeypatch):
    """Runs a notebook in a temporary folder, in its small form; returns its outputs."""
    nbformat = pytest.importorskip("nbformat", reason='needs: pip install "alltrades[notebook]"')
    nbclient = pytest.importorskip("nbclient", reason='needs: pip install "alltrades[notebook]"')
    pytest.importorskip("matplotlib", reason='needs: pip install "alltrades[notebook]"')
    monkeypatch.setenv("ALLTRADES_SMALL", "1")
    monkeypatch.setenv("PYTHONPATH", str(NOTEBOOKS))  # Jupyter starts a kernel in that folder
    monkeypatch.chdir(tmp_path)

    def run(name):
        notebook = nbformat.read(NOTEBOOKS / name, as_version=4)
        nbclient.NotebookClient(
            notebook, timeout=240, resources={"metadata": {"path": str(tmp_path)}}
        ).execute()
        return [
            o.get("data", {})
            for cell in notebook.cells
            if cell.cell_type == "code"
            for o in cell.outputs
        ]

    return run


def test_quickstart_notebook_runs_in_small_form(execute, tmp_path):
    assert any("image/png" in data for data in execute("quickstart.ipynb"))
    assert (tmp_path / "runs" / "notebook-small" / "evaluation" / "generalist.json").exists()


def test_method_notebook_shows_and_judges_the_studies_that_are_there(execute):
    few = [
        "--tracking.wandb",
        "disabled",
        "--rollout.workers",
        "0",
        "--rollout.timeout",
        "0",
        "--evaluation.episodes",
        "2",
        "--specialist.train.steps",
        "10",
        "--labeled_only.steps",
        "10",
        "--distill.train.steps",
        "10",
    ]
    assert cli.main(["run", "experiments/generalist_width", "--small", *few]) == 0
    assert cli.main(["run", "experiments/exact", "--small", "--repetitions", "2"]) == 0
    outputs = execute("method.ipynb")
    said = [data["text/markdown"] for data in outputs if "text/markdown" in data]
    assert sum("image/png" in data for data in outputs) == 2
    assert said.count("*Not run yet.*") >= 10
    for claim in (
        "generalist does not get worse with width",
        "demonstrations that two stages need do not grow",
    ):
        assert sum(claim in text for text in said) == 1
    assert any(text.startswith("| policy.width | row | success |") for text in said)
    assert any(
        "generalist and labeled-only 32 / 64 (varied) wide" in text and "training seeds 0." in text
        for text in said
    )
    assert any(
        "Cut: six planar environments, training steps equal at every width." in text
        for text in said
    )
    assert sum(text.startswith("**Outcome.** Of 2 claims:") for text in said) == 1
    assert (
        "- generalist_width: Of 2 claims" in said[-2]
        and "- exact: Of 4 claims" in said[-2]
        and "did not hold" in said[-1]
    )
