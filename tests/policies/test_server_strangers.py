"""Connections that are no robots: half-open, slow, malformed, silent, hostile."""

from __future__ import annotations

import logging
import socket
import time
from typing import Any

import numpy as np
import pytest

pytest.importorskip("msgpack", reason="needs: pip install alltrades[serve]")
pytest.importorskip("websockets", minversion="16", reason="needs: pip install alltrades[serve]")

from websockets.exceptions import ConnectionClosed
from websockets.sync.client import connect

from alltrades.errors import UserError
from alltrades.policies.client.client import PolicyClient
from alltrades.policies.client.messages import pack, printable
from alltrades.policies.model.policy import DiffusionPolicy
from alltrades.policies.server import PolicyServer, answers, door, service
from alltrades.policies.server.notices import PERIOD, REMEMBERED, Notices
from tests.policies.serving import LARGE, get, make_policy, observation, running


@pytest.fixture(scope="module")
def policy() -> DiffusionPolicy:
    return make_policy()


@pytest.fixture(scope="module")
def server(policy: DiffusionPolicy) -> Any:
    with running(policy) as found:
        yield found


def raw(port: int, sent: bytes = b"") -> socket.socket:
    out = socket.create_connection(("127.0.0.1", port), timeout=10)
    out.sendall(sent)
    return out


def answer(port: int, sent: bytes) -> bytes:
    """All that a server says to some bytes until it hangs up."""
    with raw(port, sent) as own:
        parts = []
        try:
            while part := own.recv(65536):
                parts.append(part)
        except ConnectionResetError:  # it has more of us than it has read
            pass
        return b"".join(parts)


def acts(server: PolicyServer) -> bool:
    with PolicyClient(port=server.port, environment=LARGE) as client:
        return client.infer({"observation": observation(0)})["actions"].shape == (4, 3)


def eventually(true: Any, seconds: float = 10.0) -> bool:
    end = time.monotonic() + seconds
    while not true() and time.monotonic() < end:
        time.sleep(0.02)
    return true()


def lines(caplog: pytest.LogCaptureFixture, words: str) -> list[str]:
    return [r.getMessage() for r in caplog.records if words in r.getMessage()]


# ---- before a request ----------------------------------------------------------------------------
def test_a_flood_of_half_open_connections_is_one_line_and_keeps_no_robot_out(
    server: PolicyServer, caplog: pytest.LogCaptureFixture
) -> None:
    flood = [raw(server.port, b"GET / HT" if i % 2 else b"") for i in range(door.HALF_OPEN + 60)]
    assert acts(server)
    for own in flood:
        own.close()
    assert eventually(lambda: not server.sessions.all())
    assert acts(server)
    found = lines(caplog, "connections without a request")
    assert len(found) == 1 and found[0].startswith("127.0.0.1: ")
    assert not [r for r in caplog.records if r.exc_info]


