"""The run folder: whatever is killed when, the manifest is valid and the same call finishes the
work.
"""

import json
import os
import signal
import subprocess
import sys
import textwrap
import time
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from alltrades.data.store import EpisodeStore
from alltrades.errors import UserError
from alltrades.pipeline.rundir import RunDir
from alltrades.system.files import file_digest, to_json, tree_digest, write_json, write_text


class Counted:
    """A stage's body that writes `text` and counts its calls."""

    def __init__(self, path: Path, text: str = "x") -> None:
        self.path, self.text, self.calls = path, text, 0

    def __call__(self) -> None:
        self.calls += 1
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self.path.write_text(self.text)


def test_a_stage_runs_once_per_key(tmp_path):
    body = Counted(tmp_path / "out" / "a.txt")
    for expected in (True, False):
        with RunDir(tmp_path, seed=0) as run:
            assert (
                run.manifest.stage("s/a", {"lr": 0.1, "n": (1, 2)}, [body.path], body) is expected
            )
            assert run.manifest.stage("s/a", {"n": [1, 2], "lr": 0.1}, [body.path], body) is False
    with RunDir(tmp_path, seed=0) as run:
        assert run.manifest.stage("s/a", {"lr": 0.2, "n": (1, 2)}, [body.path], body) is True
    assert body.calls == 2


def test_the_manifest_records_what_was_done(tmp_path):
    body = Counted(tmp_path / "out" / "a.txt")
    with RunDir(tmp_path, seed=3) as run:
        run.manifest.stage("a", {"x": 1}, [tmp_path / "out"], body)
    data = json.loads((tmp_path / "manifest.json").read_text())
    assert data.pop("written_by") == "alltrades" and len(data.pop("_seal")) == 64
    assert set(data) == {"version", "seed", "packages", "machine", "stages"} and data["seed"] == 3
    record = data["stages"]["a"]
    assert record["state"] == "done" and record["outputs"] == {"out": tree_digest(tmp_path / "out")}
    assert set(record) == {"state", "key", "code", "outputs", "seconds", "finished"}
    assert "numpy" in data["packages"] and data["machine"]["cpus"] >= 1
    text = (tmp_path / "manifest.json").read_text()
    assert (
        os.uname().nodename not in text
        and str(Path.home()) + "/" not in text
        and str(tmp_path) not in text
    )


def test_a_stage_of_a_relative_is_copied_and_made_where_it_is_not_the_same(tmp_path):
    first, others = Counted(tmp_path / "first" / "out" / "a.txt", "one"), []
    with RunDir(tmp_path / "first", seed=0) as run:
        run.manifest.stage("s", {"n": 1}, [tmp_path / "first" / "out"], first)
    (tmp_path / "first" / "out" / "note.txt").write_text("not the stage's")
    for name, key, expected in (("same", 1, 0), ("other", 2, 1), ("changed", 1, 1)):
        if name == "changed":
            first.path.write_text("two")
        body = Counted(tmp_path / name / "out" / "a.txt", "own")
        with RunDir(
            tmp_path / name, seed=5, relatives=[tmp_path / "nowhere", tmp_path / "first"]
        ) as run:
            assert run.manifest.stage("s", {"n": key}, [tmp_path / name / "out"], body)
            assert not run.manifest.stage("s", {"n": key}, [tmp_path / name / "out"], body)
        assert body.calls == expected and body.path.read_text() == ("own" if expected else "one")
        others.append(sorted(p.name for p in (tmp_path / name / "out").iterdir()))
    assert others == [["a.txt"]] * 3


@pytest.mark.parametrize("damage", ["change", "remove"])
def test_a_damaged_output_is_made_again_from_nothing(tmp_path, damage):
    out = tmp_path / "out"

    def body() -> None:
        out.mkdir(exist_ok=True)
        assert list(out.iterdir()) == []  # nothing of the damaged one is left
        (out / "a").write_text("good")
        (out / "b").write_text("good")

    with RunDir(tmp_path, seed=0) as run:
        run.manifest.stage("a", {}, [out], body)
        (out / "a").write_text("bad") if damage == "change" else (out / "a").unlink()
        assert run.manifest.stage("a", {}, [out], body) is True
        assert (out / "a").read_text() == "good"


