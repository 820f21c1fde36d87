"""What lies in a run folder, read for the report. Parts that are not there stay empty; unreadable
ones are an error.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from alltrades.envs.rollouts.evaluation import Evaluation
from alltrades.errors import UserError
from alltrades.system.tracking import read_metrics

KNOWN = ("manifest.json", "settings.yaml", "evaluation")
VIDEO_TYPES = {".mp4": "video/mp4", ".webm": "video/webm", ".gif": "image/gif"}


@dataclass(frozen=True)
class RunFiles:
    """A run as plain data.

    open_loop: errors on held-out episodes by environment. rows: names of the evaluated rows, in the
    order of the settings. environments: in the order of the evaluation. metrics: by stage.
    selection: cross-validation of specialists. weights: by generalist, then environment. rounds: by
    generalist. videos: file by environment.
    """

    name: str
    settings_text: str
    settings: dict[str, Any]
    manifest: dict[str, Any]
    evaluations: dict[str, Evaluation]
    comparison: dict[str, Any]
    advice: dict[str, Any]
    open_loop: dict[str, Any]
    metrics: dict[str, list[dict[str, Any]]]
    selection: dict[str, Any]
    weights: dict[str, dict[str, Any]]
    rollouts: dict[str, dict[str, Any]]
    rounds: dict[str, list[dict[str, Any]]]
    trajectories: dict[str, dict[str, Any]]
    videos: dict[str, Path]

    @property
    def rows(self) -> list[str]:
        return list(self.evaluations)

    @property
    def environments(self) -> list[str]:
        evaluated = [r.environment for e in self.evaluations.values() for r in e.rows]
        parts: Iterable[dict[str, Any]] = (
            self.advice,
            self.open_loop,
            self.trajectories,
            *self.weights.values(),
            *self.rollouts.values(),
        )
        return list(dict.fromkeys([*evaluated, *(name for part in parts for name in part)]))

    def ordered(self, part: Mapping[str, Any]) -> list[tuple[str, Any]]:
        """Items of a mapping by environment in the page's order (files are sorted by name)."""
        order = {name: i for i, name in enumerate(self.environments)}
        return sorted(part.items(), key=lambda item: order.get(item[0], len(order)))

    @property
    def limits(self) -> list[int]:
        """Shorter time limits at which the settings ask for success too."""
        return list((self.settings.get("evaluation") or {}).get("limits") or [])


def read_run(folder: Path) -> RunFiles:
    """Read a run folder.

    Raises:
        UserError: no run there, or a file that is not what `alltrades run` writes.
    """
    import yaml

    if not any((folder / name).exists() for name in KNOWN):
        raise UserError(
            f"{folder} holds no run; expected a folder with {', '.join(KNOWN)}; name one that "
            "`alltrades run` wrote"
        )
    text = (
        (folder / "settings.yaml").read_text(encoding="utf-8")
        if (folder / "settings.yaml").exists()
        else ""
    )
    try:
        settings = yaml.safe_load(text) or {}
    except yaml.YAMLError as error:
        raise _unreadable(folder / "settings.yaml", error) from error
    wanted = (settings.get("evaluation") or {}).get("rows") or []
    evaluations = {
        path.stem: _evaluation(path) for path in sorted((folder / "evaluation").glob("*.json"))
    }
    order = sorted(
        evaluations, key=lambda row: (wanted.index(row) if row in wanted else len(wanted), row)
    )
    metrics = folder / "metrics"
    stages = sorted(
        path.relative_to(metrics).with_suffix("").as_posix() for path in metrics.rglob("*.jsonl")
    )
    run = RunFiles(
        name=str(settings.get("name") or folder.resolve().name),
        settings_text=text,
        settings=settings,
        manifest=_json(folder / "manifest.json"),
        evaluations={row: evaluations[row] for row in order},
        comparison=_json(folder / "comparison.json"),
        advice=_json(folder / "advice.json"),
        open_loop=_json(folder / "open_loop.json"),
        metrics={stage: read_metrics(folder, stage) for stage in stages},
        selection=_json(folder / "policies" / "specialists" / "scratch" / "selection.json"),
        weights={path.stem: _json(path) for path in sorted((folder / "weights").glob("*.json"))},
        rollouts=_json(folder / "rollouts.json"),
        rounds={
            path.stem: _json(path).get("rounds", [])
            for path in sorted((folder / "rounds").glob("*.json"))
        },
        trajectories=_json(folder / "trajectories.json"),
        videos={},
    )
    run.videos.update(_videos(folder / "videos", run.environments))
    return run


def _videos(folder: Path, environments: list[str]) -> dict[str, Path]:
    """Files are named after environments with whatever a file system dislikes replaced."""
    files = (
        sorted(p for p in folder.rglob("*") if p.suffix.lower() in VIDEO_TYPES)
        if folder.exists()
        else []
    )
    known = {_plain(name): name for name in environments}
    out: dict[str, Path] = {}
    for path in files:
        name = path.relative_to(folder).with_suffix("").as_posix()
        out.setdefault(known.get(_plain(name), name), path)
    return out


def _plain(name: str) -> str:
    return re.sub(r"[^A-Za-z0-9.]+", "-", name)


def _evaluation(path: Path) -> Evaluation:
    try:
        return Evaluation.from_json(_json(path))
    except (KeyError, TypeError) as error:
        raise _unreadable(path, error) from error


def _json(path: Path) -> dict[str, Any]:
    """Content of the file; empty when it is not there."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        raise _unreadable(path, error) from error
    if not isinstance(value, dict):
        raise _unreadable(path, "not a mapping")
    return value


def _unreadable(path: Path, cause: object) -> UserError:
    reason = " ".join(str(cause).split())[:120]
    return UserError(
        f"{path} is not readable ({reason}); expected what `alltrades run` writes; run it again in "
        "this folder"
    )
