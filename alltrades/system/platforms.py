"""Where this package runs: Linux, of which every part is tested; macOS, where nothing keeps it from
it; elsewhere what needs neither locks nor signals nor process groups.
"""

from __future__ import annotations

import os
import sys

from alltrades.errors import UserError


def needs_posix(what: str) -> None:
    """Raise UserError where the system has none of what `what` needs."""
    if os.name != "posix":
        raise UserError(
            f"{what} cannot work on this system ({sys.platform}); expected Linux, or macOS; on "
            "Windows use WSL"
        )
