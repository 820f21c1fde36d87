"""One training by several processes: each computes the losses of its share of the same batches.

Batches, noise and times are those of one process, and so is the objective: it is taken of the
losses of the whole batch, of which a process differentiates its own. Gradients add up, all
processes take the same step, and what is trained is that of one process up to rounding, for any
number of them. The first one reads the data, judges, and writes.
"""

from __future__ import annotations

import io
import json
import os
import pickle
from collections.abc import Callable, Sequence
from typing import Any, Protocol

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from alltrades.envs import registry
from alltrades.errors import UserError
from alltrades.policies.model.batch import Batch, Generators, Part
from alltrades.system import ranks

Losses = Callable[[Batch, Generators, np.ndarray], Tensor]  # of a batch and its rows, (B,)
MOST = 80  # characters of what was raised that a line repeats


class Batches(Protocol):
    """What batches come from, such as `TrainingData`."""

    def batch(self, size: int, seed: int, step: int) -> tuple[Batch, np.ndarray]: ...


class Elsewhere:
    """The data of a process that is sent its share of every batch."""

    def batch(self, size: int, seed: int, step: int) -> tuple[Batch, np.ndarray]:
        raise RuntimeError("the data are those of the first process")


class Alone:
    """The share of the only process: everything."""

    def batch(self, data: Batches, size: int, seed: int, step: int) -> tuple[Batch, np.ndarray]:
        """Its samples of a batch, and their rows."""
        return data.batch(size, seed, step)

    def losses(
        self, losses: Losses, batch: Batch, generator: torch.Generator, rows: np.ndarray
    ) -> Tensor:
        """The losses (b,) of its samples."""
        return losses(batch, generator, rows)

    def whole(self, losses: Tensor, batch: Batch) -> tuple[Tensor, Tensor, Tensor]:
        """Losses, environments and weights (B,) of the whole batch."""
        return losses, batch.environment, batch.loss_weight

    def backward(self, value: Tensor) -> None:
        """Add the gradient of the whole batch's value to the parameters."""
        value.backward()


ALONE = Alone()


class Share(Alone):
    """The share of one of several processes.

    Args:
        module: of the losses.
        size: of the whole batch.
        device: of this process.
    """

    def __init__(
        self, group: ranks.Group, module: SharedLosses, size: int, device: torch.device
    ) -> None:
        self.group, self.device, self.size = group, device, size
        self.edges = edges(size, group.count)
        self.start, self.stop = self.edges[group.rank : group.rank + 2]
        self.most = self.edges[1]  # the first one's, of which none has more
        self._columns: list[Column] | None = None
        with ranks.reaching():
            self.module = DistributedDataParallel(
                module, find_unused_parameters=True, gradient_as_bucket_view=True
            )

    def batch(self, data: Batches, size: int, seed: int, step: int) -> tuple[Batch, np.ndarray]:
        if not self.group.first:
            return self._received()
        whole, rows = data.batch(size, seed, step)
        parts = parts_of(whole, rows)
        if self._columns is None:
            self._columns = [Column.of(name, x) for name, x in parts.items()]
            self.group.call(json.dumps([c.described() for c in self._columns]).encode())
        table = packed(parts, self.device)
        tables = [table[max(0, stop - self.most) : stop] for stop in self.edges[1:]]
        with ranks.reaching():
            dist.scatter(torch.empty_like(tables[0]), tables, 0)
        return batch_of({name: x[: self.stop] for name, x in parts.items()})

    def _received(self) -> tuple[Batch, np.ndarray]:
        if self._columns is None:
            message = self.group.called()
            if message is None:
                raise ranks.Lost("the first one ended")
            self._columns = [Column(*c) for c in json.loads(message)]
        bytes_of_row = sum(c.bytes for c in self._columns)
        table = torch.empty((self.most, bytes_of_row), dtype=torch.uint8, device=self.device)
        with ranks.reaching():
            dist.scatter(table, None, 0)
        own = table[self.most - (self.stop - self.start) :]
        return batch_of(unpacked(own, self._columns))

    def losses(
        self, losses: Losses, batch: Batch, generator: torch.Generator, rows: np.ndarray
    ) -> Tensor:
        found: Tensor = self.module(batch, Part(generator, self.start, self.stop, self.size), rows)
        return found

    def whole(self, losses: Tensor, batch: Batch) -> tuple[Tensor, Tensor, Tensor]:
        own = torch.zeros((3, self.most), dtype=torch.float64, device=self.device)
        known = (losses.detach(), batch.environment, batch.loss_weight)
        own[:, : len(losses)] = torch.stack([x.double() for x in known])
        found = [torch.empty_like(own) for _ in range(self.group.count)]
        with ranks.reaching():
            dist.all_gather(found, own)
        sizes = np.diff(self.edges)
        every = torch.cat([x[:, :n] for x, n in zip(found, sizes)], dim=1)  # (3, B)
        others = every[0].to(losses.dtype)
        together = torch.cat([others[: self.start], losses, others[self.stop :]])
        return together, every[1].long(), every[2].to(batch.loss_weight.dtype)

    def backward(self, value: Tensor) -> None:
        with ranks.reaching():
            (self.group.count * value).backward()  # DDP takes the mean of all processes' gradients


