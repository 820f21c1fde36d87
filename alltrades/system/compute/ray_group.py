"""One task in several processes of a Ray cluster, which Ray Train starts and brings together: the
first carries it out, the others take part in what it asks for.

Nothing is kept by Ray Train, so no disk has to be shared: what the task tells, says and returns
comes through an actor.
"""

from __future__ import annotations

import pickle
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from alltrades.errors import UserError
from alltrades.system.compute.executor import Ears, Function, Kept
from alltrades.system.compute.news import caught, heard, telling, told
from alltrades.system.compute.ray_pool import Cluster, Pool
from alltrades.system.compute.ray_worker import settle

PAUSE = 0.3  # seconds between two looks at what has come
TRIES = 3  # of groups in a row that lose a process before they get further than those before
DONE, FAILED = "done", "failed"

# what the first does, as `first(here, None, item)`, what the others do, `others()`, and the item
Work = tuple[Function, Callable[[], None], Any]


class Mailbox:
    """An actor through which a group and whoever started it hear of one another.

    Args:
        prepare, environment: as `RayWorker`'s.
        first, others: what these processes do, pickled.
    """

    def __init__(
        self, prepare: bytes, environment: dict[str, str], first: bytes, others: bytes
    ) -> None:
        self._given = prepare, environment
        self._work = first, others
        self._news: list[tuple[Any, Any]] = []

    def given(self, first: bool) -> tuple[bytes, dict[str, str], bytes]:
        """What a process needs, and what it is to do."""
        return *self._given, self._work[0 if first else 1]

    def put(self, kind: Any, value: Any) -> None:
        """What the first process says."""
        self._news.append((kind, value))

    def take(self) -> list[tuple[Any, Any]]:
        """What was said since the last time."""
        found, self._news = self._news, []
        return found


@dataclass(frozen=True)
class GroupTask:
    """A task of several processes.

    Attributes:
        count: of the processes, each of which is given what a task is.
        check: called now and then meanwhile; what it raises ends them.
    """

    work: Work
    count: int
    ears: Ears
    check: Callable[[], None]


def together(cluster: Cluster, pool: Pool, task: GroupTask) -> Any:
    """What the first of the processes returns.

    A group that loses a process begins again, with the item as it is then, as long as groups get
    on.

    Raises what the first raises, and UserError where the group cannot be started or is lost again
    and again.
    """
    count, lost = task.count, 0
    logged: dict[str, int] = {}  # last step of each record: another try repeats some
    while lost < TRIES:
        before = dict(logged)
        kind, value = _tried(cluster, pool, task, logged)
        if kind == DONE:
            return value
        if kind == FAILED:
            raise told(*value)
        lost = lost + 1 if logged == before else 1
        if lost < TRIES:
            task.ears.say(
                f"compute: a group of {count} processes of the cluster was lost ({value}); its "
                "training goes on from its last checkpoint in another one"
            )
    raise UserError(
        f"compute.ranks = {count}: {TRIES} groups of processes of the cluster in a row were lost, "
        f"the last because: {value}; expected them to last; look at `ray status`, or set "
        "compute.ranks: 1"
    )


def _tried(
    cluster: Cluster, pool: Pool, task: GroupTask, logged: dict[str, int]
) -> tuple[str, Any]:
    """(DONE, result), (FAILED, (exception, traceback)) of one group, or ("lost", why)."""
    ray = cluster.ray
    (first, others, item), ears = task.work, task.ears
    dumps = ray.cloudpickle.dumps
    mailbox = ray.remote(num_cpus=0)(Mailbox).remote(
        *pool.given, dumps((first, item)), dumps(others)
    )
    fit = ray.remote(num_cpus=0, max_retries=0)(_fit).remote(mailbox, task.count, pool.needs)
    ended: tuple[str, Any] | None = None

    def hear() -> None:
        nonlocal ended
        for kind, value in ray.get(mailbox.take.remote()):
            if kind in (DONE, FAILED):
                ended = kind, pickle.loads(value)
            else:
                heard(ears, 0, logged, kind, value)

    try:
        while True:
            pool.rest()  # workers that do nothing leave their room to the group
            task.check()
            ready, _ = ray.wait([fit], timeout=PAUSE)
            hear()
            if ended is not None and (ready or ended[0] == FAILED):
                return ended
            if ready:
                return "lost", ray.get(fit)
    except ray.exceptions.RayError as error:
        return "lost", (str(error).strip().splitlines() or [type(error).__name__])[0][:160]
    finally:
        for end in (lambda: ray.cancel(fit, force=True), lambda: ray.kill(mailbox)):
            try:
                end()
            except Exception:  # it, or the cluster, is gone
                pass


# ---- on the cluster ------------------------------------------------------------------------------
def _fit(mailbox: Any, count: int, needs: dict[str, float]) -> str:
    """Start the group and wait for its end; what was wrong, in words, or nothing."""
    from ray.train import RunConfig, ScalingConfig
    from ray.train.torch import TorchConfig, TorchTrainer

    gpus = bool(needs.get("GPU"))
    with tempfile.TemporaryDirectory(prefix="alltrades-group-") as folder:
        trainer = TorchTrainer(
            _process,
            train_loop_config={"mailbox": mailbox},
            scaling_config=ScalingConfig(
                num_workers=count,
                use_gpu=gpus,
                resources_per_worker={k: v for k, v in needs.items() if v},
            ),
            torch_config=TorchConfig(backend="nccl" if gpus else "gloo"),
            run_config=RunConfig(name="group", storage_path=folder),
        )
        try:
            trainer.fit()
        except Exception as error:
            lines = str(error).strip().splitlines() or [type(error).__name__]
            return " ".join(lines[-1].split())[:160]
    return "it ended without a result"


def _process(config: dict[str, Any]) -> None:
    """One process of the group, whose torch.distributed Ray Train has made ready."""
    import ray

    from alltrades.system import ranks

    mailbox = config["mailbox"]
    group = ranks.adopt()
    prepare, environment, work = ray.get(mailbox.given.remote(group.first))

    def call() -> None:
        settle(environment)
        pickle.loads(prepare)()
        if not group.first:
            pickle.loads(work)()
            return
        first, item = pickle.loads(work)
        found.append(first(telling(mailbox.put.remote, Kept()), None, item))

    found: list[Any] = []
    try:
        failed = caught(call, ranks.Lost)
        if group.first:
            kind, value = (FAILED, failed) if failed else (DONE, found[0])
            ray.get(mailbox.put.remote(kind, ray.cloudpickle.dumps(value)))
        elif failed:
            raise RuntimeError(f"process {group.rank} could not go on: {failed[0]}")
        group.end()
    except ranks.Lost as lost:  # an exception is what Ray Train ends the others for
        raise RuntimeError(str(lost)) from lost
    finally:
        ranks.forget()
