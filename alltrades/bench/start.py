"""`alltrades bench start`: time from starting a process to the policy's first action on a robot."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from alltrades.errors import UserError
from alltrades.policies.artifact import environments_of, facts_of


def start(
    folder: str | None,
    names: Sequence[str],
    repeat: int,
    steps: int | None,
    results: list[dict[str, Any]],
) -> Iterator[str]:
    """Yield a line per artifact; append the same as plain values to `results`. Seconds.

    Each measurement is a fresh process of `alltrades deploy ARTIFACT --robot env:ID --steps 1`, one
    after another. An exported policy is ok when no process imported torch.

    Args:
        folder: policy folder or .onnx file; None for a fresh default generalist of the environments
            `names`, as a folder and exported.
        repeat: processes per artifact.
        steps: sampling steps instead of the policy's own, where a folder is measured.
    """
    if repeat < 1:
        raise UserError(f"--repeat {repeat}; expected at least 1")
    if folder is not None and folder.endswith(".onnx"):
        yield _line(_measure("onnx", Path(folder), repeat, results))
        return
    from alltrades.bench.subject import artifact
    from alltrades.policies.model.loading import load_policy
    from alltrades.policies.onnx.export import export_onnx

    with (
        artifact(folder, names, steps) as path,
        tempfile.TemporaryDirectory(prefix="alltrades-bench-") as temporary,
    ):
        try:
            graph = export_onnx(load_policy(path), Path(temporary) / "policy.onnx").path
            yield _line(_measure("onnx", graph, repeat, results))
        except UserError as error:
            yield f"onnx: left out, {error}"
        yield _line(_measure("torch", Path(path), repeat, results))


def _measure(
    kind: str, artifact: Path, repeat: int, results: list[dict[str, Any]]
) -> dict[str, Any]:
    robot = f"env:{_environment(artifact)}".replace("env:gym:", "gym:")
    spent, torch = [], 0
    for _ in range(repeat):
        begun = time.time()
        found = _first_action(artifact, robot)
        spent.append(found["first_action_at"] - begun)
        torch += found["torch_imported"]
    values = np.array(spent)
    results.append(
        {
            "artifact": kind,
            "robot": robot,
            "processes": repeat,
            "p50": float(np.median(values)),
            "max": float(values.max()),
            "torch_imported": torch,
            "ok": kind != "onnx" or not torch,
        }
    )
    return results[-1]


def _environment(artifact: Path) -> str:
    """The first environment of an artifact."""
    return environments_of(facts_of(artifact))[0]


def _first_action(artifact: Path, robot: str) -> dict[str, Any]:
    with tempfile.TemporaryDirectory(prefix="alltrades-bench-") as folder:
        out = Path(folder) / "deploy.json"
        words = [
            sys.executable,
            "-m",
            "alltrades.cli",
            "deploy",
            str(artifact),
            "--robot",
            robot,
            "--steps",
            "1",
            "--json",
            str(out),
        ]
        done = subprocess.run(
            words, capture_output=True, text=True, env=os.environ | {"OMP_NUM_THREADS": "1"}
        )
        if done.returncode != 0:
            raise UserError(
                f"{artifact} cannot be deployed on {robot}: {done.stderr.strip()[-300:]}"
            )
        return json.loads(out.read_text())


def _line(result: dict[str, Any]) -> str:
    return (
        f"start to first action, {result['artifact']} on {result['robot']}, {result['processes']} "
        f"processes: p50 {result['p50']:.2f} s, max {result['max']:.2f} s; torch imported in "
        f"{result['torch_imported']} of them"
    )
