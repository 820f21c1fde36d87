"""A policy from an exported graph: NumPy, onnxruntime and the JSON contract, no PyTorch.

`Controller` and `ActionGuard` drive it like the policy that it was exported from, with the same
noise for the same seed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from hashlib import sha256
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np

from alltrades.data.fields import PREFIX
from alltrades.data.interface import Interface
from alltrades.data.layout import Layout
from alltrades.errors import UserError
from alltrades.policies.acting import ActingPolicy
from alltrades.policies.artifact import facts_of
from alltrades.policies.fetched import fetched

CONTRACT_VERSION = 5
INPUTS = ("environment", "noise", "known", "keep")  # besides the slots of a window
OUTPUT = "actions"


def input_names(layout: Layout) -> dict[str, str]:
    """Slot -> name of its input: "observation.images.front", and with its shape where images of the
    same name have several.
    """
    names = [slot.field for slot in layout.slots.values()]
    return {
        key: f"{PREFIX}{slot.field if names.count(slot.field) == 1 else key}"
        for key, slot in layout.slots.items()
    }


class OnnxPolicy(ActingPolicy):
    """Reads what `alltrades export` wrote.

    Args:
        path: the .onnx file, or its address; its contract lies beside it under the same name with
            the suffix .json.
        threads: of onnxruntime; one suits networks of this size.

    Raises UserError when a file is missing or unreadable, the two do not belong together, or
    onnxruntime is not installed.
    """

    def __init__(self, path: Path | str, threads: int = 1) -> None:
        path = fetched(path)
        contract = path.with_suffix(".json")
        for file in (path, contract):
            if not file.is_file():
                raise UserError(
                    f"{file}: no such file; expected an .onnx graph with its .json contract beside "
                    "it; write both with `alltrades export`"
                )
        try:
            facts, graph = facts_of(path), path.read_bytes()
            if facts["contract_version"] != CONTRACT_VERSION:
                raise UserError(
                    f"{contract}: contract version {facts['contract_version']}; expected "
                    f"{CONTRACT_VERSION}; export the policy again"
                )
            self.environments = tuple(Interface.from_json(e) for e in facts["environments"])
            self.n_obs_steps, self.horizon = int(facts["n_obs_steps"]), int(facts["horizon"])
            self.n_action_steps, self.draws = int(facts["n_action_steps"]), int(facts["draws"])
            self._digest, shapes = (
                str(facts["policy"]),
                {k: v["shape"] for k, v in facts["inputs"].items()},
            )
            self._sentences = dict.fromkeys(map(str, facts.get("sentences", ())))
            described, found_digest = str(facts["sha256"]), sha256(graph).hexdigest()
        except OSError as error:
            raise UserError(
                f"{path}: it or its contract cannot be read ({error.strerror}); expected two files "
                "that you may read"
            ) from error
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise UserError(
                f"{contract}: cannot be read ({error!r}); expected the contract that `alltrades "
                "export` wrote beside the graph; export the policy again"
            ) from error
        if found_digest != described:
            raise UserError(
                f"{path}: not the graph that {contract.name} describes (sha256 "
                f"{found_digest[:12]}, expected {described[:12]}): cut short, or of another "
                "export; export the policy again, or copy both files"
            )
        self._graph, self._threads = graph, threads
        try:
            self.session = self._session()
        except UserError:
            raise
        except Exception as error:  # onnxruntime raises many kinds, all of its own
            raise UserError(
                f"{path}: onnxruntime cannot read it ({str(error)[:200]}); expected a graph that "
                "`alltrades export` wrote; export the policy again"
            ) from error
        found = {t.name: t.shape for t in self.session.get_inputs()}
        if found != shapes:
            raise UserError(
                f"{path}: the graph takes {found} and its contract says {shapes}; expected the "
                "same; export the policy again"
            )
        size = shapes["noise"][0]
        self.batch: int | None = size if isinstance(size, int) else None
        self._names = input_names(self.layout)

    def _session(self) -> Any:
        runtime = _runtime()
        options = runtime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = self._threads
        return runtime.InferenceSession(self._graph, options, providers=["CPUExecutionProvider"])

    def __getstate__(self) -> dict[str, Any]:
        """For other processes, each of which has a session of its own."""
        return {name: value for name, value in self.__dict__.items() if name != "session"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self.session = self._session()

    def act(
        self,
        window: Mapping[str, np.ndarray],
        environment: np.ndarray,
        noise: np.ndarray,
        known: np.ndarray | None = None,
        keep: np.ndarray | None = None,
    ) -> np.ndarray:
        """Chunks (B, horizon, action_dim) float32 in environment units.

        Args:
            window: by slot of `layout`, (B, n_obs_steps, *shape), of a text (B, 1, TEXT_DIM).
            environment: (B,) positions in `environments`.
            noise: (B, draws, horizon, action_dim), standard normal.
            known, keep: (B, horizon, action_dim) actions that are decided and their weights (B,
                horizon), or None.

        A graph of a fixed batch size is called as often as needed, its last rows filled up with the
        first.
        """
        rows = len(environment)
        known = (
            np.zeros((rows, self.horizon, self.action_dim), np.float32) if known is None else known
        )
        keep = np.zeros((rows, self.horizon), np.float32) if keep is None else keep
        feed = {name: window[key] for key, name in self._names.items()}
        feed |= dict(zip(INPUTS, (environment, noise, known, keep)))
        if self.batch is None or rows == self.batch:
            return self.session.run([OUTPUT], feed)[0]
        parts = []
        for start in range(0, rows, self.batch):
            taken = np.arange(start, start + self.batch)
            taken[taken >= rows] = 0
            parts.append(
                self.session.run([OUTPUT], {name: value[taken] for name, value in feed.items()})[0]
            )
        return np.concatenate(parts)[:rows]

    @property
    def sentences(self) -> Sequence[str]:
        return [*self._sentences]

    def hear(self, text: str) -> None:
        """Raise UserError for a sentence that the graph's table does not have, where it has one and
        `unknown_instruction` is not "nearest": that is the one of the most similar words.
        """
        sentences = self._sentences
        if sentences and text and text not in sentences and self.unknown_instruction != "nearest":
            raise UserError(
                f"instruction {text[:80]!r} is none of the {len(sentences)} that this graph knows; "
                f"expected a known one, such as {min(sentences)!r}; export the policy again with "
                "--instructions, or run the policy's folder, which can embed new ones"
            )

    def digest(self) -> str:
        """Digest of the policy that was exported."""
        return self._digest


def _runtime() -> Any:
    try:
        return import_module("onnxruntime")
    except ImportError as error:
        raise UserError(
            "package onnxruntime is not installed; expected it to run an exported policy; pip "
            "install onnxruntime"
        ) from error
