"""Requests to object stores, through obstore: each is tried again where that can help, and what
cannot be mended by trying becomes one line.
"""

from __future__ import annotations

import functools
import os
import random
import re
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import urlsplit

from alltrades.errors import MissingExtra, UserError

T = TypeVar("T")
TRIES = 6
PAUSE, LONGEST = 0.25, 8.0  # seconds before the second try, doubled with each; the longest pause
CONNECT, SILENCE = 5.0, 20.0  # seconds to connect; without a byte
BUCKETS = {"s3": "bucket", "gs": "bucket", "az": "container"}  # what can be written, by scheme
LOCAL = ("127.0.0.1", "localhost", "::1")  # where http:// without encryption is taken
PASSING = {408, 409, 425, 429, 500, 502, 503, 504}  # answers of a server that may change


class Changed(Exception):
    """An object is not the version that a conditional put expected."""


@dataclass(frozen=True)
class Version:
    """Which content of an object: what conditional puts compare."""

    e_tag: str | None
    version: str | None


@dataclass(frozen=True)
class Found:
    """What a store says of an object."""

    version: Version
    size: int
    modified: datetime


# ---- requests ------------------------------------------------------------------------------------
def get(url: str) -> tuple[bytes, Version]:
    """An object's bytes; FileNotFoundError where there is none."""

    def once(store: Any, key: str) -> tuple[bytes, Version]:
        import obstore

        answer = obstore.get(store, key)
        return bytes(answer.bytes()), _version(answer.meta)

    return _asked(url, once)


def head(url: str) -> Found | None:
    """What is known of an object; None where there is none."""

    def once(store: Any, key: str) -> Found:
        import obstore

        meta = obstore.head(store, key)
        return Found(_version(meta), int(meta["size"]), meta["last_modified"])

    try:
        return _asked(url, once)
    except FileNotFoundError:
        return None


def put(url: str, data: bytes, expected: Version | None) -> Version:
    """Write an object, whole or not at all, where it is still `expected`; None: where there is
    none.

    Raises Changed where it is not. A put whose answer was lost may be found `Changed` by its next
    try: the object then holds `data`.
    """

    def once(store: Any, key: str) -> Version:
        import obstore

        if expected is None:
            mode: Any = "create"
        else:
            mode = {k: v for k, v in vars(expected).items() if v is not None}
        try:
            return _version(obstore.put(store, key, data, mode=mode, use_multipart=False))
        except FileNotFoundError as error:
            if expected is None or "NoSuchBucket" in str(error):
                raise
            raise Changed(url) from error

    if urlsplit(url).scheme not in BUCKETS:
        raise UserError(f"{url}: can only be read; expected {', '.join(BUCKETS)} to write to")
    return _asked(url, once)


def names(url: str) -> list[str]:
    """Names of what stands in a folder; none where there is no such folder."""

    def once(store: Any, key: str) -> list[str]:
        import obstore

        found = obstore.list_with_delimiter(store, key or None)
        every = [*found["common_prefixes"], *(o["path"] for o in found["objects"])]
        return sorted({str(path).rstrip("/").rpartition("/")[2] for path in every})

    if urlsplit(url).scheme not in BUCKETS:
        raise UserError(
            f"{url}: what is in a folder cannot be asked for by https; expected a folder with "
            "policy.json, or the address of a bucket (s3, gs, az); name that"
        )
    return _asked(url, once)


def download(url: str, to: Path) -> None:
    """Stream an object into a file; FileNotFoundError where there is none."""

    def once(store: Any, key: str) -> None:
        import obstore

        answer = obstore.get(store, key)
        with to.open("wb") as file:
            for part in answer.stream(min_chunk_size=2**22):
                file.write(part)
        if to.stat().st_size != answer.meta["size"]:
            raise ConnectionError(f"{to.stat().st_size} of {answer.meta['size']} bytes came")

    _asked(url, once)


# ---- trying again --------------------------------------------------------------------------------
def _asked(url: str, once: Callable[[Any, str], T]) -> T:
    """What a request gives; tried up to TRIES times where its failure may pass."""
    root, key = split(url)
    store, begun, pause = _store(root, os.getpid()), time.monotonic(), PAUSE
    for left in reversed(range(TRIES)):
        try:
            return once(store, key)
        except Changed:
            raise
        except Exception as error:
            cause = _judged(url, root, error)
            if not left:
                raise UserError(
                    f"{url}: {TRIES} tries in {time.monotonic() - begun:.0f} s failed ({cause}); "
                    "expected a server that answers; check the network and the address (for S3 "
                    "AWS_ENDPOINT_URL); the same command then goes on where it was"
                ) from error
        time.sleep(random.uniform(0.5, 1.0) * pause)  # no two processes in step
        pause = min(2 * pause, LONGEST)
    raise AssertionError


