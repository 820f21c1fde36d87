"""The server as a service: many clients, limits, secrets, metrics."""

from __future__ import annotations

import re
import shutil
import ssl
import subprocess
import threading
import time
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("msgpack", reason="needs: pip install alltrades[serve]")
pytest.importorskip("websockets", minversion="16", reason="needs: pip install alltrades[serve]")

from websockets.exceptions import ConnectionClosed

from alltrades import cli
from alltrades.errors import UserError
from alltrades.policies.acting import ActingPolicy
from alltrades.policies.client.client import PolicyClient
from alltrades.policies.client.messages import pack
from alltrades.policies.model.policy import DiffusionPolicy
from alltrades.policies.server import PolicyServer, ServerSettings
from alltrades.policies.server.batcher import Batcher, Job, stable_sizes
from alltrades.policies.server.events import Events
from alltrades.policies.server.requests import read_request
from alltrades.policies.server.session import Session, Sessions
from tests.policies.serving import (
    LARGE,
    SMALL,
    expected,
    get,
    make_policy,
    metric,
    observation,
    running,
)

TOKEN = "0123456789abcdef-secret"


@pytest.fixture(scope="module")
def policy() -> DiffusionPolicy:
    return make_policy()


def test_requests_that_are_there_at_once_share_policy_calls_in_the_order_of_arrival(
    policy: DiffusionPolicy,
) -> None:
    sessions, delivered, ended = Sessions(16), [], threading.Event()

    def deliver(jobs: list[Job]) -> None:
        delivered.append(jobs)
        if sum(map(len, delivered)) == 11:
            ended.set()

    batcher = Batcher(
        policy, sessions, 16, 8, 0.0, True, deliver, lambda *arguments: None, lambda n: None
    )
    jobs = []
    for i in range(11):
        session = sessions.open("here", None)
        assert session is not None
        request = read_request(
            pack({"observation": observation(i), "environment": LARGE, "seed": i}), policy, None
        )
        jobs.append(Job(session, request, time.perf_counter()))
        batcher.submit(jobs[-1])
    batcher.start()
    assert ended.wait(60)
    batcher.close(60)
    assert [[jobs.index(job) for job in call] for call in delivered] == [list(range(8)), [8, 9, 10]]
    for i, job in enumerate(jobs):
        np.testing.assert_array_equal(job.actions, expected(policy, LARGE, [observation(i)], i)[0])


