"""A policy that looks goes on telling where things are while it learns to act: beside the denoising
loss its encoders of cameras tell the state, as the eyes do.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from alltrades.errors import UserError
from alltrades.policies.learning.eyes import READER, Reader, load_reader
from alltrades.policies.learning.teachers import Teachers
from alltrades.policies.model.batch import Batch, Generators
from alltrades.policies.model.policy import DiffusionPolicy
from alltrades.policies.settings import PolicySettings


def eyes_of(settings: PolicySettings, setting: str, device: str) -> Reader:
    """The eyes whose weights the encoders of a policy of these settings begin with.

    Args:
        setting: that asks for them, for the message.

    Raises UserError where it does not begin with such.
    """
    weights = settings.encoder.weights
    folder = None if weights is None else Path(weights)
    if folder is None or not (folder / READER).is_file():
        found = "none" if folder is None else str(folder)
        raise UserError(
            f"{setting} > 0 and policy.encoder.weights = {found}, where no eyes are; expected "
            "those of a run; set policy.encoder.pretrain: state, or weights: RUN/policies/eyes"
        )
    return load_reader(folder, device)


def seen_by_eyes(reader: Reader) -> Teachers:
    """What makes windows of training data hold what the eyes see and are to tell."""
    return {"eyes": dict.fromkeys(reader.layout.ids, reader)}


class Telling:
    """The denoising loss, and `weight` times the mean squared error of the state as a policy's
    encoders and the head of the eyes tell it, in units of its deviation: a loss of `Trainer`.

    The head learns with the policy, as its part `beside` until `finished`.

    Args:
        policy: whose encoders take the place of those of the eyes that see the same.
        noise: added to observations in training.
    """

    def __init__(
        self, policy: DiffusionPolicy, reader: Reader, weight: float, noise: float
    ) -> None:
        self.weight, self.noise, self.reader = weight, noise, reader
        own, theirs = policy.conditioner, reader.conditioner
        for key in reader.keys:
            if key in own.cameras:
                theirs.encoders[theirs.module[key]] = own.encoders[own.module[key]]
        policy.beside = reader.head
        known = {name: k for k, name in enumerate(reader.layout.ids)}
        self.index = torch.tensor([known.get(name, -1) for name in policy.layout.ids])

    def __call__(
        self, policy: DiffusionPolicy, batch: Batch, generator: Generators, rows: np.ndarray
    ) -> Tensor:
        """(B,); where the eyes know nothing of an environment, the denoising loss alone."""
        losses = policy.loss(batch, generator, self.noise)
        index = self.index.to(batch.environment.device)[batch.environment]
        there = (index >= 0).nonzero()[:, 0]
        if not len(there):
            return losses
        window = {key: x[there] for key, x in batch.window.items()}
        misses = self.reader.missed(window, index[there])
        return losses.index_add(0, there, self.weight * misses.to(losses.dtype))


def finished(policy: DiffusionPolicy) -> None:
    """Take away what only training needed."""
    policy.beside = None
