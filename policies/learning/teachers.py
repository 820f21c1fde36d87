"""What teachers predict at the noised chunks of a generalist in training, in the generalist's
units.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from alltrades.errors import UserError
from alltrades.policies.model.policy import Batch, DiffusionPolicy


def check_comparable(
    policy: DiffusionPolicy, teacher: DiffusionPolicy, what: str, instead: str
) -> None:
    """Raise UserError where the predictions of teacher and generalist cannot be compared.

    Args:
        what, instead: what needs the comparison and what to use otherwise, for the message.
    """
    a, b = policy.settings, teacher.settings
    for field in ("process", "horizon", "schedule", "diffusion_steps", "action_normalizer"):
        if getattr(a, field) != getattr(b, field):
            raise UserError(
                f"{what} need equal {field}: specialist has {getattr(b, field)}, generalist "
                f"{getattr(a, field)}; make them equal or use {instead}"
            )
    width = min(teacher.action_dim, policy.action_dim)
    for buffer in ("action_mean", "action_scale"):
        if not torch.equal(
            getattr(teacher.normalizer, buffer)[:width], getattr(policy.normalizer, buffer)[:width]
        ):
            raise UserError(
                f"{what} need one action scale: specialist and generalist were normalised "
                "differently; "
                f"train them from the same store or use {instead}"
            )


class TeacherPredictions:
    """Predictions of the teachers at given noised chunks.

    Args:
        kind_of_row: (S,) index into `teachers` for every row of the training data, -1 for none.
        teachers: for each teacher kind, its policy per environment.
        policy: the generalist; raises UserError where it and a teacher cannot be compared.
        what, instead: see `check_comparable`.
    """

    def __init__(
        self,
        kind_of_row: np.ndarray,
        teachers: Sequence[Mapping[str, DiffusionPolicy]],
        policy: DiffusionPolicy,
        what: str,
        instead: str,
    ) -> None:
        self.kind_of_row = kind_of_row
        self.teachers: list[tuple[int, int, DiffusionPolicy, int]] = []
        for kind, policies in enumerate(teachers):
            for name, teacher in policies.items():
                check_comparable(policy, teacher, what, instead)
                self.teachers.append(
                    (kind, policy.environment_index(name), teacher, teacher.environment_index(name))
                )

    @torch.no_grad()
    def __call__(
        self, policy: DiffusionPolicy, batch: Batch, x_t: Tensor, t: Tensor, rows: np.ndarray
    ) -> tuple[Tensor, Tensor]:
        """Predictions (B, H, A) of the kind that `policy` makes, and (B,) which rows have a
        teacher; others are 0.
        """
        kind_of_row = torch.from_numpy(self.kind_of_row[rows]).to(x_t.device)
        out, known = (
            torch.zeros_like(x_t),
            torch.zeros(len(x_t), dtype=torch.bool, device=x_t.device),
        )
        for kind, environment, teacher, index in self.teachers:
            where = ((kind_of_row == kind) & (batch.environment == environment)).nonzero()[:, 0]
            if not len(where):
                continue
            a = teacher.action_dim
            local = torch.full_like(where, index)
            condition = teacher.condition(
                batch.window[where][:, -teacher.n_obs_steps :, : teacher.obs_dim], local
            )
            predicted = teacher.backbone(x_t[where][:, :, :a], t[where], condition).float()
            out[where, :, :a] = policy.process.convert(
                predicted,
                teacher.settings.prediction,
                policy.settings.prediction,
                x_t[where][:, :, :a],
                t[where],
            )
            known[where] = True
        return out, known
