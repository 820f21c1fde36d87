"""`alltrades bench kills`: SIGKILLs at random moments over commands that write; each is started
again until it is done, and must leave what an undisturbed one leaves.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from alltrades.errors import UserError
from alltrades.system.processes import alive, descendants

TARGETS = ("command", "worker", "all")  # who is killed
LEFT = 15.0  # seconds after which no process of a killed command may run
WRITES = 12  # a kill comes this often at most behind the start of writing
TRIES = 50  # starts of a command after which it is given up
EPISODES = {"collect": 12, "append": 80, "deploy": 12}
NET = (
    "--policy.width 32 --policy.depth 1 --specialist.width 32 --specialist.train.steps 60 "
    "--labeled_only.steps 60 --distill.train.steps 60 --training.checkpoint_every 20 "
    "--distill.rollouts 12 --distill.label_steps 2 --demos.episodes 6 --evaluation.episodes 8"
).split()
QUIET = ["--tracking.wandb", "disabled"]


@dataclass(frozen=True)
class Kind:
    """One kind of command.

    Attributes:
        words: of the command that (re)starts the work in a folder; none where all of it is done.
        results: what must come out equal, by name.
        committed: what must never be lost again, as marks.
    """

    words: Callable[[Path], list[str]]
    results: Callable[[Path], dict[str, bytes | str]]
    committed: Callable[[Path], set[str]]


@dataclass
class Found:
    """What came of the kills of one kind."""

    kind: str
    kills: dict[str, int] = field(default_factory=lambda: dict.fromkeys(TARGETS, 0))
    finished: int = 0
    problems: list[str] = field(default_factory=list)

    @property
    def total(self) -> int:
        return sum(self.kills.values())

    def to_json(self) -> dict[str, Any]:
        return {
            "kind": self.kind,
            "kills": self.kills,
            "finished": self.finished,
            "problems": self.problems,
            "ok": not self.problems,
        }


def kills(
    names: Sequence[str], count: int, seed: int, results: list[dict[str, Any]]
) -> Iterator[str]:
    """Yield a line per kind and a table; append an outcome per kind as plain values to `results`.

    `count` kills are shared by the kinds. Half of them come at moments that are uniform over an
    undisturbed command's time, half right behind a write. A third each hit the command alone, one
    of its workers, and all its processes.
    """
    unknown = [name for name in names if name not in KINDS]
    if unknown or seed < 0:
        raise UserError(
            f"--kinds {' '.join(names)} --seed {seed}; expected some of {', '.join(KINDS)}, and a "
            "seed of 0 or more"
        )
    names = list(names or KINDS)
    every = []
    with tempfile.TemporaryDirectory(prefix="alltrades-kills-") as temporary:
        base = Path(temporary)
        for i, name in enumerate(names):
            share = count // len(names) + (i < count % len(names))
            found = _Campaign(name, base, np.random.default_rng([seed, i])).run(share)
            every.append(found)
            results.append(found.to_json())
            yield from (f"{name}: {problem}" for problem in found.problems)
            yield f"{name}: {found.total} kills done"
    yield f"{'':8} kills  {'  '.join(f'{t:>7}' for t in TARGETS)}  finished  problems"
    for found in every:
        shares = "  ".join(f"{found.kills[t]:7}" for t in TARGETS)
        yield (
            f"{found.kind:8} {found.total:5}  {shares}  {found.finished:8}  {len(found.problems):8}"
        )


class _Campaign:
    """The kills of one kind, and the undisturbed command that they are compared with."""

    def __init__(self, name: str, base: Path, rng: np.random.Generator) -> None:
        self.found, self.kind, self.rng = Found(name), KINDS[name], rng
        self.inputs, self.folder = base / "inputs", base / name
        _prepare(self.inputs, name)

    def run(self, count: int) -> Found:
        whole = self._folder("whole")
        start = time.monotonic()
        self._finish(whole)
        self.seconds = time.monotonic() - start
        self.whole = self.kind.results(whole)
        if not self.whole:
            raise RuntimeError(f"the undisturbed {self.found.kind} left nothing")
        while self.found.total < count and not self.found.problems:
            self._one(self._folder(str(self.found.finished)), count)
        return self.found

    def _folder(self, name: str) -> Path:
        folder = self.folder / name
        folder.mkdir(parents=True)
        for path in self.inputs.iterdir():
            (folder / path.name).symlink_to(path)
        return folder

    def _one(self, folder: Path, count: int) -> None:
        """Kill a command in a folder again and again until it ends well, or all kills are done."""
        marks: set[str] = set()
        for _ in range(TRIES):
            if self.found.total >= count:
                break
            ended = self._killed(folder)
            marks = self._lost(folder, marks)
            if ended:
                break
        self._finish(folder)
        self._lost(folder, marks)
        self.found.finished += 1
        here = self.kind.results(folder)
        self.found.problems += [f"{name} differs" for name in differing(here, self.whole)]

    def _lost(self, folder: Path, before: set[str]) -> set[str]:
        """What is committed now; what was and is no more is a problem."""
        try:
            now = self.kind.committed(folder)
        except UserError as error:
            self.found.problems.append(f"unreadable after a kill: {error}")
            return before
        if before - now:
            self.found.problems.append(f"lost: {', '.join(sorted(before - now)[:3])}")
        return now

    def _killed(self, folder: Path) -> bool:
        """Start the command and kill at a random moment; whether it ended before, or had nothing
        left to do.
        """
        if not self.kind.words(folder):
            return True
        process, target = self._start(folder), str(self.rng.choice(TARGETS))
        self._wait(process, folder)
        family = descendants(process.pid)
        if process.poll() is None:
            workers = [pid for pid in family if _works(pid)]
            if target == "worker" and workers:
                with suppress(ProcessLookupError):
                    os.kill(int(self.rng.choice(workers)), signal.SIGKILL)
            elif target == "all":
                os.killpg(process.pid, signal.SIGKILL)
            else:
                target = "command"
                process.kill()
            self.found.kills[target] += 1
        code = self._end(process)
        over = time.monotonic() + LEFT
        while (left := [p for p in family if alive(p)]) and time.monotonic() < over:
            time.sleep(0.05)
        if left:
            self.found.problems.append(f"{len(left)} processes outlived {target} by {LEFT:g} s")
            for pid in left:
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
        if code not in (0, -signal.SIGKILL):
            self.found.problems.append(f"exit code {code} after the kill of {target}: {self.said}")
        return code == 0

    def _wait(self, process: subprocess.Popen[str], folder: Path) -> None:
        """Until a moment of the command's time, or just behind one of its writes."""
        if self.rng.random() < 0.5:
            with suppress(subprocess.TimeoutExpired):
                process.wait(float(self.rng.uniform(0, self.seconds)))
            return
        writes, seen = int(self.rng.integers(1, WRITES + 1)), _signature(folder)
        while writes and process.poll() is None:
            time.sleep(0.002)
            if (now := _signature(folder)) != seen:
                writes, seen = writes - 1, now
        time.sleep(float(self.rng.exponential(0.002)))

    def _finish(self, folder: Path) -> None:
        """Start the command undisturbed, to its end, unless a killed one had done all of it."""
        if not self.kind.words(folder):
            return
        code = self._end(self._start(folder))
        if code != 0:
            self.found.problems.append(f"exit code {code} when started again: {self.said}")

    def _start(self, folder: Path) -> subprocess.Popen[str]:
        self.log = (folder / ".log").open("w+")
        return subprocess.Popen(
            [sys.executable, "-m", *self.kind.words(folder)],
            cwd=folder,
            stdout=self.log,
            stderr=self.log,
            text=True,
            start_new_session=True,
        )

    def _end(self, process: subprocess.Popen[str]) -> int:
        code = process.wait()
        self.log.seek(0)
        self.said = " ".join(self.log.read().split())[-300:]
        self.log.close()
        return code


