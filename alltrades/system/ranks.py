"""The processes that torchrun starts for one command: the first runs it, the others wait until it
asks for their help.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta

from alltrades.errors import UserError

PATIENCE = timedelta(minutes=30)  # for a process that neither answers nor ends
PAUSE = 0.1  # seconds between two looks of those that wait
GRACE = 5.0  # seconds in which a process that is to end tidies up
MOST = 80  # characters of an error that a line repeats
TOLD = ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")  # what torchrun tells every process


class Lost(BaseException):
    """Another process of the group has ended or does not answer, or this one is to end."""


@contextmanager
def reaching() -> Iterator[None]:
    """Raise Lost where another process cannot be reached."""
    try:
        yield
    except RuntimeError as error:
        if not _of_network(error):
            raise
        raise Lost("one of them ended, or did not answer") from error


class Group:
    """The processes of one command, by number: 0 is the first.

    They meet at a store that the launcher holds. Nothing times out while those that wait do so: a
    number in the store calls them, and what they are sent then goes through torch.distributed.

    Args:
        rank, count: this one's number, and how many there are.
        store: where they meet.
        prepared: whether all of them have loaded the command's plugins.
    """

    def __init__(  # type: ignore[no-untyped-def]
        self, rank: int, count: int, store, prepared: bool = False
    ) -> None:
        self.rank, self.count, self.prepared = rank, count, prepared
        self._store, self._calls, self._said = store, 0, False

    @property
    def first(self) -> bool:
        return self.rank == 0

    # ---- being called ----------------------------------------------------------------------------
    def call(self, message: bytes) -> None:
        """Of the first: what the others' `called` returns."""
        with reaching():
            self._store.set(f"call/{self._calls}", str(len(message)))
            self._calls += 1
            self._sent(message, len(message))

    def called(self) -> bytes | None:
        """Of the others: the next message of the first; None when it has ended."""
        with reaching():
            while not self._store.check([f"call/{self._calls}"]):
                if self._store.check(["end"]):
                    return None
                time.sleep(PAUSE)
            size = int(self._store.get(f"call/{self._calls}"))
            self._calls += 1
            return self._sent(None, size)

    @staticmethod
    def _sent(message: bytes | None, size: int) -> bytes:
        import torch
        import torch.distributed as dist

        given = bytearray(size) if message is None else bytearray(message)
        dist.broadcast(torch.frombuffer(given, dtype=torch.uint8), 0)
        return bytes(given)

    def ended(self) -> bool:
        """Whether the first has ended, for whatever reason, and said so."""
        try:
            return bool(self._store.check(["end"]))
        except RuntimeError:
            return False

    def tell_end(self) -> None:
        """Of the first: the others need not say that they lose it."""
        try:
            self._store.set("end", "")
        except RuntimeError:
            pass

    def end(self) -> None:
        """The first ends for the others; they for themselves."""
        try:
            if not self.first:
                self._store.add("left", 1)
                return
            self.tell_end()
            held = os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True"  # by torchrun
            until = time.monotonic() + (0 if held else GRACE)
            while self._store.add("left", 0) < self.count - 1 and time.monotonic() < until:
                time.sleep(PAUSE)
        except RuntimeError:
            pass

    # ---- being lost ------------------------------------------------------------------------------
    def say(self, error: BaseException) -> None:
        """One line on stderr, of one of the processes alone."""
        if self._said:
            return
        self._said = True
        try:
            if self._store.add("said", 1) > 1:
                return
        except RuntimeError:
            pass
        print(
            f"alltrades: {self.count} processes worked at this command and {error}; expected all "
            "of them to the end; give the same command again, which goes on where it was",
            file=sys.stderr,
            flush=True,
        )


_GROUP: list[Group] = []  # of this process, as torch.distributed has one


def group() -> Group | None:
    """The group of this process; None where it is alone."""
    return _GROUP[0] if _GROUP else None


def count() -> int:
    """Processes that work at this command."""
    return _GROUP[0].count if _GROUP else 1


def started_together() -> bool:
    """Whether a launcher has started several processes, of which this is one. PyTorch, which must
    not have been imported yet, then keeps its warnings to itself: what is lost is one line.
    """
    found = all(name in os.environ for name in TOLD) and int(os.environ["WORLD_SIZE"]) > 1
    if found:
        os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")
    return found


def join() -> Group:
    """Meet the others: gloo between processors, nccl between accelerators.

    Raises UserError where they do not come.
    """
    import torch
    import torch.distributed as dist

    try:
        store, rank, size = next(dist.rendezvous("env://", timeout=PATIENCE))
        found = Group(rank, size, dist.PrefixStore("alltrades", store))
        _end_when_told(found)
        local = int(os.environ.get("LOCAL_RANK", "0"))
        if torch.cuda.is_available() and local < torch.cuda.device_count():
            torch.cuda.set_device(local)
        dist.init_process_group(store=store, rank=rank, world_size=size, timeout=PATIENCE)
    except RuntimeError as error:
        if not _of_network(error):
            raise
        place = f"{os.environ['MASTER_ADDR']}:{os.environ['MASTER_PORT']}"
        raise UserError(
            f"process {os.environ['RANK']} of {os.environ['WORLD_SIZE']} did not meet the others "
            f"({str(error).splitlines()[0][:MOST]}); expected all of them at {place}; check the "
            "address, its ports, and that each was started"
        ) from error
    for name in ("RANK", "WORLD_SIZE"):  # a process that this one starts is none of them
        del os.environ[name]
    _GROUP[:] = [found]
    return found


def adopt() -> Group:
    """The group of the processes that torch.distributed, begun by somebody else, holds."""
    import torch.distributed as dist

    rank, count = dist.get_rank(), dist.get_world_size()
    host, port = os.environ["MASTER_ADDR"], [0]
    with reaching():
        if rank == 0:
            held = dist.TCPStore(host, 0, is_master=True, wait_for_workers=False)
            port = [held.port]
        dist.broadcast_object_list(port, 0)
        if rank != 0:
            held = dist.TCPStore(host, port[0], is_master=False)
    found = Group(rank, count, dist.PrefixStore("alltrades", held), prepared=True)
    _GROUP[:] = [found]
    return found


def forget() -> None:
    """The end of what `adopt` began; torch.distributed stays."""
    _GROUP.clear()


def leave() -> None:
    """The end of what `join` began."""
    import torch.distributed as dist

    _GROUP[0].end()
    _GROUP.clear()
    dist.destroy_process_group()


def _end_when_told(group: Group) -> None:
    """Raise Lost on SIGTERM, with which a launcher ends the others when one is lost; a process that
    waits for another one, and cannot raise, ends after `GRACE` seconds.
    """
    told = Lost("this one was told to end, as happens when another one is lost")

    def end(number: int, frame: object) -> None:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        raise told

    def watch(reading: int) -> None:
        while signal.SIGTERM not in os.read(reading, 1):
            pass
        time.sleep(GRACE)
        if group.first or not group.ended():
            group.say(told)
        os._exit(1)

    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    signal.set_wakeup_fd(writing, warn_on_full_buffer=False)
    signal.signal(signal.SIGTERM, end)
    threading.Thread(target=watch, args=(reading,), name="ranks", daemon=True).start()


def _of_network(error: RuntimeError) -> bool:
    """Whether an error of torch.distributed says that another process cannot be reached."""
    import torch.distributed as dist

    words = str(error).lower()
    return isinstance(error, dist.DistError) or any(
        word in words for word in ("gloo", "nccl", "connection", "socket")
    )
