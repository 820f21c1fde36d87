"""The policy server and its clients with states, images and text."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

pytest.importorskip("msgpack", reason="needs: pip install alltrades[serve]")
pytest.importorskip("websockets", minversion="16", reason="needs: pip install alltrades[serve]")

from alltrades.data.actions import ActionSpec
from alltrades.data.fields import Field, Observation
from alltrades.data.interface import Interface
from alltrades.errors import UserError
from alltrades.policies.client.client import PolicyClient
from alltrades.policies.client.messages import MAX_MESSAGE
from alltrades.policies.client.remote import RemotePolicy
from alltrades.policies.control.controller import Controller
from alltrades.policies.control.realtime import RealTimeController
from alltrades.policies.server import PolicyServer
from alltrades.policies.server.requests import message_limit
from tests.policies.background import Immediate
from tests.policies.fields import CAMERAS, INTERFACES, OTHER, PLAIN, Seeing, observe, stacked
from tests.policies.serving import running


@pytest.fixture
def policy() -> Seeing:
    return Seeing()


@pytest.fixture
def server(policy: Seeing) -> Iterator[PolicyServer]:
    with running(policy, rate_limit=0) as server:  # type: ignore[arg-type]
        yield server


def flat(observation: Observation, separator: str = "/") -> dict[str, Any]:
    """As openpi's clients write it."""
    out = {
        f"observation{separator}{name.replace('.', separator)}": value
        for name, value in observation.items()
        if name != "instruction"
    }
    if "instruction" in observation:
        out["prompt"] = observation["instruction"]
    return out


def alone(observations: list[Observation], environment: str = CAMERAS, seed: int = 3) -> list[Any]:
    controller = Controller(Seeing())
    controller.begin(0, environment, seed)
    return [controller.plan({0: stacked([o])})[0] for o in observations]


@pytest.mark.parametrize("form", ["slashes", "dots", "map", "bare"])
def test_every_way_to_name_fields_gives_the_actions_of_a_controller(
    server: PolicyServer, form: str
) -> None:
    seen = [observe(i) for i in range(3)]
    messages: dict[str, list[dict[str, Any]]] = {
        "slashes": [flat(o) for o in seen],
        "dots": [flat(o, ".") | {"task": "lift it"} for o in seen],
        "map": [{"observation": o} for o in seen],
        "bare": [dict(o) for o in seen],
    }
    for message in messages["dots"]:
        del message["prompt"]
    with PolicyClient(port=server.port) as client:
        client.reset(environment=CAMERAS, seed=3)
        got = [client.infer(message)["actions"] for message in messages[form]]
    np.testing.assert_array_equal(got, alone(seen))


def test_the_public_openpi_client_is_answered(server: PolicyServer) -> None:
    openpi = pytest.importorskip(
        "openpi_client.websocket_client_policy", reason="needs: pip install openpi-client"
    )
    client = openpi.WebsocketClientPolicy("127.0.0.1", server.port)
    seen = [observe(i) for i in range(2)]
    got = [client.infer({**flat(o), "environment": CAMERAS, "seed": 3})["actions"] for o in seen]
    np.testing.assert_array_equal(got, alone(seen))
    with pytest.raises(RuntimeError, match="'lift it', then 'drop it'; expected one string per"):
        client.infer({**flat(observe(0, text="drop it"))})
    found = client.infer({**flat(observe(0, text="drop it")), "reset": True, "seed": 3})
    np.testing.assert_array_equal(found["actions"], alone([observe(0, text="drop it")])[0])


def test_the_policy_sees_what_was_sent_in_its_own_type_and_pixels(
    policy: Seeing, server: PolicyServer
) -> None:
    seen = [observe(i) for i in range(3)]
    with PolicyClient(port=server.port) as client:
        client.reset(environment=CAMERAS, seed=3)
        client.infer({"observation": stacked(seen)})
    window = policy.windows[-1]
    for key, name in (
        ("images.front@12x16x3", "images.front"),
        ("images.wrist@6x8x1-uint16", "images.wrist"),
    ):
        np.testing.assert_array_equal(window[key][0], [o[name] for o in seen[1:]])
        assert window[key].dtype == seen[0][name].dtype  # type: ignore[union-attr]


