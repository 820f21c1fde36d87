"""An import by several processes is the import by one, whatever becomes of them."""

import os
import signal

import numpy as np
import pytest

from alltrades.cli import main
from alltrades.data.formats import importing_shards
from alltrades.data.store import EpisodeStore
from tests.data.formats import made


def folder(path, damaged=()):
    """Nine recordings, of which some cannot be read."""
    path.mkdir()
    rng = np.random.default_rng(0)
    for i in range(9):
        arrays = {"state": rng.normal(size=(5 + i, 3)), "action": rng.normal(size=(5 + i, 2))}
        if i in damaged:
            arrays["action"] = arrays["action"][:-3]
        np.savez(path / f"{i}.npz", **arrays)
    return path


def run(source, out, *words):
    command = ["data", "import", str(source), "--environment", "lab/x", "--out", str(out)]
    return main([*command, *words])


def test_the_store_of_several_processes_is_that_of_one_to_the_last_byte(tmp_path, capsys):
    source = folder(tmp_path / "set", damaged=(0, 5))
    stores, said = [], []
    for n in (1, 3):
        assert run(source, tmp_path / f"{n}", "--skip-damaged", "--workers", str(n)) == 0
        stores.append(tmp_path / f"{n}")
        warnings = capsys.readouterr().err.splitlines()
        said.append([line for line in warnings if line.startswith("warning: ")])
    assert len(said[0]) == 2 and said[0] == said[1]
    one, many = ({p.relative_to(s): p for s in (x,) for p in x.rglob("*")} for x in stores)
    assert one.keys() == many.keys()
    assert all(p.read_bytes() == many[n].read_bytes() for n, p in one.items() if p.is_file())
    assert len(EpisodeStore.open(stores[0])) == 7


def test_tasks_of_all_processes_become_the_same_environments(tmp_path):
    source = made.lerobot(tmp_path / "set")
    for n in ("1", "2"):
        assert run(source, tmp_path / n, "--tasks", "environments", "--workers", n) == 0
    one, many = (EpisodeStore.open(tmp_path / n) for n in ("1", "2"))
    assert one.digest() == many.digest() and one.provenance == many.provenance
    assert [e.environment for e in many.episodes()][1] == "lab/x-put-down"


def test_the_first_episode_that_cannot_be_imported_is_named_and_nothing_is_left(tmp_path, capsys):
    source = folder(tmp_path / "set", damaged=(4, 8))
    said = []
    for n in ("1", "3"):
        assert run(source, tmp_path / n, "--workers", n) == 2
        said.append(capsys.readouterr().err.splitlines()[-1])
    assert said[0] == said[1] and "4.npz" in said[0]
    assert {p.name for p in tmp_path.iterdir()} == {"set"}


def test_a_killed_process_ends_the_import_in_one_line_and_the_same_command_goes_on(
    tmp_path, capsys, monkeypatch
):
    source = folder(tmp_path / "set")
    begun = importing_shards._begun

    def killed(work, part):
        process, pipe = begun(work, part)
        if part[0] == 1:
            os.kill(process.pid, signal.SIGKILL)
        return process, pipe

    with monkeypatch.context() as patch:
        patch.setattr(importing_shards, "_begun", killed)
        assert run(source, tmp_path / "out", "--workers", "2") == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert "the process that read episodes 4 to 8 ended with code -9" in error
    assert run(source, tmp_path / "out", "--workers", "2") == 0
    assert run(source, tmp_path / "one") == 0
    digests = {EpisodeStore.open(tmp_path / n).digest() for n in ("out", "one")}
    assert len(digests) == 1
    assert {p.name for p in tmp_path.iterdir()} == {"set", "out", "one"}


@pytest.mark.parametrize("workers", ["0", "-1"])
def test_no_processes_are_refused(tmp_path, capsys, workers):
    source = folder(tmp_path / "set")
    assert run(source, tmp_path / "out", "--workers", workers) == 2
    assert f"--workers: {workers}; expected a whole number" in capsys.readouterr().err
