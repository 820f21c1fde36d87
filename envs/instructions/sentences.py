"""Goals of an environment, and the sentences that name them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from alltrades.system.streams import stream

INSTRUCTION = "instruction"  # the field that they become
Phrasing = Literal["training", "held_out", "wrong"]


@dataclass(frozen=True)
class Goal:
    """Something that can be asked for.

    Attributes:
        training: sentences that ask for it.
        held_out: further ones, which training never sees.
        target: columns of `state` that say where what it names is; empty where nothing does.

    Raises ValueError where one kind has no sentence, or both have the same.
    """

    training: tuple[str, ...]
    held_out: tuple[str, ...]
    target: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        for name in ("training", "held_out", "target"):
            object.__setattr__(self, name, tuple(getattr(self, name)))
        every = [*self.training, *self.held_out]
        if not self.training or not self.held_out or not all(every):
            raise ValueError(
                f"{len(self.training)} sentences of training and {len(self.held_out)} held out; "
                "expected one or more of both, none of them empty"
            )
        if len(set(every)) < len(every):
            twice = next(s for s in every if every.count(s) > 1)
            raise ValueError(f"the sentence {twice!r} stands there twice; expected it once")


@dataclass(frozen=True)
class Instructions:
    """What an environment can be told.

    The seed of an episode says all: with k goals, goal `seed % k` is asked for, and the rest of the
    start depends on `seed // k`. So k seeds in a row, the first of which is a multiple of k, are
    one start under every instruction. The sentence is drawn by the whole seed.

    Raises ValueError for no goals, a sentence of two goals, and targets of different sizes.
    """

    goals: tuple[Goal, ...]

    def __post_init__(self) -> None:
        object.__setattr__(self, "goals", tuple(self.goals))
        if not self.goals:
            raise ValueError("instructions of no goals; expected one or more")
        every = [s for goal in self.goals for s in (*goal.training, *goal.held_out)]
        if len(set(every)) < len(every):
            twice = next(s for s in every if every.count(s) > 1)
            raise ValueError(f"the sentence {twice!r} names two goals; expected one")
        if len({len(goal.target) for goal in self.goals}) > 1:
            raise ValueError("targets of different sizes; expected as many columns of every goal")

    @classmethod
    def of(cls, training: Sequence[str], held_out: Sequence[str]) -> Instructions:
        """Of an environment with one goal."""
        return cls((Goal(tuple(training), tuple(held_out)),))

    def goal(self, seed: int) -> int:
        """Number of the goal that the episode of `seed` asks for."""
        return seed % len(self.goals)

    def sentence(self, seed: int, phrasing: Phrasing) -> str:
        """What the episode of `seed` is told: of the kind `phrasing`; "wrong" is a training
        sentence of another goal. Raises ValueError for a wrong one where there is one goal.
        """
        rng, named = stream(seed, "phrasing"), self.goal(seed)
        if phrasing == "wrong":
            if len(self.goals) < 2:
                raise ValueError("a wrong instruction of one goal; expected two goals or more")
            named = (named + 1 + int(rng.integers(len(self.goals) - 1))) % len(self.goals)
        goal = self.goals[named]
        sentences = goal.held_out if phrasing == "held_out" else goal.training
        return sentences[int(rng.integers(len(sentences)))]
