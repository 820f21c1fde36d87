"""The settings of an adaptation, most of which are the generalist's own."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from alltrades.data.layout import Layout
from alltrades.data.opened import Stores
from alltrades.envs.spec import EnvSpec
from alltrades.errors import UserError
from alltrades.pipeline.given import environments_of
from alltrades.pipeline.resolution import missing, resolve
from alltrades.policies.model.device import check_device
from alltrades.policies.model.loading import load_policy
from alltrades.policies.model.policy import DiffusionPolicy
from alltrades.policies.settings import EncoderSettings
from alltrades.settings.run import RunSettings


def settings_for(settings: RunSettings, named: Sequence[str] | None, artifact: Path) -> RunSettings:
    """The settings of an adaptation: the new environments, and the generalist's network.

    `named`: the new environments; default those of the stores of demonstrations that the generalist
    does not know. Raises UserError where there is none, and for a name that it knows.
    """
    check_device(settings.device)
    generalist = load_policy(artifact, settings.device)
    known = generalist.layout.ids
    ids = tuple(named) if named is not None else _new_ids(settings, known)
    again = [name for name in ids if name in known]
    if again:
        raise UserError(
            f"the generalist knows '{again[0]}' already; expected environments that are new to it; "
            "leave it out, or train it on with rounds"
        )
    chosen = settings.model_copy(update={"environments": ids, "optional_environments": ()})
    observe = settings.policy.observe or _fitting(chosen, generalist.settings.observe)
    plain = {"observe": observe, "outcome_input": False, "guidance": 1.0}  # of specialists
    encoder = _encoder(chosen, observe, generalist, artifact)
    if not any(s.interface.seeing(observe).of_kind("text") for s in _specs(chosen, observe)):
        encoder = encoder.model_copy(update={"film": False})  # nothing to modulate it by
    policy = generalist.settings.model_copy(update=plain | {"encoder": encoder})
    return chosen.model_copy(update={"policy": policy})


def _specs(settings: RunSettings, observe: tuple[str, ...] | None) -> tuple[EnvSpec, ...]:
    """The new environments, as they are with what networks are to see."""
    network = settings.policy.model_copy(update={"observe": observe})
    return resolve(settings.model_copy(update={"policy": network}))[0]


def _fitting(settings: RunSettings, observe: tuple[str, ...] | None) -> tuple[str, ...] | None:
    """Those of a generalist's patterns of fields that fit new environments; all where none does."""
    if observe is None:
        return None
    specs = _specs(settings, None)
    return tuple(p for p in observe if not missing([p], specs)) or observe


def _encoder(
    settings: RunSettings,
    observe: tuple[str, ...] | None,
    generalist: DiffusionPolicy,
    artifact: Path,
) -> EncoderSettings:
    """How encoders of candidates begin: with the generalist's weights, where its own began with
    pretrained ones and these are of the new cameras, too; else they learn from nothing.
    """
    own, known = generalist.settings.encoder, generalist.layout.of_kind("image")
    if own.weights is None:
        return own
    seen = [spec.interface.seeing(observe) for spec in _specs(settings, observe)]
    cameras = Layout(seen).of_kind("image")
    names = {slot.key for slot in known}
    one = len({generalist.conditioner.module[key] for key in names}) == 1
    shapes = {slot.shape for slot in known}
    if all(slot.key in names or (one and slot.shape in shapes) for slot in cameras):
        return own.model_copy(update={"weights": str(artifact)})
    return own.model_copy(update={"weights": None, "frozen": False})


def _new_ids(settings: RunSettings, known: Sequence[str]) -> tuple[str, ...]:
    there = [e.id for e in environments_of(Stores().all(settings.demos.stores))]
    new = tuple(name for name in there if name not in known)
    if not new:
        raise UserError(
            f"{', '.join(map(str, settings.demos.stores))}: episodes of {', '.join(there[:4])}, "
            "which the generalist knows already; expected a new environment; give its "
            "demonstrations, or train the generalist on with rounds"
        )
    return new
