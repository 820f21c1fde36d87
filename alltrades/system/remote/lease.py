"""One writer per folder of an object store, where no kernel frees the lock of a process that died.

A writer holds a lease: an object that it renews, and that another may take when it was not renewed
for a while. Clocks and pauses make that alone unsafe, so every write is conditional too: an object
is replaced only in the version that was seen before the lease was known to hold. Whoever lost the
lease without knowing can create what is not there, which no commit names, and replace nothing.
"""

from __future__ import annotations

import atexit
import json
import os
import secrets
import threading
import time
import weakref
from contextlib import suppress

from alltrades.errors import UserError
from alltrades.system.lock import NAME
from alltrades.system.remote import client
from alltrades.system.remote.client import Changed, Version

LEASE = 60.0  # seconds for which a renewal holds
ROUNDED = 2.0  # seconds more, since servers tell times in whole ones
CLOCK = f"{NAME}.clock"  # what it writes to learn the time of the server
_held: weakref.WeakSet[Lease] = weakref.WeakSet()


class Lease:
    """The right to write in a folder of an object store; readers need none.

    Args:
        folder: its address. what: what it is, for messages.
        commit: name of the object that says what counts, read after `acquire` by its writer.

    Raises UserError from every method for a server that cannot be reached or refuses, from
    `acquire` when the lease is held, and from `put` and `commit` when it was lost.
    """

    def __init__(self, folder: str, what: str, commit: str) -> None:
        self.folder, self.what = folder, what
        self._lock_url, self._commit_url = f"{folder}/{NAME}", f"{folder}/{commit}"
        self._writer, self._renewals = secrets.token_hex(4), 0
        self._mutex = threading.RLock()
        self._versions: dict[str, Version | None] = {}
        self._held: Version | None = None
        self._until, self._over = 0.0, threading.Event()

    @property
    def held(self) -> bool:
        return self._held is not None

    # ---- the lease -------------------------------------------------------------------------------
    def acquire(self) -> None:
        """Take the lease, or raise UserError."""
        begun = _clock()
        try:
            version = self._say(None)
            self._check_conditions(version)
        except Changed:
            version = self._take_over()
        self._held, self._until = version, begun + LEASE
        found = client.head(self._commit_url)
        self._versions = {self._commit_url: None if found is None else found.version}
        _held.add(self)
        self._over.clear()
        threading.Thread(
            target=_renew, args=(weakref.ref(self), self._over), name="lease", daemon=True
        ).start()

    def release(self) -> None:
        """Give the lease back; nothing where it is not held."""
        self._over.set()
        with self._mutex:
            held, self._held = self._held, None
            if held is not None:
                _held.discard(self)
                with suppress(Changed, UserError):  # lost, or the server is: it ends by itself
                    self._say(held, free=True)

    def renew(self) -> None:
        """Hold it for LEASE seconds more; UserError where another writer took it."""
        with self._mutex:
            if self._held is None:
                raise self._lost(self._lock_url)
            begun = _clock()
            self._renewals += 1
            try:
                self._held = self._say(self._held)
            except Changed as error:
                raise self._lost(self._lock_url) from error
            self._until = begun + LEASE

    def _say(self, expected: Version | None, free: bool = False) -> Version:
        """Put what this writer says of itself in place of `expected`; Changed where something else
        is there.
        """
        said = {"writer": self._writer, "renewals": self._renewals, "free": free}
        return _certain(self._lock_url, json.dumps(said).encode(), expected)

    def _take_over(self) -> Version:
        """Take a lease that was given back or not renewed."""
        try:
            data, version = client.get(self._lock_url)
            found = client.head(self._lock_url)
        except FileNotFoundError:
            data, found = b"", None
        if found is None or found.version != version:
            raise self._in_use("another", 0)
        try:
            said = json.loads(data)
            writer, free = str(said["writer"]), bool(said["free"])
        except (ValueError, TypeError, KeyError):
            writer, free = "unknown", False
        if not free:
            silent = self._now() - found.modified.timestamp()
            if silent <= LEASE + ROUNDED:
                raise self._in_use(writer, silent)
        try:
            return self._say(version)
        except Changed as error:
            raise self._in_use("another", 0) from error

    def _now(self) -> float:
        """The server's time, in seconds: those of machines differ."""
        url = f"{self.folder}/{CLOCK}"
        before = client.head(url)
        with suppress(Changed):  # another just asked too
            client.put(url, secrets.token_bytes(8), None if before is None else before.version)
        found = client.head(url)
        return time.time() if found is None else found.modified.timestamp()

    def _check_conditions(self, version: Version) -> None:
        """Raise UserError for a server that takes conditional puts as any other."""
        other = Version('"0"', None if version.version is None else "0")
        for expected in (None, other):
            try:
                client.put(self._lock_url, b"{}", expected)
            except Changed:
                continue
            raise UserError(
                f"{self.folder}: its server does not heed the conditions of writes (If-Match, "
                "If-None-Match), so two writers would destroy each other's episodes; expected one "
                "that does, such as S3; write to a disk and copy the store"
            )

    # ---- writing under it ------------------------------------------------------------------------
    def put(self, url: str, data: bytes) -> None:
        """Write an object that counts when the commit says so, in place of what this writer or an
        append that was cut short left there.
        """
        with self._mutex:
            known = self._versions.get(url)
        if known is None:
            try:
                version = client.put(url, data, None)
            except Changed:
                found = client.head(url)
                if found is None:
                    raise self._lost(url) from None
                known = found.version
        if known is not None:
            version = self._replaced(url, data, known)
        with self._mutex:
            self._versions[url] = version

    def commit(self, url: str, data: bytes) -> None:
        """Write the object that says what counts, in place of the one that was there when the lease
        was taken, or that this writer put there since.
        """
        assert url == self._commit_url
        self._versions[url] = self._replaced(url, data, self._versions[url])

    def _replaced(self, url: str, data: bytes, known: Version | None) -> Version:
        with self._mutex:
            if self._held is None or _clock() >= self._until:
                self.renew()
        try:
            return _certain(url, data, known)
        except Changed as error:
            raise self._lost(url) from error

    def _in_use(self, writer: str, silent: float) -> UserError:
        return UserError(
            f"{self.what} {self.folder} is in use by writer {writer}, heard of {silent:.0f} s ago; "
            f"expected one writer at a time; wait for it (a dead one is given up after {LEASE:.0f} "
            "s) or choose another folder"
        )

    def _lost(self, url: str) -> UserError:
        return UserError(
            f"{url}: another writer wrote there meanwhile; expected one writer of {self.what} "
            f"{self.folder} at a time; what it committed stands, and nothing of this append; end "
            "one of them and append again"
        )

    def __del__(self) -> None:
        self.release()


def _certain(url: str, data: bytes, expected: Version | None) -> Version:
    """A put that has happened also where the answer of a try was lost."""
    try:
        return client.put(url, data, expected)
    except Changed:
        with suppress(FileNotFoundError):
            found, version = client.get(url)
            if found == data:
                return version
        raise


def _clock() -> float:
    """Seconds that go on while the machine sleeps, where the system can tell."""
    kind = getattr(time, "CLOCK_BOOTTIME", None)
    return time.monotonic() if kind is None else time.clock_gettime(kind)


def _renew(held: weakref.ref[Lease], over: threading.Event) -> None:
    while not over.wait(LEASE / 3):
        lease = held()
        if lease is None:
            return
        with suppress(UserError):  # the next write says so
            lease.renew()
        del lease


def _forget() -> None:
    """A forked child holds no lease: its copies must not end its parent's."""
    for lease in list(_held):
        lease._held, lease._mutex, lease._over = None, threading.RLock(), threading.Event()
    _held.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget)


@atexit.register
def _release_all() -> None:
    for lease in list(_held):
        lease.release()
