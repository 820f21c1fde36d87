"""Metrics of a run: one JSONL file per stage, and wandb (offline unless told otherwise)
beside it.
"""

from __future__ import annotations

import json
import secrets
import sys
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from alltrades.errors import UserError
from alltrades.system.files import append_text, jsonable, write_text
from alltrades.system.mirror import PATIENCE, Mirror, Patience
from alltrades.system.reading import parse_json, read_text

Mode = Literal["offline", "online", "disabled"]


class Tracker:
    """Writes metrics/<stage>.jsonl, one {"step", "time", ...} a line, and mirrors them to wandb.

    wandb starts at the first line, so that a run with nothing left to do makes no wandb run, and in
    a process of its own: where it raises, dies, or takes longer than `patience`, the mirroring ends
    with one line of warning. Resumed runs share one wandb id.

    Args:
        folder: the run folder; wandb's files lie in its wandb/.
        mode: of wandb; "disabled" does not import it.
        config: settings shown with the wandb run.
        name: of the wandb run.
        project: of wandb.
        patience: with wandb; the run itself waits for `finish` alone.
    """

    def __init__(
        self,
        folder: Path | str,
        mode: Mode = "offline",
        config: Mapping[str, Any] | None = None,
        name: str | None = None,
        project: str = "alltrades",
        patience: Patience = PATIENCE,
    ) -> None:
        self.folder, self.mode, self.name, self.project = Path(folder), mode, name, project
        self.config = dict(config or {})
        self._seen: set[str] = set()  # stages logged or resumed in this process
        self._patience = patience
        self._mirror: Mirror | None = None
        self._mirroring = mode != "disabled"
        self._lock = threading.Lock()  # stages may run beside one another

    def path(self, stage: str) -> Path:
        """The stage's JSONL file."""
        return self.folder / "metrics" / f"{stage}.jsonl"

    def resume(self, stage: str, step: int) -> None:
        """The stage goes on after `step`: drop its lines beyond it, and a last line that a kill cut
        short.
        """
        self._seen.add(stage)
        path = self.path(stage)
        if not path.exists():
            return
        lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
        kept = [line for line in lines if (found := _step(line)) is not None and found <= step]
        if len(kept) < len(lines):
            write_text(path, "".join(f"{line}\n" for line in kept))

    def log(self, stage: str, step: int, values: Mapping[str, Any]) -> None:
        """Append one line. The first one of a stage first drops lines from `step` on, which a
        killed run left.
        """
        line = {**jsonable(values), "step": step, "time": round(time.time(), 3)}
        with self._lock:
            if stage not in self._seen:
                self.resume(stage, step - 1)
            append_text(self.path(stage), json.dumps(line, sort_keys=True, allow_nan=False) + "\n")
            if self._mirroring and self._mirror is None:
                self._start()
            if self._mirror is not None:
                self._mirror.log(stage, step, values)

    def finish(self) -> None:
        """Close wandb's run; JSONL files need no closing."""
        mirror, self._mirror = self._mirror, None
        if mirror is not None:
            mirror.finish()

    def _start(self) -> None:
        self._mirroring = False  # it is tried once
        try:
            init = {
                "project": self.project,
                "name": self.name,
                "id": self._id(),
                "resume": "allow",
                "mode": self.mode,
                "dir": str(self.folder),
                "config": jsonable(self.config),
            }
            self._mirror = Mirror(init, self._warn, self._patience)
        except (OSError, UserError) as error:
            self._warn(str(error))

    def _id(self) -> str:
        path = self.folder / "wandb" / "run-id.txt"
        if not path.exists():
            write_text(path, secrets.token_hex(8))
        return path.read_text().strip()

    def _warn(self, cause: str) -> None:
        print(
            f"warning: wandb stopped ({cause}); metrics go on in {self.folder / 'metrics'}; "
            "--tracking.wandb disabled leaves it out",
            file=sys.stderr,
        )


def read_metrics(folder: Path, stage: str) -> list[dict[str, Any]]:
    """The lines of a stage, without a last one that a kill cut short; empty when it logged nothing.

    Raises UserError for a line that holds something else than values of a step.
    """
    path = Path(folder) / "metrics" / f"{stage}.jsonl"
    if not path.exists():
        return []
    remedy = "delete it, and its curves are left out"
    text = read_text(path, "lines of JSON that a run logged", remedy)
    lines = text.removesuffix("\n").split("\n") if text else []
    out = []
    for number, line in enumerate(lines, 1):
        found = _values(line)
        if found is not None:
            out.append(found)
        elif number < len(lines) or text.endswith("\n"):
            raise UserError(
                f"{path}: line {number} is damaged; expected JSON with a step and numbers; {remedy}"
            )
    return out


def _values(line: str) -> dict[str, Any] | None:
    """A line's values; None where it is not what `Tracker.log` writes."""
    try:
        found = parse_json(line)
    except ValueError:
        return None
    if not isinstance(found, dict) or type(found.get("step")) is not int:
        return None
    plain = all(v is None or isinstance(v, int | float | str | bool) for v in found.values())
    return found if plain and abs(found["step"]) < 2**53 else None


def _step(line: str) -> int | None:
    found = _values(line)
    return None if found is None else int(found["step"])
