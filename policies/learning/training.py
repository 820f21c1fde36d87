"""The training loop, shared by specialists, the labeled-only baseline and the generalist; exact
under resume.
"""

from __future__ import annotations

import copy
import json
import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from alltrades.policies.learning.batches import TrainingData, stack_batches
from alltrades.policies.learning.ema import EMA
from alltrades.policies.learning.objectives import Linear
from alltrades.policies.model.policy import Batch, DiffusionPolicy
from alltrades.policies.settings import TrainSettings
from alltrades.system.reporting import Report
from alltrades.system.streams import stream_seed

Loss = Callable[[DiffusionPolicy, Batch, torch.Generator, np.ndarray], Tensor]
SMALL = 500_000  # parameters below which a second thread costs more than it brings
LOOKS = 10  # at held-out losses during a training


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


def autocast(settings: TrainSettings, device: torch.device) -> torch.autocast:
    """bf16 autocast where asked for, or where the processor computes in bf16 (`auto`)."""
    native = (
        torch.cuda.is_bf16_supported()
        if device.type == "cuda"
        else torch.cpu._is_avx512_bf16_supported()
    )
    enabled = settings.precision == "bf16" or (settings.precision == "auto" and native)
    return torch.autocast(device.type, dtype=torch.bfloat16, enabled=enabled)


@contextmanager
def threads(count: int) -> Iterator[None]:
    """Let PyTorch use `count` threads, and as many as before afterwards."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def threads_for(policy: DiffusionPolicy) -> AbstractContextManager[None]:
    """One thread for small networks, whose steps are shorter than the wait for another thread."""
    return threads(1 if policy.parameter_count() < SMALL else torch.get_num_threads())


def look_steps(total: int) -> list[int]:
    """The steps of a training at which its average is looked at: ten, evenly spread."""
    return [max(1, round(total * (i + 1) / LOOKS)) for i in range(LOOKS)]


def write_average(folder: Path, step: int, average: Sequence[Tensor]) -> None:
    """Keep averaged weights, in the order of the policy's parameters, as
    folder/STEP.safetensors.
    """
    folder.mkdir(parents=True, exist_ok=True)
    partial = folder / f"{step}.partial"
    save_file({f"{i}": v.detach().cpu().contiguous() for i, v in enumerate(average)}, partial)
    partial.replace(folder / f"{step}.safetensors")


def read_average(folder: Path, step: int, policy: DiffusionPolicy) -> bool:
    """Give a policy the averaged weights of a step; False when they were not kept."""
    path = folder / f"{step}.safetensors"
    if not path.exists():
        return False
    found = load_file(path)
    with torch.no_grad():
        for i, parameter in enumerate(p for p in policy.parameters() if p.requires_grad):
            parameter.copy_(found[f"{i}"])
    policy.eval()
    return True


class HeldOut:
    """Denoising losses on rows kept from training, at fixed rows, noise and times: the same at
    every step.

    Args:
        batches: rows of each network (one, or the members of a stack), equally many.
        seeds: of each network's noise.
        total: steps of the training, of which ten, evenly spread, are looked at.
        preference: of one network over its environments, in whose proportion they count; default:
            all rows alike.
    """

    def __init__(
        self,
        batches: Sequence[Batch],
        seeds: Sequence[int],
        total: int,
        preference: Linear | None = None,
    ) -> None:
        self.batch = batches[0] if len(batches) == 1 else stack_batches(batches)
        self.seeds, self.preference = seeds, preference
        self.steps = look_steps(total)
        self._policy: DiffusionPolicy | None = None

    def __call__(self, policy: DiffusionPolicy, weights: Sequence[Tensor]) -> list[float]:
        """Mean loss of each network under `weights`, in the order of the policy's parameters."""
        if self._policy is None:
            self._policy = copy.deepcopy(policy).eval()
        device = self.batch.action.device
        generators = [torch.Generator(device).manual_seed(s) for s in self.seeds]
        with torch.inference_mode():
            torch._foreach_copy_(list(self._policy.parameters()), list(weights))
            losses = self._policy.loss(self.batch, generators)
            if self.preference is not None:
                return [float(self.preference(losses, self.batch.environment, self.batch.weight))]
            return losses.unflatten(0, (len(generators), -1)).mean(1).tolist()


