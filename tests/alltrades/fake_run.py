"""A run folder as the pipeline leaves it, with invented numbers: input of the report's tests."""

from __future__ import annotations

import base64
import json
from pathlib import Path

import numpy as np

from alltrades.envs.rollouts.differences import paired_difference
from alltrades.envs.rollouts.evaluation import EnvironmentResult, Evaluation
from alltrades.pipeline.gap import gap
from alltrades.system.files import slug

ENVIRONMENTS = (
    "planar/reach",
    "planar/reach-long",
    "planar/push",
    "planar/push-heavy",
    "planar/obstacle",
    "planar/drawer",
    "metaworld/button-press-topdown-v3",
    "metaworld/door-open-v3",
    "metaworld/drawer-close-v3",
    "metaworld/window-open-v3:hidden",
)
ROWS = {"specialists": 0.70, "labeled_only": 0.78, "generalist": 0.88}
COUNTS = {"n": 40, "successes": 30, "return": 1.0, "return_interval": [0.5, 1.5]}
GIF = base64.b64decode("R0lGODlhAQABAIAAAAAAAP///yH5BAEAAAAALAAAAAABAAEAAAIBRAA7")
SETTINGS = """name: fake
seed: 3  # command line
environments: [planar]  # quickstart.yaml
distill:
  rollouts: 40  # quickstart.yaml
  weights:
    kind: ratio
evaluation:
  episodes: {n}
  seed: 0
  rows: [{rows}]
  limits: [40]
"""


def fake_run(
    folder: Path,
    environments: tuple[str, ...] = ENVIRONMENTS,
    rows: dict[str, float] | None = None,
    n: int = 50,
    videos: bool = True,
    policy: str = "0123456789abcdef",
) -> Path:
    """Write a complete run: every file that the report reads. Same arguments, same files.

    `policy`: digest of all its policies.
    """
    rng = np.random.default_rng(0)
    rows = ROWS if rows is None else rows
    hardness = rng.normal(0, 0.1, len(environments))
    start = {
        e: rng.random(n) for e in environments
    }  # a start is hard for every policy: rows correlate
    evaluations = {
        row: _evaluation(row, rate, environments, hardness, start, n, policy, rng)
        for row, rate in rows.items()
    }
    for row, evaluation in evaluations.items():
        write(folder / "evaluation" / f"{row}.json", evaluation.to_json())
    pairs = [
        {
            "a": "generalist",
            "b": row,
            **paired_difference(evaluations["generalist"], e, n_boot=500).to_json(),
        }
        for row, e in evaluations.items()
        if row != "generalist"
    ]
    teachers = gap(evaluations, ["scratch"], {"scratch": dict.fromkeys(environments, COUNTS)})
    write(folder / "comparison.json", {"pairs": pairs, "teachers": teachers})
    write(
        folder / "advice.json",
        {r.environment: _advice(r, rng) for r in evaluations["generalist"].rows},
    )
    write(
        folder / "rollouts.json",
        {
            "scratch": {
                e: {"n": 40, "successes": int(rng.integers(15, 40)), "steps": 40 * 57}
                for e in environments
            }
        },
    )
    tries = [
        {e: {"n": 20, "successes": 12} for e in environments},
        {e: {"n": 8, "successes": 3} for e in environments},
    ]
    write(
        folder / "rounds" / "generalist.json",
        {
            "rounds": [
                {"round": 0, "selection": 0.7, "kept": False},
                {
                    "round": 1,
                    "selection": 0.712,
                    "gain": 0.012,
                    "interval": [-0.01, 0.03],
                    "kept": True,
                    "tries": tries,
                },
            ]
        },
    )
    write(
        folder / "weights" / "generalist.json",
        {e: _weights(i, rng) for i, e in enumerate(environments)},
    )
    stages = {
        "demos": 6.2,
        "labeled_only": 61.0,
        "rollouts/scratch": 35.5,
        "weigh/generalist": 4.0,
        "distill/generalist": 80.3,
        "specialists/scratch": 125.0,
        "evaluate/generalist": 30.1,
    }
    write(
        folder / "manifest.json",
        {
            "version": 1,
            "seed": 3,
            "stages": {
                k: {"state": "done", "seconds": v, "finished": f"2026-01-01T00:00:{i:02d}+00:00"}
                for i, (k, v) in enumerate(stages.items())
            },
            "packages": {"alltrades": "0.1.0", "torch": "2.9.0", "numpy": "2.3.0"},
            "machine": {
                "cpus": 2,
                "platform": "Linux x86_64",
                "python": "3.13.0",
                "torch_threads": 2,
            },
        },
    )
    for name in (
        "labeled_only",
        "distill/generalist",
        *(f"specialist/scratch/{slug(e)}" for e in environments),
    ):
        curve = np.exp(-np.linspace(0, 3, 60)) + 0.05 + rng.normal(0, 0.01, 60)
        lines = [
            json.dumps({"step": 50 * (k + 1), "loss": float(v), "lr": 1e-3, "time": 1e9 + k})
            for k, v in enumerate(curve)
        ]
        path = folder / "metrics" / f"{name}.jsonl"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("\n".join(lines) + "\n")
    write(
        folder / "policies" / "specialists" / "scratch" / "selection.json",
        {
            "chosen": "width 64",
            "steps": 1500,
            "of": 2000,
            "looks": [500, 1000, 1500],
            "losses": {e: {} for e in environments},
            "relative_loss": {"width 64": 1.02, "as set": 1.1},
        },
    )
    write(
        folder / "trajectories.json",
        {e: {row: [_path(rng) for _ in range(5)] for row in rows} for e in environments},
    )
    (folder / "settings.yaml").write_text(SETTINGS.format(n=n, rows=", ".join(rows)))
    if videos:
        (folder / "videos").mkdir()
        (folder / "videos" / f"{environments[0].replace('/', '-')}.gif").write_bytes(GIF)
    return folder