class SharedLosses(nn.Module):
    """The losses of a training as a module of nothing but what learns."""

    def __init__(self, parameters: Sequence[nn.Parameter], losses: Losses) -> None:
        super().__init__()
        self.learned, self._losses = nn.ParameterList(parameters), losses

    def forward(self, batch: Batch, generator: Generators, rows: np.ndarray) -> Tensor:
        return self._losses(batch, generator, rows)


def share(
    parameters: Sequence[nn.Parameter],
    losses: Losses,
    size: int,
    device: torch.device,
    state: Callable[[], dict[str, Any]],
) -> Alone:
    """This process's share of a training, which begins with it; `ALONE` where there is one process.

    Args:
        parameters: those that learn.
        size: of the batch.
        state: gives all that another process needs to take part in it.

    Raises UserError where the batch or the accelerators do not suffice for all.
    """
    group = ranks.group()
    if group is None:
        return ALONE
    here = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    if device.type == "cuda" and torch.cuda.device_count() < here:
        raise UserError(
            f"device = cuda for {here} processes on this machine, which has "
            f"{torch.cuda.device_count()} of them; expected one for each; start fewer"
        )
    if group.first:
        if size < group.count:
            raise UserError(
                f"batch = {size} for {group.count} processes; expected at least one window for "
                "each; raise it, or start fewer"
            )
        plugins = [] if group.prepared else registry.loaded_plugins()
        group.call(written_state(state(), plugins))
    return Share(group, SharedLosses(parameters, losses), size, device)


def edges(size: int, count: int) -> list[int]:
    """Where the shares of a batch begin and end, (count + 1,): equal ones, or the first ones are
    one sample larger.
    """
    return [0, *np.cumsum([len(part) for part in np.array_split(np.arange(size), count)]).tolist()]


# ---- the state of a training between processes ---------------------------------------------------
def written_state(state: dict[str, Any], plugins: Sequence[str] = ()) -> bytes:
    """What `read_state` reads: plugins to load, in a line of JSON, and what torch.save makes of the
    rest.

    Raises UserError for what is not defined in a module.
    """
    file = io.BytesIO()
    file.write(json.dumps(list(plugins)).encode() + b"\n")
    try:
        torch.save(state, file, pickle_protocol=5)
    except (pickle.PicklingError, AttributeError, TypeError) as error:
        raise UserError(
            f"a network or loss cannot be sent to other processes ({str(error)[:MOST]}); expected "
            "classes and functions of modules; define them there, or train in one process"
        ) from error
    return file.getvalue()


def read_state(message: bytes) -> dict[str, Any]:
    """What `written_state` wrote, on this process's device. Only for messages of the same command's
    processes: it unpickles.
    """
    line, _, rest = message.partition(b"\n")
    registry.load_plugins(json.loads(line))
    here = int(os.environ.get("LOCAL_RANK", "0"))
    place = {f"cuda:{k}": f"cuda:{here}" for k in range(torch.cuda.device_count())}
    found: dict[str, Any] = torch.load(io.BytesIO(rest), map_location=place, weights_only=False)
    return found


# ---- batches between processes -------------------------------------------------------------------
class Column:
    """A part of a batch as columns of a table of bytes.

    Args:
        shape: of a row.
    """

    def __init__(self, name: str, dtype: str, shape: list[int]) -> None:
        self.name, self.dtype, self.shape = name, dtype, shape
        self.bytes = int(np.prod(shape, dtype=np.int64)) * self._kind.itemsize

    @classmethod
    def of(cls, name: str, x: Tensor) -> Column:
        return cls(name, str(x.dtype).removeprefix("torch."), list(x.shape[1:]))

    @property
    def _kind(self) -> torch.dtype:
        found: torch.dtype = getattr(torch, self.dtype)
        return found

    def described(self) -> list[Any]:
        return [self.name, self.dtype, self.shape]

    def read(self, table: Tensor) -> Tensor:
        """The part (n, *shape) of its bytes (n, bytes)."""
        return table.contiguous().view(self._kind).reshape(len(table), *self.shape)


def parts_of(batch: Batch, rows: np.ndarray) -> dict[str, Tensor]:
    """All of a batch and its rows, by name, each (B, ...)."""
    found = {f"window.{key}": x for key, x in batch.window.items()}
    found |= {name: x for name, x in vars(batch).items() if name != "window" and x is not None}
    return found | {"rows": torch.from_numpy(rows)}


def batch_of(parts: dict[str, Tensor]) -> tuple[Batch, np.ndarray]:
    """What `parts_of` took apart."""
    window = {k.removeprefix("window."): x for k, x in parts.items() if k.startswith("window.")}
    rest = {k: x for k, x in parts.items() if not k.startswith("window.") and k != "rows"}
    return Batch(window, **rest), parts["rows"].cpu().numpy()


def packed(parts: dict[str, Tensor], device: torch.device) -> Tensor:
    """(B, bytes) uint8: every sample's parts one after another."""
    flat = [x.reshape(len(x), -1) if x.numel() else x.new_empty(len(x), 0) for x in parts.values()]
    return torch.cat([x.contiguous().view(torch.uint8).to(device) for x in flat], dim=1)


def unpacked(table: Tensor, columns: list[Column]) -> dict[str, Tensor]:
    """The parts of `packed` rows."""
    pieces = table.split([c.bytes for c in columns], dim=1)
    return {c.name: c.read(piece) for c, piece in zip(columns, pieces)}
