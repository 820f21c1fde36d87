"""`alltrades bench malformed`: messages that make no sense, each of which the server must refuse
with a reason.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from alltrades.bench.memory import resident_bytes
from alltrades.bench.subject import ServerProcess, artifact
from alltrades.data.examples import random_observation
from alltrades.data.fields import Field
from alltrades.data.interface import Interface
from alltrades.policies.client.messages import MAX_MESSAGE, pack, require, unpack

Rng = np.random.Generator
CHECK = 500  # messages between two good requests
TOO_BIG = 1009  # websocket close code


@dataclass(frozen=True)
class Subject:
    """What is mutated: a valid request, the environment that it is of, and the bytes that the
    server takes.

    good: its fields in a map under "observation", "environment" and "known", one action.
    """

    good: dict[str, Any]
    interface: Interface
    limit: int = MAX_MESSAGE

    def field(self, rng: Rng, *kinds: str) -> tuple[str, Field] | None:
        """Any of its fields of some kinds."""
        fields = [(n, f) for n, f in self.interface.observation.items() if f.kind in kinds]
        return fields[rng.integers(len(fields))] if fields else None

    def but(self, name: str, value: Any) -> bytes:
        """The request with another value of a field."""
        return pack(self.good | {"observation": self.good["observation"] | {name: value}})


Make = Callable[[Rng, Subject], bytes | str]


def _array(f: Field, **change: Any) -> dict[bytes, Any]:
    dtype = np.dtype("float32" if f.kind == "text" else f.dtype)
    data = bytes(int(np.prod(f.shape)) * dtype.itemsize)
    return {b"__ndarray__": True, b"data": data, b"dtype": dtype.str, b"shape": list(f.shape)} | {
        key.encode(): value for key, value in change.items()
    }


def _truncated(rng: Rng, of: Subject) -> bytes:
    data = pack(of.good)
    return data[: rng.integers(0, len(data))]


def _junk(rng: Rng, of: Subject) -> bytes:
    return rng.bytes(int(rng.integers(1, 2000)))


def _trailing(rng: Rng, of: Subject) -> bytes:
    return pack(of.good) + rng.bytes(int(rng.integers(1, 50)))


def _oversized(rng: Rng, of: Subject) -> bytes:
    return pack(of.good | {"observation": np.zeros(of.limit + int(rng.integers(1, 1000)), "u1")})


def _text(rng: Rng, of: Subject) -> str:
    return "".join(chr(c) for c in rng.integers(32, 0xD7FF, int(rng.integers(0, 300))))


def _dtype(rng: Rng, of: Subject) -> bytes:
    names: list[Any] = ["|O", "<c8", "<M8[s]", "f4,i4", "|V4", "<U1", "|S4", "<f16", "", "float"]
    names += ["<f4" * 50, 7, None, b"<f4"]
    name, f = _any(rng, of)
    if f.kind == "image":  # such numbers would do for a state
        wrong = np.zeros(f.shape, rng.choice([d for d in ("u1", "u2", "i4") if f.dtype != d]))
        if wrong.dtype != f.dtype and f.dtype != "float32" and rng.integers(2):
            return of.but(name, wrong)
    return of.but(name, _array(f, dtype=names[rng.integers(len(names))]))


def _shape(rng: Rng, of: Subject) -> bytes:
    name, f = _any(rng, of)
    more = int(rng.integers(1, 40))
    sizes: list[list[int]] = [[0, *f.shape], [1, 1, *f.shape], [*f.shape, 1 + sum(f.shape)]]
    sizes += [[n + more for n in f.shape], [*f.shape[:-1], 5] if f.kind == "image" else [999]]
    claims: list[Any] = [[-4], [2**62, 4], [4, 2**40], [1] * 99, "x", None, [1.5], [True], {"a": 1}]
    kind = int(rng.integers(len(sizes) + len(claims)))
    if kind < len(sizes):
        return of.but(name, np.zeros(sizes[kind], "float32" if f.kind == "text" else f.dtype))
    return of.but(name, _array(f, shape=claims[kind - len(sizes)]))


def _any(rng: Rng, of: Subject) -> tuple[str, Field]:
    found = of.field(rng, "state", "image", "text")
    assert found is not None  # an environment has fields
    return found


def _field(rng: Rng, of: Subject) -> bytes:
    """A field that is missing, there twice, or of another kind."""
    name, f = _any(rng, of)
    fields = of.good["observation"]
    if rng.integers(3) == 0:
        return pack(of.good | {"observation": {k: v for k, v in fields.items() if k != name}})
    if rng.integers(3) == 0:
        slashed = name.replace(".", "/")
        return pack(of.good | {f"observation/{slashed}": fields[name]})
    values: list[Any] = [None, 5, b"x", {}, ["a", "b"], [[1.0], [1.0, 2.0]], {"x": 1}]
    values += ["x" * 5000, np.zeros(3)] if f.kind == "text" else ["text", b"x" * 64, ["1"] * 9]
    return of.but(name, values[rng.integers(len(values))])


def _type(rng: Rng, of: Subject) -> bytes:
    whole: tuple[Any, ...] = (3, None, True, "text", [of.good], b"bytes", 1.5, {}, {1: 2})
    parts: tuple[dict[Any, Any], ...] = (
        {"observation": "text"},
        {"observation": None},
        {"observation": {"x": 1}},
        {"observation": [[1.0], [1.0, 2.0]]},
        {"observation": 1.0},
        {"observation": b"x" * 40},
        {"environment": 5},
        {"environment": "no/such"},
        {"environment": b"x"},
        {"environment": "x" * 5000},
        {"environment": None},
        {"seed": "one"},
        {"seed": [1]},
        {"seed": 0.5},
        {"seed": True},
        {"reset": "yes"},
        {"reset": 1},
        {"request_id": [1]},
        {"request_id": "x" * 5000},
        {"unknown": 1},
        {b"observation/x": 1},
        {"known": "x"},
        {"known": None},
        {"known": 1.0},
        {"known": [[1.0], [1.0, 2.0]]},
        {"known": np.zeros((1, 999))},
        {"known": np.zeros((9999, 1))},
        {"known": np.zeros((1, 1, 1))},
        {"keep": [1.0, 1.0]},
        {"keep": [1.5]},
        {"keep": [-0.1]},
        {"keep": []},
        {"keep": "1"},
        {"keep": None},
        {"keep": [np.nan]},
        {"noise": [1.0]},
        {"noise": None},
    )
    kind = int(rng.integers(len(whole) + len(parts)))
    if kind < len(whole):
        return (
            require("msgpack").packb(whole[kind]) if kind == len(whole) - 1 else pack(whole[kind])
        )
    return pack(of.good | parts[kind - len(whole)])


def _not_finite(rng: Rng, of: Subject) -> bytes:
    found = of.field(rng, "state")
    if found is None or rng.integers(2):
        return pack(of.good | {"known": of.good["known"] + (np.nan, np.inf)[rng.integers(2)]})
    name, f = found
    values = rng.standard_normal(f.shape)
    values[rng.integers(len(values))] = (np.nan, np.inf, -np.inf, 1e300)[rng.integers(4)]
    return of.but(name, values if rng.integers(2) else values.tolist())


def _nested(rng: Rng, of: Subject) -> bytes:
    depth = int(2 ** rng.uniform(1, 17))
    body = (b"\x91" * depth + b"\x01", b"\x81\xa1x" * depth + b"\x01")[rng.integers(2)]
    named = pack("environment") + pack(of.good["environment"])
    return body if rng.integers(2) else b"\x82" + named + pack("observation") + body


KINDS: dict[str, tuple[Make, float]] = {  # with how often they come
    "truncated": (_truncated, 1),
    "junk": (_junk, 1),
    "trailing bytes": (_trailing, 1),
    "oversized": (_oversized, 0.05),
    "text frame": (_text, 1),
    "wrong dtype": (_dtype, 1),
    "wrong shape": (_shape, 1),
    "wrong field": (_field, 1),
    "wrong type": (_type, 2),
    "not finite": (_not_finite, 1),
    "deep nesting": (_nested, 1),
}


def messages(count: int, subject: Subject, seed: int = 0) -> Iterator[tuple[str, bytes | str]]:
    """`count` pairs of kind and message, none a valid request."""
    rng = np.random.default_rng(seed)
    share = np.array([often for _, often in KINDS.values()])
    for index in rng.choice(len(KINDS), size=count, p=share / share.sum()):
        name = list(KINDS)[index]
        yield name, KINDS[name][0](rng, subject)


def attack(port: int, count: int, seed: int = 0) -> Iterator[dict[str, Any]]:
    """Send messages to a server, as a state after every 500: {"sent", "refused", "wrong", "kinds",
    "good"}.

    A message is refused when a text frame gives the reason, or, where it is too large to be read,
    when the connection is closed with code 1009. "wrong" lists what was answered otherwise. "good"
    counts valid requests between, on a connection of their own and on that of the malformed ones,
    that got the actions they would get alone. A server that does not answer at all any more, for a
    minute, is the last thing that is "wrong".
    """
    state: dict[str, Any] = {"sent": 0, "refused": 0, "wrong": [], "kinds": Counter(), "good": 0}
    try:
        yield from _attack(port, count, seed, state)
    except (OSError, require("websockets.exceptions").WebSocketException) as error:
        state["wrong"].append(
            f"no answer after {state['sent']} messages: {type(error).__name__}: {error}"
        )
        yield state


def _attack(port: int, count: int, seed: int, state: dict[str, Any]) -> Iterator[dict[str, Any]]:
    connect = require("websockets.sync.client").connect
    closed = require("websockets.exceptions").ConnectionClosed

    def open_one() -> Any:
        socket = connect(
            f"ws://127.0.0.1:{port}", compression=None, proxy=None, max_size=None, open_timeout=60
        )
        return socket, unpack(socket.recv(timeout=60))

    def ask(socket: Any, request: dict) -> Any:
        socket.send(pack(request))
        reply = socket.recv(timeout=60)
        return reply if isinstance(reply, str) else unpack(reply)["actions"]

    (bad, metadata), (fine, _) = open_one(), open_one()
    info = Interface.from_json(metadata["environments"][0])
    given = random_observation(info, np.random.default_rng(seed))
    request: dict[str, Any] = {"observation": given, "environment": info.id}
    first = request | {"reset": True, "seed": 1}
    want = ask(fine, first)
    decided = request | {"known": np.zeros((1, info.action_dim), np.float32)}
    subject = Subject(decided, info, metadata["max_message"])
    for kind, message in messages(count, subject, seed):
        reply: Any = None
        try:
            bad.send(message)
            reply = bad.recv(timeout=60)
            refused = (
                isinstance(reply, str) and reply.startswith("refused: ") and kind != "oversized"
            )
        except closed as error:
            refused = kind == "oversized" and getattr(error.rcvd, "code", None) in (TOO_BIG, None)
            reply = f"closed: {error}"
            bad, _ = open_one()
        state["sent"] += 1
        state["kinds"][kind] += 1
        state["refused"] += refused
        if not refused and len(state["wrong"]) < 20:
            state["wrong"].append(f"{kind}: {message[:60]!r} -> {reply[:100]!r}")
        if state["sent"] % CHECK == 0 or state["sent"] == count:
            for socket in (fine, bad):
                answer = ask(socket, first)
                state["good"] += not isinstance(answer, str) and np.array_equal(answer, want)
            yield state
    bad.close()
    fine.close()


def malformed(
    folder: str | None, names: Sequence[str], count: int, results: list[dict[str, Any]]
) -> Iterator[str]:
    """Yield a line now and then and the outcome; append the outcome as plain values to
    `results`.
    """
    with artifact(folder, names, None) as path, ServerProcess(path, "--rate-limit", "0") as server:
        start = told = time.monotonic()
        checks = 0
        state: dict[str, Any] = {
            "sent": 0,
            "refused": 0,
            "wrong": [],
            "kinds": Counter(),
            "good": 0,
        }
        before = resident_bytes(server.pid)
        for state in attack(server.port, count):
            checks += 2
            if time.monotonic() - told > 30:
                told = time.monotonic()
                memory = resident_bytes(server.pid) / 2**20
                yield f"{state['sent']} sent, {state['refused']} refused, {memory:.1f} MiB"
        alive, growth = server.alive, (resident_bytes(server.pid) - before) / 2**20
    spent = time.monotonic() - start
    ok = alive and state["refused"] == count and state["good"] == checks
    results.append(
        {
            "path": "malformed",
            "ok": ok,
            "checks": checks,
            "server_alive": alive,
            "growth_mib": growth,
            "seconds": spent,
        }
        | {**state, "kinds": dict(state["kinds"])}
    )
    yield ", ".join(f"{kind} {n}" for kind, n in sorted(state["kinds"].items()))
    yield (
        f"{state['sent']} malformed messages in {spent:.0f} s: {state['refused']} refused with a "
        f"reason, server {'alive' if alive else 'DEAD'}, memory {growth:+.1f} MiB; {state['good']} "
        f"of {checks} good requests between them answered as alone"
    )
    yield from state["wrong"]
