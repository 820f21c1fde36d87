"""What `carry_out` may be asked to run; processes that do so import nothing else of the tests."""

import os
import sys
import time

from alltrades.errors import UserError


def began(folder, relatives):
    """A run that says when it began, who it was, and which runs had ended."""
    folder.mkdir(parents=True, exist_ok=True)
    now = time.monotonic()
    print("one line\nanother", file=sys.stderr)
    return folder.name, now, os.getpid(), [path.name for path in relatives]


def fails(folder, relatives):
    raise UserError("found 1; expected 2; set it to 2")


def breaks(folder, relatives):
    raise ZeroDivisionError


def ends(folder, relatives):
    os._exit(7)


def waits(folder, relatives):
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "pid").write_text(str(os.getpid()))
    time.sleep(600)


def after_waiting(folder, other, relatives):
    """Fails once another run has begun."""
    while not (other / "pid").exists():
        time.sleep(0.05)
    raise UserError("found 1; expected 2; set it to 2")
