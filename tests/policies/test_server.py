"""The server over a real socket: with the public client, with our own, and with messages that make
no sense.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import urllib.request
from collections.abc import Iterator

import numpy as np
import pytest

msgpack = pytest.importorskip("msgpack", reason="needs: pip install alltrades[serve]")
pytest.importorskip("websockets", minversion="16", reason="needs: pip install alltrades[serve]")

from websockets.exceptions import ConnectionClosed, InvalidStatus  # noqa: E402
from websockets.sync.client import connect  # noqa: E402

from alltrades.errors import UserError  # noqa: E402
from alltrades.policies.client.client import PolicyClient  # noqa: E402
from alltrades.policies.client.messages import _encode, pack, unpack  # noqa: E402
from alltrades.policies.model.policy import DiffusionPolicy  # noqa: E402
from alltrades.policies.server import PolicyServer, ServerSettings, requests  # noqa: E402
from alltrades.policies.server.requests import KEYS, read_request  # noqa: E402
from tests.policies.serving import LARGE, SMALL, expected, make_policy, observation, running  # noqa: E402


@pytest.fixture(scope="module")
def policy() -> DiffusionPolicy:
    return make_policy()


@pytest.fixture(scope="module")
def server(policy: DiffusionPolicy) -> Iterator[PolicyServer]:
    with running(policy) as out:
        yield out


def test_the_public_client_gets_the_actions_of_a_controller(
    policy: DiffusionPolicy, server: PolicyServer
) -> None:
    module = pytest.importorskip(
        "openpi_client.websocket_client_policy", reason="needs: pip install --no-deps openpi-client"
    )
    client = module.WebsocketClientPolicy("127.0.0.1", server.port)
    metadata = client.get_server_metadata()
    assert (
        metadata["policy"] == policy.digest()
        and metadata["n_action_steps"] == 4
        and metadata["n_obs_steps"] == 2
    )
    assert [e["id"] for e in metadata["environments"]] == [SMALL, LARGE]
    frames = [observation(i) for i in range(3)]
    replies = [
        client.infer({"observation": f, "environment": LARGE, "seed": np.int64(7)}) for f in frames
    ]
    for reply, actions in zip(replies, expected(policy, LARGE, frames, 7)):
        assert actions.shape == (4, 3) and reply["server_timing"]["infer_ms"] > 0
        np.testing.assert_array_equal(reply["actions"], actions)
    with pytest.raises(RuntimeError, match="shape"):
        client.infer({"observation": frames[0][:4], "environment": LARGE})
    assert client.infer({"observation": frames[0]})["actions"].shape == (4, 3)


def test_our_messages_are_those_of_the_public_package() -> None:
    theirs = pytest.importorskip(
        "openpi_client.msgpack_numpy", reason="needs: pip install --no-deps openpi-client"
    )
    message = {
        "a": np.arange(6, dtype=np.float32).reshape(2, 3),
        "b": np.float64(1.5),
        "c": [1, "x", None, {"d": 1}],
    }
    assert pack(message) == theirs.packb(message)
    for out in (unpack(theirs.packb(message)), theirs.unpackb(pack(message))):
        np.testing.assert_array_equal(out["a"], message["a"])
        assert out["a"].dtype == np.float32 and out["b"] == 1.5 and out["c"] == message["c"]


def test_each_client_has_a_history_of_its_own_and_reset_starts_it_afresh(
    policy: DiffusionPolicy, server: PolicyServer
) -> None:
    frames = [observation(i) for i in range(4)]
    with PolicyClient(port=server.port) as one, PolicyClient(port=server.port) as two:
        one.reset(environment=LARGE, seed=1)
        two.reset(environment=SMALL, seed=2)
        got_one, got_two = [], []
        for frame in frames:  # interleaved
            got_one.append(one.infer({"observation": frame})["actions"])
            got_two.append(two.infer({"observation/state": frame[:2]})["actions"])
        np.testing.assert_array_equal(got_one, expected(policy, LARGE, frames, 1))
        np.testing.assert_array_equal(got_two, expected(policy, SMALL, [f[:2] for f in frames], 2))
        one.reset(seed=1)
        np.testing.assert_array_equal(one.infer({"observation": frames[0]})["actions"], got_one[0])
        both = one.infer({"observation": np.stack(frames[:2]), "reset": True, "seed": 1})["actions"]
        np.testing.assert_array_equal(both, expected(policy, LARGE, [np.stack(frames[:2])], 1)[0])


def test_the_environment_may_be_left_out_where_the_policy_has_one() -> None:
    with running(make_policy(environments=1)) as server, PolicyClient(port=server.port) as client:
        assert client.infer({"observation": [0.0, 1]})["actions"].shape == (4, 2)


def array(**change: object) -> dict:
    return {b"__ndarray__": True, b"data": bytes(20), b"dtype": "<f4", b"shape": [5]} | change  # type: ignore[dict-item]


def nested(depth: int) -> bytes:
    return b"\x91" * depth + b"\x01"


good = {"observation": np.zeros(5, np.float32), "environment": LARGE}
MALFORMED: dict[str, bytes | str] = {
    "text": "hello",
    "empty": b"",
    "truncated": pack(good)[:-3],
    "two messages": pack(good) * 2,
    "junk": bytes(range(256)),
    "deep": nested(5000),
    "deep in place": b"\x81" + pack("observation") + nested(300),
    "huge claim": b"\xdd\xff\xff\xff\xff",
    "number": pack(3),
    "list": pack([good]),
    "nothing": pack({}),
    "unknown key": pack(good | {"enviroment": LARGE}),
    "integer key": msgpack.packb({1: 2}),
    "two observations": pack(good | {"observation/state": np.zeros(5)}),
    "unknown environment": pack(good | {"environment": "toy/lrage"}),
    "environment of bytes": pack(good | {"environment": b"toy/large"}),
    "wrong size": pack(good | {"observation": np.zeros(4, np.float32)}),
    "wrong rank": pack(good | {"observation": np.zeros((1, 1, 5), np.float32)}),
    "no frames": pack(good | {"observation": np.zeros((0, 5), np.float32)}),
    "too many frames": pack(good | {"observation": np.zeros((2000, 5), np.float32)}),
    "scalar": pack(good | {"observation": 1.0}),
    "ragged": pack(good | {"observation": [[1.0], [1.0, 2.0]]}),
    "nan": pack(good | {"observation": np.full(5, np.nan)}),
    "infinite": pack(good | {"observation": np.full(5, -np.inf)}),
    "beyond float32": pack(good | {"observation": np.full(5, 1e300)}),
    "text observation": pack(good | {"observation": ["1", "2", "3", "4", "5"]}),
    "map observation": pack(good | {"observation": {"x": 1}}),
    "objects": pack(good | {"observation": array(**{"b": 0}) | {b"dtype": "|O"}}),
    "complex": pack(good | {"observation": array() | {b"dtype": "<c8"}}),
    "structured": pack(good | {"observation": array() | {b"dtype": "f4,i4"}}),
    "dates": pack(good | {"observation": array() | {b"dtype": "<M8[s]"}}),
    "short data": pack(good | {"observation": array() | {b"data": bytes(19)}}),
    "text data": pack(good | {"observation": array() | {b"data": "x" * 20}}),
    "negative shape": pack(good | {"observation": array() | {b"shape": [-5]}}),
    "huge shape": pack(good | {"observation": array() | {b"shape": [2**62, 4]}}),
    "no shape": pack(good | {"observation": {b"__ndarray__": True}}),
    "reset of text": pack(good | {"reset": "yes"}),
    "seed of text": pack(good | {"seed": "1e3"}),
    "seed of other digits": pack(good | {"seed": "\u0661"}),
    "endless seed": pack(good | {"seed": "9" * 1001}),
    "true seed": pack(good | {"seed": True}),
    "fractional seed": pack(good | {"seed": 0.5}),
}


@pytest.mark.parametrize("name", MALFORMED)
def test_a_malformed_message_is_refused_and_changes_nothing(
    name: str, policy: DiffusionPolicy, server: PolicyServer
) -> None:
    frames = [observation(i) for i in range(2)]
    with connect(f"ws://127.0.0.1:{server.port}", compression=None, proxy=None) as socket:
        socket.recv()
        socket.send(pack({"observation": frames[0], "environment": LARGE, "seed": 3}))
        socket.recv()
        socket.send(MALFORMED[name])
        reply = socket.recv(timeout=10)
        assert isinstance(reply, str) and reply.startswith("refused: ")
        assert len(reply) < 400 and "\n" not in reply
        socket.send(pack({"observation": frames[1]}))  # same connection, same episode
        np.testing.assert_array_equal(
            unpack(socket.recv())["actions"], expected(policy, LARGE, frames, 3)[1]
        )


@pytest.mark.filterwarnings("error")
def test_values_of_every_kind_in_every_field_are_read_or_refused(policy: DiffusionPolicy) -> None:
    rng = np.random.default_rng(0)
    places = [*KEYS, "zz", b"known", 1]
    refused = 0
    for _ in range(4000):
        request = dict(good) | ({"known": np.zeros((1, 3))} if rng.integers(2) else {})
        for _ in range(int(rng.integers(1, 3))):
            request[places[rng.integers(len(places))]] = anything(rng)  # type: ignore[index]
        data = bytearray(msgpack.packb(request, default=_encode))
        for _ in range(int(rng.integers(0, 3))):
            data[rng.integers(len(data))] = rng.integers(256)
        try:
            read_request(bytes(data), policy, (None, LARGE, SMALL)[rng.integers(3)])
        except (UserError, ValueError) as error:
            refused += 1
            str(error).encode()
    assert 3000 < refused < 4000


def scalar(value: float, dtype: str) -> dict:
    return {b"__npgeneric__": True, b"data": value, b"dtype": dtype}


def anything(rng: np.random.Generator, depth: int = 0) -> object:
    """A value that msgpack or the format of arrays can express."""
    empty = array() | {b"data": b""}
    plain: list = [
        None,
        True,
        -3,
        2**63,
        2**64 - 1,
        -(2**63),
        0.5,
        np.nan,
        np.inf,
        1e308,
        "",
        "\x00",
        "\u00e9" * 50,
        "x" * 5000,
        b"",
        b"\xff\x00",
        msgpack.ExtType(5, b"abcd"),
        msgpack.Timestamp(3, 4),
        LARGE,
        SMALL,
        [0.0] * 5,
        [[0.0] * 3] * 2,
        [2**64 - 1, -1],
        [2**63, 0.5],
        scalar(300, "|i1"),
        scalar(1e300, "<f2"),
        scalar(2**64 - 1, "<i8"),
        empty | {b"shape": [0, 2**62]},
        empty | {b"shape": [2**63 - 1, 0]},
        np.zeros(tuple(rng.integers(0, 4, rng.integers(0, 8)))),
    ]
    kind = int(rng.integers(len(plain) + (4 if depth < 3 else 0)))
    if kind < len(plain):
        return plain[kind]
    if kind == len(plain):
        value: object = 1.0
        for _ in range(int(rng.integers(1, 200))):
            value = [value]
        return value
    if kind == len(plain) + 1:
        keys = ["x", b"__ndarray__", b"__npgeneric__", b"data", b"dtype", b"shape"]
        return {
            keys[rng.integers(len(keys))]: anything(rng, depth + 1)
            for _ in range(int(rng.integers(0, 4)))
        }
    return [anything(rng, depth + 1) for _ in range(int(rng.integers(0, 5)))]


def test_a_message_that_breaks_the_reading_of_it_is_refused_without_an_end_of_the_connection(
    policy: DiffusionPolicy,
    server: PolicyServer,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    with PolicyClient(port=server.port) as client:
        for error in (TypeError, OverflowError, KeyError, RecursionError, MemoryError):
            with monkeypatch.context() as patch:
                patch.setattr(
                    requests, "_frames", lambda *a, error=error: (_ for _ in ()).throw(error("odd"))
                )
                with pytest.raises(
                    UserError, match=f"refused: message cannot be read \\({error.__name__}"
                ):
                    client.infer(good)
        assert client.infer(good)["actions"].shape == (4, 3) and "Traceback" not in caplog.text


def test_a_message_over_the_limit_ends_its_connection_and_no_other(policy: DiffusionPolicy) -> None:
    with running(policy, max_message=2000) as server, PolicyClient(port=server.port) as other:
        with connect(f"ws://127.0.0.1:{server.port}", compression=None, proxy=None) as socket:
            socket.recv()
            socket.send(bytes(2001))
            with pytest.raises(ConnectionClosed):
                socket.recv(timeout=10)
        assert other.infer(good)["actions"].shape == (4, 3)


def test_a_client_that_vanishes_leaves_the_service_up(server: PolicyServer) -> None:
    socket = connect(f"ws://127.0.0.1:{server.port}", compression=None, proxy=None)
    socket.recv()
    socket.send(pack(good))
    socket.socket.close()
    with PolicyClient(port=server.port) as client:
        assert client.infer(good)["actions"].shape == (4, 3)


def test_a_failure_inside_the_policy_is_reported_and_the_service_goes_on(
    policy: DiffusionPolicy, server: PolicyServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    with PolicyClient(port=server.port) as client:
        with monkeypatch.context() as patch:
            patch.setattr(policy, "act", lambda *a: 1 / 0)
            with pytest.raises(UserError, match="failed inside the server: ZeroDivisionError"):
                client.infer(good)
        assert client.infer(good)["actions"].shape == (4, 3)


def test_health_is_answered_over_http(server: PolicyServer) -> None:
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with opener.open(f"http://127.0.0.1:{server.port}/healthz", timeout=10) as reply:
        assert reply.status == 200 and reply.read() == b"OK\n"


def test_web_pages_cannot_connect(server: PolicyServer) -> None:
    with pytest.raises(InvalidStatus, match="403"):
        connect(f"ws://127.0.0.1:{server.port}", origin="https://example.org", proxy=None)  # type: ignore[call-overload]


def test_our_client_says_in_one_line_what_the_server_refused(server: PolicyServer) -> None:
    with PolicyClient(port=server.port) as client:
        with pytest.raises(UserError, match="did you mean 'toy/large'"):
            client.infer({"observation": np.zeros(5), "environment": "toy/lrage"})
    with pytest.raises(TypeError, match="object"):
        pack({"observation": np.array([object()])})


def test_no_server_and_a_taken_port_are_user_errors(
    policy: DiffusionPolicy, server: PolicyServer
) -> None:
    with pytest.raises(UserError, match="choose another port"):
        PolicyServer(policy, ServerSettings(port=server.port)).run()
    with running(policy) as other:
        port = other.port
    with pytest.raises(UserError, match="alltrades serve"):
        PolicyClient(port=port, timeout=5)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_the_service_cleanly_with_a_client_connected(
    policy: DiffusionPolicy, tmp_path: os.PathLike, number: int
) -> None:
    folder = policy.save(os.path.join(tmp_path, "policy"))
    code = (
        "import sys; from alltrades.policies.model.loading import load_policy; from "
        "alltrades.policies.server import ServerSettings, serve_forever; "
        "serve_forever(load_policy(sys.argv[1]), ServerSettings(port=0), announce=lambda a: "
        "print(a, flush=True)); print('end')"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", code, str(folder)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    address = process.stdout.readline().strip()
    with PolicyClient(port=int(address.rpartition(":")[2])) as client:
        assert client.infer(good)["actions"].shape == (4, 3)
        process.send_signal(number)
        out, err = process.communicate(timeout=30)
    assert process.returncode == 0 and out == "end\n", err
    assert "Traceback" not in err
