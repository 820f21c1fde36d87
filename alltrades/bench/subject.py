"""What the service benches run on: an artifact, served by `alltrades serve` in a process of its
own.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import Any

from alltrades.data.fields import Field
from alltrades.data.interface import Interface
from alltrades.envs.rendering.camera import LARGEST
from alltrades.envs.spec import EnvSpec
from alltrades.errors import UserError
from alltrades.policies.fetched import fetched


@contextmanager
def artifact(
    folder: str | None, names: Sequence[str], steps: int | None, pixels: int | None = None
) -> Iterator[Path]:
    """The artifact to measure: the given folder, or a fresh default generalist for the named
    environments, which sees their states, or pictures of their cameras of so many pixels a side.

    `steps` replaces the sampling steps. Temporary folders are removed. Raises UserError for
    pictures of a given folder, and of environments without cameras.
    """
    if folder is not None and pixels is not None:
        raise UserError(
            f"--pixels {pixels} and --policy {folder}, which sees what it was trained with; "
            "expected one of them; leave --pixels out"
        )
    import torch

    from alltrades.data.layout import Layout
    from alltrades.envs import registry
    from alltrades.policies.learning.initial import build_policy
    from alltrades.policies.model.loading import load_policy
    from alltrades.policies.model.normalizer import Normalizer
    from alltrades.policies.settings import PolicySettings

    if folder is not None and steps is None:
        yield fetched(folder)
        return
    if folder is not None:
        policy = load_policy(folder)
        policy.settings = policy.settings.model_copy(update={"sampling_steps": steps})
    else:
        infos = [_seen(s, pixels) for s in registry.resolve(list(names))]
        normalizer = Normalizer(Layout(infos))
        normalizer.fitted.fill_(1)
        settings = PolicySettings() if steps is None else PolicySettings(sampling_steps=steps)
        policy = build_policy(settings, infos, normalizer, 0)
        generator = torch.Generator().manual_seed(0)
        # layers that start at zero make equal rows of all batch sizes, which trained ones do not
        with torch.no_grad():
            for parameter in policy.parameters():
                if not parameter.any():
                    parameter.copy_(0.01 * torch.randn(parameter.shape, generator=generator))
    with tempfile.TemporaryDirectory(prefix="alltrades-bench-") as temporary:
        yield policy.save(Path(temporary) / "policy")


def _seen(spec: EnvSpec, pixels: int | None) -> Interface:
    """What a fresh policy sees of an environment: all, or its cameras and what a robot knows of
    itself.
    """
    if pixels is None:
        return spec.interface
    if not spec.cameras or not 8 <= pixels <= LARGEST:
        raise UserError(
            f"--pixels {pixels}: '{spec.id}' has {len(spec.cameras)} cameras; expected an "
            f"environment with some, such as planar, and 8 to {LARGEST} pixels; choose others"
        )
    seen = {name: Field.image(pixels, pixels) for name in spec.cameras}
    own = spec.own_observation
    seen |= {name: part.field(own[part.of]) for name, part in spec.parts.items()}
    return replace(spec.interface, observation=seen)


class ServerProcess:
    """`alltrades serve FOLDER` for the length of a block; `port` and `pid` once it answers."""

    def __init__(self, folder: Path, *options: str) -> None:
        words = [
            sys.executable,
            "-m",
            "alltrades.cli",
            "serve",
            str(folder),
            "--port",
            "0",
            *options,
        ]
        self._log = tempfile.TemporaryFile("w+")
        self._process = subprocess.Popen(words, stdout=subprocess.PIPE, stderr=self._log, text=True)
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line.startswith("serving "):
            self._process.wait()
            self._log.seek(0)
            raise UserError(f"the server did not start: {self._log.read().strip()[-300:]}")
        self.port, self.pid = int(line.rpartition(":")[2]), self._process.pid

    @property
    def alive(self) -> bool:
        return self._process.poll() is None

    def __enter__(self) -> ServerProcess:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self.alive:
            self._process.send_signal(signal.SIGTERM)
        try:
            self._process.wait(30)
        except subprocess.TimeoutExpired:
            self._process.kill()
        self._log.close()


class LoadProcess:
    """Robots in a process of their own: `alltrades.bench.load` with these options."""

    def __init__(self, port: int, **options: Any) -> None:
        words = [
            sys.executable,
            "-m",
            "alltrades.bench.load",
            json.dumps({"port": port, **options}),
        ]
        self._log = tempfile.TemporaryFile("w+")
        self.process = subprocess.Popen(
            words,
            stdout=subprocess.PIPE,
            stderr=self._log,
            text=True,
            env=os.environ | {"OMP_NUM_THREADS": "1"},
        )

    def result(self) -> dict[str, Any]:
        """What the robots measured, when they are done; raises UserError when they ended
        without.
        """
        out, _ = self.process.communicate()
        self._log.seek(0)
        said = self._log.read().strip().splitlines()
        self._log.close()
        if self.process.returncode != 0 or not out:
            cause = said[-1][:300] if said else "without a message"
            raise UserError(
                f"the robots' process ended with code {self.process.returncode} ({cause}); "
                "expected their measurements; mend the cause, and measure again"
            )
        return json.loads(out)

    def kill(self) -> None:
        """End it as a power cut would, if it has not ended."""
        self.process.kill()
        self.process.wait()
        assert self.process.stdout is not None
        self.process.stdout.close()
        self._log.close()
