"""Limits from a file: tighter than the environment's, never wider, and obeyed by the controller."""

from pathlib import Path

import numpy as np
import pytest
import torch

from alltrades.data.actions import ActionSpec
from alltrades.errors import UserError
from alltrades.policies.control.controller import Controller
from alltrades.policies.control.limits import read_limits
from tests.policies.toys import info, make_policy

INFOS = [info("a"), info("b")]


def written(folder: Path, text: str) -> Path:
    path = folder / "limits.yaml"
    path.write_text(text)
    return path


def test_a_file_tightens_every_environment_and_single_ones(tmp_path):
    text = '"*": {rate: 0.2}\nb: {low: [-0.5, -1], high: 0.5, rate: [0.1, 0.4], acceleration: 0.05}'
    found = read_limits(written(tmp_path, text), INFOS)
    assert found["a"] == ActionSpec((-1.0, -1.0), (1.0, 1.0), (0.2, 0.2))
    assert found["b"] == ActionSpec((-0.5, -1.0), (0.5, 0.5), (0.1, 0.2), (0.05, 0.05))


@pytest.mark.parametrize(
    "text, words",
    [
        ("a: {lo: 1}", "unknown limit 'lo'"),
        ("c: {rate: 1}", "which the policy does not know"),
        ("a: 3", "each with some of"),
        ("a: {rate: [1, 2, 3]}", "a list of 2"),
        ("a: {rate: 0}", "positive"),
        ("a: {high: 2}", "inside the environment's"),
        ("a: {low: 0.5, high: 0.2}", "inside the environment's"),
        ("a: {rate: .nan}", "a number"),
        ("a: {rate: 1%s}" % ("0" * 400), "a number"),
        ("a: [", "cannot be read"),
        ("a: {rate: 1, rate: 2}", "given twice"),
    ],
)
def test_what_makes_no_sense_is_refused_in_one_line(tmp_path, text, words):
    with pytest.raises(UserError) as error:
        read_limits(written(tmp_path, text), INFOS)
    assert words in str(error.value) and "\n" not in str(error.value)
    with pytest.raises(UserError, match="cannot be read"):
        read_limits(tmp_path / "nowhere.yaml", INFOS)


def test_the_controller_obeys_them_across_chunks(tmp_path):
    policy = make_policy(INFOS)
    torch.nn.init.normal_(
        policy.backbone.head.weight, std=2.0, generator=torch.Generator().manual_seed(0)
    )
    limits = read_limits(
        written(tmp_path, "a: {rate: 0.2, acceleration: 0.05}"), policy.environments
    )
    controller = Controller(policy, guard=limits)
    controller.reset(environment="a", seed=0)
    actions = np.stack([controller.act(np.full((1, 3), i / 10, np.float32))[0] for i in range(12)])
    steps = np.diff(actions, axis=0)
    assert np.abs(steps).max() <= 0.2 + 1e-5 and np.abs(np.diff(steps, axis=0)).max() <= 0.05 + 1e-4
    assert np.abs(steps[0]).max() <= 0.05 + 1e-5  # at rest before
    free = Controller(policy, guard=False)
    free.reset(environment="a", seed=0)
    wild = np.stack([free.act(np.full((1, 3), i / 10, np.float32))[0] for i in range(12)])
    assert np.abs(np.diff(wild, axis=0)).max() > 0.2
