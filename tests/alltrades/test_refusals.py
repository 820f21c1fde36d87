"""Disks that are full or cannot be written: one line with the path, and what was there is kept."""

import errno
import json
import os
import stat
import subprocess
import sys
import threading

import pytest

from alltrades import cli
from alltrades.data.store import EpisodeStore
from alltrades.errors import UserError
from alltrades.system import files, refusals
from alltrades.system.files import check_writable, write_json, write_text
from alltrades.system.tracking import Tracker
from tests.data.stores import episode


def refuse(monkeypatch, number, name):
    """Make the system refuse `os.NAME` of what holds "out" in its path."""
    real = getattr(os, name)

    def refused(path, *args, **kwargs):
        if "out" in str(path):
            raise OSError(number, os.strerror(number), str(path))
        return real(path, *args, **kwargs)

    monkeypatch.setattr(os, name, refused)


@pytest.mark.parametrize("number", sorted(refusals.REMEDIES))
def test_every_refusal_of_the_system_is_one_line_with_path_and_remedy(
    tmp_path, monkeypatch, number
):
    path = tmp_path / "out.json"
    path.write_text("before")
    refuse(monkeypatch, number, "replace")
    refuse(monkeypatch, number, "rename")
    with pytest.raises(UserError) as error:
        write_text(path, "after")
    said = str(error.value)
    assert said.startswith(f"{path}: cannot be written ({os.strerror(number)}); ")
    assert refusals.REMEDIES[number] in said and "kept" in said and "\n" not in said
    assert path.read_text() == "before" and list(tmp_path.iterdir()) == [path]


def test_a_library_that_words_the_refusal_itself_is_understood():
    for said in ("I/O error: No space left (os error 28)", "IoError(Os { code: 28, kind: X })"):
        assert refusals.os_error(Exception(f"Error: {said}")).errno == errno.ENOSPC
    assert refusals.os_error(ValueError("28")) is None
    assert refusals.os_error(BrokenPipeError(errno.EPIPE, "")) is None


@pytest.mark.parametrize(
    ("where", "number"),
    [
        ("file/out.json", errno.ENOTDIR),
        ("folder", errno.EISDIR),
        ("n" * 300, errno.ENAMETOOLONG),
        ("link", errno.ELOOP),
    ],
)
def test_a_place_where_no_file_can_stand_is_refused(tmp_path, where, number):
    (tmp_path / "file").write_text("x")
    (tmp_path / "folder").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "link")
    for write in (check_writable, lambda path: write_json(path, {})):
        with pytest.raises(UserError, match="cannot be written") as error:
            write(tmp_path / where)
        assert os.strerror(number) in str(error.value) or "file stands" in str(error.value)
    assert (tmp_path / "file").read_text() == "x"


@pytest.mark.parametrize("length", [240, 246, 250, 255])
def test_names_as_long_as_file_systems_take_are_written(tmp_path, length):
    write_text(tmp_path / ("n" * length), "x")
    assert [p.read_text() for p in tmp_path.iterdir()] == ["x"]


def test_links_are_followed_and_a_file_keeps_its_rights(tmp_path):
    real, link = tmp_path / "real.json", tmp_path / "link.json"
    real.write_text("old")
    real.chmod(0o640)
    link.symlink_to("real.json")
    write_text(link, "new")
    assert link.is_symlink() and real.read_text() == "new"
    assert stat.S_IMODE(real.stat().st_mode) == 0o640
    dangling = tmp_path / "to"
    dangling.symlink_to("made/later.json")
    write_text(dangling, "there")
    assert dangling.is_symlink() and (tmp_path / "made/later.json").read_text() == "there"


