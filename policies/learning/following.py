"""A command in several processes: the first runs it, the others take part in its trainings."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from typing import NoReturn

from alltrades.errors import UserError
from alltrades.policies.learning.sharing import Elsewhere, read_state
from alltrades.policies.learning.training import Trainer
from alltrades.system import ranks

INTERRUPTED = 130  # exit code


def together(command: Callable[[], int]) -> int:
    """Exit code of a command that a launcher has started in several processes.

    Where one of them is lost all end, with one line and exit code 1. Only the first writes or says
    anything else.
    """
    try:
        group = ranks.join()
    except UserError as error:
        print(f"alltrades: {error}", file=sys.stderr)
        return 2
    except ranks.Lost:  # told to end before all were there: the launcher says why
        return 1
    try:
        code = command() if group.first else _follow(group)
    except ranks.Lost as lost:
        return _lost(group, lost)
    except BaseException:
        group.end()
        raise
    ranks.leave()
    # PyTorch's threads can abort a process that ends while they do, and a launcher would then call
    # the whole command failed; the others have nothing to finish
    return code if group.first else _end(code)


def _follow(group: ranks.Group) -> int:
    """Take part in every training of the first process until it ends."""
    try:
        follow_all(group)
    except KeyboardInterrupt:
        return INTERRUPTED
    except UserError as error:  # such as a plugin that this machine has not
        group.say(ranks.Lost(f"process {group.rank} could not go on ({error})"))
        return 1
    return 0


def follow_first() -> None:
    """Take part in the trainings of the first process of this one's group."""
    group = ranks.group()
    assert group is not None
    follow_all(group)


def follow_all(group: ranks.Group) -> None:
    """The same, whatever is raised."""
    while (message := group.called()) is not None:
        follow(message)


def follow(message: bytes) -> None:
    """Take part in a training, of which the first process sent the state."""
    state = read_state(message)
    trainer = Trainer(
        state["policy"],
        Elsewhere(),
        state["settings"],
        state["seed"],
        state["goal"],
        total=state["total"],
    )
    trainer.health = None  # the first one judges
    trainer.resume(*state["progress"])
    trainer.fit()


def _lost(group: ranks.Group, lost: ranks.Lost) -> int:
    """End this process at once: what is left of the group may wait for ever."""
    if group.first or not group.ended():
        group.say(lost)
    if group.first:
        group.tell_end()
    _end(0 if not group.first and group.ended() else 1)


def _end(code: int) -> NoReturn:
    """End this process without what Python and PyTorch do at its end."""
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)