def _works(pid: int) -> bool:
    """Whether a process was started for work of its command; not by a library that asks another
    process something in passing, as glfw does for its version.
    """
    with suppress(OSError):
        return b"spawn_main" in Path(f"/proc/{pid}/cmdline").read_bytes()
    return False


def _signature(folder: Path) -> tuple[tuple[str, int], ...]:
    """Changes with every file that comes, goes or is replaced."""
    found = []
    for place, _, names in os.walk(folder):
        for name in names:
            with suppress(OSError):
                found.append((name, os.stat(os.path.join(place, name)).st_mtime_ns))
    return tuple(found)


def _prepare(inputs: Path, name: str) -> None:
    """What a kind starts from, made once."""
    from alltrades.bench.subject import artifact
    from alltrades.system.files import copy

    inputs.mkdir(exist_ok=True)
    if name == "train" and not (inputs / "given.zarr").exists():
        words = "collect --environments [planar/reach,planar/push] --demos.episodes 6".split()
        command = [sys.executable, "-m", "alltrades.cli", *words, "--out", "given.zarr"]
        subprocess.run(command, cwd=inputs, check=True, stdout=subprocess.DEVNULL)
    if name == "deploy" and not (inputs / "policy").exists():
        with artifact(None, ["planar/reach"], 2) as made:
            copy(made, inputs / "policy")


