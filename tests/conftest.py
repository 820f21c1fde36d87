"""Tests run in as many processes as there are cores: a second thread in each would make them wait
for one another.
"""

import os
from collections.abc import Iterator

import pytest

from tests.object_store import ObjectStore

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before torch is imported


@pytest.fixture(autouse=True, scope="session")
def state(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Plugins that tests name are none that the developer has named."""
    os.environ["XDG_STATE_HOME"] = str(tmp_path_factory.mktemp("state"))


@pytest.fixture(autouse=True, scope="session")
def no_power_cut() -> None:
    """No test cuts the power, and only then does it matter what had reached the disk."""
    os.fsync = lambda file: None


@pytest.fixture(scope="session")
def s3_server() -> Iterator[ObjectStore]:
    pytest.importorskip("obstore", reason="the extra remote is not installed")
    pytest.importorskip("moto.server", reason="moto[s3], flask and flask-cors are not installed")
    server = ObjectStore()
    yield server
    server.close()


@pytest.fixture
def s3(
    s3_server: ObjectStore,
    tmp_path_factory: pytest.TempPathFactory,
    monkeypatch: pytest.MonkeyPatch,
) -> Iterator[ObjectStore]:
    """A local S3 server, and this process set up for it: an empty cache, and little patience."""
    from alltrades.system.remote import client

    for name, value in s3_server.environment().items():
        monkeypatch.setenv(name, value)
    for name in ("AWS_PROFILE", "AWS_SKIP_SIGNATURE", "AWS_SESSION_TOKEN", "ALLTRADES_CACHE_GB"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", os.devnull)
    monkeypatch.setenv("ALLTRADES_CACHE", str(tmp_path_factory.mktemp("cache")))
    monkeypatch.setattr(client, "PAUSE", 0.01)
    monkeypatch.setattr(client, "SILENCE", 0.5)
    client._store.cache_clear()
    s3_server.proxy.fault = lambda method, path: None
    yield s3_server
    client._store.cache_clear()