def test_a_request_that_never_ends_is_hung_up_on(
    policy: DiffusionPolicy, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(door, "OPEN_SECONDS", 0.3)
    with (
        running(policy) as server,
        raw(server.port, b"GET / HTTP/1.1\r\nHost: localhost\r\n") as own,
    ):
        begun = time.monotonic()
        for i in range(40):  # a header now and then, for ever
            try:
                own.sendall(b"X: %d\r\n" % i)
                time.sleep(0.05)
            except OSError:
                break
        assert time.monotonic() - begun < 1.5 and acts(server)
    assert len(lines(caplog, "connections without a request (1 since")) == 1


@pytest.mark.parametrize(
    "target",
    [b"//[", b"/[", b"http://[", b"//[::1", b"/%", b"/%00", b"/?%zz", b"/dashboard/live?key=%ff",
     b"*", b"..", b"/\\", b"//\xc3\xa9", b"/" + b"a" * 4000, b"/dashboard?" + b"&" * 3000],
)  # fmt: skip
def test_a_target_that_makes_no_sense_is_answered_with_a_fault_of_the_client(
    target: bytes, server: PolicyServer, caplog: pytest.LogCaptureFixture
) -> None:
    sent = b"GET " + target + b" HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n"
    assert answer(server.port, sent)[:10] == b"HTTP/1.1 4"
    assert not [r for r in caplog.records if r.exc_info]


@pytest.mark.parametrize(
    "sent,status",
    [
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(range(256)), b"400"),
        (b"\x00" * 100 + b"\r\n\r\n", b"400"),
        (b"SSH-2.0-OpenSSH_9.6\r\n", b"400"),
        (b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\nabc", b"400"),
        (b"GET /\r\n\r\n", b"400"),
        (b"GET / HTTP/1.1\r\nno colon\r\n\r\n", b"400"),
        (b"GET / HTTP/1.1\r\nA: b\r\n folded\r\n\r\n", b"400"),
        (b"GET / HTTP/1.1\r\nA: \x1b[2J\x00\r\n\r\n", b"400"),
        (b"GET /" + b"a" * 20000 + b" HTTP/1.1\r\n\r\n", b"4"),
        (b"GET / HTTP/1.1\r\nA: " + b"a" * 20000 + b"\r\n\r\n", b"431"),
        (b"GET / HTTP/1.1\r\n" + b"A: b\r\n" * 1000 + b"\r\n", b"431"),
        (b"GET / HTTP/1.1\r\nHost: a\r\n\r\n", b"426"),
        (b"GET / HTTP/1.1\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n", b"4"),
    ],
)
def test_what_is_no_request_is_answered_with_a_fault_of_the_client(
    sent: bytes, status: bytes, server: PolicyServer, caplog: pytest.LogCaptureFixture
) -> None:
    assert answer(server.port, sent).startswith(b"HTTP/1.1 " + status)
    assert acts(server) and not [r for r in caplog.records if r.exc_info]


def test_random_bytes_never_end_the_service(
    server: PolicyServer, caplog: pytest.LogCaptureFixture
) -> None:
    rng = np.random.default_rng(0)
    for size in (1, 7, 64, 500, 5000, 70000):
        for _ in range(10):
            own = raw(server.port, rng.integers(0, 256, size, np.uint8).tobytes())
            own.close()
    assert acts(server) and not [r for r in caplog.records if r.exc_info]
    assert len(lines(caplog, "is no HTTP request")) <= 1


@pytest.mark.parametrize("path", ["/metrics", "/dashboard"])
def test_a_name_that_a_stranger_points_here_gets_nothing(
    path: str, policy: DiffusionPolicy
) -> None:
    with running(policy, dashboard=True) as server:
        assert get(server.port, path)[0] == get(server.port, path, Host="localhost:1")[0] == 200
        for host in ("evil.example", "evil.example:8000", "localhost.evil.example", ""):
            assert get(server.port, path, Host=host)[0] == 403


# ---- clients -------------------------------------------------------------------------------------
def test_a_client_that_says_nothing_loses_its_place_after_the_time_that_is_set(
    policy: DiffusionPolicy, caplog: pytest.LogCaptureFixture
) -> None:
    with running(policy, max_clients=2, idle_seconds=0.8) as server:
        silent = [connect(f"ws://127.0.0.1:{server.port}", proxy=None) for _ in range(2)]
        for own in silent:
            own.recv()
        with pytest.raises(UserError, match="503: refused: 2 clients are connected"):
            PolicyClient(port=server.port)
        assert eventually(lambda: not len(server.sessions), 3.0)
        with pytest.raises(ConnectionClosed, match="no request for 0.8 s"):
            silent[0].recv(timeout=5)
        with PolicyClient(port=server.port, environment=LARGE) as client:
            for i in range(12):  # one that asks stays, for longer than that
                client.infer({"observation": observation(i)})
                time.sleep(0.1)
        for own in silent:
            own.close()
    assert len(lines(caplog, "127.0.0.1: clients without a request for 0.8 s (1 since")) == 1


def test_zero_seconds_keep_silent_clients(policy: DiffusionPolicy) -> None:
    with running(policy, idle_seconds=0) as server, PolicyClient(port=server.port):
        time.sleep(1.5)
        assert len(server.sessions) == 1


def test_a_client_that_takes_no_replies_is_cut_off(
    policy: DiffusionPolicy, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(service, "UNREAD", 0.5)
    with running(policy, rate_limit=0) as server:
        own = connect(f"ws://127.0.0.1:{server.port}", proxy=None, max_queue=1, compression=None)
        own.recv()
        own.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1024)
        session = server.sessions.all()[0]
        session.connection.transport.get_extra_info("socket").setsockopt(
            socket.SOL_SOCKET, socket.SO_SNDBUF, 1024
        )
        known = np.zeros((8, 3), np.float32)
        message = pack({"observation": observation(0), "environment": LARGE, "known": known})
        try:
            for _ in range(20000):
                own.send(message)
                if session.over:
                    break
        except (ConnectionClosed, OSError):
            pass
        assert eventually(lambda: session.over) and acts(server)
    assert len(lines(caplog, "replies not taken within 0.5 s")) == 1


@pytest.mark.parametrize(
    "claimed", [b"\xdd\xff\xff\xff\xff", b"\xdf\xff\xff\xff\xff", b"\xc6\xff\xff\xff\xff"]
)
def test_a_message_that_claims_to_be_huge_is_refused_at_once(
    claimed: bytes, server: PolicyServer
) -> None:
    with connect(f"ws://127.0.0.1:{server.port}", proxy=None) as own:
        own.recv()
        own.send(b"\x81\xa1a" + claimed + b"\xff" * 4)
        assert str(own.recv(timeout=5)).startswith("refused: message of")


def test_refusals_of_ever_new_connections_are_a_few_lines(
    policy: DiffusionPolicy, caplog: pytest.LogCaptureFixture
) -> None:
    with running(policy) as server:
        for _ in range(30):
            with connect(f"ws://127.0.0.1:{server.port}", proxy=None) as own:
                own.recv()
                for _ in range(3):
                    own.send(b"\xc1")
                    own.recv()
    assert len(lines(caplog, "refused")) == answers.TALK + 1


# ---- words ---------------------------------------------------------------------------------------
def test_a_strangers_words_are_escaped_in_logs_events_and_replies(
    server: PolicyServer, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    nasty = "\x1b[31m\x1b]0;x\x07\r\nroot: all is well\u202e\u2028\x00\x9b"
    with connect(f"ws://127.0.0.1:{server.port}", proxy=None) as own:
        own.recv()
        for request in ({"environment": nasty}, {nasty: 1}, {"observation": {nasty: 1}}):
            own.send(pack({"observation": observation(0), "environment": LARGE} | request))
            reply = str(own.recv(timeout=5))
            assert reply.isprintable()
        own.close(1000, "\x1b[31mbye")
    eventually(lambda: not len(server.sessions))
    texts = [r.getMessage() for r in caplog.records]
    assert any(r"\x1b[31m" in text for text in texts)
    assert all(text.isprintable() for text in texts)
    assert all(e["text"].isprintable() for e in server.events.latest())


def test_words_are_shown_on_one_line_and_cut() -> None:
    assert printable("hebe die Täſſe ☕") == "hebe die Täſſe ☕"
    assert printable("a\nb\x1b\u202e\x7f") == r"a\nb\x1b\u202e\x7f"
    assert len(printable("\x1b" * 500, 100)) == 100 and printable("x" * 101, 100).endswith("x..")


def test_lines_about_an_address_come_once_a_minute_and_memory_is_bounded(
    caplog: pytest.LogCaptureFixture,
) -> None:
    now = [0.0]
    notices = Notices(logging.getLogger("alltrades.test"), lambda: now[0])
    for i in range(1000):
        now[0] = i * PERIOD / 400
        notices.add("10.0.0.1", "knocks")
    found = [r.getMessage() for r in caplog.records]
    assert found == [
        f"10.0.0.1: knocks ({n} since the last such line; at most one a minute)"
        for n in (1, 400, 400)
    ]
    for i in range(5 * REMEMBERED):
        notices.add(str(i), "knocks", least=2)
    assert len(caplog.records) == 3 and len(notices._noted) == REMEMBERED
