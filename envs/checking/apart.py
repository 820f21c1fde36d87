"""Checks in a process of their own, which a hanging or crashing environment cannot take along."""

from __future__ import annotations

import os
import pickle
import signal
import traceback
from collections.abc import Iterator, Mapping, Sequence
from multiprocessing import get_context
from multiprocessing.connection import Connection
from typing import Any

from alltrades.envs.checking.examine import Plan, examine
from alltrades.envs.checking.findings import Finding, Findings
from alltrades.envs.rollouts import guardian
from alltrades.envs.rollouts.workers import inherited
from alltrades.envs.spec import EnvSpec

TIMEOUT = 60.0  # seconds for one reset or step
BUILDING = 10  # times as long for imports and building
READY = "ready"


def examine_apart(
    specs: Sequence[EnvSpec],
    experts: Mapping[str, Any],
    plan: Plan,
    timeout: float = TIMEOUT,
) -> Iterator[Findings]:
    """`examine` of several environments, one after another, each in a process that ends with it
    where it hangs, for more than `timeout` seconds unless that is 0, or dies. What cannot be sent
    to a process is checked in this one.
    """
    todo = list(specs)
    while todo:
        sent = [s for s in todo if _pickled([(s, experts.get(s.id))], plan) is not None]
        if todo[0] not in sent:
            spec = todo.pop(0)
            yield examine(spec, experts.get(spec.id), plan)
            continue
        ready = False
        for message in _answers([(s, experts.get(s.id)) for s in sent], plan, timeout):
            if message == READY:
                ready = True
                continue
            done = todo.index(next(s for s in todo if s.id == message.environment))
            todo.pop(done)
            yield message
        if not ready:  # such as a main script that cannot be imported again
            spec = todo.pop(0)
            yield examine(spec, experts.get(spec.id), plan)


def _answers(work: list[tuple[EnvSpec, Any]], plan: Plan, timeout: float) -> Iterator[Any]:
    """ "ready", then the findings of one after another; the last one's say how the process ended,
    where it did before its time.
    """
    context = get_context("spawn")
    pipe, far = context.Pipe()
    process = context.Process(target=_serve, args=(far, _pickled(work, plan)), daemon=True)
    with inherited():
        process.start()
    far.close()
    assert process.pid is not None
    guardian.watch(process.pid)
    where, left, ready = "", [spec.id for spec, _ in work], False
    try:
        while left:
            patience = timeout if "seed" in where else BUILDING * timeout
            if not pipe.poll(patience or None):
                words = f"it hangs: no answer within {patience:g} seconds to {where}"
                if ready:
                    yield Findings(left[0], (Finding(plan.of_failures, words),))
                return
            message = pipe.recv()
            if message == READY:
                ready = True
                yield READY
            elif isinstance(message, str):
                where = message
            else:
                left.remove(message.environment)
                yield message
    except (EOFError, OSError):
        process.join(timeout or None)
        if ready:
            words = f"its process died with exit code {process.exitcode} in {where}"
            yield Findings(left[0], (Finding(plan.of_failures, words),))
    finally:
        guardian.kill_group(process.pid)
        guardian.forget(process.pid)
        process.join()
        pipe.close()


def _serve(pipe: Connection, payload: bytes) -> None:
    """Main function of the process."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent decides
    os.setpgid(0, 0)  # what environments start is killed with this process
    try:
        work, plan = pickle.loads(payload)
    except BaseException:
        traceback.print_exc()
        return
    try:
        pipe.send(READY)
        for spec, expert in work:
            pipe.send(examine(spec, expert, plan, pipe.send))
    except (BrokenPipeError, ConnectionResetError):
        return  # the parent is gone


def _pickled(work: list[tuple[EnvSpec, Any]], plan: Plan) -> bytes | None:
    try:
        return pickle.dumps(([(spec.steps_alone, expert) for spec, expert in work], plan))
    except Exception:  # whatever a user's class raises
        return None