def test_clients_that_ask_at_once_get_what_each_gets_alone(policy: DiffusionPolicy) -> None:
    """Twelve threads meet at a barrier before every request; the truth is a controller with one
    episode.
    """
    count, steps = 12, 4
    got: list[list[np.ndarray]] = [[] for _ in range(count)]
    barrier = threading.Barrier(count)

    def client(i: int) -> None:
        with PolicyClient(port=server.port, timeout=60) as mine:
            mine.reset(environment=(SMALL, LARGE)[i % 2], seed=i)
            for k in range(steps):
                barrier.wait(60)
                got[i].append(
                    mine.infer({"observation": observation(100 * i + k, (2, 5)[i % 2])})["actions"]
                )

    with running(policy, budget_ms=100.0) as server:
        threads = [threading.Thread(target=client, args=(i,)) for i in range(count)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(120)
        calls, rows = (
            metric(server.port, "alltrades_batch_requests_count"),
            metric(server.port, "alltrades_batch_requests_sum"),
        )
    assert rows == count * steps and calls <= rows
    for i in range(count):
        frames = [observation(100 * i + k, (2, 5)[i % 2]) for k in range(steps)]
        np.testing.assert_array_equal(got[i], expected(policy, (SMALL, LARGE)[i % 2], frames, i))


def test_a_batch_size_is_used_only_when_its_rows_have_the_bits_of_the_full_batch() -> None:
    class Uneven(ActingPolicy):
        """Calls of fewer than four rows differ in the last bit."""

        def __init__(self) -> None:
            inner = make_policy()
            self.environments, self.n_obs_steps, self.n_action_steps = (
                inner.environments,
                inner.n_obs_steps,
                inner.n_action_steps,
            )
            self.horizon, self.draws = inner.horizon, inner.draws

        def act(
            self, window: dict[str, np.ndarray], environment: np.ndarray, noise: np.ndarray
        ) -> np.ndarray:
            state = window["state"]
            value = state.sum((1, 2)) * np.float32(1 + 1e-6 * (len(state) < 4))
            return np.repeat(value[:, None], 8 * self.action_dim, 1).reshape(
                len(state), 8, self.action_dim
            )

    assert stable_sizes(Uneven(), 8) == [4, 8]


def test_an_idle_client_does_not_make_another_wait_for_the_budget(policy: DiffusionPolicy) -> None:
    with (
        running(policy, budget_ms=3000.0) as server,
        PolicyClient(port=server.port, timeout=60),
        PolicyClient(port=server.port, timeout=60) as client,
    ):
        waits = [
            client.infer({"observation": observation(0), "environment": LARGE})["server_timing"][
                "queue_ms"
            ]
            for _ in range(5)
        ]
    assert np.median(waits) < 1000


# ---- replies and metrics -------------------------------------------------------------------------
def test_a_reply_repeats_the_request_id_and_names_the_policy(policy: DiffusionPolicy) -> None:
    with running(policy) as server, PolicyClient(port=server.port) as client:
        message = {"observation": observation(0), "environment": LARGE}
        replies = [client.infer(message | {"request_id": name}) for name in ("arm-7/3", 12)] + [
            client.infer(message)
        ] * 1
        assert [r["request_id"] for r in replies[:2]] == ["arm-7/3", 12] and isinstance(
            replies[2]["request_id"], int
        )
        assert all(r["policy"] == policy.digest() and r["held"] is False for r in replies)
        timing = replies[2]["server_timing"]
        assert (
            timing["infer_ms"] > 0
            and timing["queue_ms"] >= 0
            and timing["batch"] >= 1
            and timing["prev_total_ms"] > 0
        )
        with pytest.raises(UserError, match="request_id"):
            client.infer(message | {"request_id": [1]})


def test_starvation_is_a_gap_longer_than_the_chunk_and_one_control_period() -> None:
    """4 actions at 10 Hz last 0.4 s; one period of grace."""
    session = Session(1, 0, "here", None)
    assert not session.late(10.0, 4, 10.0, begins=True)
    assert not session.late(10.45, 4, 10.0, begins=False)
    assert session.late(10.97, 4, 10.0, begins=False)
    assert not session.late(11.2, 4, 10.0, begins=False)
    assert not session.late(99.0, 4, 10.0, begins=True)


def test_a_client_that_comes_late_finds_its_starvation_in_the_reply(
    policy: DiffusionPolicy,
) -> None:
    with running(policy) as server, PolicyClient(port=server.port) as client:
        client.infer({"observation": observation(0), "environment": LARGE})
        time.sleep(0.7)
        assert client.infer({"observation": observation(1)})["starved"] == 1
        assert metric(server.port, "alltrades_starved_total") == 1


def test_metrics_are_in_the_format_of_prometheus_and_count_what_happened(
    policy: DiffusionPolicy,
) -> None:
    with running(policy) as server, PolicyClient(port=server.port) as client:
        for i in range(3):
            client.infer({"observation": observation(i), "environment": LARGE})
        with pytest.raises(UserError):
            client.infer({"observation": [1.0]})
        status, text = get(server.port, "/metrics")
    assert status == 200 and text.endswith("\n")
    sample = re.compile(
        r'([a-z_]+)(\{[a-z_]+="[^"\n]*"(,[a-z_]+="[^"\n]*")*\})? ([-+]?[0-9.e+-]+|\+Inf)'
    )
    typed = dict(re.findall(r"^# TYPE (\S+) (counter|gauge|histogram)$", text, flags=re.MULTILINE))
    for line in text.splitlines():
        assert line.startswith(("# HELP ", "# TYPE ")) or sample.fullmatch(line), line
        if not line.startswith("#"):
            name = re.match(r"[a-z_]+", line)[0]  # type: ignore[index]
            assert name in typed or re.sub("_(bucket|sum|count)$", "", name) in typed
    for wanted in (
        'alltrades_requests_total{outcome="answered"} 3.0',
        'alltrades_requests_total{outcome="refused"} 1.0',
        "alltrades_clients 1.0",
        "alltrades_held 0.0",
        "alltrades_request_seconds_count 3.0",
        'alltrades_request_seconds_bucket{le="+Inf"} 3.0',
        f'alltrades_policy_info{{policy="{policy.digest()}"}} 1.0',
    ):
        assert f"\n{wanted}\n" in text
    counts = [int(n) for n in re.findall(r'request_seconds_bucket\{le="\S+"\} (\d+)', text)]
    assert counts == sorted(counts)


def test_actions_that_the_guard_replaces_are_counted_by_reason(policy: DiffusionPolicy) -> None:
    wild = make_policy()
    wild.normalizer.action_scale.mul_(50)
    with running(wild) as server, PolicyClient(port=server.port) as client:
        actions = client.infer({"observation": observation(0), "environment": LARGE})["actions"]
        assert np.abs(actions).max() <= 1
        assert metric(server.port, 'alltrades_guard_refusals_total{reason="box"}') >= 1
        assert any(e["kind"] == "guard: box" for e in server.events.latest())


def test_every_client_whose_actions_are_replaced_is_named_in_the_log_a_few_times(
    caplog: pytest.LogCaptureFixture,
) -> None:
    wild = make_policy()
    wild.normalizer.action_scale.mul_(50)
    with (
        running(wild) as server,
        PolicyClient(port=server.port) as one,
        PolicyClient(port=server.port) as two,
    ):
        for client in (one, two):
            for i in range(8):
                client.infer({"observation": observation(i), "environment": LARGE})
        statuses = [s.status(0.0)["guarded"] for s in server.sessions.all()]
    lines = [
        r.getMessage() for r in caplog.records if "replaced by the guard (box)" in r.getMessage()
    ]
    assert [sum(f"client {number} " in line for line in lines) for number in (1, 2)] == [5, 5]
    assert sum("only counted" in line for line in lines) == 2 and statuses == [8, 8]


def test_events_that_repeat_are_counted_and_push_out_no_others() -> None:
    events = Events()
    events.add("stop", "every robot holds")
    for i in range(500):
        events.repeat("guard: rate", "actions replaced", 2, i % 2)
    events.add("connect", "here", 3)
    found = events.latest()
    assert sorted((e["kind"], e["text"], e["client"]) for e in found) == [
        ("connect", "here", 3),
        ("guard: rate", "500 actions replaced", 0),
        ("guard: rate", "500 actions replaced", 1),
        ("stop", "every robot holds", None),
    ]
    for i in range(1000):
        events.repeat("guard: rate", "actions replaced", 1, i)
    assert {"stop", "connect"} <= {e["kind"] for e in events.latest()} and len(events.latest()) < 50


# ---- limits and secrets --------------------------------------------------------------------------
def test_more_requests_than_the_rate_limit_are_refused_and_later_ones_answered(
    policy: DiffusionPolicy,
) -> None:
    with running(policy, rate_limit=5.0) as server, PolicyClient(port=server.port) as client:
        message, refused = {"observation": observation(0), "environment": LARGE}, 0
        start = time.monotonic()
        for _ in range(60):
            try:
                client.infer(message)
            except UserError as error:
                assert "5 requests per second" in str(error)
                refused += 1
        assert 60 - refused <= 5 + 5 * (time.monotonic() - start) + 1
        time.sleep(0.5)
        assert client.infer(message)["actions"].shape == (4, 3)


def test_connections_beyond_the_limits_are_refused_with_a_reason_until_one_leaves(
    policy: DiffusionPolicy,
) -> None:
    with running(policy, max_clients=2) as server:
        with PolicyClient(port=server.port) as one, PolicyClient(port=server.port):
            with pytest.raises(UserError, match="503: refused: 2 clients are connected"):
                PolicyClient(port=server.port)
            one.close()
            for _ in range(100):
                if not server.sessions.full:
                    break
                time.sleep(0.05)
            PolicyClient(port=server.port).close()
    with running(policy, max_per_address=1) as server, PolicyClient(port=server.port):
        with pytest.raises(UserError, match="429: refused: 1 clients of this address"):
            PolicyClient(port=server.port)


def test_a_token_is_wanted_of_robots_and_metrics_but_not_of_health(
    policy: DiffusionPolicy, tmp_path: Path
) -> None:
    (tmp_path / "token").write_text(TOKEN + "\n")
    with running(policy, token_file=tmp_path / "token", dashboard=True) as server:
        for token in (None, "wrong", TOKEN + "x"):
            with pytest.raises(UserError, match="401: refused: the token"):
                PolicyClient(port=server.port, token=token)
        with PolicyClient(port=server.port, token=TOKEN) as client:
            assert client.infer({"observation": observation(0), "environment": LARGE})[
                "actions"
            ].shape == (4, 3)
        assert get(server.port, "/healthz") == (200, "OK\n")
        assert get(server.port, "/metrics")[0] == 401 and get(server.port, "/dashboard")[0] == 401
        assert get(server.port, "/metrics", Authorization=f"Bearer {TOKEN}")[0] == 200
        public = pytest.importorskip(
            "openpi_client.websocket_client_policy",
            reason="needs: pip install --no-deps openpi-client",
        )
        theirs = public.WebsocketClientPolicy("127.0.0.1", server.port, api_key=TOKEN)
        assert theirs.infer({"observation": observation(0), "environment": LARGE})[
            "actions"
        ].shape == (4, 3)


@pytest.mark.skipif(
    shutil.which("openssl") is None, reason="needs openssl on PATH to make a certificate"
)
def test_a_client_trusts_the_certificate_that_it_was_given_and_no_other(
    policy: DiffusionPolicy, tmp_path: Path
) -> None:
    def certificate(name: str) -> tuple[Path, Path]:
        pem, key = tmp_path / f"{name}.pem", tmp_path / f"{name}.key"
        subprocess.run(
            [
                "openssl",
                "req",
                "-x509",
                "-newkey",
                "ec",
                "-pkeyopt",
                "ec_paramgen_curve:prime256v1",
                "-nodes",
                "-keyout",
                key,
                "-out",
                pem,
                "-days",
                "2",
                "-subj",
                "/CN=robots",
                "-addext",
                "subjectAltName=IP:127.0.0.1",
            ],
            check=True,
            capture_output=True,
        )
        return pem, key

    (pem, key), (other, other_key) = certificate("mine"), certificate("other")
    with running(policy, certificate=pem, key=key) as server:
        with PolicyClient(port=server.port, certificate=pem) as client:
            assert client.infer({"observation": observation(0), "environment": LARGE})[
                "actions"
            ].shape == (4, 3)
        with pytest.raises(UserError, match="no policy server answers"):
            PolicyClient(port=server.port, certificate=other)
        with pytest.raises((ssl.SSLError, OSError, EOFError, ConnectionClosed, UserError)):
            PolicyClient(port=server.port, timeout=5)
    with pytest.raises(UserError, match="belong together"):
        PolicyServer(policy, ServerSettings(port=0, certificate=pem, key=other_key))


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (["--certificate", "a.pem"], "both a certificate and its key"),
        (["--token-file", "nowhere"], "token file nowhere cannot be read"),
        (["--token-file", "short"], "at least 16"),
        (["--batch", "0"], "--batch"),
        (["--threads", "0"], "--threads: 0"),
        (["--device", "gpu"], "--device gpu cannot be used"),
        (["--device", "meta", "--engine", "onnx"], "--engine onnx with --device meta"),
    ],
)
def test_mistakes_in_the_options_of_serve_are_one_line(
    argv: list[str],
    words: str,
    policy: DiffusionPolicy,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    policy.save("artifact")
    Path("short").write_text("abc")
    assert cli.main(["serve", "artifact", "--port", "0", *argv]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and words in error
