"""The training loop, shared by specialists, the labeled-only baseline and the generalist; exact
under resume.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from alltrades.policies.learning.batches import TrainingData
from alltrades.policies.learning.checkpoints import (
    Place,
    checkpoint_step,
    named,
    read_checkpoint,
    write_average,
    write_checkpoint,
)
from alltrades.policies.learning.elsewhere import trained_elsewhere
from alltrades.policies.learning.ema import EMA
from alltrades.policies.learning.health import (
    LOOK,
    Diverged,
    Health,
    broken_data,
    diverged,
)
from alltrades.policies.learning.held_out import HeldOutLoss, look_steps
from alltrades.policies.learning.objectives import Linear
from alltrades.policies.learning.sharing import ALONE, Alone, Elsewhere, share
from alltrades.policies.model.batch import Batch, Generators
from alltrades.policies.model.finite import first_unfinite
from alltrades.policies.model.policy import DiffusionPolicy
from alltrades.policies.model.threads import threads_for
from alltrades.policies.settings import TrainSettings
from alltrades.system.allocation import freed_memory_kept
from alltrades.system.files import unslug
from alltrades.system.reporting import Report
from alltrades.system.streams import stream_seed

GENERATORS = ("generator", "generators")  # of noise, whose seeds are set at every step

# (policy, batch, noise, rows (B,)) -> losses (B,)
Loss = Callable[[DiffusionPolicy, Batch, Generators, np.ndarray], Tensor]


@dataclass(frozen=True)
class Goal:
    """What a training minimises.

    Attributes:
        objective: makes one number of the losses of all samples; None: `Linear`, uniform over the
            policy's environments.
        loss: of every sample; None: the policy's denoising loss.
    """

    objective: Linear | None = None
    loss: Loss | None = None


def learning_rate(step: int, settings: TrainSettings) -> float:
    """One cycle: linear warm-up to `lr`, then half a cosine to a hundredth of it."""
    warm = max(1, int(settings.warmup * settings.steps))
    if step < warm:
        return settings.lr * (step + 1) / warm
    progress = (step - warm) / max(1, settings.steps - warm)
    return settings.lr * (0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * progress)))


def noise_seed(seed: int, step: int) -> int:
    """Seed of the noise of one step."""
    return stream_seed(seed, "noise", step)


def reduced(settings: TrainSettings, device: torch.device) -> bool:
    """Whether bf16 is computed in: where asked for, or where the processor does so (`auto`)."""
    native = (
        torch.cuda.is_bf16_supported()
        if device.type == "cuda"
        else torch.cpu._is_avx512_bf16_supported()
    )
    return settings.precision == "bf16" or (settings.precision == "auto" and native)


def autocast(settings: TrainSettings, device: torch.device) -> torch.autocast:
    """bf16 autocast where it is `reduced`."""
    return torch.autocast(device.type, dtype=torch.bfloat16, enabled=reduced(settings, device))


class Trainer:
    """State of one training: network, optimiser, average, step; saved and restored together.

    Every random number is a function of (seed, step), so that a training that is killed and resumed
    from its last checkpoint ends with the same bits as one that was not, on the same machine with
    the same number of threads.

    Args:
        total: steps after which it ends, at most `settings.steps`, which set the learning rate.
        held_out: loss of the average that is looked at on the way.
    """

    stacked = 0  # leading axes of parameters that count networks
    share: Alone = ALONE  # of its batches, where several processes train together

    def __init__(
        self,
        policy: DiffusionPolicy,
        data: TrainingData | Elsewhere,
        settings: TrainSettings,
        seed: int,
        goal: Goal | None = None,
        *,
        total: int | None = None,
        held_out: HeldOutLoss | None = None,
    ) -> None:
        goal = goal or Goal()
        self.policy, self.data, self.settings, self.seed = policy, data, settings, seed
        self.held_out = held_out
        self.curve: dict[int, list[float]] = {}  # step -> held-out losses of the average
        self.kept: list[Tensor] = []  # averages of members that have stopped
        self.objective = goal.objective or Linear(policy.layout.ids)
        self.loss = goal.loss
        self.total = settings.steps if total is None else total
        self.device = policy.device
        self.parameters = [p for p in policy.parameters() if p.requires_grad]
        matrices = [p for p in self.parameters if p.ndim - self.stacked > 1]
        vectors = [p for p in self.parameters if p.ndim - self.stacked <= 1]
        self.optimizer = torch.optim.AdamW(
            [
                {"params": matrices, "weight_decay": settings.weight_decay},
                {"params": vectors, "weight_decay": 0.0},
            ],
            lr=settings.lr,
            fused=True,
        )
        self.ema = EMA(self.parameters, settings.ema)
        self.generator = torch.Generator(self.device)
        self.step = 0
        # None: what diverges is judged by its held-out loss
        self.health: Health | None = Health([self.total])

    def update(self) -> Tensor:
        """One gradient step; returns the loss (a tensor, so that nothing waits for it)."""
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate(self.step, self.settings)
        value = self.forward()
        self.optimizer.zero_grad(set_to_none=True)
        self.share.backward(value.sum())
        self.clip()
        self.optimizer.step()
        self.ema.update(self.parameters)
        self.step += 1
        if self.held_out is not None and self.step in self.held_out.steps:
            self.curve[self.step] = self.held_out(self.policy, self.ema.shadow)
        return value.detach()

    def forward(self) -> Tensor:
        """What this step minimises, a scalar."""
        s = self.settings
        batch, rows = self.share.batch(self.data, s.batch, self.seed, self.step)
        self.generator.manual_seed(noise_seed(self.seed, self.step))
        with autocast(s, self.device):
            losses = self.share.losses(self.losses, batch, self.generator, rows)
        return self.objective(*self.share.whole(losses, batch))

    def losses(self, batch: Batch, generator: Generators, rows: np.ndarray) -> Tensor:
        """What the objective is taken of, one value per sample (B,)."""
        if self.loss is None:
            return self.policy.loss(batch, generator, self.settings.observation_noise)
        return self.loss(self.policy, batch, generator, rows)

    def clip(self) -> None:
        """Bound the norm of the gradient."""
        torch.nn.utils.clip_grad_norm_(self.parameters, self.settings.grad_clip)

    # ---- checkpoints -----------------------------------------------------------------------------
    def save(self, folder: Path) -> list[str]:
        """Write a checkpoint, and return the names of its files (see `write_checkpoint`)."""
        return write_checkpoint(folder, self.step, *self.state())

    def state(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Tensors and facts from which the training goes on, in any number of processes."""
        tensors: dict[str, Tensor] = {f"model.{k}": v for k, v in self.policy.state_dict().items()}
        for i, p in enumerate(self.parameters):
            for k, v in self.optimizer.state[p].items():
                tensors[f"optimizer.{i}.{k}"] = (
                    v if isinstance(v, Tensor) else torch.tensor(float(v))
                )
        ema = self.ema.state_dict()
        tensors |= {f"ema.{i}": v for i, v in enumerate(ema["shadow"])}
        tensors |= {f"kept.{i}": v for i, v in enumerate(self.kept)}
        tensors |= {f"objective.{k}": v for k, v in self.objective.state_dict().items()}
        health = None if self.health is None else self.health.state()
        return tensors, {"ema_count": ema["count"], "curve": self.curve, "health": health}

    def restore(self, folder: Path) -> bool:
        """Continue from the last checkpoint in `folder`; False when there is none."""
        found = read_checkpoint(folder, self.device)
        if found is None:
            return False
        tensors, facts = found
        self.resume(tensors, facts, int(facts["step"]))
        return True

    def resume(self, tensors: dict[str, Tensor], facts: dict[str, Any], step: int) -> None:
        """Go on from a `state`."""
        self.policy.load_state_dict(named(tensors, "model."))
        for i, p in enumerate(self.parameters):
            self.optimizer.state[p] = named(tensors, f"optimizer.{i}.")
        self.ema.load_state_dict(
            {
                "shadow": [tensors[f"ema.{i}"] for i in range(len(self.parameters))],
                "count": facts["ema_count"],
            }
        )
        self.kept = [tensors[f"kept.{i}"] for i in range(len(self.kept))]
        self.curve = {int(step): losses for step, losses in facts["curve"].items()}
        self.objective.load_state_dict(named(tensors, "objective."))
        self.step = step
        if self.health is not None:
            self.health.restore(facts["health"])

    def __getstate__(self) -> dict[str, Any]:
        """For other processes; generators have no state from one step to the next."""
        return {name: value for name, value in self.__dict__.items() if name not in GENERATORS}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self.generator = torch.Generator(self.device)

    # ---- the loop --------------------------------------------------------------------------------
    def fit(self, place: Place | None = None, report: Report | None = None) -> DiffusionPolicy:
        """Train to the last step and return the policy with its averaged weights.

        Args:
            place: where checkpoints are kept, from the last of which it goes on, and the average at
                every look.
            report: gets the steps done after every step, and every `log_every` steps {"loss", "lr"}
                and the objective's metrics; the loss is the mean since the last time.

        Raises Diverged, and leaves the last checkpoint, where nothing is learned any more.
        """
        place, report = place or Place(), report or Report()
        if place.work is not None:
            self.restore(place.work)
        self.policy.train()
        share = self.shared()
        if share is not ALONE or self.finished() or not trained_elsewhere(self, place, report):
            self.share = share
            self.train(place, report)
            self.share = ALONE
        self.ema.copy_to(self.parameters)
        return self.policy.eval()

    def train(self, place: Place, report: Report) -> None:
        """Train on to the last step, here."""
        looks = self.device.type == "cpu" and self.policy.conditioner.learns_to_see
        with threads_for(self.policy), freed_memory_kept(looks):
            self._loop(place, report)

    def data_bytes(self) -> int:
        """Of what it learns from."""
        return self.data.nbytes if isinstance(self.data, TrainingData) else 0

    def shared(self) -> Alone:
        """This process's share of its batches: all of them, unless several processes train
        together (see `sharing`).
        """
        if self.finished():
            return ALONE
        precision = "bf16" if reduced(self.settings, self.device) else "fp32"
        return share(
            self.parameters,
            self.losses,
            self.settings.batch,
            self.device,
            lambda: {
                "policy": self.policy,
                "goal": Goal(self.objective, self.loss),
                "settings": self.settings.model_copy(update={"precision": precision}),
                "seed": self.seed,
                "total": self.total,
                "progress": (*self.state(), self.step),
            },
        )

    def course(self, network: int = 0) -> tuple[float, ...]:
        """Mean training loss in each quarter of the steps (see `Health.course`)."""
        return () if self.health is None else self.health.course(network)

    def finished(self) -> bool:
        """Whether there is nothing left to do."""
        return self.step >= self.total

    def _loop(self, place: Place, report: Report) -> None:
        since: list[Tensor] = []  # losses since the last metrics
        fresh: list[Tensor] = []  # since the last look at them
        looks = look_steps(self.settings.steps)
        while not self.finished():
            value = self.update()
            since.append(value)
            fresh.append(value)
            last = self.step >= self.total
            logs = last or self.step % self.settings.log_every == 0
            averages = place.averages is not None and self.step in looks
            saves = place.work is not None and self.step % self.settings.checkpoint_every == 0
            if logs or averages or saves or self.step % LOOK == 0:
                self._look(fresh, averages or saves or last, place, report)
                fresh = []
            if place.averages is not None and averages:
                names = write_average(place.averages, self.step, self.ema.shadow)
                place.wrote(place.averages, names)
            if logs:
                report.log(
                    self.step,
                    {
                        "loss": torch.stack(since).mean(0).tolist(),
                        "lr": learning_rate(self.step - 1, self.settings),
                        **self.objective.metrics(),
                    },
                )
                since = []
            if place.work is not None and saves and not last:
                place.wrote(place.work, self.save(place.work))
            report.progress(self.step, self.total)

    # ---- whether it learns -----------------------------------------------------------------------
    def _look(self, fresh: list[Tensor], weights: bool, place: Place, report: Report) -> None:
        """Raise Diverged where the losses since the last look, or the weights, are not finite, or
        the loss has exploded.

        Args:
            weights: whether these are looked at, as they are before they are kept.
        """
        if self.health is None:
            return
        losses = torch.stack(fresh).float().cpu().numpy().reshape(len(fresh), -1)  # (n, K)
        found = self.health.look(losses)
        if found is not None:
            row, network, what = found
            step = self.step - len(fresh) + row  # counted from 0
            raise self._diverged(network, step, what, place, report)
        name = first_unfinite(self._weights()) if weights else None
        if name is not None:
            network = self._network_of(self._weights()[name])
            what = f"its weights '{name}' are not finite"
            raise self._diverged(network, self.step - 1, what, place, report)

    def _weights(self) -> dict[str, Tensor]:
        named = [name for name, p in self.policy.named_parameters() if p.requires_grad]
        return dict(zip(named, self.parameters)) | {
            f"average of {name}": s for name, s in zip(named, self.ema.shadow)
        }

    def _network_of(self, weights: Tensor) -> int:
        """Which of the networks has these weights, which are not finite."""
        return 0

    def _name_of(self, network: int, report: Report) -> str:
        return unslug(report.name) or "network"

    def _data_of(self, network: int, step: int) -> str | None:
        """What is not finite in a network's data of a step; None where everything is."""
        assert isinstance(self.data, TrainingData)  # the first process judges
        return broken_data(self.data, *self.data.batch(self.settings.batch, self.seed, step))

    def _diverged(
        self, network: int, step: int, found: str, place: Place, report: Report
    ) -> Diverged:
        kept = "nothing was written of it yet"
        if place.work is not None and (at := checkpoint_step(place.work)) is not None:
            kept = f"the checkpoint of step {at:,} is kept"
        return diverged(
            self._name_of(network, report),
            step + 1,
            found,
            self.settings,
            reduced(self.settings, self.device),
            kept,
            lambda: self._data_of(network, step),
        )
