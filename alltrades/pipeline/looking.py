"""Does a policy look? What each field that it sees changes, and where in pictures it looks, on
given episodes.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from alltrades.data.interface import Interface
from alltrades.data.steps import Steps
from alltrades.envs.rollouts.faults import Faults
from alltrades.envs.rollouts.rollout import Job, rollout
from alltrades.envs.rollouts.seeding import plot_seeds
from alltrades.envs.spec import EnvSpec
from alltrades.pipeline import collection, given
from alltrades.pipeline.acting import Policies, controllers_of, load_policies
from alltrades.pipeline.artifacts import policy_digests
from alltrades.pipeline.context import Context
from alltrades.pipeline.demonstrations import Demonstrations
from alltrades.pipeline.open_loop import specs_there
from alltrades.policies.learning.saliency import Saliency, saliency
from alltrades.policies.learning.swaps import swaps, warnings_of
from alltrades.policies.model.policy import DiffusionPolicy
from alltrades.report.films import animation, drawable, film_strip, of_saliency
from alltrades.system.files import remove, replacing, slug, write_json
from alltrades.system.progress import Progress
from alltrades.system.reading import read_mapping
from alltrades.system.reporting import Report

FRAMES = 4  # of each camera whose saliency is drawn
Looks = dict[str, dict[str, Any]]  # by environment, what `swaps` says, and `warnings`
Pictures = dict[str, dict[str, Saliency]]  # by environment and camera


def narrowed(context: Context, policy: Path) -> tuple[Context, Policies]:
    """The environments that the given stores have episodes of, and the policies that act there.

    Raises UserError where the stores do not fit what the policies see.
    """
    stores = context.settings.demos.stores
    context = replace(context, specs=specs_there(context, policy))
    acting = load_policies(policy, context.specs, context.settings.device)
    seen = {i: set(p.environments[p.environment_index(i)].observation) for i, p in acting.items()}
    given.check(context.stores.all(stores), context.specs, seen)
    return context, acting


def look(
    context: Context, policies: Policies, steps: Steps, drawn: bool, report: Report
) -> tuple[Looks, Pictures]:
    """What fields change in each environment, with warnings of those that are ignored, and, with
    `drawn`, where in the pictures of its cameras each policy looks; on the episodes with actions.
    """
    found: Looks = {}
    pictures: Pictures = {}
    seed = context.settings.evaluation.seed
    for k, spec in enumerate(context.specs):
        policy = policies[spec.id]
        mine = steps.select((steps.environment == spec.id) & steps.has_actions)
        mine = context.images.of(mine)
        policy.hear_all(sorted({str(t) for texts in mine.text.values() for t in texts if t}))
        facts = swaps(policy, mine, _interface(policy, spec), seed, goals_of(spec))
        found[spec.id] = facts | {"warnings": _warnings(facts, mine, spec, policy)}
        if drawn:
            pictures[spec.id] = _drawn(policy, mine, spec, facts, seed)
        report.progress(k + 1, len(context.specs))
    return found, pictures


def look_given(context: Context, policies: Policies, drawn: bool) -> tuple[Looks, Pictures]:
    """The same on the stores that the settings name."""
    stores = context.stores.all(context.settings.demos.stores)
    steps = collection.steps_of(stores, context.ids)
    with Progress("look", len(context.specs), "env") as bar:
        return look(context, policies, steps, drawn, Report(bar.update))


def look_of_run(
    demos: Demonstrations, name: str, policies: Path, out: Path, films: Path
) -> dict[str, Any]:
    """The same of a row of a run, on what it learned from, with a film of one episode in each
    environment; as JSON in `out`: `row`, and by environment what `look` says, "saliency" and
    "film", by camera, as data of pages where the extra `report` is installed, and the films as
    moving pictures in the folder `films`.

    Environments of a single demonstration are left out.
    """

    def body(report: Report) -> None:
        steps = demos.steps()
        context = _enough(demos.context, steps)
        acting = load_policies(policies, context.specs, context.settings.device)
        found, pictures = look(context, acting, steps, drawable(), report)
        remove(films)
        films.mkdir(parents=True)
        shown = film(context, acting, films) if drawable() else {}
        for environment, facts in found.items():
            own = {camera: of_saliency(s) for camera, s in pictures.get(environment, {}).items()}
            facts |= {"saliency": own, "film": shown.get(environment)}
        write_json(out, {"row": name, "environments": found})

    key = {"policies": policy_digests(policies), "drawn": drawable(), **demos.key()}
    demos.context.stage(f"look/{name}", key, [out, films], body, len(demos.context.specs), "env")
    return read_mapping(out, "what a run wrote of where its policy looks", "delete it")


def _enough(context: Context, steps: Steps) -> Context:
    """The environments of which there are episodes to exchange fields between."""
    counts = {
        s.id: int(((steps.environment == s.id) & steps.has_actions).sum()) for s in context.specs
    }
    return replace(context, specs=tuple(s for s in context.specs if counts[s.id] > 1))


def film(context: Context, policies: Policies, into: Path) -> dict[str, dict[str, Any]]:
    """One episode of each environment as its cameras see it, on a start that nothing else uses; as
    a moving picture in the folder `into`, too.
    """
    settings, out = context.settings, dict[str, dict[str, Any]]()
    specs = {s.id: s for s in context.simulated if cameras_of(policies[s.id], s)}
    for spec in specs.values():
        policies[spec.id].hear_all(spec.sentences)
    if not specs:
        return out
    controllers, keys = controllers_of({i: policies[i] for i in specs}, settings.rollout)
    jobs = [Job(i, plot_seeds(s, settings.seed, 1)[0], keys[i]) for i, s in specs.items()]
    for episode in rollout(
        jobs,
        specs,
        controllers,
        lanes=settings.rollout.lanes,
        crew=context.crew,
        faults=Faults(settings.rollout.errors, "not filmed"),
    ):
        name = episode.environment
        frames = {
            camera: np.asarray(episode.observations[camera])
            for camera in cameras_of(policies[name], specs[name])
        }
        moving = animation([*frames.values()], specs[name].control_hz)
        with replacing(into / f"{slug(name)}.gif") as partial:
            partial.write_bytes(moving)
        out[name] = {
            "seed": episode.seed,
            "steps": len(episode),
            "success": None if episode.success is None else bool(episode.success),
            "cameras": {camera: film_strip(x) for camera, x in frames.items()},
        }
    return out


def cameras_of(policy: DiffusionPolicy, spec: EnvSpec) -> list[str]:
    """The fields of pictures that a policy sees."""
    return [n for n, f in _interface(policy, spec).observation.items() if f.kind == "image"]


def _interface(policy: DiffusionPolicy, spec: EnvSpec) -> Interface:
    """What a policy knows of an environment."""
    return policy.environments[policy.environment_index(spec.id)]


def goals_of(spec: EnvSpec) -> dict[str, int]:
    """What each sentence of an environment asks for."""
    goals = () if spec.instructions is None else spec.instructions.goals
    return {s: k for k, goal in enumerate(goals) for s in (*goal.training, *goal.held_out)}


def _warnings(
    facts: Mapping[str, Any], steps: Steps, spec: EnvSpec, policy: DiffusionPolicy
) -> list[str]:
    """Texts matter where episodes ask for several things."""
    goals = goals_of(spec)
    asked = {
        name: {str(goals.get(str(t), t)) for t in texts} - {""}
        for name, texts in steps.text.items()
    }
    given = policy.settings.encoder.weights is not None
    return warnings_of(facts, [n for n, kinds in asked.items() if len(kinds) > 1], given)


def _drawn(
    policy: DiffusionPolicy, steps: Steps, spec: EnvSpec, facts: Mapping[str, Any], seed: int
) -> dict[str, Saliency]:
    cameras = cameras_of(policy, spec)
    chosen = np.unique(np.linspace(0, len(steps.ends) - 1, FRAMES).round().astype(int))
    share = (np.arange(len(chosen)) + 0.5) / len(chosen)  # a frame of each, earlier to later
    rows = steps.starts[chosen] + (share * steps.lengths[chosen]).astype(int)
    std = np.array(facts["std"])
    return {name: saliency(policy, steps, rows, spec.id, name, std, seed) for name in cameras}


def say(found: Looks) -> None:
    """Warnings of all environments, on stderr."""
    for name, facts in found.items():
        for line in facts["warnings"]:
            print(f"warning: {name}: {line}", file=sys.stderr)