# ---- the kinds -----------------------------------------------------------------------------------
def _run(folder: Path) -> list[str]:
    small = "--small --environments [planar/reach] --rollout.workers 1 --no-report".split()
    return ["alltrades.cli", "run", "--out", "out", *small, *NET, *QUIET]


def _collect(folder: Path) -> list[str]:
    names = "[planar/reach,planar/push,planar/obstacle]"
    words = ["--environments", names, "--demos.episodes", str(EPISODES["collect"])]
    return ["alltrades.cli", "collect", *words, "--out", "out.zarr"]


def _train(folder: Path) -> list[str]:
    words = ["--environments", "[planar/reach,planar/push]", "--demos", "given.zarr", *NET]
    return ["alltrades.cli", "train", "specialists", *words, *QUIET, "--out", "out"]


def _append(folder: Path) -> list[str]:
    return ["alltrades.bench.appends", "out.zarr", str(EPISODES["append"])]


def _deploy(folder: Path) -> list[str]:
    left = EPISODES["deploy"] - len(_seeds(folder / "out.zarr"))
    if left < 1:  # killed behind its last episode: one more start would record one more
        return []
    words = f"deploy policy --robot env:planar/reach --steps 40 --fast --episodes {left}".split()
    return ["alltrades.cli", *words, "--record", "out.zarr"]


def _seeds(path: Path) -> list[int]:
    """Seeds of a store's episodes, in order."""
    from alltrades.data.store import EpisodeStore

    if not (path / "commit.json").exists():
        return []
    return [int(seed) for seed in EpisodeStore.open(path).columns()["seed"]]


def _store(folder: Path) -> dict[str, bytes | str]:
    from alltrades.data.store import EpisodeStore

    return {"out.zarr": EpisodeStore.open(folder / "out.zarr").digest()}


def _episodes(folder: Path) -> set[str]:
    return {f"episode {i} ({seed})" for i, seed in enumerate(_seeds(folder / "out.zarr"))}


def run_results(folder: Path) -> dict[str, bytes | str]:
    """What a killed run must reproduce of its folder: networks, evaluation, stores, weights."""
    from alltrades.data.store import EpisodeStore

    out: dict[str, bytes | str] = {}
    for pattern in (
        "policies/**/*.safetensors",
        "policies/**/policy.json",
        "evaluation/*.json",
        "weights/**/*",
        "comparison.json",
        "advice.json",
    ):
        for path in sorted(folder.glob(pattern)):
            if path.is_file():
                out[str(path.relative_to(folder))] = path.read_bytes()
    for path in sorted(folder.glob("stores/*.zarr")):
        out[path.name] = EpisodeStore.open(path).digest()
    return out


def _artifacts(folder: Path) -> dict[str, bytes | str]:
    files = sorted((folder / "out").glob("*/[mp]o*.*"))  # model.safetensors and policy.json
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


def _stages(folder: Path) -> set[str]:
    """Finished stages of a manifest, each with its time: made again, it is another."""
    places = [folder / "out" / "manifest.json", *(folder / "out").glob(".*/manifest.json")]
    stages = [json.loads(p.read_text()).get("stages", {}) for p in places if p.exists()]
    return {f"{name} of {r['finished']}" for each in stages for name, r in each.items()}


def differing(a: dict[str, bytes | str], b: dict[str, bytes | str]) -> list[str]:
    """Names that one lacks or whose content differs."""
    return sorted(name for name in a.keys() | b.keys() if a.get(name) != b.get(name))


KINDS = {
    "run": Kind(_run, lambda folder: run_results(folder / "out"), _stages),
    "collect": Kind(_collect, _store, _episodes),
    "append": Kind(_append, _store, _episodes),
    "train": Kind(_train, _artifacts, _stages),
    "deploy": Kind(_deploy, _store, _episodes),
}
