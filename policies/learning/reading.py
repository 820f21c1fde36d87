"""How a policy will read its instructions: fitted on the sentences of training, before training."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import replace
from functools import lru_cache

import numpy as np

from alltrades.data.interface import Interface
from alltrades.data.steps import Steps
from alltrades.data.text import text_features
from alltrades.envs import registry
from alltrades.envs.instructions import INSTRUCTION
from alltrades.errors import UserError
from alltrades.policies.model.encoders.embedding import WORDS, check_at_hand, embed
from alltrades.policies.model.encoders.sentences import NUMBERS, Reading
from alltrades.policies.settings import PolicySettings

QUANTILE = 0.95  # of the distances of sentences of training, each left out
LEAST = 1e-3  # share of the mean variance within goals that none is taken to be below
TINY = 1e-6  # the same, of embeddings of length 1
FOLDS = 8  # parts in which sentences are left out of the projection
LONE = 0.5  # share of the smallest distance of two goals, where no goal has two sentences


def reading_of(
    demos: Steps, environments: Sequence[Interface], settings: PolicySettings
) -> Reading | None:
    """That of a policy of these settings: of the sentences that its environments declare, by their
    goals, and of those of demonstrations, each of which else asks for something of its own. None
    where it sees no text, or reads words.

    Args:
        environments: with the fields that are seen.
    """
    texts = list(dict.fromkeys(name for e in environments for name in e.of_kind("text")))
    if settings.text.encoder == WORDS or not texts:
        return None
    goals: dict[str, Hashable] = {}
    for e in environments:
        if INSTRUCTION in e.observation and registry.knows([e.id]):
            declared = registry.get(e.id).instructions
            for goal in declared.goals if declared is not None else ():
                for sentence in goal.training:
                    goals.setdefault(sentence, goal)
    for name in texts:
        for said in demos.text.get(name, ()):
            goals.setdefault(str(said), str(said))
    goals.pop("", None)
    reading = fit_reading(goals, settings.text.encoder)
    return _pointing(reading, demos, environments) if settings.text.pointing else reading


def _pointing(reading: Reading, demos: Steps, environments: Sequence[Interface]) -> Reading:
    """A reading with the places of what goals name, as environments declare them. Raises UserError
    where none does.
    """
    number = dict(zip(reading.sentences, reading.goals))
    targets: dict[str, list[tuple[int, tuple[int, ...]]]] = {}
    for e in environments:
        declared = registry.get(e.id).instructions if registry.knows([e.id]) else None
        pairs = [(number[g.training[0]], g.target) for g in declared.goals] if declared else []
        if any(where for _, where in pairs):
            targets[e.id] = pairs
    if not targets or len({len(w) for own in targets.values() for _, w in own}) > 1:
        raise UserError(
            f"policy.text.pointing: {', '.join(targets) or 'no environment'} says where the things "
            "are that instructions name; expected environments that do, in as many numbers each; "
            "register them with Goal(..., target=columns), or set pointing: 0"
        )
    found = []
    for name, own in targets.items():
        chosen = demos.choose(demos.numbers(name))
        states = chosen.state(["state"], np.arange(len(chosen)))
        found += [states[:, list(where)] for _, where in own]
    places = np.concatenate(found).astype(np.float64)
    scale = np.maximum(places.std(0), 1e-3)
    return replace(reading, targets=targets, places=(tuple(places.mean(0)), tuple(scale)))


def fit_reading(goals: Mapping[str, Hashable], encoder: str) -> Reading:
    """The projection to 32 numbers that tells goals apart and forgets how they are said: linear
    discriminants of the embeddings of their sentences, with a shrunk covariance (Ledoit & Wolf
    2004). Where no goal has two sentences, the principal components.

    Args:
        goals: of each sentence, what it asks for: equal where two ask for the same.
        encoder: what embeds them (see `embed`).

    Raises UserError where it is not at hand, for no sentences, and for two of different goals that
    have the same words in another order, which hashed words do not tell apart.
    """
    if not goals:
        raise UserError(
            f"policy.text.encoder = {encoder} and there are no sentences to learn from; expected "
            "demonstrations with instructions; choose words, or leave the texts out "
            "(policy.observe)"
        )
    numbers: dict[Hashable, int] = {}
    labels = tuple(numbers.setdefault(goal, len(numbers)) for goal in goals.values())
    _check_words(tuple(goals), labels)
    check_at_hand(encoder)
    return _fitted(tuple(goals), labels, encoder)


def _check_words(sentences: tuple[str, ...], labels: tuple[int, ...]) -> None:
    seen: dict[bytes, int] = {}
    for i, sentence in enumerate(sentences):
        other = seen.setdefault(text_features(sentence).tobytes(), i)
        if labels[other] != labels[i]:
            raise UserError(
                f"instructions {sentences[other]!r} and {sentence!r} have the same words and ask "
                "for different things; expected sentences that differ in a word; say one of them "
                "otherwise"
            )


@lru_cache(maxsize=8)
def _fitted(sentences: tuple[str, ...], goals: tuple[int, ...], encoder: str) -> Reading:
    x, y = embed(sentences, encoder).astype(np.float64), np.array(goals)
    means, center, matrix = _projection(x, y)
    numbers = np.pad(matrix, ((0, 0), (0, NUMBERS - matrix.shape[1])))
    values, center32, matrix32, means32 = (
        a.astype(np.float32) for a in ((x - center) @ numbers, center, numbers, means)
    )
    limit, scatter = _limit(x, y, means), _scatter(x, y)
    return Reading(encoder, sentences, goals, values, center32, matrix32, means32, limit, scatter)


def _projection(x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Means (k, E) of the goals, their center (E,), and the matrix (E, d) of z = (e - center)
    matrix, in whose numbers the means have deviation 1.
    """
    means = np.stack([x[y == g].mean(0) for g in range(max(y) + 1)])
    center = means.mean(0)
    matrix = _directions(x - center, y)[:, :NUMBERS]
    spread = np.sqrt(np.square((means - center) @ matrix).mean(0))
    return means, center, matrix / np.where(spread > 1e-9, spread, 1.0)


