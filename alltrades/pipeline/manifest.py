"""manifest.json of a run folder: which stages are done, from which inputs, with which outputs.

A stage is done when the manifest says so for the same key (digest of its inputs) and the same code,
and its outputs still have the recorded digests. The manifest is the one commit point, replaced by
rename. Before that, `work/<stage>/key.json` says whose partial files lie around: those of the same
key and code are continued by the stage itself, others are removed first.
"""

from __future__ import annotations

import platform
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from alltrades.errors import UserError
from alltrades.pipeline.changes import code_changes, in_short, key_changes
from alltrades.pipeline.notes import (
    inside,
    is_record,
    key_digest,
    listing_of,
    overlap,
    read_note,
)
from alltrades.pipeline.own_code import own_code
from alltrades.system.files import copy, jsonable, list_files, remove, slug, tree_digest
from alltrades.system.machine import processors
from alltrades.system.reading import read_mapping, write_sealed

VERSION = 1
EXPECTED = "a manifest that `alltrades run` wrote"
REMEDY = "restore it from a copy, or choose another folder"
PACKAGES = (
    "alltrades",
    "torch",
    "numpy",
    "scipy",
    "scikit-learn",
    "gymnasium",
    "mujoco",
    "zarr",
    "safetensors",
    "pydantic",
    "metaworld",
    "gym-pusht",
)


def facts() -> tuple[dict[str, str], dict[str, Any]]:
    """Versions of packages, and the machine without names of hosts, users or paths."""
    from importlib.metadata import PackageNotFoundError, version

    packages = {}
    for name in PACKAGES:
        try:
            packages[name] = version(name)
        except PackageNotFoundError:
            continue
    torch = sys.modules.get(
        "torch"
    )  # not worth an import: where torch is not loaded its threads played no part
    machine = {
        "cpus": processors(),
        "platform": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "torch_threads": torch.get_num_threads() if torch is not None else None,
    }
    return packages, machine


def _nowhere(_: str) -> None: ...


