"""One lane: the history, noise and last actions of one episode."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from alltrades.data.fields import Observation
from alltrades.data.interface import Interface
from alltrades.data.layout import Layout
from alltrades.data.text import text_features
from alltrades.envs.rollouts.seeding import policy_generator
from alltrades.errors import UserError


def texts_of(observation: Observation) -> dict[str, str]:
    """The texts among the fields of an observation."""
    return {name: v for name, v in observation.items() if isinstance(v, str)}


def check_texts(
    before: Mapping[str, str], observation: Observation, environment: Interface
) -> None:
    """Raise UserError where an observation has other texts than its episode `before`."""
    for name, said in before.items():
        if observation[name] != said:
            raise UserError(
                f"text '{name}' of '{environment.id}' changes within an episode: {said[:40]!r}, "
                f"then {str(observation[name])[:40]!r}; expected one string per episode; reset "
                "first"
            )


class Lane:
    """State of one episode, of which a controller runs several side by side.

    Frames are kept as they were given and copied once, into the arrays of a policy call.

    Attributes:
        index, interface: the episode's environment; None before the first episode.
        generator: of the policy's noise; it advances only when the lane asks for a chunk.
        last: (1 or 2, A_env) last actions that were handed out, in order, or None.
        queue: planned actions (A_env,), next one last.
        seed: of the episode, None before the first.
        texts: of the episode, by field; empty before its first frame.
    """

    def __init__(self, n_obs_steps: int, layout: Layout) -> None:
        self.index = 0
        self.interface: Interface | None = None
        self.generator = np.random.default_rng(0)
        self.last: np.ndarray | None = None
        self.queue: list[np.ndarray] = []
        self.seed: int | None = None
        self.texts: dict[str, str] = {}
        self._n_obs_steps, self._layout = n_obs_steps, layout
        self._frames: list[Observation] = []  # the last n_obs_steps, oldest first

    def begin(self, index: int, interface: Interface, seed: int, noise_seed: int) -> None:
        """Start an episode: empty history and queue, noise from `noise_seed`."""
        self.index, self.interface, self.seed = index, interface, seed
        self.generator = policy_generator(noise_seed)
        self.last, self.texts = None, {}
        self._frames.clear()
        self.queue.clear()

    @property
    def environment(self) -> Interface:
        """Of the episode that runs."""
        assert self.interface is not None, "no episode has begun"
        return self.interface

    # ---- observations ----------------------------------------------------------------------------
    def check(self, observation: Observation) -> None:
        """Raise UserError for a text that is not the episode's."""
        check_texts(self.texts, observation, self.environment)

    def look(self, observation: Observation) -> None:
        """Take one frame, {field: (*shape,) or text}, into the history; its arrays must not change
        any more.
        """
        if not self._frames:
            self.texts = texts_of(observation)
            self._frames = [observation] * self._n_obs_steps
        else:
            self._frames = [*self._frames[1:], observation]

    def push(self, frames: Observation) -> None:
        """Take several frames, {field: (k, *shape) or text}, oldest first. The history before an
        episode's first frame is that frame, as in training.
        """
        count = next((len(v) for v in frames.values() if not isinstance(v, str)), 1)
        for i in range(max(0, count - self._n_obs_steps), count):
            self.look({n: v if isinstance(v, str) else v[i] for n, v in frames.items()})

    def write(self, window: Mapping[str, np.ndarray], row: int) -> None:
        """Put the history into a row of a window of zeros, (B, n_obs_steps, *shape) of each
        slot.
        """
        if not self._frames:
            return
        for name, key in self._layout.fields[self.index].items():
            said = self.texts.get(name)
            if said is not None:
                window[key][row] = text_features(said)
                continue
            target = window[key][row]  # (n_obs_steps, *shape)
            for i, frame in enumerate(self._frames):
                value: Any = frame[name]
                if value.shape == target.shape[1:]:
                    target[i] = value
                else:  # a state of a smaller environment
                    target[i, : len(value)] = value

    # ---- actions ---------------------------------------------------------------------------------
    def executed(self, actions: np.ndarray) -> None:
        """Note actions (k, A_env) that are executed next, one after another."""
        self.last = (
            actions[-2:]
            if self.last is None or len(actions) > 1
            else np.concatenate([self.last[-1:], actions])
        )