def test_files_put_beside_an_artifact_do_not_undo_its_stage(tmp_path):
    body = Counted(tmp_path / "policy" / "policy.json")
    with RunDir(tmp_path, seed=0) as run:
        run.manifest.stage("a", {}, [tmp_path / "policy"], body)
        (tmp_path / "policy" / "policy.onnx").write_text("exported later")
        assert run.manifest.stage("a", {}, [tmp_path / "policy"], body) is False
        assert (tmp_path / "policy" / "policy.onnx").exists()


def test_partial_work_is_continued_for_the_same_key_and_removed_for_another(tmp_path):
    store = tmp_path / "store"

    def append(fail: bool) -> None:
        store.mkdir(exist_ok=True)
        (store / str(len(list(store.iterdir())))).write_text("row")
        work = run.manifest.work("grow")
        (work / f"checkpoint{len(list(work.glob('checkpoint*')))}").write_text("")
        if fail:
            raise KeyboardInterrupt

    for _ in range(2):
        with RunDir(tmp_path, seed=0) as run, pytest.raises(KeyboardInterrupt):
            run.manifest.stage("grow", {"k": 1}, [store], lambda: append(True))
    assert (
        len(list(store.iterdir())) == 2
        and len(list(run.manifest.work("grow").glob("checkpoint*"))) == 2
    )
    assert run.manifest.stages == {}
    with RunDir(tmp_path, seed=0) as run:
        run.manifest.stage("grow", {"k": 1}, [store], lambda: append(False))
        assert len(list(store.iterdir())) == 3
        assert (
            list(run.manifest.work("grow").glob("checkpoint*")) == []
        )  # a finished stage needs no checkpoints
    with RunDir(tmp_path, seed=0) as run, pytest.raises(KeyboardInterrupt):
        run.manifest.stage("grow", {"k": 2}, [store], lambda: append(True))
    assert len(list(store.iterdir())) == 1 and run.manifest.stages == {}
    with RunDir(
        tmp_path, seed=0
    ) as run:  # back to the first key: the second one's partial work is not taken for it
        run.manifest.stage("grow", {"k": 1}, [store], lambda: append(False))
        assert len(list(store.iterdir())) == 1


def test_removal_that_was_killed_half_way_is_begun_again(tmp_path, monkeypatch):
    store = tmp_path / "store"
    names: list[list[str]] = []

    def body() -> None:
        store.mkdir(exist_ok=True)
        names.append(sorted(p.name for p in store.iterdir()))
        for name in "abc":
            (store / name).write_text(name)
        if len(names) == 1:
            raise KeyboardInterrupt

    with RunDir(tmp_path, seed=0) as run, pytest.raises(KeyboardInterrupt):
        run.manifest.stage("s", {"k": 1}, [store], body)

    def half(path: Path) -> None:
        (path / "b").unlink()
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, RunDir(tmp_path, seed=0) as run:
        patch.setattr("alltrades.pipeline.manifest.remove", half)
        with pytest.raises(KeyboardInterrupt):
            run.manifest.stage("s", {"k": 2}, [store], body)
    with RunDir(tmp_path, seed=0) as run:
        run.manifest.stage("s", {"k": 1}, [store], body)
    assert names == [[], []]


def test_outputs_that_no_run_wrote_are_never_removed(tmp_path):
    (tmp_path / "stores").mkdir()
    (tmp_path / "stores" / "mine").write_text("precious")
    with RunDir(tmp_path, seed=0) as run, pytest.raises(UserError, match="no run wrote it"):
        run.manifest.stage("demos", {}, [tmp_path / "stores"], lambda: None)
    assert (tmp_path / "stores" / "mine").read_text() == "precious"


