"""Specialists that act on what the eyes tell: the state that a simulator knows, estimated from
pictures. Nothing is distilled; what a policy that looks adds is judged beside it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping

import numpy as np

from alltrades.envs.rendering.camera import Part
from alltrades.errors import UserError
from alltrades.policies.acting import ActingPolicy
from alltrades.policies.learning.eyes import Reader
from alltrades.policies.model.policy import DiffusionPolicy


class Estimated(ActingPolicy):
    """The specialist of one environment behind the eyes.

    Args:
        reader: the eyes, which know the environment.
        teacher: a policy that sees states of it.
        parts: states of the environment that show numbers of another one, by name.

    Numbers that the eyes do not tell are those that a state beside the cameras shows, and where
    none does, what they were in training: they stood still.

    Raises UserError where the teacher sees a field that neither the eyes nor the policy's own
    states say.
    """

    def __init__(
        self, reader: Reader, teacher: DiffusionPolicy, environment: str, parts: Mapping[str, Part]
    ) -> None:
        self.reader, self.teacher = reader, teacher
        self.there, self.taught = (p.environment_index(environment) for p in (reader, teacher))
        fields, sight = reader.environments[self.there].observation, reader.sight
        seen = (*sight.cameras, *sight.known)
        self.environments = (reader.environments[self.there].seeing(seen),)
        self.n_obs_steps, self.horizon, self.n_action_steps, self.draws = (
            teacher.n_obs_steps,
            teacher.horizon,
            teacher.n_action_steps,
            teacher.draws,
        )
        wanted = teacher.environments[self.taught].observation
        missing = [name for name in wanted if name not in fields]
        if missing:
            raise UserError(
                f"row 'estimated': the specialist of '{environment}' sees '{missing[0]}', which "
                f"the eyes do not tell; expected specialists of states ({', '.join(fields)}); set "
                "specialist.observe, or leave the row out"
            )
        keys = reader.layout.fields[self.there]
        self.shown = [
            (keys[part.of], list(part.columns), name)
            for name, part in parts.items()
            if name in sight.known and name in fields and keys.get(part.of) in reader.tells
        ]

    def digest(self) -> str:
        both = f"{self.reader.digest()} {self.teacher.digest()}"
        return hashlib.sha256(both.encode()).hexdigest()[:16]

    def estimates(self, window: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """The states (B, n_obs_steps, D) that the specialist sees, by its slots, from a window of
        this policy's own.
        """
        layout, keys = self.reader.layout, self.reader.layout.fields[self.there]
        rows, frames = len(next(iter(window.values()))), self.n_obs_steps
        given = layout.empty(rows, frames=frames)
        for name, slot in self.layout.fields[0].items():
            given[keys[name]][...] = layout.slots[keys[name]].fit(window[slot])
        every = {k: x.reshape(rows * frames, 1, *x.shape[2:]) for k, x in given.items()}
        found = self.reader.told(every, self.there)
        for key, columns, name in self.shown:
            found[key][:, columns] = every[keys[name]][:, 0, : len(columns)]
        theirs = self.teacher.layout
        states = {k: x.reshape(rows, frames, -1) for k, x in found.items()}
        return {
            slot: theirs.slots[slot].fit(states.get(keys[name], given[keys[name]]))
            for name, slot in theirs.fields[self.taught].items()
        }

    def act(
        self,
        window: Mapping[str, np.ndarray],
        environment: np.ndarray,
        noise: np.ndarray,
        known: np.ndarray | None = None,
        keep: np.ndarray | None = None,
    ) -> np.ndarray:
        """As of the specialist, in its own window."""
        taught = np.full(len(environment), self.taught)
        return self.teacher.act(self.estimates(window), taught, noise, known, keep)
