"""What lies in a run folder, read for the report. Parts that are not there stay empty; unreadable
ones are an error.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from alltrades.envs.rollouts.evaluation import Evaluation
from alltrades.envs.rollouts.evaluation_files import read_evaluation
from alltrades.errors import UserError, nearest
from alltrades.system.files import tree_digest
from alltrades.system.reading import read_mapping, read_text
from alltrades.system.tracking import read_metrics
from alltrades.system.yaml_files import read_yaml_mapping

KNOWN = ("manifest.json", "settings.yaml", "evaluation")
EXPECTED = "what `alltrades run` writes"
REMEDY = "run it again in this folder"
VIDEO_TYPES = {".mp4": "video/mp4", ".webm": "video/webm", ".gif": "image/gif"}


@dataclass(frozen=True)
class RunFiles:
    """A run as plain data.

    open_loop: errors on held-out episodes by environment. rows: names of the evaluated rows, in the
    order of the settings. environments: in the order of the evaluation. metrics: by stage.
    selection: cross-validation of specialists. weights: by generalist, then environment. rounds: by
    generalist. videos: file by environment. perturbations, looks: of
    the row that was measured under perturbations, and what it looks at.
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
    perturbations: dict[str, Any]
    looks: dict[str, Any]

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
    if not any((folder / name).exists() for name in KNOWN):
        raise UserError(
            f"{folder} holds no run; expected a folder with {', '.join(KNOWN)}; name one that "
            "`alltrades run` wrote"
        )
    text, settings = _settings(folder / "settings.yaml")
    wanted = (settings.get("evaluation") or {}).get("rows") or []
    manifest = _checked(folder)
    evaluations = {
        path.stem: read_evaluation(path) for path in sorted((folder / "evaluation").glob("*.json"))
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
        manifest=manifest,
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
        perturbations=_json(folder / "perturbations.json"),
        looks=_json(folder / "looks.json"),
    )
    for name in ("films", "videos"):  # the second ones are those that a user has put there
        run.videos.update(_videos(folder / name, run.environments))
    return run


def read_row(folder: Path, row: str) -> Evaluation:
    """The evaluation of a row of a run; UserError where it is not as the run left it."""
    _checked(folder)
    file = folder / "evaluation" / f"{row}.json"
    there = sorted(f.stem for f in file.parent.glob("*.json"))
    if row not in there and there:
        raise UserError(
            f"{folder}: no row '{row}'{nearest(row, there)}; expected some of {', '.join(there)}; "
            "name one, or measure it: --evaluation.rows"
        )
    return read_evaluation(file)


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


def settings_of(folder: Path) -> dict[str, Any]:
    """The settings of a run as data; none where it has none."""
    return _settings(folder / "settings.yaml")[1]


def _settings(path: Path) -> tuple[str, dict[str, Any]]:
    """The settings of a run as text and as data; nothing where it has none."""
    if not path.exists():
        return "", {}
    text = read_text(path, EXPECTED, REMEDY)
    settings = read_yaml_mapping(path, EXPECTED, REMEDY)
    asked = settings.get("evaluation") or {}
    lists = {k: asked.get(k) or [] for k in ("rows", "limits")} if isinstance(asked, dict) else {}
    right = {"rows": str, "limits": int}
    if not lists or not all(
        isinstance(v, list) and all(type(x) is right[k] for x in v) for k, v in lists.items()
    ):
        raise UserError(
            f"{path}: evaluation is no mapping with lists of rows and limits; expected {EXPECTED}; "
            f"{REMEDY}"
        )
    return text, settings


def _checked(folder: Path) -> dict[str, Any]:
    """The run's manifest, empty where there is none. O(bytes of the run's JSON files).

    Raises UserError where one of these is not as its stage left it: its figures would be shown as
    the run's.
    """
    path = folder / "manifest.json"
    manifest = _json(path)
    stages = manifest.get("stages")
    if path.exists() and not (
        isinstance(stages, dict) and all(isinstance(record, dict) for record in stages.values())
    ):
        raise UserError(f"{path}: has no stages; expected {EXPECTED}; {REMEDY}")
    listed = [manifest.get("files"), *(r.get("outputs") for r in (stages or {}).values())]
    for part in listed:
        for name, digest in part.items() if isinstance(part, dict) else ():
            path = folder / name
            if path.suffix == ".json" and path.is_file() and tree_digest(path) != digest:
                raise UserError(
                    f"{path}: it was changed after the run wrote it (its digest differs); expected "
                    f"{EXPECTED}; {REMEDY}"
                )
    return manifest


def _json(path: Path) -> dict[str, Any]:
    """Content of the file; empty when it is not there."""
    return read_mapping(path, EXPECTED, REMEDY) if path.exists() else {}