def test_metadata_says_what_every_field_is(server: PolicyServer) -> None:
    with PolicyClient(port=server.port) as client:
        facts = client.metadata
    assert facts["protocol"] == 3 and facts["max_message"] == message_limit(Seeing())
    assert tuple(Interface.from_json(e) for e in facts["environments"]) == INTERFACES
    assert {f["name"]: (f["kind"], f["shape"], f["dtype"]) for f in facts["environments"][0][
        "observation"]} == {
        "state": ("state", [3], "float32"),
        "images.front": ("image", [12, 16, 3], "uint8"),
        "images.wrist": ("image", [6, 8, 1], "uint16"),
        "instruction": ("text", [], "str"),
    }  # fmt: skip


good = flat(observe(0)) | {"environment": CAMERAS}
WRONG: dict[str, tuple[dict[str, Any], str]] = {
    "environment": ({"environment": "toy/camras"}, "did you mean 'toy/cameras'"),
    "missing": (
        {"observation/images/front": None},
        "no 'images.front'; it has state, images.wrist, prompt; expected state",
    ),
    "shape": (
        {"observation/images/front": np.zeros((3, 12, 16), np.uint8)},
        r"shape \(3, 12, 16\); expected \(12, 16, 3\)",
    ),
    "dtype": (
        {"observation/images/front": np.zeros((12, 16, 3), np.float32)},
        "'images.front' of 'toy/cameras' has dtype float32; expected uint8, 0 to 255",
    ),
    "state": ({"observation/state": np.zeros(4)}, r"'state' .* shape \(4,\); expected \(3,\)"),
    "text": ({"prompt": 5}, "'instruction' .* is a int; expected a string"),
    "two texts": ({"prompt": "go", "task": "stop"}, "'prompt' and 'task', which say different"),
    "long text": ({"prompt": "x" * 3000}, "3000 characters; expected at most 2000"),
    "twice": ({"observation.state": np.zeros(3)}, "has 'state' twice"),
    "unknown": ({"statte": np.zeros(3)}, "has the key 'statte'.*did you mean 'state'"),
    "uneven": (
        {"observation/state": np.zeros((2, 3)), "observation/images/front": np.zeros(
            (3, 12, 16, 3), np.uint8), "observation/images/wrist": np.zeros((2, 6, 8), np.uint16)},
        "unequal numbers of frames",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", WRONG)
def test_what_is_wrong_with_a_field_is_said_in_one_line_and_the_client_goes_on(
    server: PolicyServer, case: str
) -> None:
    change, words = WRONG[case]
    message = {k: v for k, v in {**good, **change}.items() if v is not None}
    with PolicyClient(port=server.port) as client:
        with pytest.raises(UserError, match=words) as caught:
            client.infer(message)
        assert "\n" not in str(caught.value)
        assert client.infer(good)["actions"].shape == (4, 2)


def test_further_fields_and_a_prompt_that_nobody_reads_are_ignored(server: PolicyServer) -> None:
    more = {"observation/images/left": np.zeros((4, 4, 3), np.uint8), "images.right": "x"}
    with PolicyClient(port=server.port) as client:
        client.reset(environment=PLAIN, seed=3)
        got = client.infer({"observation/state": np.ones(5), "prompt": "go", **more})["actions"]
    want = alone([{"state": np.ones(5, np.float32)}], PLAIN)[0]
    np.testing.assert_array_equal(got, want)


def test_a_message_of_two_vga_cameras_fits_and_a_flood_still_ends_its_connection() -> None:
    vga = Interface(
        "vga",
        {"state": Field.state(2), "a": Field.image(480, 640), "b": Field.image(480, 640)},
        ActionSpec((-1, -1), (1, 1)),
        50,
        10.0,
    )
    policy = Seeing([vga], n_obs_steps=1)
    limit = message_limit(policy)
    assert limit == MAX_MESSAGE + 4 * 2 * 480 * 640 * 3  # as many frames as are executed
    assert message_limit(Seeing([INTERFACES[2]])) == MAX_MESSAGE
    with running(policy) as server, PolicyClient(port=server.port) as client:  # type: ignore[arg-type]
        frame = observe(0, vga)
        assert client.infer({"observation": frame})["actions"].shape == (4, 2)
        assert client.infer({"observation": stacked([frame] * 4)})["actions"].shape == (4, 2)
        with PolicyClient(port=server.port) as other:
            with pytest.raises(UserError, match="no answer"):
                other.infer({"observation": stacked([frame] * 5), "x": np.zeros(MAX_MESSAGE)})
        assert client.infer({"observation": frame})["actions"].shape == (4, 2)


def test_frames_that_come_while_the_operator_holds_the_robots_are_seen_afterwards(
    policy: Seeing, server: PolicyServer
) -> None:
    seen = [observe(i) for i in range(5)]
    with PolicyClient(port=server.port) as client:
        client.reset(environment=CAMERAS, seed=3)
        client.infer({"observation": seen[0]})
        server.hold()
        for o in seen[1:4]:
            assert client.infer({"observation": o})["held"]
        server.hold(False)
        client.infer({"observation": seen[4]})
    np.testing.assert_array_equal(
        policy.windows[-1]["images.front@12x16x3"][0], [o["images.front"] for o in seen[3:]]
    )


@pytest.mark.parametrize("kind", ["synchronous", "asynchronous"])
def test_a_remote_policy_in_a_controller_acts_like_the_policy_itself(
    server: PolicyServer, kind: str
) -> None:
    def act(policy: Any) -> list[np.ndarray]:
        controller: Any = (
            Controller(policy, lanes=2, batch=1)
            if kind == "synchronous"
            else RealTimeController(
                policy, lanes=2, batch=1, delay=0.0, executor=Immediate(), clock=lambda: 0.0
            )
        )
        controller.reset(environment=[CAMERAS, OTHER], seed=5)
        out = []
        for i in range(9):
            if i == 5:
                controller.reset(np.array([True, False]), environment=CAMERAS, seed=8)
            text = "lift it" if i < 5 else "hebe die Täſſe ☕"
            given = {0: observe(i, text=text), 1: observe(i, INTERFACES[1])}
            out += controller.act(given).values()
        controller.close()
        return out

    remote = RemotePolicy(port=server.port)
    np.testing.assert_array_equal(act(remote), act(Seeing()))
    remote.close()


def test_lanes_with_different_texts_may_share_one_remote_policy(server: PolicyServer) -> None:
    def act(policy: Any) -> list[np.ndarray]:
        controller = Controller(policy, lanes=2, batch=1)
        controller.reset(environment=CAMERAS, seed=5)
        texts = ("lift it", "drop it")
        acted = [
            controller.act({k: observe(i + k, text=texts[k]) for k in range(2)}) for i in range(6)
        ]
        return [action for both in acted for action in both.values()]

    remote = RemotePolicy(port=server.port)
    np.testing.assert_array_equal(act(remote), act(Seeing()))
    remote.close()


def test_features_of_a_text_that_a_remote_policy_was_not_told_of_are_a_user_error(
    server: PolicyServer,
) -> None:
    remote = RemotePolicy(port=server.port)
    window = remote.layout.empty(1, frames=2)
    window["instruction"][0, 0, 3] = 1.0
    noise = np.zeros((1, 1, 8, 2), np.float32)
    with pytest.raises(UserError, match="of no text.*hear"):
        remote.act(window, np.zeros(1, np.int64), noise)
    remote.close()