class Manifest:
    """manifest.json: {"version", "seed", "packages", "machine", "stages": {name: record}, "files":
    {path: digest}}, the last of what is written beside the stages.

    A record is {"state": "done", "key", "code", "outputs": {path: digest}, "seconds", "finished"}:
    "key" the digest of the stage's inputs, "code" what `code_of` says of the code, paths relative
    to the folder, "seconds" those of the process that finished the stage, "finished" in UTC.

    Attributes:
        code: the code of now.
        same_code: whether a stage that other code made runs again.
    """

    def __init__(
        self,
        folder: Path,
        seed: int | None,
        relatives: Sequence[Path] = (),
        account: Path | None = None,
    ) -> None:
        self.folder, self._seed, self._relatives = folder, seed, tuple(relatives)
        self._account = folder if account is None else account
        self._lock = threading.RLock()  # stages may run beside one another
        self._data: dict[str, Any] | None = None
        self._open = False
        self.code, self.same_code = dict(own_code()), True

    @property
    def path(self) -> Path:
        return self._account / "manifest.json"

    def work(self, stage: str) -> Path:
        """Folder for a stage's own partial files (checkpoints); emptied when the stage is done."""
        return self._account / "work" / slug(stage)

    @property
    def data(self) -> dict[str, Any]:
        """The manifest's content; UserError when the folder has none."""
        if self._data is None:
            self._data = self._read()
            if self._data is None:
                raise UserError(f"{self.folder} holds no manifest.json; expected a run folder")
        return self._data

    @property
    def stages(self) -> dict[str, dict[str, Any]]:
        return self.data["stages"]

    def _read(self) -> dict[str, Any] | None:
        if not self.path.exists():
            return None
        data = read_mapping(self.path, EXPECTED, REMEDY)
        if data.get("version") != VERSION or not isinstance(data.get("stages"), dict):
            raise UserError(
                f"{self.path} is of another format; expected version {VERSION}; choose another "
                "folder"
            )
        if not all(map(is_record, data["stages"].values())) or "seed" not in data:
            raise UserError(
                f"{self.path}: cannot be read (a stage without a key or outputs); expected "
                f"{EXPECTED}; {REMEDY}"
            )
        return data

    def open(self) -> None:
        """Read or begin the manifest and bring its facts up to date; stages may be written until
        `close`. For one process at a time: see `RunDir`.
        """
        found = self._read()
        stages = found["stages"] if found is not None else {}
        seed = self._seed if self._seed is not None or found is None else found["seed"]
        if found is not None and stages and found["seed"] != seed:
            raise UserError(
                f"run folder {self.folder} holds a run with seed {found['seed']}, not {seed}; "
                "expected one seed per folder; choose another folder, or delete this one"
            )
        packages, machine = facts()
        self._data = {
            "version": VERSION,
            "seed": seed,
            "packages": packages,
            "machine": machine,
            "stages": stages,
        }
        if found is not None and "files" in found:
            self._data["files"] = found["files"]
        if self._data != found:
            write_sealed(self.path, self._data)
        self._open = True

    def close(self) -> None:
        """No more stages are written."""
        self._open = False

    def write(self, path: Path, value: Mapping[str, Any]) -> None:
        """Write JSON beside the stages; its digest is remembered."""
        write_sealed(path, value)
        noted, digest = inside(self.folder, path), tree_digest(path)
        with self._lock:
            files = self.data.setdefault("files", {})
            if files.get(noted) != digest:
                files[noted] = digest
                write_sealed(self.path, self.data)

    def done(self, name: str, key: Mapping[str, Any]) -> bool:
        """Whether the stage is done with these inputs and this code, and its outputs are as it left
        them. O(bytes of the outputs).
        """
        return self._changes(name, key) == []

    def other_code(self, name: str) -> list[str]:
        """How the code that a stage was made with differs from that of now, where that counts."""
        record = self.stages.get(name)
        if record is None or not self.same_code:
            return []
        return code_changes(record.get("code"), self.code)

    def _changes(self, name: str, key: Mapping[str, Any]) -> list[str] | None:
        """What keeps a stage that was done from being so still; None for one that was not."""
        record = self.stages.get(name)
        if record is None:
            return None
        changes = self.other_code(name)
        if record["key"] != key_digest(key):
            old = read_note(self.work(name) / "key.json").get("key")
            found = key_changes(old, jsonable(key)) if isinstance(old, dict) else []
            changes += found or ["other inputs"]
        return changes or self._damaged(name, record)

    def intact(self, name: str) -> bool:
        """Whether the outputs of a finished stage are as it left them. O(bytes)."""
        return not self._damaged(name, self.stages[name])

    def _damaged(self, name: str, record: Mapping[str, Any]) -> list[str]:
        """Outputs that are not as the stage left them."""
        listing, damaged = listing_of(self.work(name)), []
        for path, digest in record["outputs"].items():
            # the listing, not the folder: a file that somebody put beside an artifact does not
            # change it
            try:
                right = tree_digest(self.folder / path, listing.get(path)) == digest
            except (OSError, ValueError):
                right = False
            damaged += [] if right else [f"{path} was changed or is missing"]
        return damaged

    def stage(
        self,
        name: str,
        key: Mapping[str, Any],
        outputs: Sequence[Path],
        run: Callable[[], None],
        say: Callable[[str], None] = _nowhere,
    ) -> bool:
        """Run a stage unless it is done; returns whether it ran.

        Time: O(bytes of the outputs) to check them, plus `run`. After a kill, call it again: `run`
        finds its own partial files of the same key as they were.

        Args:
            name: the stage, unique in the run; may hold slashes.
            key: everything the outputs depend on, as JSON-able data.
            outputs: files and folders inside the run folder that `run` writes, no two stages the
                same.
            run: does the work; must itself continue from partial outputs and from the files in
                `work(name)`.
            say: called with why the stage is kept or runs again.

        Raises:
            UserError: an output is there already that no run wrote.
        """
        if not self._open:
            raise RuntimeError("stages are written inside `with RunDir(...)` only")
        paths = [inside(self.folder, p) for p in outputs]
        work, digest = self.work(name), key_digest(key)
        with self._lock:
            changes = self._changes(name, key)
            if changes == []:
                say(self._kept(name))
                self._clean(work)
                return False
            if changes:
                say(f"{name}  again: {in_short(changes)}")
            marker = read_note(work / "key.json")
            other, code = self.same_code and marker.get("code") != self.code, marker.get("code")
            if name in self.stages or marker.get("digest") != digest or other:
                code = dict(self.code)
                self._displace(name, paths)
                self._discard(name, paths, marker)
                note = {"digest": digest, "key": key, "code": code, "outputs": paths}
                write_sealed(work / "key.json", note)
                if self.stages.pop(name, None) is not None:
                    write_sealed(self.path, self.data)
        start = time.monotonic()
        taken = self._take_over(name, digest, paths, work)
        if taken is None:
            run()
        else:
            code = taken.get("code")
        missing = [p for p in paths if not (self.folder / p).exists()]
        if missing:
            raise RuntimeError(f"stage '{name}' did not write {', '.join(missing)}")
        listing = {p: list_files(self.folder / p) for p in paths}
        write_sealed(work / "outputs.json", listing)
        record = {
            "state": "done",
            "key": digest,
            "code": code,
            "seconds": round(time.monotonic() - start, 3),
            "outputs": {p: tree_digest(self.folder / p, listing[p]) for p in paths},
            "finished": datetime.now(UTC).isoformat(timespec="seconds"),
        }
        with self._lock:
            self.stages[name] = record
            write_sealed(self.path, self.data)
        self._clean(work)
        return True

    def _kept(self, name: str) -> str:
        record = self.stages[name]
        same, when = "settings, inputs, code and outputs", record.get("finished")
        other = code_changes(record.get("code"), self.code)
        if not other:
            return f"{name}  kept: same {same} as at {when}"
        return f"{name}  kept from {when}, although {in_short(other)} (--no-same_code)"

    def _take_over(
        self, name: str, digest: str, paths: Sequence[str], work: Path
    ) -> dict[str, Any] | None:
        """Copy the outputs of a relative's stage of this name, key and code, where they are as it
        left them; returns its record.

        They are copied aside and renamed, so that a kill leaves no output in part.
        """
        for relative in self._relatives:
            record = read_note(relative / "manifest.json").get("stages", {}).get(name)
            if not is_record(record):
                continue
            if record["key"] != digest or set(record["outputs"]) != set(paths):
                continue
            if self.same_code and record.get("code") != self.code:
                continue
            listing = listing_of(relative / "work" / slug(name))
            try:
                for i, path in enumerate(paths):
                    copied = work / f"copy-{i}"
                    remove(copied)
                    copy(relative / path, copied, listing.get(path))
                    if tree_digest(copied, listing.get(path)) != record["outputs"][path]:
                        raise OSError(f"{relative / path} was changed")
            except OSError:
                continue
            for i, path in enumerate(paths):
                target = self.folder / path
                remove(target)
                target.parent.mkdir(parents=True, exist_ok=True)
                (work / f"copy-{i}").rename(target)
            return record
        return None

    def _displace(self, name: str, paths: Sequence[str]) -> None:
        """Forget, and remove what they left, other stages that wrote to the same places when the
        run had other settings, such as those of a generalist with rounds and without. Killed in the
        middle, it is begun again by the next call.

        Time: O(stages) where something is there already.
        """
        if self._account != self.folder:
            return  # a command of one stage: another one's is not taken from whoever made it
        if not any((self.folder / path).exists() for path in paths):
            return
        noted = {path.parent: read_note(path) for path in self.work("").glob("*/key.json")}
        known = {folder: set(note.get("outputs") or ()) for folder, note in noted.items()}
        names = {self.work(other): other for other in self.stages}
        for folder, other in names.items():
            known[folder] = known.get(folder, set()) | set(self.stages[other]["outputs"])
        for folder, outputs in known.items():
            if folder == self.work(name) or not overlap(outputs, paths):
                continue
            note = {"digest": "", "key": "being removed", "outputs": sorted(outputs)}
            write_sealed(folder / "key.json", note)
            if self.stages.pop(names.get(folder, ""), None) is not None:
                write_sealed(self.path, self.data)
            for path in outputs:
                remove(self.folder / path)
                for around in (self.folder / path).parents:
                    if around == self.folder or not around.is_dir() or any(around.iterdir()):
                        break
                    around.rmdir()
            remove(folder)

    def _discard(self, name: str, paths: Sequence[str], marker: Mapping[str, Any]) -> None:
        """Remove what a stage with another key left. Killed in the middle, it is begun again by the
        next call.
        """
        record = self.stages.get(name)
        for path in paths if record is None and not marker else ():
            if (self.folder / path).exists():
                raise UserError(
                    f"{self.folder / path} is there already and no run wrote it; expected nothing "
                    "there; move it away or choose another run folder"
                )
        work = self.work(name)
        # Fits no key, so that what is half removed is never continued.
        write_sealed(work / "key.json", {"digest": "", "key": "being removed"})
        for path in {*paths, *(record["outputs"] if record is not None else ())}:
            remove(self.folder / path)
        for path_in_work in work.iterdir():
            if path_in_work.name != "key.json":
                remove(path_in_work)

    @staticmethod
    def _clean(work: Path) -> None:
        """Remove the partial files of a finished stage; its key and the listing of its outputs
        stay.
        """
        for path in work.iterdir() if work.exists() else ():
            if path.name not in ("key.json", "outputs.json"):
                remove(path)
