"""What a generalist is reminded of while it takes a new environment: episodes of its own ones, from
stores or from its own rollouts.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from alltrades.data.store import EpisodeStore
from alltrades.envs import registry
from alltrades.envs.rendering.wanted import drawn_like
from alltrades.envs.spec import EnvSpec
from alltrades.errors import UserError
from alltrades.pipeline import collection, given
from alltrades.pipeline.context import Context
from alltrades.pipeline.resolution import resolve
from alltrades.pipeline.rollouts import Teacher, roll_out
from alltrades.policies.learning.adaptation import Source
from alltrades.policies.learning.distillation import RECORDED
from alltrades.policies.model.policy import DiffusionPolicy

MOST = 4  # environments that a line names
COST = (
    "without it they are forgotten (in a study their success fell from .65 to between .06 and .33)"
)


@dataclass(frozen=True)
class Replay:
    """Episodes of environments that the generalist knows.

    Attributes:
        context: of these environments.
        stored: those that stores have episodes of. rolled_out: those that the generalist is rolled
            out in; neither: those that it is reminded of nothing in.
    """

    context: Context
    stores: tuple[Path, ...]
    stored: tuple[str, ...]
    rolled_out: tuple[str, ...]

    @property
    def environments(self) -> tuple[str, ...]:
        return (*self.stored, *self.rolled_out)

    def record(self, generalist: Path, out: Path) -> None:
        """Roll the generalist out where no store has episodes."""
        if not self.rolled_out:
            return
        specs = tuple(s for s in self.context.specs if s.id in self.rolled_out)
        context = replace(self.context, specs=specs)
        roll_out(
            context,
            Teacher("generalist", generalist, out),
            self.context.settings.adapt.replay_episodes,
        )

    def sources(self, recorded: Path) -> list[Source]:
        """What is learned from them; teacher 0 is the generalist. `recorded`: store of its own
        rollouts.
        """
        labels = 0 if self.context.settings.adapt.replay_labels == "generalist" else RECORDED
        out = []
        if self.stored:
            steps = collection.steps_of(self.context.stores.all(self.stores), self.stored)
            # without actions, there is nothing else to learn than what the generalist does
            told = {str(e) for e in steps.environment[steps.has_actions]}
            teacher = {name: labels if name in told else 0 for name in self.stored}
            out.append(Source(steps, teacher, old=True))
        if self.rolled_out:
            steps = self.context.stores.open(recorded).steps(list(self.rolled_out))
            out.append(Source(steps, dict.fromkeys(self.rolled_out, 0), old=True))
        return out

    def key(self, recorded: Path) -> dict[str, Any]:
        """What learning from them depends on."""
        return {
            "stores": [store.digest() for store in self.context.stores.all(self.stores)],
            "stored": self.stored,
            "rolled out": self.context.stores.open(recorded).digest() if self.rolled_out else None,
        }

    def said(self) -> str:
        """In words."""
        parts = []
        if self.stored:
            parts.append(f"stored episodes of {_named(self.stored)}")
        if self.rolled_out:
            count = self.context.settings.adapt.replay_episodes
            parts.append(f"{count} rollouts of the generalist in each of {_named(self.rolled_out)}")
        return f"replay: {' and '.join(parts)}" if parts else f"replay: none; {COST}"


def specs_of(context: Context, policy: DiffusionPolicy) -> tuple[EnvSpec, ...]:
    """The environments that a policy knows: with a simulator where it is registered and installed,
    else as the policy describes them. Raises UserError for one that changed since.
    """
    names = [e.id for e in policy.environments if registry.knows([e.id])]
    simulator = context.settings.simulator
    rules = {k: v for k, v in simulator.rules.items() if any(fnmatchcase(n, k) for n in names)}
    seen = dict.fromkeys(name for e in policy.environments for name in e.observation)
    network = context.settings.policy.model_copy(update={"observe": tuple(seen)})
    drawn = drawn_like(
        registry.installed(names), {e.id: e.observation for e in policy.environments}
    )
    settings = context.settings.model_copy(
        update={
            "policy": network,  # so that pictures are made that it sees
            "rendering": context.settings.rendering.model_copy(update=drawn),
            "environments": (),
            "optional_environments": tuple(names),
            "simulator": simulator.model_copy(update={"rules": rules}),
        }
    )
    found = {spec.id: spec for spec in resolve(settings)[0]}
    for spec in found.values():
        policy.check(spec)
    return tuple(found.get(e.id, EnvSpec.recorded(e)) for e in policy.environments)


def replay_of(context: Context, policy: DiffusionPolicy, stores: Sequence[Path] | None) -> Replay:
    """What reminds a policy of its environments, which those of the context are; None as stores:
    nothing.

    Raises UserError for stores that do not fit, and where an environment is in no store and has no
    simulator.
    """
    if stores is None:
        return Replay(context, (), (), ())
    opened = context.stores.all(stores)
    there = {name for store in opened for name in store.recorded}
    known = [spec.id for spec in context.specs]
    if stores and not there & set(known):
        raise UserError(
            f"--replay {' '.join(map(str, stores))}: episodes of {_named(sorted(there))}; expected "
            f"some of {_named(known)}, which the generalist knows; give another store, or leave it "
            "out"
        )
    stored = tuple(name for name in known if name in there)
    seen = {e.id: set(e.observation) for e in policy.environments}
    _check_fields(opened, [s for s in context.specs if s.id in stored], seen)
    rolled_out = tuple(s.id for s in context.simulated if s.id not in stored)
    lost = [name for name in known if name not in (*stored, *rolled_out)]
    if lost:
        raise UserError(
            f"no replay of {_named(lost)}: no store has episodes of it and there is no simulator; "
            f"{COST}; expected --replay STORE with such episodes; give one, or --replay none to "
            "accept that"
        )
    return Replay(context, tuple(stores), stored, rolled_out)


def _check_fields(
    stores: Sequence[EpisodeStore], specs: Sequence[EnvSpec], seen: Mapping[str, set[str]]
) -> None:
    """Demonstrations are checked whole; episodes without actions need the fields alone."""
    for store in stores:
        steps, interfaces = store.steps([s.id for s in specs]), store.interfaces()
        told = [s for s in specs if len(steps.acted(s.id))]
        if told:
            given.check([store], told, seen)
        for spec in specs:
            found, wanted = interfaces.get(spec.id), seen[spec.id]
            missing = sorted(wanted - set(found.observation)) if found is not None else []
            if missing:
                raise UserError(
                    f"{store.path}: episodes of '{spec.id}' have no '{missing[0]}'; expected what "
                    f"the generalist sees: {', '.join(sorted(wanted))}; give another store"
                )


def _named(names: Sequence[str]) -> str:
    more = f" and {len(names) - MOST} more" if len(names) > MOST else ""
    return ", ".join(names[:MOST]) + more
