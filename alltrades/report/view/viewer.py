"""Opens the Rerun viewer in a browser."""

from __future__ import annotations

import os
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

DISPLAYS = ("DISPLAY", "WAYLAND_DISPLAY")
LOCAL = ("--bind", "127.0.0.1")  # it would let the whole network look


def no_screen(path: Path | None) -> str:
    """What to do where there is none, with a recording that was written, or without."""
    if path is None:
        return (
            "no screen here for --web; expected one; write --rrd FILE and open it where there is "
            "one with `rerun FILE`, or write a page with --html FILE"
        )
    return f"no screen here for --web; open {path} where there is one: `rerun {path}`"


def screen() -> bool:
    """Whether this computer shows windows to whoever typed the command."""
    if sys.platform != "linux":
        return "SSH_CONNECTION" not in os.environ
    return any(os.environ.get(name) for name in DISPLAYS)


def open_viewer(path: Path) -> None:
    """Show a file in a browser, until the user interrupts."""
    print(f"the viewer opens in a browser; Ctrl-C ends it ({path})", file=sys.stderr)
    command = [sys.executable, "-m", "rerun", "--web-viewer", *LOCAL, str(path)]
    with suppress(KeyboardInterrupt):
        subprocess.run(command, check=False)
