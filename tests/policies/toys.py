"""Small policies and data whose right answers are known; module level, so that any test can use
them.
"""

from __future__ import annotations

from typing import Literal

import numpy as np

from alltrades.data.actions import ActionSpec
from alltrades.data.fields import Field
from alltrades.data.interface import Interface
from alltrades.data.layout import Layout
from alltrades.data.steps import Steps
from alltrades.policies.learning.demonstrations import DemonstrationFit, Fit
from alltrades.policies.learning.initial import build_policy, make_normalizer
from alltrades.policies.model.normalizer import fit_normalizer
from alltrades.policies.model.policy import DiffusionPolicy
from alltrades.policies.model.statistics import measure
from alltrades.policies.settings import PolicySettings, TrainSettings

SMALL = PolicySettings(
    horizon=4, n_action_steps=2, width=32, depth=1, embedding=4, sampling_steps=4
)


def info(name: str, obs_dim: int = 3, action_dim: int = 2) -> Interface:
    box = ActionSpec((-1.0,) * action_dim, (1.0,) * action_dim)
    return Interface(name, {"state": Field.state(obs_dim)}, box, 50, 10.0)


def make_steps(
    name: str = "a",
    episodes: int = 6,
    length: int = 20,
    obs_dim: int = 3,
    action_dim: int = 2,
    seed: int = 0,
    source: str = "expert",
    gain: float = 0.5,
) -> Steps:
    """Episodes of random observations whose action is gain * the first observation entries."""
    rng = np.random.default_rng(seed)
    n = episodes * length
    observation = rng.uniform(-1, 1, (n, obs_dim)).astype(np.float32)
    action = (gain * observation[:, :action_dim]).astype(np.float32)
    return Steps(
        observation={"state": observation},
        action=action,
        success=np.zeros(n, bool),
        ends=np.arange(1, episodes + 1) * length,
        environment=np.array([name] * episodes),
        source=np.array([source] * episodes),
        seed=np.arange(episodes, dtype=np.uint64),
        episode_success=np.ones(episodes, bool),
        first_success=np.full(episodes, -1),
        has_actions=np.ones(episodes, bool),
        return_=np.zeros(episodes),
    )


def make_policy(
    infos: list[Interface], settings: PolicySettings = SMALL, seed: int = 0
) -> DiffusionPolicy:
    rng = np.random.default_rng(seed)
    observations = [rng.uniform(-1, 1, (100, i.state_dim)).astype(np.float32) for i in infos]
    actions = [rng.uniform(-1, 1, (100, i.action_dim)).astype(np.float32) for i in infos]
    statistics = [measure(i, {"state": x}, a) for i, x, a in zip(infos, observations, actions)]
    normalizer = fit_normalizer(statistics, Layout(infos), settings)
    return build_policy(settings, infos, normalizer, seed)


def fit_demonstrations(
    steps: Steps,
    infos: list[Interface],
    settings: PolicySettings,
    train: TrainSettings,
    selection: Literal["last", "holdout"] = "last",
) -> Fit:
    initial = build_policy(settings, infos, make_normalizer(steps, infos, settings), 0)
    return DemonstrationFit(initial, train, 0).fit(steps, selection)
