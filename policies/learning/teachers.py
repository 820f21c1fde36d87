"""What teachers predict at the noised chunks of a generalist in training, in the generalist's
units, and the loss that follows it.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor

from alltrades.errors import UserError
from alltrades.policies.model.batch import Batch, Generators, Noised
from alltrades.policies.model.policy import DiffusionPolicy

Teachers = Mapping[str, Mapping[str, DiffusionPolicy]]  # name -> environment id -> policy


def check_comparable(policy: DiffusionPolicy, teachers: Teachers, what: str, instead: str) -> None:
    """Raise UserError where the predictions of a teacher and the generalist cannot be compared.

    Args:
        what, instead: what needs the comparison and what to use otherwise, for the message.
    """
    for teacher in {id(t): t for own in teachers.values() for t in own.values()}.values():
        a, b = policy.settings, teacher.settings
        for field in ("process", "horizon", "schedule", "diffusion_steps", "action_normalizer"):
            if getattr(a, field) != getattr(b, field):
                raise UserError(
                    f"{what} need equal {field}: specialist has {getattr(b, field)}, generalist "
                    f"{getattr(a, field)}; make them equal or use {instead}"
                )
        for theirs, name in enumerate(teacher.layout.ids):
            if name in policy.layout.ids and not teacher.normalizer.same_actions(
                theirs, policy.normalizer, policy.layout.index(name)
            ):
                raise UserError(
                    f"{what} need one action scale: specialist and generalist were normalised "
                    f"differently in '{name}'; train them from the same store or use {instead}"
                )


class TeacherPredictions:
    """Predictions of the teachers at given noised chunks, each by the fields that it sees itself,
    which the batches must hold (see `TrainingData`).

    Args:
        teachers: comparable with the generalist (see `check_comparable`).
        policy: the generalist.
        teacher_of_row: (S,) position in `teachers` for every row of the training data, -1 for none.
        followed: (S,) bool, rows whose target is the teacher's prediction rather than their chunk;
            None: no row.
    """

    def __init__(
        self,
        teachers: Teachers,
        policy: DiffusionPolicy,
        teacher_of_row: np.ndarray,
        followed: np.ndarray | None = None,
    ) -> None:
        self.teacher_of_row, self.followed = teacher_of_row, followed
        self.teachers = [
            (kind, policy.layout.index(name), teacher, teacher.layout.index(name))
            for kind, of_environment in enumerate(teachers.values())
            for name, teacher in of_environment.items()
        ]

    @torch.no_grad()
    def __call__(
        self, policy: DiffusionPolicy, batch: Batch, noised: Noised, rows: np.ndarray
    ) -> tuple[Tensor, Tensor]:
        """Predictions (B, H, A) of the kind that `policy` makes, and (B,) which rows have a
        teacher; others are 0.
        """
        x_t, t, _ = noised
        of_row = torch.from_numpy(self.teacher_of_row[rows]).to(x_t.device)
        out = torch.zeros_like(x_t)
        known = torch.zeros(len(x_t), dtype=torch.bool, device=x_t.device)
        for kind, environment, teacher, index in self.teachers:
            where = ((of_row == kind) & (batch.environment == environment)).nonzero()[:, 0]
            if not len(where):
                continue
            sizes, local = teacher.layout, torch.full_like(where, index)
            window = {key: x[where] for key, x in teacher.fit_window(batch.window).items()}
            condition = teacher.condition(window, local)
            chunk = sizes.fit_action(x_t[where])
            predicted = policy.process.convert(
                teacher.backbone(chunk, t[where], condition).float(),
                teacher.settings.prediction,
                policy.settings.prediction,
                chunk,
                t[where],
            )
            out[where] = policy.layout.fit_action(predicted)
            known[where] = True
        return out, known

    def target(
        self, policy: DiffusionPolicy, batch: Batch, noised: Noised, rows: np.ndarray
    ) -> tuple[Tensor, Tensor, Tensor]:
        """What the generalist is to predict (B, H, A), and what `__call__` returns."""
        predicted, known = self(policy, batch, noised, rows)
        if self.followed is None:
            return noised.target, predicted, known
        follow = torch.from_numpy(self.followed[rows]).to(known.device) & known
        return torch.where(follow[:, None, None], predicted, noised.target), predicted, known


class ScoreLoss:
    """Squared distance to the teacher's own prediction at the same noised chunk on rows that follow
    one; the plain loss on others.
    """

    def __init__(self, predictions: TeacherPredictions) -> None:
        self.predictions = predictions

    def __call__(
        self, policy: DiffusionPolicy, batch: Batch, generator: Generators, rows: np.ndarray
    ) -> Tensor:
        noised = policy.noised(batch, generator)
        target, _, _ = self.predictions.target(policy, batch, noised, rows)
        return policy.errors(policy.predict(batch, noised), target, batch)
