"""What the stages of a command are given."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from alltrades.commands.command import recipe_settings

if TYPE_CHECKING:
    from alltrades.pipeline.context import Context


@contextmanager
def stage_context(
    args: argparse.Namespace, out: Path | None = None, tried: bool = True
) -> Iterator[Context]:
    """What the stages of a command are given: they write in the folder `out` alone, or continue a
    store; then its environments, where they are stepped (`tried`), are checked first.
    """
    from alltrades.data.opened import Stores
    from alltrades.pipeline.context import opened
    from alltrades.pipeline.environment_checks import checked
    from alltrades.pipeline.rundir import ACCOUNT, RunDir

    stores = Stores()
    settings = recipe_settings(args, stores)[0]
    if out is None:
        with opened(settings, stores=stores) as context:
            yield checked(context) if tried else context
    else:
        with RunDir(out, what="folder", account=ACCOUNT) as rundir:
            with opened(settings, rundir.manifest, stores=stores) as context:
                yield context