def test_outputs_outside_the_folder_and_missing_outputs_are_bugs(tmp_path):
    with RunDir(tmp_path / "run", seed=0) as run:
        with pytest.raises(ValueError, match="outside"):
            run.manifest.stage("a", {}, [tmp_path / "elsewhere"], lambda: None)
        with pytest.raises(RuntimeError, match="did not write out"):
            run.manifest.stage("a", {}, [tmp_path / "run" / "out"], lambda: None)
        assert run.manifest.stages == {}
    with pytest.raises(RuntimeError, match="with RunDir"):
        run.manifest.stage("a", {}, [], lambda: None)


def test_a_second_run_in_the_folder_is_refused(tmp_path):
    with RunDir(tmp_path, seed=0):
        with (
            pytest.raises(UserError, match=f"in use by process {os.getpid()}"),
            RunDir(tmp_path, seed=0),
        ):
            pass
    with RunDir(tmp_path, seed=0):
        pass


def test_the_lock_of_a_killed_run_is_taken_over(tmp_path):
    code = f"""
        import time
        from alltrades.pipeline.rundir import RunDir
        with RunDir({str(tmp_path)!r}, seed=0):
            print("locked", flush=True)
            time.sleep(60)
    """
    process = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(code)], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None and process.stdout.readline() == "locked\n"
    with (
        pytest.raises(UserError, match=f"in use by process {process.pid}"),
        RunDir(tmp_path, seed=0),
    ):
        pass
    process.kill()
    process.wait()
    process.stdout.close()
    assert (tmp_path / ".lock").read_text().strip() == str(process.pid)
    with RunDir(tmp_path, seed=0) as run:
        assert run.manifest.stage("a", {}, [], lambda: None) is True


def test_another_seed_or_format_in_the_folder_is_refused(tmp_path):
    body = Counted(tmp_path / "a")
    with RunDir(tmp_path, seed=0):
        pass
    with RunDir(tmp_path, seed=1) as run:  # nothing was done yet
        run.manifest.stage("a", {}, [body.path], body)
    with pytest.raises(UserError, match="holds a run with seed 1, not 2"), RunDir(tmp_path, seed=2):
        pass
    assert RunDir(tmp_path).manifest.data["seed"] == 1
    write_json(tmp_path / "manifest.json", {"version": 99, "stages": {}})
    with pytest.raises(UserError, match="another format"), RunDir(tmp_path, seed=1):
        pass
    (tmp_path / "manifest.json").write_text("{")
    with pytest.raises(UserError, match="manifest.json: cannot be read"), RunDir(tmp_path, seed=1):
        pass
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="expected a folder"), RunDir(tmp_path / "file" / "run"):
        pass
    with pytest.raises(UserError, match="no manifest.json"):
        print(RunDir(tmp_path / "nothing").manifest.data)


KILLED = """
    import json, sys
    from pathlib import Path
    from alltrades.pipeline.rundir import RunDir
    from alltrades.system.files import write_json

    folder = Path(sys.argv[1])

    def grow(stage, rows):
        def body():
            out, checkpoint = folder / stage, run.manifest.work(stage) / "state.json"
            state = json.loads(checkpoint.read_text()) if checkpoint.exists() else []
            while len(state) < rows:
                state.append(len(state) ** 2)
                write_json(checkpoint, state)
            write_json(folder / stage / "result.json", state)
        return body

    print("go", flush=True)
    with RunDir(folder, seed=0) as run:
        for i in range(6):
            run.manifest.stage(f"s{i}", {"rows": 20}, [folder / f"s{i}"], grow(f"s{i}", 20))
"""


