"""Settings of a run that are fine alone and cannot work together.

What one part's settings say of one another is refused by that part; here is what several parts say.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Protocol

from alltrades.policies.settings import FEWEST, LARGEST_DECAY, check_observe
from alltrades.settings.demos import DemoSettings
from alltrades.settings.distill import DistillSettings
from alltrades.settings.networks import SpecialistSettings


class Run(Protocol):
    """What is looked at of the settings of a run."""

    @property
    def demos(self) -> DemoSettings: ...

    @property
    def specialist(self) -> SpecialistSettings: ...

    @property
    def distill(self) -> DistillSettings: ...

    @property
    def generalists(self) -> dict[str, DistillSettings]: ...

    def observing(self) -> dict[str, tuple[str, ...] | None]: ...


def contradictions(settings: Run) -> Iterator[str]:
    """Each as one line that names the settings and their values."""
    yield from _demonstrations(settings)
    yield from _candidates(settings)
    for key, observe in settings.observing().items():
        if observe is not None:
            try:
                check_observe(observe)
            except ValueError as error:
                yield f"{key.removesuffix('.observe')}: {error}"
    distills = {"distill": settings.distill}
    distills |= {f"generalists.{name}": d for name, d in settings.generalists.items()}
    for key, own in distills.items():
        yield from _distillation(key, own)


def _demonstrations(settings: Run) -> Iterator[str]:
    """Episodes that are to be recorded, and what is to be done with them."""
    demos, specialist = settings.demos, settings.specialist
    if demos.path is not None or demos.episodes is None:
        return
    numbers = {"demos.episodes": demos.episodes}
    numbers |= {f"demos.episodes_of.{name}": n for name, n in demos.episodes_of.items()}
    key = min(numbers, key=numbers.__getitem__)  # of the environment that has the fewest
    count = numbers[key]
    if demos.holdout and count < 2:
        yield (
            f"demos.holdout = {demos.holdout:g} of {key} = {count} leaves nothing to "
            f"learn from or to judge on; expected two demonstrations or more; raise {key}, "
            "or set demos.holdout: 0"
        )
        return
    if demos.holdout:
        count -= min(max(1, round(demos.holdout * count)), count - 1)
    left = f"{count} demonstrations that are learned from ({key} = {numbers[key]}" + (
        f", demos.holdout = {demos.holdout:g})" if demos.holdout else ")"
    )
    if specialist.selection == "cv" and specialist.folds > count:
        yield (
            f"specialist.selection = cv with specialist.folds = {specialist.folds} and {left}; "
            "expected no more folds than demonstrations; lower specialist.folds, or raise "
            f"{key}"
        )
    if specialist.selection == "holdout" and count < FEWEST:
        yield (
            f"specialist.selection = holdout with {left}; expected at least {FEWEST}, of which one "
            f"is held out; raise {key}, or set specialist.selection: last"
        )


def _candidates(settings: Run) -> Iterator[str]:
    """What a candidate says beside what it leaves as it is."""
    base = settings.specialist.train
    for candidate in settings.specialist.candidates:
        lr = base.lr if candidate.lr is None else candidate.lr
        decay = base.weight_decay if candidate.weight_decay is None else candidate.weight_decay
        if lr * decay >= LARGEST_DECAY:
            yield (
                f"specialist.candidates: {candidate.name()}: lr = {lr:g} with weight_decay = "
                f"{decay:g} takes {lr * decay:.0%} of every weight at each step; expected less "
                f"than {LARGEST_DECAY:.0%}; lower weight_decay"
            )


def _distillation(key: str, own: DistillSettings) -> Iterator[str]:
    weights = own.weights
    twice = sorted({name for name in own.teachers if own.teachers.count(name) > 1})
    if twice:
        yield (
            f"{key}.teachers names {twice[0]} twice; expected each teacher once; for the same from "
            f"another seed say {twice[0]}_2"
        )
    if own.rollouts == 0 and weights.filtered:
        yield (
            f"{key}.weights.kind = {weights.kind} keeps successful rollouts and {key}.rollouts = 0 "
            f"makes none; expected some; raise {key}.rollouts, or choose another kind"
        )
    if own.reuse_labels and own.demo_share == 1 and own.rollouts > 0:
        yield (
            f"{key}.demo_share = 1 with {key}.rollouts = {own.rollouts}: no rollout would be "
            f"learned from; expected a share below 1; lower {key}.demo_share, or set "
            f"{key}.rollouts: 0"
        )
    if weights.estimator is not None:
        if weights.at != "state" and own.actions == "fresh":
            yield (
                f"{key}.weights.at = {weights.at} weighs the actions that were executed and "
                f"{key}.actions = fresh draws others; expected executed ones; set {key}.actions: "
                f"auto, or {key}.weights.at: state"
            )
        if weights.floor > 1 / weights.alpha:
            yield (
                f"{key}.weights.floor = {weights.floor:g} with {key}.weights.alpha = "
                f"{weights.alpha:g}: all weights would be alike; expected a floor of at most "
                f"1/alpha = {1 / weights.alpha:g}; lower it, or set {key}.weights.kind: mixture"
            )
        if weights.ess_min == 1:
            yield (
                f"{key}.weights.ess_min = 1 lets no weights but equal ones count; expected less; "
                f"lower it, or set {key}.weights.kind: mixture"
            )
    rounds = own.rounds
    if rounds.count and rounds.tries == 1 and rounds.renew > 0:
        yield (
            f"{key}.rounds.renew = {rounds.renew:g} with {key}.rounds.tries = 1: the only try does "
            f"not explore; expected more tries; raise {key}.rounds.tries, or set "
            f"{key}.rounds.renew: 0"
        )
