"""A server that goes on: a new artifact in place of the old one, and the end."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

pytest.importorskip("msgpack", reason="needs: pip install alltrades[serve]")
pytest.importorskip("websockets", minversion="16", reason="needs: pip install alltrades[serve]")

from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import connect

from alltrades.errors import UserError
from alltrades.policies.client.client import PolicyClient
from alltrades.policies.client.messages import pack, unpack
from alltrades.policies.model.loading import DESCRIBED
from alltrades.policies.model.policy import DiffusionPolicy
from alltrades.policies.model.saving import digest_of
from alltrades.policies.server import PolicyServer, ServerSettings
from alltrades.system.reading import SEAL, SEALED_BY, write_sealed
from tests.policies.serving import (
    LARGE,
    SETTINGS,
    expected,
    get,
    make_policy,
    metric,
    observation,
    running,
)


@pytest.fixture(scope="module")
def policy() -> DiffusionPolicy:
    return make_policy()


def other_policy(seed: int = 1) -> DiffusionPolicy:
    policy = make_policy()
    torch.manual_seed(seed)
    with torch.no_grad():
        for parameter in policy.parameters():
            parameter.add_(0.05 * torch.randn(parameter.shape))
    return policy


def changed(**settings: object) -> DiffusionPolicy:
    return make_policy(settings=SETTINGS.model_copy(update=settings))


def spoil_weights(folder: Path) -> None:
    """One weight becomes NaN, and all digests are computed anew."""
    weights, file = folder / "model.safetensors", folder / "policy.json"
    state, facts = load_file(weights), json.loads(file.read_text())
    next(v for k, v in state.items() if k.startswith("backbone")).view(-1)[3] = float("nan")
    save_file(state, weights)
    facts["digest"] = digest_of({k: facts[k] for k in DESCRIBED}, state)
    write_sealed(file, {k: v for k, v in facts.items() if k not in (SEAL, SEALED_BY)})


class Broken:
    """A policy whose actions are not finite while it is `armed`."""

    def __init__(self, environments: int = 2) -> None:
        self.policy, self.armed = make_policy(environments, stop=None), False
        act = self.policy.act

        def spoil(*arguments: object) -> np.ndarray:
            chunks = act(*arguments)  # type: ignore[arg-type]
            return np.full_like(chunks, np.nan) if self.armed else chunks

        self.policy.act = spoil  # type: ignore[method-assign, assignment]


class Hanging:
    """A policy whose calls do not return until `release`, once it is `armed`."""

    def __init__(self) -> None:
        self.policy, self.entered, self.release, self.armed = (
            make_policy(),
            threading.Event(),
            threading.Event(),
            False,
        )
        act = self.policy.act

        def wait(*arguments: object) -> np.ndarray:
            if self.armed:
                self.entered.set()
                assert self.release.wait(120)
            return act(*arguments)  # type: ignore[arg-type]

        self.policy.act = wait  # type: ignore[method-assign, assignment]


@pytest.mark.parametrize("engine", ["torch", "onnx"])
def test_a_new_artifact_goes_on_with_the_episode_of_a_connected_client(
    engine: str, policy: DiffusionPolicy, tmp_path: Path
) -> None:
    """The truth is a controller of which the policy is exchanged between two plans."""
    from alltrades.policies.control.controller import Controller

    if engine == "onnx":
        pytest.importorskip("onnxruntime", reason="needs: pip install alltrades[export]")
    from alltrades.policies.onnx.export import compiled

    acting = compiled if engine == "onnx" else (lambda p: p)
    folder, successor = policy.save(tmp_path / "policy"), other_policy()
    frames = [observation(i) for i in range(3)]
    controller = Controller(acting(policy), lanes=8)
    controller.begin(0, LARGE, 9)
    want = [controller.plan({0: frames[0][None]})[0]]
    controller.source.policy = acting(successor)
    want += [controller.plan({0: frame[None]})[0] for frame in frames[1:]]
    with running(policy, folder, engine=engine) as server, PolicyClient(port=server.port) as client:
        client.reset(environment=LARGE, seed=9)
        got = [client.infer({"observation": frames[0]})]
        successor.save(folder)
        assert server.reload().result(60)
        got += [client.infer({"observation": frame}) for frame in frames[1:]]
        assert [r["policy"] for r in got] == [policy.digest()] + 2 * [successor.digest()]
        assert metric(server.port, 'alltrades_reloads_total{outcome="taken"}') == 1
        with PolicyClient(port=server.port) as late:
            assert late.metadata["policy"] == successor.digest()
    np.testing.assert_array_equal([r["actions"] for r in got], want)
    assert not np.array_equal(want[1], expected(policy, LARGE, frames, 9)[1])


def test_an_artifact_that_does_not_fit_is_refused_in_one_line_and_the_old_one_goes_on(
    policy: DiffusionPolicy, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder, slower = policy.save(tmp_path / "policy"), make_policy()
    slower.environments = tuple(replace(e, control_hz=5.0) for e in slower.environments)
    with running(policy, folder) as server, PolicyClient(port=server.port) as client:
        for spoil, words in (
            (lambda: make_policy(environments=1).save(folder), "'toy/large' is missing or changed"),
            (
                lambda: slower.save(folder),
                "'toy/small' is missing or changed",
            ),
            (
                lambda: changed(horizon=16).save(folder),
                "horizon is 16, that of the policy being served 8",
            ),
            (
                lambda: changed(process="vp", prediction="noise", sampler="ddpm").save(folder),
                "draws is 6, that of the policy being served 1",
            ),
            (lambda: (folder / "policy.json").write_text("{"), "policy.json: cannot be read"),
            (
                lambda: (
                    policy.save(folder),
                    other_policy(2).save(tmp_path / "b"),
                    shutil.copy(tmp_path / "b" / "model.safetensors", folder),
                ),
                "do not belong together",
            ),
            (lambda: spoil_weights(policy.save(folder)), "is not finite; expected finite weights"),
            (lambda: (folder / "model.safetensors").unlink(), "no policy here"),
        ):
            caplog.clear()
            spoil()
            assert not server.reload().result(60)
            lines = [r.getMessage() for r in caplog.records if "reload refused" in r.getMessage()]
            assert len(lines) == 1 and words in lines[0] and "\n" not in lines[0]
            reply = client.infer(
                {"observation": observation(0), "environment": LARGE, "reset": True, "seed": 1}
            )
            np.testing.assert_array_equal(
                reply["actions"], expected(policy, LARGE, [observation(0)], 1)[0]
            )


@pytest.mark.parametrize("guard", [True, False])
def test_answers_that_are_not_finite_are_said_and_never_sent(
    guard: bool, caplog: pytest.LogCaptureFixture
) -> None:
    broken = Broken()
    with running(broken.policy, guard=guard) as server, PolicyClient(port=server.port) as client:
        first = {"observation": observation(0), "environment": LARGE, "reset": True, "seed": 1}
        good = client.infer(first)["actions"]
        assert get(server.port, "/healthz") == (200, "OK\n")
        broken.armed = True
        for _ in range(3):
            if guard:  # the last good action is held
                held = client.infer({"observation": observation(1)})["actions"]
                np.testing.assert_array_equal(held, np.repeat(good[-1:], len(held), axis=0))
            else:
                with pytest.raises(UserError, match="failed inside the server"):
                    client.infer({"observation": observation(1)})
        assert get(server.port, "/healthz") == (503, "answers of the policy are not finite\n")
        assert metric(server.port, "alltrades_unfinite_answers_total") == 3
        lines = [r.getMessage() for r in caplog.records]
        assert sum("are not finite; expected finite actions" in line for line in lines) == 1
        broken.armed = False
        assert np.isfinite(client.infer({"observation": observation(2)})["actions"]).all()
        assert get(server.port, "/healthz") == (200, "OK\n")
        assert metric(server.port, "alltrades_unfinite_answers_total") == 3


def test_a_policy_whose_first_answers_are_not_finite_is_not_served() -> None:
    broken = Broken()
    broken.armed = True
    with pytest.raises(UserError, match="the policy's action is nan in dimension 0"):
        PolicyServer(broken.policy, ServerSettings(port=0)).run()


def test_a_watched_artifact_is_loaded_when_it_is_written_again(
    policy: DiffusionPolicy, tmp_path: Path
) -> None:
    folder, successor = policy.save(tmp_path / "policy"), other_policy(3)
    with running(policy, folder, watch=True) as server:
        successor.save(folder)
        for _ in range(300):
            if server.digest == successor.digest():
                break
            time.sleep(0.1)
        assert server.digest == successor.digest()


# ---- the command ---------------------------------------------------------------------------------
class command:
    """`alltrades serve` in a process of its own."""

    def __init__(self, folder: Path, *options: str) -> None:
        code = "import sys; from alltrades.cli import main; sys.exit(main(sys.argv[1:]))"
        self.process = subprocess.Popen(
            [sys.executable, "-c", code, "serve", str(folder), "--port", "0", *options],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        assert line.startswith("serving "), line + self.process.communicate()[1]
        self.port = int(line.rpartition(":")[2])

    def __enter__(self) -> command:
        return self

    def __exit__(self, *error: object) -> None:
        self.process.kill()
        self.process.wait()


def test_the_command_reloads_on_sighup_and_drains_on_sigterm(
    policy: DiffusionPolicy, tmp_path: Path
) -> None:
    folder, successor = policy.save(tmp_path / "policy"), other_policy(4)
    with command(folder) as server, PolicyClient(port=server.port, timeout=30) as client:
        message = {"observation": observation(0), "environment": LARGE}
        assert client.infer(message)["policy"] == policy.digest()
        successor.save(folder)
        server.process.send_signal(signal.SIGHUP)
        for _ in range(300):
            if client.infer(message)["policy"] == successor.digest():
                break
            time.sleep(0.1)
        assert client.infer(message)["policy"] == successor.digest()
        server.process.send_signal(signal.SIGTERM)
        out, err = server.process.communicate(timeout=60)
        assert server.process.returncode == 0 and "Traceback" not in err
        with pytest.raises(UserError, match="no answer.*1001"):
            client.infer(message)


def test_the_end_answers_requests_in_flight_and_refuses_new_ones() -> None:
    slow = Hanging()
    with running(slow.policy) as server:
        slow.armed = True
        with (
            connect(f"ws://127.0.0.1:{server.port}", proxy=None) as busy,
            connect(f"ws://127.0.0.1:{server.port}", proxy=None) as idle,
        ):
            busy.recv(), idle.recv()
            busy.send(pack({"observation": observation(0), "environment": LARGE}))
            assert slow.entered.wait(60)
            server.stop()
            with pytest.raises(ConnectionClosed, match="1001"):
                idle.recv(timeout=60)
            assert get(server.port, "/healthz") == (503, "draining\n")
            with pytest.raises(InvalidStatus, match="503"):
                connect(f"ws://127.0.0.1:{server.port}", proxy=None)
            slow.release.set()
            assert unpack(busy.recv(timeout=60))["actions"].shape == (4, 3)
            with pytest.raises(ConnectionClosed, match="1001"):
                busy.recv(timeout=60)


def test_the_end_does_not_wait_for_a_policy_call_that_hangs(
    caplog: pytest.LogCaptureFixture,
) -> None:
    hung = Hanging()
    try:
        with (
            running(hung.policy, drain_seconds=0.2) as server,
            connect(f"ws://127.0.0.1:{server.port}", proxy=None) as one,
            connect(f"ws://127.0.0.1:{server.port}", proxy=None) as two,
        ):
            hung.armed = True
            one.recv(), two.recv()
            one.send(pack({"observation": observation(0), "environment": LARGE}))
            assert hung.entered.wait(60)
            two.send(pack({"observation": observation(0), "environment": LARGE}))  # waits behind it
            for _ in range(600):
                if len(server._answers._waiting) == 2:
                    break
                time.sleep(0.05)
            server.stop()
            for client in (one, two):
                assert "failed inside the server: TimeoutError" in str(client.recv(timeout=60))
                with pytest.raises(ConnectionClosed, match="1001"):
                    client.recv(timeout=60)
    finally:
        hung.release.set()
    text = caplog.text
    assert (
        "2 requests were not answered within 0.2 s and are given up" in text
        and "a policy call did not end" in text
    )


HANGING = """
import sys, threading
from alltrades.policies.server import PolicyServer, ServerSettings
from tests.policies.test_server_lifecycle import Hanging
hung = Hanging()
server = PolicyServer(hung.policy, ServerSettings(port=0, drain_seconds=3600))
def announce(address):
    hung.armed = True
    print(address, flush=True)
def say():
    hung.entered.wait()
    print("entered", flush=True)
threading.Thread(target=say, daemon=True).start()
server.run(announce)
"""


def test_a_second_signal_ends_the_process_at_once() -> None:
    process = subprocess.Popen(
        [sys.executable, "-c", HANGING],
        stdout=subprocess.PIPE,
        text=True,
        cwd=Path(__file__).parents[2],
    )
    assert process.stdout is not None
    try:
        port = int(process.stdout.readline().rpartition(":")[2])
        with connect(f"ws://127.0.0.1:{port}", proxy=None) as client:
            client.recv()
            client.send(pack({"observation": observation(0), "environment": LARGE}))
            assert process.stdout.readline() == "entered\n"
            process.send_signal(signal.SIGTERM)
            for _ in range(600):
                if get(port, "/healthz")[0] == 503:
                    break
                time.sleep(0.05)
            process.send_signal(signal.SIGTERM)
            assert process.wait(60) == -signal.SIGTERM
    finally:
        process.kill()
        process.wait()