def _judged(url: str, root: str, error: Exception) -> str:
    """The cause of a failure that may pass; raises for one that does not."""
    from obstore import exceptions as known

    text = str(error)
    status = int(found[1]) if (found := re.search(r"status code: (\d{3})", text)) else None
    code = found[1] if (found := re.search(r"<Code>(\w+)</Code>", text)) else ""
    said = " ".join(filter(None, [str(status or ""), code])) or _first_line(text)
    what = BUCKETS.get(urlsplit(url).scheme, "server")
    if code in ("NoSuchBucket", "ContainerNotFound") or "bucket does not exist" in text:
        raise UserError(
            f"{url}: no such {what}: {root}; expected one that exists; check its name, its region "
            "and the account"
        ) from error
    if isinstance(error, FileNotFoundError):
        raise FileNotFoundError(2, "no such object", url) from error
    if isinstance(error, known.AlreadyExistsError | known.PreconditionError):
        raise Changed(url) from error
    denied = known.PermissionDeniedError | known.UnauthenticatedError
    if isinstance(error, denied) or status in (401, 403):
        raise UserError(
            f"{url}: refused ({said}); expected credentials with the right to this {what}; set "
            "them, or ask its owner for the right"
        ) from error
    passing = isinstance(error, known.GenericError | ConnectionError | TimeoutError)
    if status in PASSING or (passing and status is None and "redential" not in text):
        return said
    if isinstance(error, known.BaseError):
        raise UserError(
            f"{url}: the request failed ({said}); expected an object store that can do it; check "
            "the address, the region (for S3 AWS_REGION) and the credentials"
        ) from error
    raise error


def _first_line(text: str) -> str:
    """What is said in a chain of causes, without where and without the debugging part."""
    first = text.split("\n\nDebug source")[0]
    return " ".join(first.rpartition(" - ")[2].split())[:160] or "no answer"


def _version(meta: Any) -> Version:
    return Version(meta.get("e_tag"), meta.get("version"))


# ---- connections ---------------------------------------------------------------------------------
def split(url: str) -> tuple[str, str]:
    """Where a store of objects is, and the name of one in it. Raises UserError for no address."""
    parts = urlsplit(url, allow_fragments=False)
    if parts.scheme == "http" and parts.hostname not in LOCAL:
        raise UserError(f"{url}: http is not encrypted; expected https; give that address")
    if not parts.netloc or "@" in parts.netloc or parts.query:
        raise UserError(
            f"{url.partition('?')[0]}: no address of a store or a policy; expected such as "
            "s3://BUCKET/FOLDER, without a name, a password or a question mark"
        )
    return f"{parts.scheme}://{parts.netloc}", parts.path.strip("/")


@functools.lru_cache(maxsize=64)
def _store(root: str, process: int) -> Any:
    """The connections of a process to one store; a forked one makes its own."""
    try:
        from obstore.store import AzureStore, GCSStore, HTTPStore, S3Store
    except ImportError as error:
        raise MissingExtra(
            f"{root}: reading it needs obstore; expected it installed", "remote"
        ) from error
    scheme, _, name = root.partition("://")
    plain = scheme == "http" or _endpoint().startswith("http://")
    shared: dict[str, Any] = {
        "client_options": {
            "allow_http": plain,
            "connect_timeout": timedelta(seconds=CONNECT),
            "read_timeout": timedelta(seconds=SILENCE),
            "timeout": timedelta(hours=1),  # of a whole download
        },
        "retry_config": {"max_retries": 0},  # `_asked` does
    }
    try:
        if scheme == "s3":
            return S3Store(name, **_s3_credentials(root), **shared)
        if scheme == "gs":
            return GCSStore(name, **shared)
        if scheme == "az":
            return AzureStore(name, **shared)
        return HTTPStore(root, **shared)
    except UserError:
        raise
    except Exception as error:  # of whatever its settings are read from
        raise UserError(
            f"{root}: cannot be opened ({_first_line(str(error))}); expected the name of a "
            "bucket and credentials for it; check both"
        ) from error


def _endpoint() -> str:
    names = ("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL", "AWS_ENDPOINT")
    return next((os.environ[name] for name in names if os.environ.get(name)), "")


def _s3_credentials(root: str) -> dict[str, Any]:
    """Those that boto3 finds: of the environment, a profile, a single sign-on, or the machine."""
    if os.environ.get("AWS_SKIP_SIGNATURE", "").lower() in ("1", "true"):
        return {"skip_signature": True}
    try:
        import boto3
        from obstore.auth.boto3 import Boto3CredentialProvider
    except ImportError as error:
        raise MissingExtra(f"{root}: S3 needs boto3; expected it installed", "remote") from error
    try:
        session = boto3.Session()
        found = session.get_credentials()
        given = None if found is None else Boto3CredentialProvider(session)
        region = session.region_name
    except Exception as error:  # a profile that is not there, a file that cannot be read
        raise UserError(
            f"{root}: no credentials ({_first_line(str(error))}); expected those of an account; "
            "mend ~/.aws, or set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"
        ) from error
    if given is None:
        raise UserError(
            f"{root}: no credentials; expected those of an account; set AWS_ACCESS_KEY_ID and "
            "AWS_SECRET_ACCESS_KEY, or AWS_PROFILE; for a bucket that anybody may read "
            "AWS_SKIP_SIGNATURE=true"
        )
    out: dict[str, Any] = {"credential_provider": given}
    if region is None and not os.environ.get("AWS_REGION"):
        out["region"] = "us-east-1"
    return out
