"""An exported policy without PyTorch: with numpy and onnxruntime alone, then with this project's
controller and action guard.

    alltrades export generalist
    python notebooks/onnx_controller.py generalist/export.onnx
    python notebooks/onnx_controller.py generalist/export.onnx --bare

The second part needs this package, installed without its dependencies: `pip install --no-deps .`,
numpy and onnxruntime.
"""

from __future__ import annotations

import argparse
import json
import sys
import unicodedata
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any
from zlib import crc32

import numpy as np
import onnxruntime

RATE = 0.2  # largest change of an action between two control steps, in its units


TASK = "push the cup"  # what is told to a policy that takes an instruction


def robot(fields: list[dict[str, Any]], steps: int) -> Iterator[dict[str, Any]]:
    """Observations {field: value}: states of a random walk, grey images; put your sensors in their
    place.
    """
    rng = np.random.default_rng(0)
    states = {f["name"]: np.zeros(f["shape"], np.float32) for f in fields if f["kind"] == "state"}
    others = {
        f["name"]: TASK if f["kind"] == "text" else np.full(f["shape"], 128, f["dtype"])
        for f in fields
        if f["kind"] != "state"
    }
    for _ in range(steps):
        for name, value in states.items():
            states[name] = value + 0.1 * rng.standard_normal(value.shape, dtype=np.float32)
        yield states | others


# ---- numpy and onnxruntime alone -----------------------------------------------------------------
def text_features(text: str, size: int) -> np.ndarray:
    """What the graph takes for a text, (size,): its words and their pieces of 3 to 5 letters,
    hashed into signed counts (`alltrades.data.text.text_features`).
    """
    out = np.zeros(size, np.float32)
    for word in unicodedata.normalize("NFKC", text).casefold().split():
        marked = f"<{word}>"
        pieces = [marked[i : i + n] for n in (3, 4, 5) for i in range(len(marked) - n + 1)]
        for piece in [marked, *pieces]:
            number = crc32(piece.encode("utf-8", "surrogatepass"))
            out[number % size] += 1.0 if number & 0x80000000 else -1.0
    norm = float(np.linalg.norm(out))
    return out / norm if norm > 0 else out


class BarePolicy:
    """What the contract beside the graph says, put to use: history, environment, noise,
    chunk, box.
    """

    def __init__(self, path: Path, environment: str | None, rng: np.random.Generator) -> None:
        self.contract = json.loads(path.with_suffix(".json").read_text())
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = (
            1  # small networks wait longer for a second thread than it saves
        )
        self.session = onnxruntime.InferenceSession(
            str(path), options, providers=["CPUExecutionProvider"]
        )
        ids = [e["id"] for e in self.contract["environments"]]
        self.index = 0 if environment is None else ids.index(environment)
        self.info, self.rng = self.contract["environments"][self.index], rng
        self.inputs = self.contract["fields"][self.info["id"]]  # field -> input of the graph
        # the last `n_obs_steps` observations, oldest first
        self.frames: list[dict[str, Any]] = []

    def observe(self, observation: dict[str, Any]) -> None:
        """At every control step. Before an episode's first frame that frame is repeated."""
        n_obs_steps = self.contract["n_obs_steps"]
        self.frames = [*(self.frames or [observation] * n_obs_steps), observation][-n_obs_steps:]

    def chunk(self) -> np.ndarray:
        """The next actions to execute (n_action_steps, action_dim), in the environment's units and
        inside its box.
        """
        shapes = {
            name: [n if isinstance(n, int) else 1 for n in facts["shape"]]  # any batch size: here 1
            for name, facts in self.contract["inputs"].items()
        }
        feed = {
            name: np.zeros(shape, self.contract["inputs"][name]["dtype"])
            for name, shape in shapes.items()
        }
        for name, key in self.inputs.items():  # zeros stay where the environment has no number
            values, window = [frame[name] for frame in self.frames], feed[key][0]
            if isinstance(values[0], str):
                window[0] = text_features(values[0], window.shape[-1])
            else:
                window[..., : values[0].shape[-1]] = values
        feed["environment"][:] = self.index
        own, numbers = self.info["action"]["dims"], shapes["noise"][1:-1]
        feed["noise"][0, ..., :own] = self.rng.standard_normal((*numbers, own), dtype=np.float32)
        # known and keep stay zero: nothing about the chunk is decided yet
        (actions,) = self.session.run(
            ["actions"], feed
        )  # (B, horizon, action_dim of the largest environment)
        limits, dims = self.info["action"], self.info["action"]["dims"]
        low, high = (  # null is no bound
            np.array([empty if v is None else v for v in limits[name] or [None] * dims], np.float32)
            for name, empty in (("low", -np.inf), ("high", np.inf))
        )
        return np.clip(actions[0, : self.contract["n_action_steps"], :dims], low, high)


def run_bare(path: Path, environment: str | None, steps: int) -> None:
    """The control loop in full, without this project."""
    policy = BarePolicy(path, environment, np.random.default_rng(0))
    queue: list[np.ndarray] = []
    action = None
    for observation in robot(policy.info["observation"], steps):
        policy.observe(observation)
        if not queue:
            queue = list(policy.chunk())
        action = queue.pop(0)  # send it to your motors
    print(f"bare: {steps} actions for {policy.info['id']}, the last {action}")


# ---- with the project's controller and guard -----------------------------------------------------
def run_controller(path: Path, environment: str | None, steps: int) -> None:
    """The same loop: history, noise, queue and guard are the controller's."""
    from alltrades.policies.control.controller import Controller
    from alltrades.policies.control.guard import ActionGuard
    from alltrades.policies.onnx.onnx_policy import OnnxPolicy

    policy = OnnxPolicy(path)
    info: Any = policy.environments[
        0 if environment is None else policy.environment_index(environment)
    ]
    guard = ActionGuard(replace(info.action, rate=[RATE] * info.action_dim))
    controller = Controller(
        policy, guard=guard
    )  # by default a guard of the environment's own limits
    controller.reset(environment=info.id, seed=0)
    action = None
    for observation in robot(info.to_json()["observation"], steps):
        action = controller.act(observation)
    print(
        f"controller: {steps} actions for {info.id}, the last {action}; guard: "
        f"{controller.refusals}"
    )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "graph", type=Path, help="what `alltrades export` wrote; its contract lies beside it"
    )
    parser.add_argument("--environment", default=None, help="id; default the policy's first")
    parser.add_argument("--steps", type=int, default=50, help="control steps")
    parser.add_argument(
        "--bare", action="store_true", help="only the part with numpy and onnxruntime alone"
    )
    args = parser.parse_args()
    run_bare(args.graph, args.environment, args.steps)
    if not args.bare:
        run_controller(args.graph, args.environment, args.steps)
    print(f"PyTorch imported: {'torch' in sys.modules}")


if __name__ == "__main__":
    main()
