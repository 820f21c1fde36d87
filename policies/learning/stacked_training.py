"""Many small trainings at once: networks of equal shape learn as one stack, each from its own rows,
as if alone.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from alltrades.data.interface import Interface
from alltrades.data.layout import Layout
from alltrades.data.steps import Steps
from alltrades.policies.learning.batches import (
    PLAIN,
    Augmentation,
    TrainingData,
    demonstration_data,
    stack_batches,
)
from alltrades.policies.learning.checkpoints import Place
from alltrades.policies.learning.health import Health, broken_data
from alltrades.policies.learning.held_out import HeldOutLoss, held_out_batch
from alltrades.policies.learning.initial import build_policy
from alltrades.policies.learning.sharing import ALONE, Alone
from alltrades.policies.learning.training import Trainer, autocast, noise_seed
from alltrades.policies.model.normalizer import Normalizer
from alltrades.policies.model.policy import DiffusionPolicy
from alltrades.policies.model.stacked import StackedPolicy, stacks
from alltrades.policies.settings import PolicySettings, TrainSettings
from alltrades.system.files import unslug
from alltrades.system.reporting import Report

LARGEST = 32  # members of one stack: more save no time
MOST_PARAMETERS = (
    4_000_000  # of one stack: nor do large ones, and their optimiser states fill the memory
)
Run = Callable[[Sequence[Callable[[], None]]], None]  # runs jobs and returns when all are done


@dataclass(frozen=True)
class Member:
    """One network of a stack in training.

    Attributes:
        stop: step after which its average is kept.
        group: members of one group are judged together by `patience`.
        name: what it is called in messages.
    """

    data: TrainingData
    seed: int
    stop: int
    group: int = 0
    name: str = ""


class StackedTrainer(Trainer):
    """The members of a stack, each with its own rows, noise, gradient clipping and optimiser state.

    Each member ends as `Trainer` with its seed would have left it, up to rounding: AdamW and the
    average are elementwise, gradients of a sum of the members' losses do not mix.

    Args:
        members: in the order of the stack.
        patience: the training ends where no group's held-out loss, the geometric mean over its
            members, has reached a new lowest for so many looks; members that have not stopped by
            then are kept as they are. Default: it goes on.
        lose: a member that diverges goes on, with held-out losses that are not finite, rather than
            ending the training.
    """

    stacked = 1

    def __init__(
        self,
        policy: StackedPolicy,
        members: Sequence[Member],
        settings: TrainSettings,
        held_out: HeldOutLoss | None = None,
        patience: int | None = None,
        lose: bool = False,
    ) -> None:
        first, last = members[0], max(m.stop for m in members)
        super().__init__(policy, first.data, settings, first.seed, total=last, held_out=held_out)
        self.members, self.patience = list(members), patience
        self.groups = np.array([m.group for m in members])
        self.generators = [torch.Generator(self.device) for _ in members]
        self.kept = [s.clone() for s in self.ema.shadow]
        self.health = None if lose else Health([m.stop for m in members])

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        self.generators = [torch.Generator(self.device) for _ in self.members]

    def forward(self) -> Tensor:
        """(K,) mean loss of every member."""
        s = self.settings
        batch = stack_batches([m.data.batch(s.batch, m.seed, self.step)[0] for m in self.members])
        for generator, member in zip(self.generators, self.members):
            generator.manual_seed(noise_seed(member.seed, self.step))
        with autocast(s, self.device):
            losses = self.policy.loss(batch, self.generators, s.observation_noise)  # (K * B,)
        return (losses * batch.loss_weight).unflatten(0, (len(self.members), -1)).mean(1)

    def clip(self) -> None:
        gradients = [p.grad for p in self.parameters if p.grad is not None]
        norms = torch.stack([g.flatten(1).norm(dim=1) for g in gradients]).norm(dim=0)  # (K,)
        factors = (self.settings.grad_clip / (norms + 1e-6)).clamp(max=1.0)
        for g in gradients:
            g.mul_(factors.view(-1, *(1,) * (g.ndim - 1)))

    def update(self) -> Tensor:
        value = super().update()
        over = self.stale()
        for k, member in enumerate(self.members):
            if member.stop == self.step or (over and member.stop > self.step):
                for kept, average in zip(self.kept, self.ema.shadow):
                    kept[k] = average[k]
        return value

    def shared(self) -> Alone:
        """Everything: steps of small networks are shorter than the way to another process."""
        return ALONE

    def data_bytes(self) -> int:
        return sum(member.data.nbytes for member in self.members)

    def stale(self) -> bool:
        """Whether `patience` ends the training at this look."""
        if self.patience is None or self.step not in self.curve or len(self.curve) <= self.patience:
            return False
        with np.errstate(divide="ignore"):
            losses = np.log(
                np.array([self.curve[step] for step in sorted(self.curve)])
            )  # (looks, K)
        losses = np.where(np.isnan(losses), np.inf, losses)
        means = [losses[:, self.groups == group].mean(1) for group in np.unique(self.groups)]
        return all(x[: -self.patience].min() <= x[-self.patience :].min() for x in means)

    def finished(self) -> bool:
        """Whether there is nothing left to do."""
        return super().finished() or self.stale()

    def _network_of(self, weights: Tensor) -> int:
        return int(torch.isfinite(weights).flatten(1).all(1).logical_not().nonzero()[0])

    def _name_of(self, network: int, report: Report) -> str:
        return unslug(self.members[network].name) or f"network {network}"

    def _data_of(self, network: int, step: int) -> str | None:
        member = self.members[network]
        return broken_data(member.data, *member.data.batch(self.settings.batch, member.seed, step))

    def fit(self, place: Place | None = None, report: Report | None = None) -> DiffusionPolicy:
        """Train every member to its stop; the stack then has their kept averages. Done once, a
        place gives them again.
        """
        policy = super().fit(place, report)
        if place is not None and place.work is not None:
            self.save(place.work)
        torch._foreach_copy_([p.data for p in self.parameters], self.kept)
        return policy


@dataclass(frozen=True)
class Candidate:
    """One setting of specialists: what it is called, its network and its training."""

    name: str
    policy: PolicySettings
    train: TrainSettings


@dataclass(frozen=True)
class Learner:
    """One network of one environment to be trained.

    Attributes:
        demos: episodes it learns from; all of its environment.
        held: episodes on which its loss is followed.
        stop: steps after which it is kept; default all of its candidate.
        group: learners of one group are judged together by `patience`.
        name: under which its metrics are recorded.
    """

    environment: Interface
    demos: Steps
    normalizer: Normalizer
    candidate: Candidate
    seed: int
    held: Steps | None = None
    stop: int | None = None
    group: int = 0
    name: str = ""

    @property
    def train(self) -> TrainSettings:
        return self.candidate.train

    @property
    def steps(self) -> int:
        return self.stop or self.train.steps

    def untrained(self, device: str) -> DiffusionPolicy:
        """The policy before its training."""
        return build_policy(
            self.candidate.policy, [self.environment], self.normalizer, self.seed, device
        )

    def key(self) -> tuple[str, ...]:
        """Equal keys can be one stack: equal shapes, process, optimisation and length of history.
        Learners with images or text are trained alone: stacks of their layers save no time.
        """
        settings = self.candidate.policy
        seen = Layout([self.environment.seeing(settings.observe)])
        alone = any(slot.kind != "state" for slot in seen.slots.values())
        sizes = {slot.key: slot.shape for slot in seen.slots.values()}
        return (
            settings.model_dump_json(exclude={"embedding", "observe"}),
            str((sizes, seen.action_dim, self.held is None, id(self) if alone else 0)),
            self.train.model_dump_json(),
        )


@dataclass(frozen=True)
class Learned:
    """What a learner has become.

    Attributes:
        curve: held-out losses by step, empty where nothing is held out.
        course: mean training loss in each quarter of its steps (see `Health.course`).
    """

    policy: DiffusionPolicy
    curve: dict[int, float]
    course: tuple[float, ...] = ()


def in_order(jobs: Sequence[Callable[[], None]]) -> None:
    """Jobs one after the other."""
    for job in jobs:
        job()


def fit_learners(
    learners: Sequence[Learner],
    *,
    augmentation: Augmentation = PLAIN,
    patience: int | None = None,
    lose: bool = False,
    place: Place | None = None,
    report: Report | None = None,
    run: Run = in_order,
    device: str = "cpu",
) -> list[Learned]:
    """Train learners, those of equal shape together.

    Args:
        patience, lose: see `StackedTrainer`; a stack that is ended by patience has no later
            held-out losses.
        place: where checkpoints are kept, one folder for each stack; an interrupted training is
            continued.
        report: gets the steps done, counted over all learners, each up to its stop, and the metrics
            of each under its name.
        run: trains the stacks, such as beside one another; default in their order.
    """
    found: dict[int, Learned] = {}
    parts = _parts(learners, device)
    place, report = place or Place(), report or Report()
    reports = report.parts([sum(learners[i].steps for i in part) for part in parts])

    def train_part(number: int, part: list[int]) -> None:
        mine = [learners[i] for i in part]
        train = mine[0].train
        policies = [x.untrained(device) for x in mine]
        shown, plain = augmentation.symmetric(train.symmetry), augmentation.symmetric(False)
        members = [
            Member(
                demonstration_data(x.demos, p, shown),
                x.seed,
                x.steps,
                x.group,
                x.name or f"specialist of {x.environment.id}",
            )
            for x, p in zip(mine, policies)
        ]
        looks = [
            held_out_batch(demonstration_data(x.held, p, plain), x.seed)
            for x, p in zip(mine, policies)
            if x.held is not None
        ]
        trainer = StackedTrainer(
            StackedPolicy(policies),
            members,
            train,
            HeldOutLoss(looks, [x.seed for x in mine], train.steps) if looks else None,
            patience,
            lose,
        )

        def record(_: str, step: int, values: Mapping[str, Any]) -> None:
            for x, loss in zip(mine, values["loss"]):
                if step <= x.steps:
                    report.named(x.name).log(step, {"loss": loss, "lr": values["lr"]})

        def show(step: int, _: int) -> None:
            reports[number].progress(
                sum(min(step, x.steps) for x in mine), sum(x.steps for x in mine)
            )

        stack = trainer.fit(place.within(f"stack-{number}"), Report(show, record))
        show(train.steps, train.steps)
        assert isinstance(stack, StackedPolicy)
        for member, (i, policy) in enumerate(zip(part, policies)):
            stack.copy_member(member, policy)
            found[i] = Learned(
                policy.eval(),
                {step: losses[member] for step, losses in trainer.curve.items()},
                trainer.course(member),
            )

    run([partial(train_part, number, part) for number, part in enumerate(parts)])
    return [found[i] for i in range(len(learners))]


def _parts(learners: Sequence[Learner], device: str) -> list[list[int]]:
    """Learners of equal key together, in stacks that stay small."""
    out: list[list[int]] = []
    for group in stacks([x.key() for x in learners], len(learners)):
        largest = max(
            1,
            min(LARGEST, MOST_PARAMETERS // learners[group[0]].untrained(device).parameter_count()),
        )
        out += [[group[i] for i in part] for part in stacks([0] * len(group), largest)]
    return out
