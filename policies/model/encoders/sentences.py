"""Text as places in a frozen projection of sentence embeddings, which is trained before a policy
is, on the sentences of its training.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from alltrades.data.layout import Slot
from alltrades.data.text import TEXT_DIM, text_features
from alltrades.errors import UserError
from alltrades.policies.acting import Unknown
from alltrades.policies.model.encoders.base import Encoder
from alltrades.policies.model.encoders.embedding import NotAtHand, embed

log = logging.getLogger(__name__)
NUMBERS = 32  # of a sentence
REMEMBERED = 4096  # sentences that were heard since a policy was loaded
NEAR = 3.0  # deviations of its numbers from a goal's, root mean square, up to which one may ask
APART = 0.05  # share of the size of a sentence's numbers by which two runs of an encoder may differ


@dataclass(frozen=True)
class Reading:
    """How sentences become numbers: z = (e - center) matrix of an embedding e.

    Attributes:
        encoder: what embeds sentences (see `embed`).
        sentences: N of them, those of training. goals: (N,) of each, the number of what it asks
            for.
        values: (N, NUMBERS) f32 of each. center: (E,). matrix: (E, NUMBERS). means: (k, E) of the
            embeddings of each goal's sentences.
        limit: distance to the nearest of them from which on a sentence asks for something else.
        scatter: deviation of each of the numbers from those of its goal, of sentences that the
            projection was not fitted on; 0 where no goal has three of them.
        targets: by environment, goals and the columns of its state that say where what they name
            is. places: mean and deviation of those numbers, (d,) each.
    """

    encoder: str
    sentences: tuple[str, ...]
    goals: tuple[int, ...]
    values: np.ndarray
    center: np.ndarray
    matrix: np.ndarray
    means: np.ndarray
    limit: float
    scatter: float = 0.0
    targets: Mapping[str, Sequence[tuple[int, tuple[int, ...]]]] = field(default_factory=dict)
    places: tuple[tuple[float, ...], tuple[float, ...]] = ((), ())

    def described(self) -> dict[str, Any]:
        """What a network that reads so is built of, as plain values."""
        facts: dict[str, Any] = {
            "sentences": list(self.sentences),
            "goals": list(self.goals),
            "size": len(self.center),
            "scatter": self.scatter,
        }
        if self.targets:
            pairs = {k: [[g, list(c)] for g, c in own] for k, own in self.targets.items()}
            facts |= {"targets": pairs, "places": [list(p) for p in self.places]}
        return facts


class SentenceEncoder(Encoder):
    """The numbers of a sentence, found in a table by its hashed words (see `text_features`), which
    tell apart all sentences that differ in a word: so that nothing but the table is needed where
    only known sentences occur. Of others, those of the one with the most similar words, unless
    `hear` was told of them.

    Args:
        facts: what `Reading.described` says. encoder: the name of what embeds sentences.
    """

    kinds = ("text",)
    dim = NUMBERS
    keys: Tensor
    values: Tensor
    center: Tensor
    matrix: Tensor
    means: Tensor
    limit: Tensor
    heard: Tensor

    def __init__(self, slot: Slot, facts: Mapping[str, Any], encoder: str) -> None:
        super().__init__(slot)
        self.encoder = encoder
        self.sentences = {str(s): i for i, s in enumerate(facts["sentences"])}
        self.goals, size = tuple(int(g) for g in facts["goals"]), int(facts["size"])
        self.scatter = float(facts["scatter"])
        keys = np.stack([text_features(s) for s in self.sentences])
        self.register_buffer("keys", torch.from_numpy(keys), persistent=False)  # (N, TEXT_DIM)
        for name, shape in (
            ("values", (len(keys), NUMBERS)),
            ("center", (size,)),
            ("matrix", (size, NUMBERS)),
            ("means", (max(self.goals) + 1, size)),
            ("limit", ()),
        ):
            self.register_buffer(name, torch.zeros(shape))
        self.register_buffer("heard", torch.zeros(0, TEXT_DIM + NUMBERS), persistent=False)
        self._heard: dict[str, None] = {}  # since it was loaded, oldest first
        self._warned: set[str] = set()
        self._tried = False

    def fill(self, reading: Reading) -> None:
        """Take the numbers of a reading that describes itself as this does."""
        for name in ("values", "center", "matrix", "means", "limit"):
            getattr(self, name).copy_(torch.as_tensor(getattr(reading, name)))

    def forward(self, frames: Tensor, condition: Tensor | None = None) -> Tensor:
        """(N, TEXT_DIM) -> (N, NUMBERS); zero where there is no text."""
        heard = self.heard  # one tensor: another thread may replace it
        keys = torch.cat([self.keys, heard[:, :TEXT_DIM]])
        values = torch.cat([self.values, heard[:, TEXT_DIM:]])
        said = (frames.abs().amax(1, keepdim=True) > 0).to(values.dtype)
        return values[(frames @ keys.T).argmax(1)] * said

    def misheard(self, frames: Tensor, noise: Tensor) -> Tensor:
        """As `forward`, with noise (N, NUMBERS), of deviation 1 where a sentence is to be as far
        off as those are that the projection was not fitted on.
        """
        return self.off(self(frames), noise * (frames.abs().amax(1, True) > 0))

    def off(self, values: Tensor, noise: Tensor) -> Tensor:
        """A sentence's numbers (N, NUMBERS) with noise (see `misheard`)."""
        used = self.values.abs().amax(0) > 0  # the others are no goal's
        return values + self.scatter * noise * used

    def of_goals(self, goals: Tensor) -> Tensor:
        """(B, NUMBERS) of goals (B,), however they are said."""
        return ((self.means - self.center) @ self.matrix)[goals]

    # ---- sentences that training did not have ----------------------------------------------------
    @property
    def known(self) -> list[str]:
        """Sentences of training, and those that were heard."""
        return [*self.sentences, *self._heard]

    def knows(self, text: str) -> bool:
        """Whether nothing has to be worked out to read a text."""
        return not text or text in self.sentences or text in self._heard

    def load(self) -> None:
        """Load the sentence encoder where it is at hand: the first new sentence takes seconds."""
        with suppress(NotAtHand, UserError):  # said where it is needed
            embed([next(iter(self.sentences))], self.encoder)

    def hear(self, texts: Sequence[str], unknown: Unknown) -> None:
        """Embed sentences that may come next, where they are new.

        Args:
            unknown: what becomes of one that asks for none of the goals of training, as far as its
                distance to them says: refused with UserError, or read like others, with a warning;
                with "nearest" every new one is taken for the nearest goal, such a one with a
                warning. One whose numbers are near those of goals is read as what it is expected to
                ask for.

        Raises UserError too for a new one where the sentence encoder is not at hand, unless the
        nearest is asked for: then that is the one of the most similar words.
        """
        new = [text for text in dict.fromkeys(texts) if not self.knows(text)]
        if not new:
            return
        try:
            embedded = self._embed(new)
        except NotAtHand as error:
            if unknown != "nearest":
                raise UserError(
                    f"instruction {new[0][:80]!r} is none of the {len(self.sentences)} that this "
                    f"policy knows, and its sentence encoder is not at hand ({error}); expected a "
                    f"known one, such as {next(iter(self.sentences))!r}; bring the encoder, or "
                    "choose --unknown-instruction nearest"
                ) from error
            for text in new:
                self._warn(text, "is taken for the known one of the most similar words")
            return
        for text, embedding in zip(new, embedded):
            self._take(text, embedding, unknown)

    def _take(self, text: str, embedding: Tensor, unknown: Unknown) -> None:
        distances = (self.means - embedding).norm(dim=1)
        goal, distance = int(distances.argmin()), float(distances.min())
        if distance > float(self.limit):
            nearest = next(s for s, i in self.sentences.items() if self.goals[i] == goal)
            far = (
                f"asks for nothing that this policy was trained for, as far as its distance says "
                f"({distance:.2f}, known ones {float(self.limit):.2f} at most; nearest: "
                f"{nearest!r})"
            )
            if unknown == "refuse":
                raise UserError(
                    f"instruction {text[:80]!r} {far}; expected one like those of training; say "
                    "it otherwise, or choose --unknown-instruction nearest or warn"
                )
            self._warn(text, far + ("; it is taken for that" if unknown == "nearest" else ""))
        value = self.of_goals(torch.tensor(goal))
        if unknown != "nearest":
            value = self._without_scatter((embedding - self.center) @ self.matrix)
        key = torch.from_numpy(text_features(text).copy()).to(value)
        if len(self._heard) >= REMEMBERED:
            del self._heard[next(iter(self._heard))]
        self.heard = torch.cat([self.heard, torch.cat([key, value])[None]])[-REMEMBERED:]
        self._heard[text] = None

    def _without_scatter(self, value: Tensor) -> Tensor:
        """The expected numbers (NUMBERS,) of what is asked for, given those of a sentence: those of
        a goal lie about it as normal ones of deviation `scatter` would, and no goal is asked for
        more than another. Those of a sentence that lies near none of them as they are.
        """
        places = (self.means - self.center) @ self.matrix  # (k, NUMBERS)
        away = (places - value).square().sum(1)
        used = self.values.abs().amax(0).count_nonzero()
        if self.scatter == 0 or away.min() > used * (NEAR * self.scatter) ** 2:
            return value
        return torch.softmax(-away / (2 * self.scatter**2), 0) @ places

    def _embed(self, texts: Sequence[str]) -> Tensor:
        """(n, E) of texts, by the encoder of the training."""
        if not self._tried:
            first = next(iter(self.sentences))
            (again,) = torch.from_numpy(embed([first], self.encoder)).to(self.center)
            if again.shape != self.center.shape or not self._same(again):
                raise UserError(
                    f"sentence encoder {self.encoder}: not the one that this policy was trained "
                    f"with: it reads {first!r} otherwise; expected the same weights; bring them, "
                    "or choose --unknown-instruction nearest without it"
                )
            self._tried = True
        return torch.from_numpy(embed(texts, self.encoder)).to(self.center)

    def _same(self, embedding: Tensor) -> bool:
        apart = ((embedding - self.center) @ self.matrix - self.values[0]).norm()
        return bool(apart <= APART * self.values.norm(dim=1).max().clamp(min=1e-6))

    def _warn(self, text: str, what: str) -> None:
        if text not in self._warned and len(self._warned) < REMEMBERED:
            self._warned.add(text)
            log.warning("instruction %r %s", text[:80], what)
