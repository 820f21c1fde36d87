"""From a normalised observation window, an environment id and a preference to the vector that
conditions the denoiser.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor, nn

from alltrades.data.layout import Layout, Slot, cut
from alltrades.policies.model.checked import shaped
from alltrades.policies.model.encoders import Encoder, Pixels, make_encoder
from alltrades.policies.model.encoders.base import MapEncoder
from alltrades.policies.model.encoders.sentences import SentenceEncoder
from alltrades.policies.settings import EncoderSettings

DIM = 64  # numbers that a slot's features are projected to where they are more


class Conditioner(nn.Module):
    """Concatenates the states of a window, what encoders make of its images and texts, a learned
    environment embedding, the preference and the outcome.

    Every frame of an image becomes the features of its encoder and a number that says whether there
    is a frame at all: where it is missing (no pixel differs from zero) or where an environment has
    no such camera, both are zero. A slot's features of all frames are projected to 64 numbers where
    they are more. The encoder of a slot is shared by the environments that have it.

    Args:
        layout: of the K environments; with K = 1 or embedding = 0 the environment is not shown.
        n_obs_steps: frames of a window.
        embedding: size of the environment embedding.
        preference: whether the preference over environments is an input; it enters as K lambda - 1,
            0 where uniform.
        encoder: of images.
        outcome: whether the outcome is an input: 1 good, -1 bad, 0 not said.
        pixels: (height, width) of images that the denoiser sees as they are: the condition begins
            with them. None for none.
        architecture: of the encoders of images (see `Encoder`).
        reading: makes the encoder of a text that reads sentences; default: words are read.

    Attributes:
        dim: C, of the condition; what `grow` adds comes last. images: channels (height, width)
            with which it begins.
        cameras: keys of the slots that encoders of images see.
        module: of each slot, the name of its encoder in `encoders`.
    """

    present: Tensor

    def __init__(
        self,
        layout: Layout,
        n_obs_steps: int,
        embedding: int,
        preference: bool = False,
        encoder: EncoderSettings | None = None,
        pixels: tuple[int, int] | None = None,
        outcome: bool = False,
        architecture: Mapping[str, Any] | None = None,
        reading: Callable[[Slot], SentenceEncoder] | None = None,
    ) -> None:
        super().__init__()
        count = len(layout.ids)
        self.embedding = nn.Embedding(count, embedding) if embedding and count > 1 else None
        self.size, self.preference, self.outcome = embedding, preference, outcome
        self.states = {slot.key: slot.shape[0] for slot in layout.of_kind("state")}
        self.encoder, self.n_obs_steps = encoder or EncoderSettings(), n_obs_steps
        self.architecture, self.reading = dict(architecture or {}), reading
        self.later: list[Later] = []
        self._maps: dict[str, Tensor] | None = None
        self.late: nn.Embedding | None = None
        seen = [slot for slot in layout.slots.values() if slot.kind != "state"]
        raw = [slot for slot in seen if slot.kind == "image" and slot.shape[:2] == pixels]
        self.first = [slot.key for slot in raw]
        self.last = [slot.key for slot in seen if slot not in raw]
        self.texts = [slot.key for slot in seen if slot.kind == "text"]
        self.cameras: list[str] = []
        self.encoders, self.heads, self.films = nn.ModuleDict(), nn.ModuleDict(), nn.ModuleDict()
        self.module: dict[str, str] = {}
        self.frames: dict[str, int] = {}
        self.features: dict[str, int] = {}  # of a frame
        self.sizes: dict[str, int] = {}
        for slot in sorted(seen, key=lambda slot: slot.kind == "image"):  # texts first
            self._add(slot, slot in raw)
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

    def _add(self, slot: Slot, raw: bool = False) -> None:
        """An encoder, and what goes with it, of a slot that there was not."""
        key, settings, camera = slot.key, self.encoder, slot.kind == "image" and not raw
        name = self.module[key] = _module(slot, camera and settings.shared)
        if name not in self.encoders:
            if slot.kind == "text" and self.reading is not None:
                made: Encoder = self.reading(slot)
            else:
                made = Pixels(slot) if raw else make_encoder(settings.name, slot, self.architecture)
            if camera:
                self.architecture = made.architecture
            self.encoders[name] = made
        own = cast(Encoder, self.encoders[name])
        self.frames[key] = self.n_obs_steps if slot.frames else 1
        self.features[key] = own.dim + int(camera)
        self.sizes[key] = self.frames[key] * self.features[key]
        if not camera:
            return
        self.cameras.append(key)
        if self.sizes[key] > DIM:
            self.heads[_name(key)] = nn.Linear(self.sizes[key], DIM)
            self.sizes[key] = DIM
        said = sum(self.sizes[text] for text in self.texts)
        if settings.film and said and own.channels:
            film = self.films[_name(key)] = nn.Linear(said, 2 * own.channels)
            nn.init.zeros_(film.weight)
            nn.init.zeros_(film.bias)
        if settings.frozen:
            own.requires_grad_(False)

    def _pretrained(self, slot: Slot) -> None:
        """Give the encoder of a further camera the pretrained weights of one that there was, where
        these fit; else it learns.
        """
        own = self.encoders[self.module[slot.key]]
        shapes = {k: v.shape for k, v in own.state_dict().items()}
        for key in self.cameras:
            other = self.encoders[self.module[key]]
            if other is own and key != slot.key:
                return  # shared
            if other is not own and {k: v.shape for k, v in other.state_dict().items()} == shapes:
                own.load_state_dict(other.state_dict())
                return
        own.requires_grad_(True)

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
            self._add(slot)
            if slot.kind == "text" and self.reading is not None:
                first, new = (self.encoders[self.module[k]] for k in (self.texts[0], slot.key))
                new.load_state_dict(first.state_dict())
            if slot.kind == "image" and self.encoder.weights is not None:
                self._pretrained(slot)
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
        text_noise: Mapping[str, Tensor] | None = None,
    ) -> Tensor:
        """A normalised window, (B,) and, where they are inputs, lambda (B, K) and the outcome (B,)
        -> (B, C).

        `text_noise` (B, dim) of a text that reads sentences is that of `SentenceEncoder.misheard`.

        The window has for every camera `mask_key` (B, frames) beside it, or `features_key` (B,
        frames, features) in its place.
        """
        parts = [
            self.encoders[self.module[k]](window[k].flatten(0, 1)).reshape(-1, self.sizes[k])
            for k in self.first
        ]
        if self.states:
            states = [window[key] for key in self.states]
            if self.later:
                states = [cut(x, width) for x, width in zip(states, self.states.values())]
            x = states[0] if len(states) == 1 else torch.cat(states, dim=-1)  # (B, n_obs_steps, D)
            parts.append(x.flatten(1))
        noise = text_noise or {}
        texts = {k: self._text(k, window[k], environment, noise.get(k)) for k in self.texts}
        said = torch.cat(list(texts.values()), dim=-1) if self.films else None
        for key in self.last:
            found = texts.get(key)
            parts.append(self._image(key, window, environment, said) if found is None else found)
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
            for key in late.encoded:
                camera = key in self.cameras
                parts.append(
                    self._image(key, window, environment, said)
                    if camera
                    else self._text(key, window[key], environment, noise.get(key))
                )
            if late.embedded and self.late is not None:
                parts.append(self.late(environment))
        return torch.cat(parts, dim=-1) if len(parts) > 1 else parts[0]

    @property
    def learns_to_see(self) -> bool:
        """Whether an encoder of cameras learns."""
        own = (self.encoders[self.module[key]] for key in self.cameras)
        return any(p.requires_grad for encoder in own for p in encoder.parameters())

    @property
    def hearing(self) -> dict[str, SentenceEncoder]:
        """What reads a text by sentences, by its slot."""
        every = {key: self.encoders[name] for key, name in self.module.items()}
        return {key: of for key, of in every.items() if isinstance(of, SentenceEncoder)}

    @property
    def pointing(self) -> int:
        """Numbers of `looked`."""
        return sum(self.sizes[key] for key in self.cameras if self.modulated(key))

    def looked(self, window: Mapping[str, Tensor], environment: Tensor, said: Tensor) -> Tensor:
        """(B, pointing) of the cameras that texts modulate, as `said` (B, E) does."""
        keys = [key for key in self.cameras if self.modulated(key)]
        return torch.cat([self._image(key, window, environment, said) for key in keys], dim=-1)

    def modulated(self, key: str) -> bool:
        """Whether texts change the features of a camera."""
        return _name(key) in self.films

    def encoded(self, key: str, frames: Tensor, mask: Tensor, said: Tensor | None = None) -> Tensor:
        """Features (N, dim + 1) of normalised frames (N, H, W, C) of a camera and their mask (N,),
        which is the last; `said` (N, E) modulates them where texts do.
        """
        encoder = self.encoders[self.module[key]]
        given = () if said is None else (self.films[_name(key)](said),)
        shown = mask[:, None]
        if self._maps is None or not isinstance(encoder, MapEncoder):
            what = f"encoder {type(encoder).__name__}"
            seen = shaped(encoder(frames, *given), (self.features[key] - 1,), what)
            return torch.cat([seen * shown, shown], dim=-1)
        if key not in self._maps:
            self._maps[key] = encoder.maps(frames)
        return torch.cat([encoder.told(self._maps[key], *given) * shown, shown], dim=-1)

    @contextmanager
    def one_look(self) -> Iterator[None]:
        """Inside the block a camera's maps are made once, of the frames that it sees first: what is
        said of the same pictures may differ.
        """
        self._maps = {}
        try:
            yield
        finally:
            self._maps = None

    def _text(self, key: str, values: Tensor, environment: Tensor, noise: Tensor | None) -> Tensor:
        """(B, dim) of a text, zero in rows of environments without it."""
        encoder, said = self.encoders[self.module[key]], values[:, 0]
        if noise is not None and isinstance(encoder, SentenceEncoder):
            found = encoder.misheard(said, noise)
        else:
            found = shaped(
                encoder(said), (self.features[key],), f"encoder {type(encoder).__name__}"
            )
        return found if key in self.everywhere else found * self._here(key, environment)[:, None]

    def _image(
        self, key: str, window: Mapping[str, Tensor], environment: Tensor, said: Tensor | None
    ) -> Tensor:
        """(B, size) of a camera; in training rows of environments without it are not computed."""
        kept = window.get(features_key(key))
        if kept is None:
            frames, mask = window[key], window[mask_key(key)]
            count, size = self.frames[key], self.features[key]
            said = said if _name(key) in self.films else None
            if said is not None:
                said = said[:, None].expand(-1, count, -1)  # (B, frames, E)
            if key not in self.everywhere:
                here = self._here(key, environment)
                if self.training:
                    rows = here.nonzero()[:, 0]
                    kept = mask.new_zeros(len(mask), count, size)
                    if len(rows):
                        part = self._encoded(
                            key, frames[rows], mask[rows], None if said is None else said[rows]
                        )
                        kept = part.new_zeros(kept.shape).index_copy(0, rows, part)
                else:
                    mask = mask * here[:, None]
            if kept is None:
                kept = self._encoded(key, frames, mask, said)  # (B, frames, features)
        x = kept.flatten(1)
        return self.heads[_name(key)](x) if _name(key) in self.heads else x

    def _encoded(self, key: str, frames: Tensor, mask: Tensor, said: Tensor | None) -> Tensor:
        """`encoded` of (B, frames, H, W, C): (B, frames, features)."""
        x = self.encoded(
            key, frames.flatten(0, 1), mask.flatten(), None if said is None else said.flatten(0, 1)
        )
        return x.view(-1, self.frames[key], self.features[key])

    def _here(self, key: str, environment: Tensor) -> Tensor:
        """(B,) 1 in rows of environments with the slot."""
        return self.present[environment, self.columns[key]].float()


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


def mask_key(key: str) -> str:
    """Under which a window says of every frame of a camera whether it is there."""
    return f"{key}:there"


def features_key(key: str) -> str:
    """Under which a window holds the features of a camera in place of its frames."""
    return f"{key}:features"


def there(frames: Tensor) -> Tensor:
    """(..., H, W, C) pixels -> (...) 1 where a frame is there, 0 where all pixels are zero."""
    x = frames.flatten(-3)
    return ((x if x.dtype == torch.uint8 else x.float().abs()).amax(-1) > 0).float()


def _name(key: str) -> str:
    """A slot's key as a module's name, which has no dots."""
    return key.replace(".", "/")


def _module(slot: Slot, shared: bool) -> str:
    """Name of a slot's encoder."""
    if shared and slot.kind == "image":
        return "shared" + slot.key[len(slot.field) :]
    return _name(slot.key)
