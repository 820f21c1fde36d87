"""A tiny training into a folder, alone or as one of the processes of torchrun: `python -m
tests.policies.shared_training OUT KIND [--stop STEP]`. The same again goes on from its checkpoint.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.torch import save_file

from alltrades.data.steps import Steps
from alltrades.envs.symmetry import Translation
from alltrades.policies.learning.batches import (
    Augmentation,
    TrainingData,
    TrainingRows,
    demonstration_data,
)
from alltrades.policies.learning.checkpoints import Place
from alltrades.policies.learning.excess import ExcessLoss
from alltrades.policies.learning.eyes import make_reader
from alltrades.policies.learning.following import together
from alltrades.policies.learning.initial import build_policy, make_normalizer
from alltrades.policies.learning.objectives import Linear, Tchebycheff
from alltrades.policies.learning.teachers import ScoreLoss, TeacherPredictions
from alltrades.policies.learning.training import Goal, Trainer
from alltrades.policies.settings import TrainSettings
from alltrades.system import ranks
from alltrades.system.reporting import Report
from tests.policies import test_eyes
from tests.policies.test_fields_training import interface, scene
from tests.policies.toys import SMALL, info, make_policy, make_steps

INFOS = [info("a"), info("b", obs_dim=5, action_dim=3)]
TRAIN = TrainSettings(
    steps=24, batch=9, lr=1e-2, checkpoint_every=10, log_every=1, precision="fp32"
)


def trainer(kind: str, stop: int | None) -> Trainer:
    """Of a batch of 9 rows with weights and symmetries, or of images and text, or of eyes."""
    if kind == "eyes":
        steps = Steps.concatenate(
            [test_eyes.scene("toy/near", 6, 0), test_eyes.scene("toy/far", 6, 1)]
        )
        network, sight = test_eyes.NETWORK, test_eyes.SIGHT
        reader = make_reader(steps, test_eyes.INTERFACES, network, sight, 16, 0, "cpu")
        rows = TrainingRows(steps=steps, probability=np.ones(len(steps)))
        data = TrainingData(rows, reader)
        return Trainer(reader, data, TRAIN, 3, Goal(loss=reader.misses), total=stop)
    if kind == "images":
        shows = {"images.top": "image", "state": "noise", "task": "text"}
        steps, seen = scene("a", **shows), [interface("a", **shows)]
        policy = build_policy(SMALL, seen, make_normalizer(steps, seen, SMALL), 0)
        data = demonstration_data(steps, policy)
        return Trainer(policy, data, TRAIN, 3, total=stop)
    policy = make_policy(INFOS)
    steps = Steps.concatenate([make_steps("a"), make_steps("b", obs_dim=5, action_dim=3, seed=1)])
    weight = np.random.default_rng(0).uniform(0.2, 2, len(steps))
    rows = TrainingRows(steps=steps, probability=np.ones(len(steps)), loss_weight=weight)
    shown = Augmentation(symmetries={"a": (Translation(((0,), (1,)), (0.3,)),)})
    teacher = make_policy(INFOS, seed=1)
    teachers = {"x": {"a": teacher, "b": teacher}}
    asked = teachers if kind in ("score", "excess") else {}
    data = TrainingData(rows, policy, shown, teachers=asked)
    of_row = np.where(np.arange(len(steps)) % 3, 0, -1)
    settings, objective = TRAIN, Linear(policy.layout.ids, {"a": 0.7, "b": 0.3})
    loss = None
    if kind == "score":
        loss = ScoreLoss(TeacherPredictions(teachers, policy, of_row, of_row >= 0))
    elif kind == "excess":
        loss = ExcessLoss(TeacherPredictions(teachers, policy, of_row), data, policy, 0)
        objective = Tchebycheff(policy.layout.ids, {"a": 0.7, "b": 0.3}, ema=0.9)
    elif kind == "bf16":
        settings = TRAIN.model_copy(update={"precision": "bf16"})
    return Trainer(policy, data, settings, 3, Goal(objective, loss), total=stop)


def train(out: Path, kind: str, stop: int | None) -> int:
    out.mkdir(exist_ok=True)
    path = out / "losses.json"
    losses: dict[str, float] = json.loads(path.read_text()) if path.exists() else {}

    def record(_: str, step: int, values: Mapping[str, Any]) -> None:
        losses[str(step)] = values["loss"]

    policy = trainer(kind, stop).fit(Place(out / "work"), Report(record=record))
    path.write_text(json.dumps(losses))
    save_file(dict(policy.named_parameters()), out / "weights.safetensors")
    print(f"trained by {ranks.count()}")
    return 0


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("out", type=Path)
    parser.add_argument("kind")
    parser.add_argument("--stop", type=int, default=None)
    args = parser.parse_args()

    def command() -> int:
        return train(args.out, args.kind, args.stop)

    return together(command) if ranks.started_together() else command()


if __name__ == "__main__":
    raise SystemExit(main())