def write(path: Path, value: object) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value, sort_keys=True))


def _evaluation(
    row: str,
    rate: float,
    environments: tuple[str, ...],
    hardness: np.ndarray,
    start: dict[str, np.ndarray],
    n: int,
    policy: str,
    rng: np.random.Generator,
) -> Evaluation:
    results = []
    for name, offset in zip(environments, hardness):
        success = start[name] < np.clip(rate + offset, 0, 1)
        steps = np.where(success, rng.integers(10, 80, n), -1)
        results.append(
            EnvironmentResult(
                name,
                tuple(range(1000, 1000 + n)),
                tuple(steps.tolist()),
                tuple(rng.normal(10, 1, n).tolist()),
                tuple(rng.random(n).tolist()),
                100,
                policy,
            )
        )
    return Evaluation(row, tuple(results), success_uses=("filters",) if row == "generalist" else ())


def _advice(result: EnvironmentResult, rng: np.random.Generator) -> dict[str, object]:
    rate = result.successes / result.n
    line = (
        f"solved ({rate:.2f})"
        if rate >= 0.95
        else f"limited by its teachers ({rate:.2f}): more demonstrations (now 10)"
    )
    return {
        "line": line,
        "specialist_error": float(rng.uniform(0.02, 0.4)),
        "held_out_loss": None,
        "demonstration_error": 0.03,
        "held_out_error": 0.11,
        "distillation_gap": float(rng.uniform(0.01, 0.1)),
        "auc": 0.7,
        "ess": 0.6,
    }


def _weights(i: int, rng: np.random.Generator) -> dict[str, object]:
    active = i % 4 != 3
    weights = rng.lognormal(-0.2, 0.5, 400).clip(0.1, 5) if active else np.ones(400)
    counts, edges = np.histogram(
        weights, bins=30, range=(0, float(max(1.5, weights.max()))), weights=np.full(400, 1 / 400)
    )
    return {
        "active": active,
        "auc": 0.97 if not active else 0.71,
        "auc_interval": [0.96, 0.99] if not active else [0.66, 0.77],
        "ess": 1.0 if not active else 0.62,
        "tau": 1.0 if active else 0.0,
        "max_weight": float(weights.max()),
        "demo_mass": 0.24,
        "moment_balance": [0.51, 0.22] if active else None,
        "histogram": {"edges": edges.tolist(), "counts": counts.tolist()},
        "warnings": []
        if active
        else ["demonstrations and rollouts hardly overlap (AUC 0.97): weights off"],
    }


def _path(rng: np.random.Generator) -> list[list[float]]:
    t = np.linspace(0, 1, 40)[:, None]
    start, goal = rng.uniform(-1, 1, (2, 2))
    return (start + (goal - start) * t + 0.15 * np.sin(6 * t) * rng.normal(0, 1, 2)).tolist()
