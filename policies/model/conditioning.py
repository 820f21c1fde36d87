"""From a normalised observation window, an environment id and a preference to the vector that
conditions the denoiser.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from alltrades.data.layout import Layout, cut
from alltrades.policies.model.encoders import Pixels, make_encoder


class Conditioner(nn.Module):
    """Concatenates the states of a window, what encoders make of its images and texts, a learned
    environment embedding, the preference and the outcome.

    Every slot of images or text has one encoder, shared by the environments that have the slot;
    where an environment does not, zeros stand in its place.

    Args:
        layout: of the K environments; with K = 1 or embedding = 0 the environment is not shown.
        n_obs_steps: frames of a window.
        embedding: size of the environment embedding.
        preference: whether the preference over environments is an input; it enters as K lambda - 1,
            0 where uniform.
        encoder: name of the encoder of images.
        outcome: whether the outcome is an input: 1 good, -1 bad, 0 not said.
        pixels: (height, width) of images that the denoiser sees as they are: the condition begins
            with them. None for none.

    Attributes:
        dim: C, of the condition; what `grow` adds comes last. images: channels (height, width)
            with which it begins.
    """

    present: Tensor

    def __init__(
        self,
        layout: Layout,
        n_obs_steps: int,
        embedding: int,
        preference: bool = False,
        encoder: str = "convolution",
        pixels: tuple[int, int] | None = None,
        outcome: bool = False,
    ) -> None:
        super().__init__()
        count = len(layout.ids)
        self.embedding = nn.Embedding(count, embedding) if embedding and count > 1 else None
        self.size, self.preference, self.outcome = embedding, preference, outcome
        self.states = {slot.key: slot.shape[0] for slot in layout.of_kind("state")}
        self.encoder, self.n_obs_steps = encoder, n_obs_steps
        self.later: list[Later] = []
        self.late: nn.Embedding | None = None
        seen = [slot for slot in layout.slots.values() if slot.kind != "state"]
        raw = [slot for slot in seen if slot.kind == "image" and slot.shape[:2] == pixels]
        self.first = [slot.key for slot in raw]
        self.last = [slot.key for slot in seen if slot not in raw]
        encoders = {
            slot.key: Pixels(slot, n_obs_steps)
            if slot in raw
            else make_encoder(encoder, slot, n_obs_steps)
            for slot in seen
        }
        self.encoders = nn.ModuleDict({_module(key): e for key, e in encoders.items()})
        self.sizes = {key: e.dim for key, e in encoders.items()}
        self._look(layout)
        self.images = sum(n_obs_steps * slot.shape[2] for slot in raw)
        self.dim = (
            n_obs_steps * layout.state_dim
            + sum(self.sizes.values())
            + (embedding if self.embedding is not None else 0)
            + (count if preference else 0)
            + int(outcome)
        )
        self.outcome_at = self.dim - 1  # of the condition's numbers, where it is an input

    def unsaid(self, condition: Tensor) -> Tensor:
        """The condition (B, C) without its outcome."""
        i = self.outcome_at
        nothing = torch.zeros_like(condition[:, :1])
        return torch.cat([condition[:, :i], nothing, condition[:, i + 1 :]], dim=1)

    def _look(self, layout: Layout) -> None:
        """Which environments have which slots."""
        self.columns = {key: i for i, key in enumerate(layout.slots)}
        present = torch.from_numpy(layout.present)
        self.register_buffer("present", present, persistent=False)  # (K, slots)
        self.everywhere = [key for key, i in self.columns.items() if bool(present[:, i].all())]

    @torch.no_grad()
    def grow(self, layout: Layout) -> int:
        """See the environments of `layout` too, whose first ones are those that there are; returns
        by how many numbers the condition grows.

        These come last, and are zero for the environments that there were. The embedding of a new
        one is the mean of theirs.
        """
        states = {
            slot.key: slice(self._width(slot.key), slot.shape[0])
            for slot in layout.of_kind("state")
            if slot.shape[0] > self._width(slot.key)
        }
        others = [
            slot
            for slot in layout.slots.values()
            if slot.kind != "state" and slot.key not in self.columns
        ]
        for slot in others:
            encoder = make_encoder(self.encoder, slot, self.n_obs_steps)
            self.encoders[_module(slot.key)] = encoder
            self.sizes[slot.key] = encoder.dim
        late = self.size if self.embedding is None and self.late is None else 0
        if self.embedding is not None:
            self.embedding = _with_rows(self.embedding, len(layout.ids))
        elif self.late is not None:
            self.late = _with_rows(self.late, len(layout.ids))
        elif self.size:
            self.late = nn.Embedding(len(layout.ids), self.size)
            self.late.weight[: len(self.present)] = 0.0
        self._look(layout)
        self.later.append(Later(states, [slot.key for slot in others], bool(late)))
        added = self.n_obs_steps * sum(s.stop - s.start for s in states.values())
        added += sum(self.sizes[slot.key] for slot in others) + late
        self.dim += added
        return added

    def _width(self, key: str) -> int:
        """Numbers that are seen of a state."""
        ends = [late.states[key].stop for late in self.later if key in late.states]
        return ends[-1] if ends else self.states.get(key, 0)

    def forward(
        self,
        window: Mapping[str, Tensor],
        environment: Tensor,
        preference: Tensor | None = None,
        outcome: Tensor | None = None,
    ) -> Tensor:
        """A normalised window, (B,) and, where they are inputs, lambda (B, K) and the outcome (B,)
        -> (B, C).
        """
        parts = [self._encoded(key, window[key], environment) for key in self.first]
        if self.states:
            states = [window[key] for key in self.states]
            if self.later:
                states = [cut(x, width) for x, width in zip(states, self.states.values())]
            x = states[0] if len(states) == 1 else torch.cat(states, dim=-1)  # (B, n_obs_steps, D)
            parts.append(x.flatten(1))
        parts += [self._encoded(key, window[key], environment) for key in self.last]
        if self.embedding is not None:
            parts.append(self.embedding(environment))
        if self.preference:
            assert preference is not None
            parts.append(preference.shape[1] * preference - 1.0)
        if self.outcome:
            assert outcome is not None
            parts.append(outcome[:, None])
        for late in self.later:
            parts += [window[key][..., here].flatten(1) for key, here in late.states.items()]
            parts += [self._encoded(key, window[key], environment) for key in late.encoded]
            if late.embedded and self.late is not None:
                parts.append(self.late(environment))
        return torch.cat(parts, dim=-1) if len(parts) > 1 else parts[0]

    def _encoded(self, key: str, frames: Tensor, environment: Tensor) -> Tensor:
        """(B, dim) of a slot's encoder, zero in rows of environments without the slot; in training
        those are not computed.
        """
        encoder = self.encoders[_module(key)]
        if key in self.everywhere:
            return encoder(frames)
        here = self.present[environment, self.columns[key]]  # (B,)
        if not self.training:
            return encoder(frames) * here[:, None]
        rows = here.nonzero()[:, 0]
        if not len(rows):
            return frames.new_zeros(len(frames), self.sizes[key])
        found = encoder(frames[rows])
        return found.new_zeros(len(frames), found.shape[1]).index_copy(0, rows, found)


@dataclass(frozen=True)
class Later:
    """What a growth added to the condition: numbers of states, keys of further images and texts,
    and an embedding, where the first environment had needed none.
    """

    states: dict[str, slice]
    encoded: list[str]
    embedded: bool


def _with_rows(table: nn.Embedding, count: int) -> nn.Embedding:
    """The same with further rows up to `count`: the mean of those that there are."""
    out = nn.Embedding(count, table.embedding_dim, device=table.weight.device)
    out.weight[: len(table.weight)] = table.weight
    out.weight[len(table.weight) :] = table.weight.mean(0)
    return out


def _module(key: str) -> str:
    """A slot's key as a module's name, which has no dots."""
    return key.replace(".", "/")
