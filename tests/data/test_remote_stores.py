"""Stores in object stores, against a local S3 server that fails on demand."""

import http.server
import json
import os
import subprocess
import sys
import threading
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from alltrades.cli import main
from alltrades.data.store import EpisodeStore
from alltrades.errors import MissingExtra, UserError
from alltrades.system.remote import client, lease
from alltrades.system.remote.cache import Cache, cache
from alltrades.system.remote.place import place
from tests.data.stores import episode, rich_episode

EPISODES = [episode(i, length=3 + i % 4, environment="ab"[i % 2]) for i in range(8)]


@pytest.fixture
def url(s3, request):
    return f"s3://bucket/{request.node.name}/demos.zarr".replace("[", "-").replace("]", "")


@pytest.fixture
def digest(tmp_path):
    """Of a local store with the same episodes."""
    return lambda episodes: EpisodeStore.write(tmp_path / f"{len(episodes)}", episodes).digest()


def key_of(url, name=""):
    return f"{url.removeprefix('s3://bucket/')}/{name}"


def writing_dead(url, episodes):
    """A writer that dies without a word, after an append."""
    store = EpisodeStore.open(url, "a")
    store.append(episodes)
    forget(store)


def forget(store):
    store._lock._over.set()  # nobody renews it
    store._lock._held = None  # nor gives it back


# ---- what stands there ---------------------------------------------------------------------------
def test_a_remote_store_is_the_one_on_a_disk(url, s3, tmp_path):
    episodes = [rich_episode(i) for i in range(5)]
    with EpisodeStore.create(url, provenance={"by": "a test"}) as store:
        store.append(episodes[:2])
        store.append(episodes[2:])
    local = EpisodeStore.write(tmp_path / "local", [], {"by": "a test"})
    with EpisodeStore.open(local.path, "a") as there:
        there.append(episodes[:2])
        there.append(episodes[2:])
    found, local = EpisodeStore.open(url), EpisodeStore.open(local.path)
    assert found.digest() == local.digest() and found.provenance == local.provenance
    assert str(found.path) == url
    names = {k.removeprefix(key_of(url)): v for k, v in s3.objects(key_of(url)).items()}
    for file in local.path.rglob("*"):
        if file.is_file():
            assert names.pop(file.relative_to(local.path).as_posix()) == file.read_bytes(), file
    assert set(names) == {".lock"}


def test_episodes_of_many_chunks_come_back(url, digest):
    long = [episode(i, length=40_000, obs=30) for i in range(2)]  # chunks asked for together
    store = EpisodeStore.write(url, long)
    assert store.digest() == digest(long)
    steps = store.steps()
    index = np.arange(0, 80_000, 1_000)
    expected = np.concatenate([e.observations["state"] for e in long])
    np.testing.assert_array_equal(steps.state(["state"], index), expected[index])


def test_stores_are_found_by_whatever_names_them(url):
    EpisodeStore.write(url, EPISODES[:1])
    for name in (url, url + "/", Path(url), place(url)):
        assert len(EpisodeStore.open(name)) == 1


def test_info_of_a_remote_store(url, capsys):
    EpisodeStore.write(url, EPISODES)
    assert main(["data", "info", url]) == 0
    out = capsys.readouterr().out
    assert f"{url}: 8 episodes" in out and "a: 4 episodes" in out


def test_https_is_read_and_not_written(s3, tmp_path, monkeypatch):
    local = EpisodeStore.write(tmp_path / "www" / "a.zarr", EPISODES)
    handler = partial(http.server.SimpleHTTPRequestHandler, directory=tmp_path / "www")
    monkeypatch.setattr(http.server.SimpleHTTPRequestHandler, "log_message", lambda *_: None)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        url = f"http://127.0.0.1:{server.server_port}/a.zarr"
        assert EpisodeStore.open(url).digest() == local.digest()
        with pytest.raises(UserError, match="can only be read; expected s3, gs, az"):
            EpisodeStore.open(url, "a")
        server.shutdown()
    with pytest.raises(UserError, match="http is not encrypted; expected https"):
        EpisodeStore.open("http://example.org/a.zarr")