def test_devices_and_pipes_are_written_to_and_never_replaced(tmp_path):
    pipe, found = tmp_path / "pipe", []
    os.mkfifo(pipe)
    reader = threading.Thread(target=lambda: found.append(pipe.read_text()))
    reader.start()
    write_text(pipe, "through")
    reader.join(10)
    assert found == ["through"] and stat.S_ISFIFO(pipe.stat().st_mode)
    write_text("/dev/null", "x")
    assert stat.S_ISCHR(os.stat("/dev/null").st_mode)
    with pytest.raises(UserError, match="/dev/full: cannot be written .No space left"):
        write_text("/dev/full", "x")
    assert list(tmp_path.iterdir()) == [pipe]


def test_standard_output_gets_json_between_what_is_printed(tmp_path):
    code = (
        "from alltrades.system.files import write_text\n"
        "print('one'); write_text('/dev/stdout', 'two\\n'); print('three')\n"
        "write_text('/proc/self/fd/1', 'four\\n')"
    )
    with (tmp_path / "out").open("w") as out:
        subprocess.run([sys.executable, "-c", code], stdout=out, check=True)
    assert (tmp_path / "out").read_text() == "one\ntwo\nthree\nfour\n"


def test_a_line_of_metrics_that_does_not_fit_leaves_the_lines_before(tmp_path, monkeypatch):
    tracker = Tracker(tmp_path, mode="disabled")
    tracker.log("train", 1, {"loss": 1.0})
    before = tracker.path("train").read_bytes()

    class Full:
        """A file whose disk is full after half a line."""

        def __init__(self, file):
            self.file = file

        def write(self, data):
            self.file.write(data[: len(data) // 2])
            self.file.flush()
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

        def __getattr__(self, name):
            return getattr(self.file, name)

        def __enter__(self):
            return self

        def __exit__(self, *_):
            self.file.close()

    real = files.Path.open
    monkeypatch.setattr(files.Path, "open", lambda self, *a, **k: Full(real(self, *a, **k)))
    with pytest.raises(UserError, match="train.jsonl: cannot be written .No space left"):
        tracker.log("train", 2, {"loss": 0.5})
    monkeypatch.undo()
    assert tracker.path("train").read_bytes() == before
    tracker.log("train", 2, {"loss": 0.5})
    assert len(tracker.path("train").read_text().splitlines()) == 2


def test_an_append_to_a_store_that_does_not_fit_never_happened(tmp_path, monkeypatch):
    path = tmp_path / "s"
    with EpisodeStore.create(path) as store:
        store.append([episode(0, 4, 2, 1, "a")])
        digest = store.digest()
        real = os.replace

        def full(source, target):
            if "/reward/" in str(target):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            real(source, target)

        monkeypatch.setattr(os, "replace", full)
        with pytest.raises(UserError, match="reward/.*cannot be written .No space left"):
            store.append([episode(1, 4, 2, 1, "a")])
        assert (len(store), store.digest()) == (1, digest)
    assert EpisodeStore.open(path).digest() == digest and not list(path.rglob("*.partial"))
    monkeypatch.undo()
    with EpisodeStore.open(path, "a") as store:
        store.append([episode(1, 4, 2, 1, "a")])
    assert [e.seed for e in EpisodeStore.open(path).episodes()] == [0, 1]


def test_a_command_whose_output_is_full_says_so_in_one_line():
    with open("/dev/full", "w") as full:
        ended = subprocess.run(
            [sys.executable, "-m", "alltrades.cli", "envs"],
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
        )
    assert ended.returncode == 2
    assert ended.stderr.count("\n") == 1 and "No space left" in ended.stderr, ended.stderr


@pytest.mark.parametrize("number", [errno.EMFILE, errno.EIO, errno.EACCES])
def test_a_refusal_that_nobody_expected_is_one_line_too(tmp_path, monkeypatch, capsys, number):
    def refused(*_, **__):
        raise OSError(number, os.strerror(number), str(tmp_path / "x"))

    monkeypatch.setattr("alltrades.envs.registry.list_suites", refused)
    assert cli.main(["envs"]) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and str(tmp_path / "x") in said and os.strerror(number) in said


def test_json_on_standard_output_is_whole(capfd):
    write_json("/dev/stdout", {"a": 1})
    assert json.loads(capfd.readouterr().out) == {"a": 1}
