"""The executor that a command's settings ask for."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial

from alltrades.envs.elsewhere import Surroundings
from alltrades.errors import UserError
from alltrades.settings.compute import ComputeSettings
from alltrades.system.compute.executor import Executor, Local, say_on_stderr
from alltrades.system.compute.processes import Processes


def executor_of(settings: ComputeSettings, device: str = "cpu") -> Executor:
    """What carries out independent work; plugins must be loaded by now. Closed by whoever asks.

    Args:
        device: where tasks compute.

    Raises UserError where nothing answers at an address, and MissingExtra without Ray.
    """
    if not settings.remote:
        return Local()
    if device.startswith("cuda") and not settings.gpus_per_task:
        raise UserError(
            f"device = {device} on a Ray cluster with compute.gpus_per_task = 0, which hides GPUs "
            "from tasks; expected a share of one; set --compute.gpus_per_task 1, or less"
        )
    from alltrades.policies.learning.following import follow_first
    from alltrades.system.compute.ray_executor import RayExecutor

    return RayExecutor(
        settings.on,
        Surroundings.here(),
        settings.tasks,
        settings.cpus_per_task,
        settings.gpus_per_task,
        settings.ranks,
        follow_first,
    )


def trainers_of(count: int, device: str, executor: Executor) -> Executor | None:
    """Processes for so many trainings beside one another; None where they need none: threads share
    a GPU as well, and trainings go to where all other work goes. Closed by whoever asks.
    """
    if count == 1 or device != "cpu" or executor.remote:
        return None
    remedy = "; train one network after another in this process: --trainings 1"
    return Processes(count, partial(_ready_to_train, Surroundings.here()), remedy)


def _ready_to_train(surroundings: Surroundings) -> None:
    """What takes a process longest, done while its work is still packed."""
    import alltrades.policies.learning.elsewhere  # noqa: F401

    surroundings()


@contextmanager
def connected(settings: ComputeSettings) -> Iterator[None]:
    """One connection to a cluster for all executors in here, such as those of a study's runs."""
    if not settings.remote:
        yield
        return
    from alltrades.system.compute.ray_pool import Cluster

    cluster = Cluster(settings.on, say_on_stderr)
    try:
        yield
    finally:
        cluster.close()