def _scatter(x: np.ndarray, y: np.ndarray) -> float:
    """Root mean square of the numbers by which sentences are off their goal's mean where the
    projection was fitted without them; 0 where no goal has three sentences.

    Those of a goal are left out one by one, in `FOLDS` parts at most; those at one place in the
    lists of several goals together, since they are often the same but for the goal.
    """
    ranks = np.array([np.count_nonzero(y[:i] == g) for i, g in enumerate(y)])
    enough = np.bincount(y)[y] >= 3
    parts = np.where(enough, ranks % FOLDS, FOLDS)
    off = []
    for part in np.unique(parts[enough]):
        left_out = parts == part
        means, center, matrix = _projection(x[~left_out], y[~left_out])
        off.append((x[left_out] - means[y[left_out]]) @ matrix)
    return float(np.sqrt(np.square(np.concatenate(off)).mean())) if off else 0.0


def _directions(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """(E, d) in which goals differ: d is at most their number less one; one zero for one goal.

    They are the principal components of the goals' means where the covariance within goals, shrunk,
    is the identity.
    """
    from sklearn.covariance import ledoit_wolf

    count = int(y.max()) + 1
    if count == 1:
        return np.zeros((x.shape[1], 1))
    if len(y) == count:
        return np.linalg.svd(x - x.mean(0), full_matrices=False)[2][: count - 1].T
    means = np.stack([x[y == g].mean(0) for g in range(count)])
    within = ledoit_wolf(x - means[y], assume_centered=True)[0]
    values, vectors = np.linalg.eigh(within)
    least = max(LEAST * float(values.mean()), TINY)
    whiten = vectors / np.sqrt(np.maximum(values, least))  # (E, E)
    components = np.linalg.svd((means - means.mean(0)) @ whiten, full_matrices=False)[2]
    return whiten @ components[: count - 1].T


def _limit(x: np.ndarray, y: np.ndarray, means: np.ndarray) -> float:
    """Distance from which on a sentence is unlike those of every goal: the quantile of those of
    sentences of training to the mean of the others of their goal.
    """
    left_out = []
    for i in range(len(x)):
        others = (y == y[i]) & (np.arange(len(x)) != i)
        if others.any():
            left_out.append(np.linalg.norm(x[i] - x[others].mean(0)))
    if left_out:
        return float(np.quantile(left_out, QUANTILE))
    gaps = np.linalg.norm(means[:, None] - means[None], axis=-1) + np.diag([np.inf] * len(means))
    return float(LONE * gaps.min()) if len(means) > 1 else LONE