# ---- the cache -----------------------------------------------------------------------------------
def test_a_warm_cache_asks_for_the_commit_alone(url, s3):
    written = EpisodeStore.write(url, EPISODES)
    first = [e.return_ for e in EpisodeStore.open(url).episodes()]
    s3.proxy.asked.clear()
    store = EpisodeStore.open(url)
    assert [e.return_ for e in store.episodes()] == first and store.digest() == written.digest()
    assert [path.rpartition("/")[2] for _, path in s3.proxy.asked] == ["commit.json"]


def test_a_cache_is_read_by_what_counts_now(url, digest):
    EpisodeStore.write(url, EPISODES[:3])
    assert len(list(EpisodeStore.open(url).episodes())) == 3
    with EpisodeStore.open(url, "a") as store:
        store.append(EPISODES[3:])
    assert EpisodeStore.open(url).digest() == digest(EPISODES)


def test_what_is_damaged_in_the_cache_is_got_anew(url, digest):
    EpisodeStore.write(url, EPISODES)
    list(EpisodeStore.open(url).episodes())
    kept = [f for f in cache().folder.rglob("*") if f.is_file()]
    assert kept
    for file in kept:
        data = bytearray(file.read_bytes())
        data[len(data) // 2] ^= 1
        file.write_bytes(data)
    assert EpisodeStore.open(url).digest() == digest(EPISODES)


def test_what_is_damaged_there_is_refused(url, s3):
    EpisodeStore.write(url, EPISODES)
    key = key_of(url, "a/data/state/c/0/0")
    data = bytearray(s3.objects(key)[key])
    data[len(data) // 2] ^= 1
    s3.client().put_object(Bucket="bucket", Key=key, Body=bytes(data))
    with pytest.raises(UserError, match=f"{url}/a/data/state/c/0/0: damaged"):
        list(EpisodeStore.open(url).episodes())
    s3.client().delete_object(Bucket="bucket", Key=key)
    with pytest.raises(UserError, match="cannot be read .no such object.; expected rows"):
        list(EpisodeStore.open(url).episodes())


def test_a_cache_keeps_what_was_used_last_within_its_size(tmp_path):
    kept = Cache(tmp_path / "c", limit=1000)
    for i in range(50):
        kept.put(f"{i}", bytes([i]) * 100)
        os.utime(kept.path(f"{i}"), (i, i))
        kept.get("0")  # used again and again
        size = sum(f.stat().st_size for f in tmp_path.rglob("*") if f.is_file())
        assert size <= 1000
    assert kept.get("0") == bytes(100) and kept.get("49") == bytes([49]) * 100
    assert kept.get("1") is None


def test_nothing_is_kept_where_nobody_wants_it(url, monkeypatch, digest):
    monkeypatch.setenv("ALLTRADES_CACHE_GB", "0")
    assert EpisodeStore.write(url, EPISODES).digest() == digest(EPISODES)
    assert not [f for f in cache().folder.rglob("*") if f.is_file()]
    monkeypatch.setenv("ALLTRADES_CACHE_GB", "much")
    with pytest.raises(UserError, match="ALLTRADES_CACHE_GB=much; expected gigabytes"):
        EpisodeStore.open(url).digest()


# ---- one writer ----------------------------------------------------------------------------------
def test_a_second_writer_gets_one_line(url, digest):
    with EpisodeStore.create(url) as first:
        first.append(EPISODES[:2])
        with pytest.raises(UserError, match="is in use by writer .* expected one writer at a time"):
            EpisodeStore.open(url, "a")
        first.append(EPISODES[2:])
    assert EpisodeStore.open(url).digest() == digest(EPISODES)
    EpisodeStore.open(url, "a").close()  # given back


def test_a_store_is_created_once(url, s3):
    EpisodeStore.write(url, EPISODES)
    with pytest.raises(UserError, match="a store is there already"):
        EpisodeStore.create(url)
    s3.client().put_object(Bucket="bucket", Key="other/notes.txt", Body=b"mine")
    with pytest.raises(UserError, match="something is there already that is no store of ours"):
        EpisodeStore.create("s3://bucket/other")


def test_a_dead_writer_is_given_up(url, monkeypatch, digest):
    EpisodeStore.write(url, EPISODES[:2])
    writing_dead(url, EPISODES[2:4])
    with pytest.raises(UserError, match="a dead one is given up after 60 s"):
        EpisodeStore.open(url, "a")
    monkeypatch.setattr(lease, "LEASE", -3.0)  # the time is over
    with EpisodeStore.open(url, "a") as store:
        monkeypatch.setattr(lease, "LEASE", 60.0)
        store.append(EPISODES[4:])
    assert EpisodeStore.open(url).digest() == digest(EPISODES)


def test_a_writer_that_slept_destroys_nothing(url, monkeypatch, digest):
    EpisodeStore.write(url, EPISODES[:2])
    sleeper = EpisodeStore.open(url, "a")
    sleeper._lock._over.set()  # it is not renewed
    sleeper._lock._until = 0.0  # for longer than it holds
    monkeypatch.setattr(lease, "LEASE", -3.0)
    other = EpisodeStore.open(url, "a")
    monkeypatch.setattr(lease, "LEASE", 60.0)
    other.append(EPISODES[2:5])
    with pytest.raises(UserError, match="another writer wrote there meanwhile"):
        sleeper.append([episode(99, environment="a"), episode(98, environment="new")])
    assert EpisodeStore.open(url).digest() == digest(EPISODES[:5])
    other.append(EPISODES[5:])
    other.close()
    sleeper.close()
    assert EpisodeStore.open(url).digest() == digest(EPISODES)


def test_two_that_commit_from_the_same_store(url, digest):
    """Without any lease: the conditional put of the commit alone."""
    EpisodeStore.write(url, EPISODES[:2])
    first = lease.Lease(url, "store", "commit.json")
    first.acquire()
    text = client.get(f"{url}/commit.json")[0]
    second = lease.Lease(url, "store", "commit.json")
    second._versions, second._held, second._until = dict(first._versions), first._held, 1e18
    first.commit(f"{url}/commit.json", text + b" ")
    with pytest.raises(UserError, match="what it committed stands, and nothing of this append"):
        second.commit(f"{url}/commit.json", text + b"\n")
    assert client.get(f"{url}/commit.json")[0] == text + b" "
    second._held = None
    first.release()


def test_what_an_append_left_that_was_cut_short_does_not_exist(url, s3, monkeypatch, digest):
    EpisodeStore.write(url, EPISODES[:2])
    before = s3.objects(key_of(url))
    s3.proxy.fault = lambda method, path: (
        "503" if method == "PUT" and path.endswith("commit.json") else None
    )
    store = EpisodeStore.open(url, "a")
    with pytest.raises(UserError, match=r"commit.json: 6 tries in .* failed .503 SlowDown"):
        store.append([episode(77, length=9, environment="a"), episode(78, environment="new")])
    forget(store)
    s3.proxy.fault = lambda method, path: None
    after = s3.objects(key_of(url))
    assert after[key_of(url, "commit.json")] == before[key_of(url, "commit.json")]
    assert key_of(url, "new/data/state/c/0/0") in after
    assert EpisodeStore.open(url).digest() == digest(EPISODES[:2])
    monkeypatch.setattr(lease, "LEASE", -3.0)
    with EpisodeStore.open(url, "a") as store:
        monkeypatch.setattr(lease, "LEASE", 60.0)
        store.append([*EPISODES[2:], episode(5, environment="new")])
    expected = [*EPISODES, episode(5, environment="new")]
    assert EpisodeStore.open(url).digest() == digest(expected)


def test_a_server_that_heeds_no_conditions_is_refused(url, monkeypatch):
    monkeypatch.setattr(client, "put", lambda url, data, expected: client.Version('"1"', None))
    with pytest.raises(UserError, match="does not heed the conditions of writes"):
        EpisodeStore.create(url)


# ---- faults --------------------------------------------------------------------------------------
@pytest.mark.parametrize("fault", ["503", "drop", "lose", "half"])
def test_faults_that_pass_change_nothing(url, s3, digest, fault):
    """Every object's first request of each kind fails."""
    failed = set()

    def fail(method, path):
        if method == "HEAD" and fault == "half" or (method, path) in failed:
            return None
        failed.add((method, path))
        return fault

    s3.proxy.fault = fail
    with EpisodeStore.create(url) as store:
        store.append(EPISODES[:3])
        store.append(EPISODES[3:])
    assert EpisodeStore.open(url).digest() == digest(EPISODES)
    assert len(list(EpisodeStore.open(url).episodes())) == 8
    assert {method for method, _ in failed} >= {"GET", "PUT"}


def test_a_server_that_is_silent_is_asked_again(url, s3, digest):
    EpisodeStore.write(url, EPISODES)
    silent = iter(["hang", "hang"])
    s3.proxy.fault = lambda method, path: next(silent, None) if "success" in path else None
    assert EpisodeStore.open(url).digest() == digest(EPISODES)
    assert next(silent, None) is None


@pytest.mark.parametrize(
    ("what", "line"),
    [
        ("bucket", "no such bucket: s3://nowhere; expected one that exists"),
        ("store", "no such store (commit.json is missing)"),
        ("credentials", "no credentials; expected those of an account; set AWS_ACCESS_KEY_ID"),
        ("profile", "no credentials (The config profile (nobody) could not be found)"),
        ("network", "6 tries in 0 s failed (HTTP error: error sending request)"),
        ("server", "6 tries in 0 s failed (503 SlowDown)"),
    ],
)
def test_what_cannot_be_reached_is_one_line(url, s3, monkeypatch, capsys, what, line):
    if what == "bucket":
        url = "s3://nowhere/a.zarr"
    elif what == "credentials":
        monkeypatch.delenv("AWS_ACCESS_KEY_ID")
        monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    elif what == "profile":
        monkeypatch.setenv("AWS_PROFILE", "nobody")
    elif what == "network":
        monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    elif what == "server":
        s3.proxy.fault = lambda method, path: "503"
    assert main(["data", "info", url]) == 2
    said = capsys.readouterr().err
    assert line in said and said.count("\n") == 1


def test_a_right_that_is_missing_is_one_line(url, s3, capsys):
    s3.proxy.fault = lambda method, path: "403"
    assert main(["data", "info", url]) == 2
    said = capsys.readouterr().err
    assert "refused (403 AccessDenied); expected credentials with the right" in said
    assert said.count("\n") == 1


def test_a_missing_extra_is_one_line(url, monkeypatch):
    monkeypatch.setitem(sys.modules, "obstore.store", None)
    client._store.cache_clear()
    with pytest.raises(MissingExtra, match=r"alltrades\[remote\]"):
        EpisodeStore.open(url)


@pytest.mark.parametrize("url", ["s3://name:secret@bucket/a", "https://h/a?X-Amz-Signature=secret"])
def test_an_address_with_a_secret_is_refused_without_saying_it(url):
    with pytest.raises(UserError, match="without a name, a password or a question mark") as error:
        EpisodeStore.open(url)
    assert "signature" not in str(error.value).lower()


def test_stores_on_disks_need_no_library_of_object_stores(tmp_path):
    code = (
        "import sys; from alltrades.data.store import EpisodeStore; "
        "EpisodeStore.create(sys.argv[1]).close(); EpisodeStore.open(sys.argv[1]).describe(); "
        "print([n for n in sys.modules if n.split('.')[0] in ('obstore', 'boto3')])"
    )
    command = [sys.executable, "-c", code, str(tmp_path / "a.zarr")]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert json.loads(done.stdout.replace("'", '"')) == []
