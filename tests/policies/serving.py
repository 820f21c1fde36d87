"""A small policy behind a server in a thread of the test's process."""

from __future__ import annotations

import re
import threading
import urllib.error
import urllib.request
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from alltrades.data.actions import ActionSpec
from alltrades.data.fields import Field
from alltrades.data.interface import Interface
from alltrades.data.layout import Layout
from alltrades.policies.control.controller import Controller
from alltrades.policies.model.normalizer import Normalizer
from alltrades.policies.model.policy import DiffusionPolicy
from alltrades.policies.server import PolicyServer, ServerSettings
from alltrades.policies.settings import PolicySettings

SMALL, LARGE = "toy/small", "toy/large"
SETTINGS = PolicySettings(n_obs_steps=2, horizon=8, n_action_steps=4, width=32, depth=1)


def make_policy(
    environments: int = 2, settings: PolicySettings | None = None, **limits: Any
) -> DiffusionPolicy:
    """An untrained policy of the first `environments` toys, with `limits` of their actions
    replaced.
    """
    torch.manual_seed(0)
    infos = [
        Interface(SMALL, {"state": Field.state(2)}, ActionSpec((-1.0, -1.0), (1.0, 1.0)), 50, 10.0),
        Interface(LARGE, {"state": Field.state(5)}, ActionSpec((-1.0,) * 3, (1.0,) * 3), 50, 10.0),
    ][:environments]
    infos = [replace(i, action=replace(i.action, **limits)) for i in infos]
    normalizer = Normalizer(Layout(infos))
    normalizer.fitted.fill_(1)
    policy = DiffusionPolicy(settings or SETTINGS, infos, normalizer)
    with (
        torch.no_grad()
    ):  # last layers may start at zero, where an output would not depend on its input
        for parameter in policy.parameters():
            parameter.add_(0.05 * torch.randn(parameter.shape))
    return policy.eval()


class running:
    """A server in a thread of this process, for the length of a block."""

    def __init__(
        self, policy: DiffusionPolicy, artifact: Path | None = None, **options: Any
    ) -> None:
        self.server = PolicyServer(policy, ServerSettings(**{"port": 0, **options}), artifact)
        self.thread = threading.Thread(target=self.server.run)

    def __enter__(self) -> PolicyServer:
        self.thread.start()
        assert self.server.ready.wait(120)
        return self.server

    def __exit__(self, *error: object) -> None:
        self.server.stop()
        self.thread.join(30)
        assert not self.thread.is_alive()


def observation(seed: int, dim: int = 5) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=dim).astype(np.float32)


def expected(
    policy: DiffusionPolicy, environment: str, frames: list[np.ndarray], seed: int
) -> list[np.ndarray]:
    controller = Controller(policy, lanes=8)  # the server's batch
    controller.begin(0, environment, seed)
    return [controller.plan({0: np.atleast_2d(frame)})[0] for frame in frames]


def get(port: int, path: str, **headers: str) -> tuple[int, str]:
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(
            urllib.request.Request(f"http://127.0.0.1:{port}{path}", headers=headers), timeout=30
        ) as reply:
            return reply.status, reply.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()


def metric(port: int, name: str) -> float:
    found = re.search(rf"^{re.escape(name)} (\S+)$", get(port, "/metrics")[1], flags=re.MULTILINE)
    return 0.0 if found is None else float(found[1])


# ---- many clients --------------------------------------------------------------------------------
