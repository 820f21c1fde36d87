"""Settings of rollouts."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field

from alltrades.errors import UserError
from alltrades.policies.settings import Frozen
from alltrades.system.machine import processors

MOST = 16  # workers for each processor


class RolloutSettings(Frozen):
    """Pseudo-trajectories."""

    lanes: int = Field(32, ge=1, description="episodes in flight")
    batch: int = Field(
        8,
        ge=1,
        description="rows of every policy call, at most the lanes of a policy; many pay off for "
        "images",
    )
    engine: Literal["torch", "onnx"] = Field(
        "torch",
        description="what computes chunks: PyTorch on its device, or onnxruntime, which is faster "
        "on a processor",
    )
    workers: int | None = Field(
        None,
        ge=0,
        description="processes that step environments; 0: this one, with --rollout.timeout 0; "
        "default: every processor",
    )
    errors: Literal["fail", "count"] = Field(
        "count",
        description="what an environment that raises or hangs costs: fail: the command; count: its "
        "episode, until at least five and more than a third of an environment's fail so",
    )
    timeout: float = Field(
        60.0,
        ge=0,
        description="seconds that one reset or step may take before its worker is killed, ten "
        "times as many for building an environment; 0: for ever",
    )
    growth: float = Field(
        1.0,
        ge=0,
        description="GiB that a worker may grow by, beside its environments and recorded episodes, "
        "before another takes its place; 0: any number",
    )

    def acting(self) -> dict[str, Any]:
        """What an episode depends on, besides its policy and start."""
        return self.model_dump(mode="json", exclude={"workers", "growth"})

    def worker_count(self) -> int:
        """Raises UserError for so many that they would bring the machine to a stand."""
        if self.workers is None:
            return processors()
        if self.workers > (most := MOST * processors()):
            raise UserError(
                f"rollout.workers = {self.workers} on {processors()} processors; expected at most "
                f"{most}, each a process; lower it, or give more machines: --compute ray"
            )
        return self.workers
