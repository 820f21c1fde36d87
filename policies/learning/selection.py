"""Specialists of many environments: how large, how regularised, how long, chosen by
cross-validation over episodes.

A handful of demonstrations of one environment cannot tell settings apart. One choice shared by all
environments can: every environment gives the held-out losses of its own episodes, in shares of the
lowest that any setting reached there, and the setting with the lowest mean over environments is
taken, at the number of steps where that mean is lowest.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from alltrades.data.interface import Interface
from alltrades.data.steps import Steps
from alltrades.errors import UserError
from alltrades.policies.learning.batches import Symmetries
from alltrades.policies.learning.demonstrations import Fit, hold_out, make_normalizer
from alltrades.policies.learning.stacked_training import (
    Learned,
    Learner,
    Run,
    fit_learners,
    in_order,
)
from alltrades.policies.model.normalizer import Normalizer
from alltrades.policies.model.policy import DiffusionPolicy
from alltrades.policies.settings import PolicySettings, TrainSettings
from alltrades.system.reporting import Report
from alltrades.system.streams import stream


@dataclass(frozen=True)
class Candidate:
    """One setting of specialists: what it is called, its network and its training."""

    name: str
    policy: PolicySettings
    train: TrainSettings


@dataclass(frozen=True)
class Choice:
    """What cross-validation found.

    Attributes:
        candidate, steps: position of the best candidate, and its number of steps.
        relative: (C, S) mean over environments of the held-out loss, in shares of each
            environment's lowest.
        losses: per environment (C, S) held-out denoising losses, mean over folds.
        looks: (S,) the steps at which they were taken.
    """

    candidate: int
    steps: int
    relative: np.ndarray
    losses: dict[str, np.ndarray]
    looks: tuple[int, ...]

    def to_json(self, candidates: Sequence[Candidate]) -> dict[str, Any]:
        """Table of losses by candidate and environment; None for those of trainings that diverged
        or had ended.
        """
        best = self.relative.argmin(1).tolist()
        chosen = candidates[self.candidate]
        return {
            "chosen": chosen.name,
            "steps": self.steps,
            "of": chosen.train.steps,
            "looks": list(self.looks),
            "relative_loss": {
                c.name: _known(self.relative[i, best[i]]) for i, c in enumerate(candidates)
            },
            "relative_curves": {
                c.name: [_known(x) for x in self.relative[i]] for i, c in enumerate(candidates)
            },
            "losses": {
                name: {c.name: _known(losses[i, best[i]]) for i, c in enumerate(candidates)}
                for name, losses in self.losses.items()
            },
        }


def _known(loss: float) -> float | None:
    return float(loss) if np.isfinite(loss) else None


def fold_of_episode(demos: Steps, folds: int, seed: int) -> np.ndarray:
    """(E,) fold in which an episode is held out: min(folds, episodes) folds per environment; -1
    where there is one episode.

    Episodes without actions are -1 too.
    """
    rng = stream(seed, "folds")
    out = np.full(len(demos.environment), -1)
    for name in dict.fromkeys(demos.environment.tolist()):
        mine = np.flatnonzero((demos.environment == name) & demos.has_actions)
        if len(mine) > 1:
            out[rng.permutation(mine)] = np.arange(len(mine)) % folds
    return out


def choose(losses: Mapping[str, np.ndarray], looks: Sequence[int]) -> Choice:
    """The candidate and number of steps with the lowest mean relative loss; `losses` per
    environment (C, S).

    A loss that is not finite, of a training that diverged or had ended before, is above every
    other. Raises UserError where nothing else is left.
    """
    found = {name: np.where(np.isfinite(x), x, np.inf) for name, x in losses.items()}
    lowest = {name: float(x.min()) for name, x in found.items()}
    relative = np.mean(
        [
            x / max(lowest[name], 1e-12) if np.isfinite(lowest[name]) else x
            for name, x in found.items()
        ],
        axis=0,
    )  # (C, S)
    if not np.isfinite(relative).any():
        raise UserError(
            "no candidate's held-out loss is finite in every environment at any number of steps: "
            "all trainings "
            "diverged; expected one that learns; lower specialist.train.lr or the candidates' lr"
        )
    candidate, look = np.unravel_index(int(relative.argmin()), relative.shape)
    return Choice(int(candidate), looks[int(look)], relative, found, tuple(looks))


def specialist_normalizers(
    demos: Steps, infos: Sequence[Interface], settings: PolicySettings, actions: Normalizer
) -> list[Normalizer]:
    """Statistics of each environment's specialist: observations of `demos`, the action scale of
    `actions`.
    """
    shared = make_normalizer(demos, infos, settings)
    out = []
    for k, info in enumerate(infos):
        own = Normalizer(1, info.obs_dim, info.action_dim)
        own.obs_mean[0], own.obs_scale[0] = (
            shared.obs_mean[k, : info.obs_dim],
            shared.obs_scale[k, : info.obs_dim],
        )
        own.action_mean.copy_(actions.action_mean[: info.action_dim])
        own.action_scale.copy_(actions.action_scale[: info.action_dim])
        own.fitted.fill_(1.0)
        out.append(own)
    return out


@dataclass
class Specialists:
    """Fits the specialists of many environments; equal shapes together.

    Args:
        demos: steps of all environments; they set the action scale of every specialist.
        infos, seeds: of every environment.
        folder: where checkpoints are kept; an interrupted fit is continued.
        report: gets the steps done, counted over all networks, and the metrics of the specialists
            that are kept, each under its own of `names`.
        names: of each environment's metrics; default: its id.
        run: trains stacks of specialists, such as beside one another; default in their order.
    """

    demos: Steps
    infos: Sequence[Interface]
    seeds: Sequence[int]
    hold_end: bool = False
    symmetries: Symmetries | None = None
    folder: Path | None = None
    report: Report = field(default_factory=Report)
    names: Sequence[str] | None = None
    run: Run = in_order
    device: str = "cpu"

    def fit(
        self,
        candidates: Sequence[Candidate],
        selection: str,
        folds: int,
        most: int,
        patience: int | None = None,
    ) -> tuple[list[Fit], Choice | None]:
        """One specialist per environment.

        Args:
            selection: "last" trains the first candidate for all its steps, "holdout" for as many as
                each environment's held-out episodes prefer; "cv" trains the candidate and number of
                steps that `cross_validate` chooses, the first one for all its steps where there is
                nothing to choose by.
            folds, most, patience: see `cross_validate`.
        """
        candidate, choice = candidates[0], None
        longest = max(c.train.steps for c in candidates) if selection == "cv" else 0
        choosing, training = self.report.parts(
            [0, (longest or candidate.train.steps) * len(self.infos)]
        )
        stops = [candidate.train.steps] * len(self.infos)
        losses: list[float | None] = [None] * len(self.infos)
        if selection == "cv":
            choice = self.cross_validate(candidates, folds, most, patience, choosing)
            if choice is not None:
                candidate, stops = candidates[choice.candidate], [choice.steps] * len(self.infos)
                at = choice.candidate, choice.looks.index(choice.steps)
                losses = [
                    float(choice.losses[i.id][at]) if i.id in choice.losses else None
                    for i in self.infos
                ]
        elif selection == "holdout":
            stops, losses = self.holdout(candidate, choosing)
        return [
            Fit(*facts) for facts in zip(self.last(candidate, stops, training), stops, losses)
        ], choice

    # ---- the three selections --------------------------------------------------------------------
    def last(
        self,
        candidate: Candidate,
        stops: Sequence[int] | None = None,
        report: Report | None = None,
    ) -> list[DiffusionPolicy]:
        """One policy per environment from all its demonstrations, after `stops` steps or all."""
        learners = [
            self._learner(k, candidate, n, self._of(info), stop=None if stops is None else stops[k])
            for k, (info, n) in enumerate(zip(self.infos, self._normalizers(self.demos, candidate)))
        ]
        return [x.policy for x in self._fit(learners, "training", report or self.report)]

    def holdout(
        self, candidate: Candidate, report: Report | None = None
    ) -> tuple[list[int], list[float | None]]:
        """For each environment the number of steps with the lowest loss on held-out episodes, and
        that loss.

        A fifth of its episodes are held out; all steps and None where there are fewer than 3.
        """
        quiet = (report or self.report).unrecorded()
        held = [hold_out(self._of(info), seed) for info, seed in zip(self.infos, self.seeds)]
        able = [k for k, x in enumerate(held) if x.any()]
        normalizers = self._normalizers(self.demos, candidate)
        learners = [
            self._learner(k, candidate, normalizers[k], self._of(self.infos[k]), held[k])
            for k in able
        ]
        curves = {k: x.curve for k, x in zip(able, self._fit(learners, "holdout", quiet))}
        best = [
            min((v, s) for s, v in curves[k].items())
            if k in curves
            else (None, candidate.train.steps)
            for k in range(len(self.infos))
        ]
        return [s for _, s in best], [v for v, _ in best]

    def cross_validate(
        self,
        candidates: Sequence[Candidate],
        folds: int,
        most: int,
        patience: int | None = None,
        report: Report | None = None,
    ) -> Choice | None:
        """The choice shared by all environments; None where every environment has one
        demonstration.

        Args:
            folds: groups of episodes, each held out once.
            most: environments that take part, evenly spread over those with two demonstrations or
                more.
            patience: looks at its held-out loss without a new lowest after which a candidate is
                trained no further.
        """
        fold = fold_of_episode(self.demos, folds, self.seeds[0])
        able = [
            k
            for k, info in enumerate(self.infos)
            if (fold[self.demos.environment == info.id] >= 0).any()
        ]
        able = [
            able[i]
            for i in np.unique(
                np.linspace(0, len(able) - 1, min(most, len(able))).round().astype(int)
            ).tolist()
        ]
        learners: list[Learner] = []
        owner: list[tuple[int, int]] = []  # (candidate, environment)
        for c, candidate in enumerate(candidates):
            for f in range(folds):
                normalizers = self._normalizers(self.demos.select(fold != f), candidate)
                for k in able:
                    held = fold[self.demos.environment == self.infos[k].id] == f
                    if held.any():
                        learners.append(
                            self._learner(
                                k, candidate, normalizers[k], self._of(self.infos[k]), held, group=c
                            )
                        )
                        owner.append((c, k))
        if not learners:
            return None
        quiet = (report or self.report).unrecorded()
        curves: dict[tuple[int, int], list[dict[int, float]]] = {}
        for key, learned in zip(owner, self._fit(learners, "folds", quiet, patience)):
            curves.setdefault(key, []).append(learned.curve)
        looks = sorted({look for parts in curves.values() for x in parts for look in x})
        losses = {
            self.infos[k].id: np.array(
                [
                    np.mean([[x.get(look, np.inf) for look in looks] for x in curves[c, k]], axis=0)
                    for c in range(len(candidates))
                ]
            )
            for k in able
        }
        return choose(losses, looks)

    # ---- helpers ---------------------------------------------------------------------------------
    def _of(self, info: Interface) -> Steps:
        return self.demos.select(self.demos.environment == info.id)

    def _normalizers(self, demos: Steps, candidate: Candidate) -> list[Normalizer]:
        return specialist_normalizers(
            demos,
            self.infos,
            candidate.policy,
            make_normalizer(self.demos, self.infos, candidate.policy),
        )

    def _learner(
        self,
        k: int,
        candidate: Candidate,
        normalizer: Normalizer,
        own: Steps,
        held: np.ndarray | None = None,
        stop: int | None = None,
        group: int = 0,
    ) -> Learner:
        return Learner(
            self.infos[k],
            own if held is None else own.select(~held),
            normalizer,
            candidate.policy,
            candidate.train,
            self.seeds[k],
            None if held is None else own.select(held),
            stop,
            group,
            self.infos[k].id if self.names is None else self.names[k],
        )

    def _fit(
        self,
        learners: Sequence[Learner],
        name: str,
        report: Report,
        patience: int | None = None,
    ) -> list[Learned]:
        return fit_learners(
            learners,
            hold_end=self.hold_end,
            symmetries=self.symmetries,
            patience=patience,
            report=report,
            folder=None if self.folder is None else self.folder / name,
            run=self.run,
            device=self.device,
        )
