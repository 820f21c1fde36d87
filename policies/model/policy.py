"""The policy artifact: a conditional diffusion model over action chunks, with everything needed to
run it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from alltrades.envs.spec import EnvSpec
from alltrades.errors import UserError
from alltrades.policies.acting import ActingPolicy, Unknown
from alltrades.policies.model.network import DiffusionNetwork
from alltrades.policies.model.preference import preference_vector
from alltrades.policies.model.saving import FORMAT_VERSION, digest_of, write_policy


class DiffusionPolicy(DiffusionNetwork, ActingPolicy):
    """Stateless map from observation windows to action chunks (see `DiffusionNetwork` for its
    arguments).

    With `settings.preference_input` and several environments the preference that it acts by is part
    of the policy: uniform, or what `set_preference` chose.
    """

    # ---- acting ----------------------------------------------------------------------------------
    def sample_from(
        self,
        window: Mapping[str, Tensor],
        environment: Tensor,
        noise: Tensor,
        known: Tensor | None = None,
        keep: Tensor | None = None,
    ) -> Tensor:
        """Chunk (B, H, A) from all the noise that the policy's own sampler needs, (B,
        draws, H, A).
        """
        first, *later = noise.unbind(1)
        fresh = iter(later)
        return self.sample(window, environment, first, lambda: next(fresh), known=known, keep=keep)

    @torch.inference_mode()
    def act(
        self,
        window: Mapping[str, np.ndarray],
        environment: np.ndarray,
        noise: np.ndarray,
        known: np.ndarray | None = None,
        keep: np.ndarray | None = None,
    ) -> np.ndarray:
        """`sample_from` on arrays: a window, int64 (B,), float32 (B, draws, H, A) -> float32 (B, H,
        A).
        """
        seen = {key: torch.from_numpy(x).to(self.device) for key, x in window.items()}
        where = (torch.from_numpy(x).to(self.device) for x in (environment, noise))
        held = (None if x is None else torch.from_numpy(x).to(self.device) for x in (known, keep))
        return self.sample_from(seen, *where, *held).float().cpu().numpy()

    def set_preference(self, preference: Mapping[str, float] | None) -> DiffusionPolicy:
        """Choose lambda per environment (uniform with None) and return the policy.

        Raises UserError for a policy to which the preference is no input, and for what is no
        preference.
        """
        if not self.takes_preference:
            if preference:
                raise UserError(
                    "a preference was given and this policy does not take one; expected a policy "
                    "of several environments trained with --policy.preference_input true"
                )
            return self
        self.preference.copy_(preference_vector(self.layout.ids, preference))
        return self

    @property
    def sentences(self) -> Sequence[str]:
        return self.reading[0].known if self.reading else ()

    def hear(self, text: str) -> None:
        self.hear_all([text])

    def hear_all(self, texts: Sequence[str]) -> None:
        """`hear` for several texts at once, which takes less time. Raises UserError for one that it
        cannot read, or refuses (see `set_unknown_instruction`).
        """
        for encoder in self.reading:
            encoder.hear(texts, self.unknown_instruction)

    def set_unknown_instruction(self, unknown: Unknown | None) -> DiffusionPolicy:
        """Choose what becomes of instructions that ask for something else than those of training:
        "refuse", "nearest" or "warn" (with None); returns the policy.

        Raises UserError for a policy that reads words: it does not know which it was trained with.
        """
        if unknown is not None and not self.reading:
            raise UserError(
                f"--unknown-instruction {unknown}: this policy reads its texts word by word, or "
                "none, and knows no instruction from another; expected one trained with "
                "--policy.text.encoder; leave it out"
            )
        self.unknown_instruction = unknown or "warn"
        return self

    def set_n_action_steps(self, actions: int | None) -> DiffusionPolicy:
        """Choose how many actions of each chunk are executed before the next one (as trained with
        None); returns the policy.

        Fewer look more often, at the cost of more calls. Raises UserError for a number that is not
        in a chunk.
        """
        if actions is not None:
            if not 1 <= actions <= self.horizon:
                raise UserError(
                    f"n_action_steps = {actions}; expected 1 to {self.horizon}, the length of this "
                    "policy's chunks"
                )
            self.n_action_steps = actions
            self.settings = self.settings.model_copy(update={"n_action_steps": actions})
        return self

    def chosen_preference(self) -> dict[str, float] | None:
        """Lambda that the policy acts by, per environment; None where it takes none."""
        if not self.takes_preference:
            return None
        return {k: round(float(v), 7) for k, v in zip(self.layout.ids, self.preference)}

    def check(self, spec: EnvSpec) -> int:
        """Index of the environment; raises UserError when its definition differs from the one
        trained on, apart from fields that the policy does not see.
        """
        index = self.environment_index(spec.id)
        mine, theirs = self.environments[index], spec.interface
        missing = [name for name in mine.observation if name not in theirs.observation]
        seen = {name: theirs.observation[name] for name in mine.observation if name not in missing}
        if missing or mine.digest() != replace(theirs, observation=seen).digest():
            raise UserError(
                f"environment '{spec.id}' changed since the policy was trained (observation "
                f"{mine.described()} -> {theirs.described()}, action {mine.action_dim} -> "
                f"{theirs.action_dim}, or bounds, rate, version); train again or use the "
                "environment it was trained on"
            )
        return index

    # ---- artifact --------------------------------------------------------------------------------
    def digest(self) -> str:
        """Hash of weights and settings: two policies with equal digests act alike."""
        return digest_of(self._description(), self.state_dict())

    def _description(self) -> dict:
        more: dict[str, Any] = {"grown": list(self.grown)} if self.grown else {}
        more |= {"sentences": self._sentences} if self.reading else {}
        return more | {
            "format_version": FORMAT_VERSION,
            "settings": self.settings.model_dump(),
            "environments": [e.to_json() for e in self.environments],
            "encoder": self.conditioner.architecture,
        }

    def save(self, folder: Path | str, extra: dict | None = None) -> Path:
        """Write model.safetensors and policy.json, which names the plugins that are loaded; raises
        UserError when the normaliser was never fitted, or a weight is not finite.
        """
        if not bool(self.normalizer.fitted):
            raise UserError(
                "policy has no normalisation statistics; expected a fitted normaliser; train it "
                "before saving"
            )
        folder = Path(folder)
        facts = {"parameters": self.parameter_count(), "training": extra or {}}
        write_policy(folder, self._description(), self.state_dict(), facts)
        return folder