class Trainer:
    """State of one training: network, optimiser, average, step; saved and restored together.

    Every random number is a function of (seed, step), so that a training that is killed and resumed
    from its last checkpoint ends with the same bits as one that was not, on the same machine with
    the same number of threads.
    """

    stacked = 0  # leading axes of parameters that count networks

    def __init__(
        self,
        policy: DiffusionPolicy,
        data: TrainingData,
        settings: TrainSettings,
        seed: int,
        objective: Linear | None = None,
        loss: Loss | None = None,
        total: int | None = None,
        held_out: HeldOut | None = None,
        averages: Path | None = None,
    ) -> None:
        self.policy, self.data, self.settings, self.seed = policy, data, settings, seed
        self.held_out, self.averages = held_out, averages
        self.curve: dict[int, list[float]] = {}  # step -> held-out losses of the average
        self.kept: list[Tensor] = []  # averages of members that have stopped
        self.objective = objective or Linear([e.id for e in policy.environments])
        self.loss = loss
        self.total = settings.steps if total is None else total
        self.device = next(policy.parameters()).device
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

    def update(self) -> Tensor:
        """One gradient step; returns the loss (a tensor, so that nothing waits for it)."""
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate(self.step, self.settings)
        value = self.forward()
        self.optimizer.zero_grad(set_to_none=True)
        value.sum().backward()
        self.clip()
        self.optimizer.step()
        self.ema.update(self.parameters)
        self.step += 1
        if self.held_out is not None and self.step in self.held_out.steps:
            self.curve[self.step] = self.held_out(self.policy, self.ema.shadow)
        if self.averages is not None and self.step in look_steps(self.settings.steps):
            write_average(self.averages, self.step, self.ema.shadow)
        return value.detach()

    def forward(self) -> Tensor:
        """What this step minimises, a scalar."""
        s = self.settings
        batch, rows = self.data.batch(s.batch, self.seed, self.step)
        self.generator.manual_seed(noise_seed(self.seed, self.step))
        with autocast(s, self.device):
            if self.loss is None:
                losses = self.policy.loss(batch, self.generator, s.observation_noise)
            else:
                losses = self.loss(self.policy, batch, self.generator, rows)
        return self.objective(losses, batch.environment, batch.weight)

    def clip(self) -> None:
        """Bound the norm of the gradient."""
        torch.nn.utils.clip_grad_norm_(self.parameters, self.settings.grad_clip)

    # ---- checkpoints -----------------------------------------------------------------------------
    def save(self, folder: Path) -> None:
        """Write checkpoint.safetensors, then checkpoint.json; the second names the step and is
        written by rename.
        """
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
        folder.mkdir(parents=True, exist_ok=True)
        target = folder / f"checkpoint-{self.step}.safetensors"
        save_file({k: v.detach().cpu().contiguous() for k, v in tensors.items()}, target)
        partial = folder / "checkpoint.json.partial"
        partial.write_text(
            json.dumps(
                {
                    "step": self.step,
                    "file": target.name,
                    "ema_count": ema["count"],
                    "curve": self.curve,
                }
            )
        )
        partial.replace(folder / "checkpoint.json")
        for old in folder.glob("checkpoint-*.safetensors"):
            if old.name != target.name:
                old.unlink()

    def restore(self, folder: Path) -> bool:
        """Continue from the last checkpoint in `folder`; False when there is none."""
        index = folder / "checkpoint.json"
        if not index.exists():
            return False
        facts = json.loads(index.read_text())
        tensors = load_file(folder / facts["file"], device=str(self.device))
        self.policy.load_state_dict(
            {k[6:]: v for k, v in tensors.items() if k.startswith("model.")}
        )
        for i, p in enumerate(self.parameters):
            prefix = f"optimizer.{i}."
            self.optimizer.state[p] = {
                k[len(prefix) :]: v for k, v in tensors.items() if k.startswith(prefix)
            }
        self.ema.load_state_dict(
            {
                "shadow": [tensors[f"ema.{i}"] for i in range(len(self.parameters))],
                "count": facts["ema_count"],
            }
        )
        self.kept = [tensors[f"kept.{i}"] for i in range(len(self.kept))]
        self.curve = {int(step): losses for step, losses in facts["curve"].items()}
        self.objective.load_state_dict(
            {k[10:]: v for k, v in tensors.items() if k.startswith("objective.")}
        )
        self.step = int(facts["step"])
        return True

    # ---- the loop --------------------------------------------------------------------------------
    def fit(self, folder: Path | None = None, report: Report | None = None) -> DiffusionPolicy:
        """Train to the last step and return the policy with its averaged weights.

        Args:
            folder: where checkpoints are kept; an existing one is continued.
            report: gets the steps done after every step, and every `log_every` steps {"loss", "lr"}
                and the objective's metrics; the loss is the mean since the last time.
        """
        if folder is not None:
            self.restore(folder)
        self.policy.train()
        with threads_for(self.policy):
            self._loop(folder, report or Report())
        self.ema.copy_to(self.parameters)
        return self.policy.eval()

    def finished(self) -> bool:
        """Whether there is nothing left to do."""
        return self.step >= self.total

    def _loop(self, folder: Path | None, report: Report) -> None:
        since: list[Tensor] = []
        while not self.finished():
            since.append(self.update())
            if self.step % self.settings.log_every == 0 or self.step == self.total:
                report.log(
                    self.step,
                    {
                        "loss": torch.stack(since).mean(0).tolist(),
                        "lr": learning_rate(self.step - 1, self.settings),
                        **self.objective.metrics(),
                    },
                )
                since = []
            if (
                folder is not None
                and self.step % self.settings.checkpoint_every == 0
                and self.step < self.total
            ):
                self.save(folder)
            report.progress(self.step, self.total)