def test_kill_at_any_moment_leaves_a_valid_manifest_and_the_same_results(tmp_path):
    script = tmp_path / "run.py"
    script.write_text(textwrap.dedent(KILLED))
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    subprocess.run([sys.executable, script, whole], check=True, capture_output=True)
    delays, kills = np.random.default_rng(0).uniform(0.0, 0.12, size=12), 0
    for delay in delays:
        process = subprocess.Popen(
            [sys.executable, script, killed], stdout=subprocess.PIPE, text=True
        )
        assert process.stdout is not None
        process.stdout.readline()
        time.sleep(float(delay))
        process.send_signal(signal.SIGKILL)
        kills += process.wait() == -signal.SIGKILL
        process.stdout.close()
        if (killed / "manifest.json").exists():
            for name, record in json.loads((killed / "manifest.json").read_text())[
                "stages"
            ].items():
                assert record["outputs"] == {name: tree_digest(whole / name)}
    assert kills > 0
    subprocess.run([sys.executable, script, killed], check=True, capture_output=True)
    for i in range(6):
        assert tree_digest(killed / f"s{i}") == tree_digest(whole / f"s{i}")


def test_a_reader_sees_the_old_or_the_new_file(tmp_path, monkeypatch):
    path = tmp_path / "a" / "b.txt"
    write_text(path, "old")
    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", lambda _: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            write_text(path, "new")
    assert path.read_text() == "old"
    write_text(path, "new")
    assert path.read_text() == "new" and [p.name for p in path.parent.iterdir()] == ["b.txt"]


def test_json_is_stable_and_valid():
    value = {
        "b": np.float64(0.1),
        "a": (np.int64(3), float("nan")),
        "c": np.arange(2),
        "d": Path("x/y"),
        "e": {2, 1},
    }
    text = to_json(value)
    assert json.loads(text) == {"a": [3, None], "b": 0.1, "c": [0, 1], "d": "x/y", "e": [1, 2]}
    assert text == to_json(dict(reversed(value.items())))
    with pytest.raises(TypeError, match="object"):
        to_json(object())


def test_tree_digest_depends_on_names_and_contents_only(tmp_path):
    for name in ("one", "two"):
        write_text(tmp_path / name / "x" / "a", "1")
        write_text(tmp_path / name / "b", "2")
    one = tree_digest(tmp_path / "one")
    assert one == tree_digest(tmp_path / "two")
    write_text(tmp_path / "two" / "b", "3")
    assert one != tree_digest(tmp_path / "two")
    write_text(tmp_path / "two" / "b", "2")
    (tmp_path / "two" / "b").rename(tmp_path / "two" / "c")
    assert one != tree_digest(tmp_path / "two")
    write_text(tmp_path / "abc", "abc")  # FIPS 180-2, appendix B.1
    assert (
        file_digest(tmp_path / "abc")
        == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    )


def test_an_artifacts_folder_keeps_the_account_of_its_stage_in_a_sub_folder(tmp_path):
    body = Counted(tmp_path / "policy.json")
    for expected in (True, False):
        with RunDir(tmp_path, account=".stage") as run:
            assert run.manifest.stage("a", {}, [body.path], body) is expected
    assert {p.name for p in tmp_path.iterdir()} == {"policy.json", ".stage"}
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "policy.json").write_text("precious")
    with RunDir(tmp_path / "mine", account=".stage") as run:
        with pytest.raises(UserError, match="no run wrote it"):
            run.manifest.stage("a", {}, [tmp_path / "mine" / "policy.json"], body)


def test_a_run_and_an_artifact_do_not_share_a_folder(tmp_path):
    for own, other in (("", ".stage"), (".stage", "")):
        folder = tmp_path / f"of{own}"
        with RunDir(folder, 0, account=own) as run:
            run.manifest.stage("a", {}, [folder / "a"], partial(write_text, folder / "a", "1"))
        before = sorted(folder.rglob("*"))
        with pytest.raises(UserError, match="is there already; expected another place"):
            with RunDir(folder, 0, account=other):
                raise AssertionError
        assert sorted(folder.rglob("*")) == before


def test_nothing_else_is_written_into_a_store_of_episodes(tmp_path):
    path = EpisodeStore.create(tmp_path / "demos.zarr").path
    before = sorted(path.rglob("*"))
    with pytest.raises(UserError, match="a store of episodes; expected another place for a folder"):
        with RunDir(path, what="folder", account=".stage"):
            raise AssertionError
    assert sorted(path.rglob("*")) == before
