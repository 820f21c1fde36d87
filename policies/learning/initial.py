"""Policies before their training: statistics of demonstrations, and first weights."""

from __future__ import annotations

import copy
from collections.abc import Sequence

import torch

from alltrades.data.interface import Interface, common_image_shape
from alltrades.data.layout import Layout
from alltrades.data.steps import Steps
from alltrades.errors import UserError
from alltrades.policies.model.normalizer import Normalizer, fit_normalizer
from alltrades.policies.model.policy import DiffusionPolicy, initialising
from alltrades.policies.settings import PolicySettings


def make_normalizer(
    demos: Steps, environments: Sequence[Interface], settings: PolicySettings
) -> Normalizer:
    """Statistics of demonstrations, one block per environment (see `fit_normalizer`).

    The pixels of an image share theirs: they are one quantity, and a network of convolutions treats
    them alike. Raises UserError for an environment without demonstrations.
    """
    return _fitted(demos, environments, settings)[0]


def constant_dimensions(
    demos: Steps, environments: Sequence[Interface], settings: PolicySettings
) -> list[str]:
    """One line for every observation and action dimension that hardly moves in the
    demonstrations.
    """
    return _fitted(demos, environments, settings)[1]


def _fitted(
    demos: Steps, environments: Sequence[Interface], settings: PolicySettings
) -> tuple[Normalizer, list[str]]:
    """`fit_normalizer` on demonstrations."""
    layout, shape = Layout(environments), common_image_shape(environments)
    recorded = [_recorded(demos, name) for name in layout.ids]
    return fit_normalizer(
        [x.observation.resized(int(d)) for x, d in zip(recorded, layout.obs_dims)],
        [x.action.load(int(d)) for x, d in zip(recorded, layout.action_dims)],
        layout,
        settings,
        pixels=1 if shape is None else shape[0] * shape[1],
    )


def _recorded(demos: Steps, name: str) -> Steps:
    """The episodes of an environment whose actions were recorded; UserError where there are
    none.
    """
    chosen = (demos.environment == name) & demos.has_actions
    if chosen.any():
        return demos.select(chosen)
    if name in demos.environment:
        raise UserError(
            f"the episodes of '{name}' have no actions, and some of them must; give others with "
            "--demos, and these with --demos.observations"
        )
    raise UserError(
        f"no demonstrations of '{name}' in the store; it has "
        f"{', '.join(sorted(set(demos.environment)))}; collect some, or leave the environment out"
    )


def build_policy(
    settings: PolicySettings,
    environments: Sequence[Interface],
    normalizer: Normalizer,
    seed: int,
    device: str = "cpu",
) -> DiffusionPolicy:
    """A policy with freshly initialised weights, a function of `seed`, and its own copy of the
    statistics.
    """
    with initialising, torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return DiffusionPolicy(settings, environments, copy.deepcopy(normalizer)).to(device)
