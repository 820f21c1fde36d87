"""Policies before their training: statistics of demonstrations, and first weights."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import cast

import numpy as np
import torch

from alltrades.data.interface import Interface
from alltrades.data.layout import Layout
from alltrades.data.steps import Steps
from alltrades.errors import UserError
from alltrades.policies.learning.reading import reading_of
from alltrades.policies.model.checked import check_layers, check_rows
from alltrades.policies.model.encoders.base import Encoder
from alltrades.policies.model.encoders.weights import initial_weights
from alltrades.policies.model.growth import grown
from alltrades.policies.model.normalizer import Normalizer, fit_normalizer
from alltrades.policies.model.policy import DiffusionPolicy
from alltrades.policies.model.pooling import pooled
from alltrades.policies.model.statistics import Statistics, measure
from alltrades.policies.settings import PolicySettings
from alltrades.system.machine import processors
from alltrades.system.streams import GLOBAL_STATE

READERS = 4  # threads, at most, that take statistics of an environment each


def make_normalizer(
    demos: Steps, environments: Sequence[Interface], settings: PolicySettings
) -> Normalizer:
    """Statistics of demonstrations, each environment's own, of the fields that a policy of these
    settings sees (see `fit_normalizer`, `pooled`). Raises UserError for an environment without
    demonstrations.
    """
    seen = [e.seeing(settings.observe) for e in environments]
    out = fit_normalizer(statistics_of(demos, seen), Layout(seen), settings)
    out.reading = reading_of(demos, seen, settings)
    return out


def make_normalizers(
    demos: Steps, environments: Sequence[Interface], settings: PolicySettings
) -> list[Normalizer]:
    """The same as one normaliser for each environment: what a specialist has of the policy of all
    of them.
    """
    seen = [e.seeing(settings.observe) for e in environments]
    out = [
        fit_normalizer([own], Layout([e]), settings)
        for own, e in zip(statistics_of(demos, seen), seen)
    ]
    for own in out:
        own.reading = reading_of(demos, seen, settings)
    return out


def statistics_of(demos: Steps, environments: Sequence[Interface]) -> list[Statistics]:
    """Of every environment, those of the same quantities being one for all (see `pooled`)."""
    if len(environments) == 1:
        return pooled([measured(demos, environments[0])], environments)
    demos.numbers("")  # sorts them once, before threads ask
    with ThreadPoolExecutor(min(READERS, processors(), len(environments))) as pool:
        return pooled(list(pool.map(lambda e: measured(demos, e), environments)), environments)


def measured(demos: Steps, environment: Interface) -> Statistics:
    """Statistics of an environment's demonstrations that have actions. Rows are read once for all
    who ask for the same fields of the same steps.
    """

    def made() -> Statistics:
        own = demos.spans(_recorded(demos, environment.id))
        rows = {n: demos.observation[n] for n, f in environment.observation.items() if f.shape}
        return measure(
            environment,
            {name: r.between(*own) for name, r in rows.items()},
            demos.action.between(*own),
        )

    fields = tuple(environment.observation.items())
    return demos.once(("statistics", environment.id, fields, environment.action), made)


def _recorded(demos: Steps, name: str) -> np.ndarray:
    """(n,) the episodes of an environment whose actions were recorded; UserError where there are
    none.
    """
    mine = demos.acted(name)
    if len(mine):
        return mine
    if name in demos.of_environment:
        raise UserError(
            f"the episodes of '{name}' have no actions, and some of them must; give others with "
            "--demos, and these with --demos.observations"
        )
    raise UserError(
        f"no demonstrations of '{name}' in the store; it has "
        f"{', '.join(demos.of_environment)}; collect some, or leave the environment out"
    )


def build_policy(
    settings: PolicySettings,
    environments: Sequence[Interface],
    normalizer: Normalizer,
    seed: int,
    device: str = "cpu",
) -> DiffusionPolicy:
    """A policy with freshly initialised weights, a function of `seed`, and its own copy of the
    statistics; encoders of images begin with the weights that the settings name, which the policy's
    own settings know by their digest.

    Raises UserError for such weights that are not there or do not fit (see `EncoderWeights`), and
    for layers that cannot learn here (see `check_layers`).
    """
    given = None
    if any(e.seeing(settings.observe).of_kind("image") for e in environments):
        if settings.encoder.pretrain is not None:
            raise UserError(
                f"policy.encoder.pretrain = {settings.encoder.pretrain} is a stage of `alltrades "
                "run`; expected weights here; give the eyes that a run made, with "
                "--policy.encoder.pretrain null --policy.encoder.weights RUN/policies/eyes"
            )
        given = initial_weights(settings.encoder)
    if given is not None:
        encoder = settings.encoder.model_copy(update={"weights": given.digest()})
        settings = settings.model_copy(update={"encoder": encoder})
    architecture = None if given is None else given.architecture
    with GLOBAL_STATE, torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        policy = DiffusionPolicy(
            settings, environments, copy.deepcopy(normalizer), architecture=architecture
        )
    check_network(policy)
    if given is not None:
        parts = policy.conditioner
        given.into(dict(parts.encoders.items()), {key: parts.module[key] for key in parts.cameras})
    return policy.to(device)


def check_network(policy: DiffusionPolicy) -> None:
    """Raises UserError for networks that cannot learn here (see `check_layers`, `check_rows`)."""
    backbone, name = policy.backbone, f"backbone '{policy.settings.backbone}'"
    check_layers(backbone, name)
    chunk = (backbone.horizon, backbone.action_dim)
    check_rows(backbone, [chunk, (), (backbone.condition_dim,)], chunk, name)
    parts, name = policy.conditioner, f"encoder '{policy.settings.encoder.name}'"
    for encoder in parts.encoders.values():
        check_layers(encoder, name)
    for module, key in {parts.module[key]: key for key in parts.cameras}.items():
        slot = policy.layout.slots[key]
        encoder = cast(Encoder, parts.encoders[module])
        said = [(2 * encoder.channels,)] * parts.modulated(key)
        of = f"{name} of '{slot.field}'"
        check_rows(encoder, [slot.shape, *said], (encoder.dim,), of)


def grow_policy(
    policy: DiffusionPolicy, demos: Steps, environments: Sequence[Interface], seed: int
) -> DiffusionPolicy:
    """A trained policy that takes these environments too, with the statistics of their
    demonstrations (see `grown`); fresh encoders are a function of `seed`.

    `environments` have the fields that it is to see. Raises UserError for a network that cannot
    take them (see `check_network`).
    """
    statistics = [measured(demos, e) for e in environments]
    with GLOBAL_STATE, torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        found = grown(policy, environments, statistics)
    learning = found.training
    check_network(found)
    return found.train(learning)
