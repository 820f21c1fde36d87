"""Which environments a run has, by its settings, and whether these fit them."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import replace
from fnmatch import fnmatchcase

from alltrades.data.fields import field_name
from alltrades.data.opened import Stores
from alltrades.envs import registry
from alltrades.envs.instructions import phrased, with_instructions
from alltrades.envs.rendering.wanted import with_all_cameras
from alltrades.envs.spec import EnvSpec
from alltrades.errors import MissingExtra, UserError, nearest
from alltrades.pipeline.given import environments_of
from alltrades.policies.model.device import check_device
from alltrades.policies.model.preference import preference_vector
from alltrades.settings.run import RunSettings
from alltrades.settings.simulator import DECLARED, NONE
from alltrades.system.trust import module_of, remember

RECORDINGS = "recordings describe one without a simulator: --demos.path STORE"
MOST = 4  # environments that a line names


def resolve(
    settings: RunSettings, stores: Stores | None = None
) -> tuple[tuple[EnvSpec, ...], dict[str, UserError]]:
    """Specifications of a run's environments, and the optional ones that are left out, with what is
    missing for them. `stores`: those that are open.
    """
    registry.load_plugins(settings.plugins)
    specs = _specs(settings, Stores() if stores is None else stores)
    left_out: dict[str, UserError] = {}
    for name in settings.optional_environments:
        try:
            specs += [s for s in registry.resolve([name]) if s.id not in {x.id for x in specs}]
        except MissingExtra as error:
            left_out[name] = error
    for module in filter(None, (module_of(spec.id) for spec in specs if spec.simulated)):
        remember(module)  # a command of the user's led here
    for name in settings.simulator.rules:
        if not any(fnmatchcase(spec.id, name) for spec in specs):
            raise UserError(
                f"simulator.rules names '{name}', which is none of the run's environments"
                f"{nearest(name, [s.id for s in specs])}; expected some of "
                f"{', '.join(s.id for s in specs[:MOST])}; name one, or leave it out"
            )
    judged = [_judged(spec, settings) for spec in specs]
    named = [pattern for patterns in settings.observing().values() for pattern in patterns or ()]
    told = with_instructions(judged, settings.simulator.instructions, named)
    return tuple(with_all_cameras(told, settings.rendering, named)), left_out


def _judged(spec: EnvSpec, settings: RunSettings) -> EnvSpec:
    """An environment whose success is read as the settings say."""
    rule = settings.simulator.rule(spec.id)
    if rule == DECLARED or not spec.simulated:
        return spec
    return replace(spec, success=None if rule == NONE else rule)


def _specs(settings: RunSettings, stores: Stores) -> list[EnvSpec]:
    """Those of the registry, and for names that only the given stores know what these say."""
    known, paths = set(registry.list_environments()), settings.demos.stores
    told = environments_of(stores.all(paths)) if paths else []
    known |= {e.id for e in told if e.id.startswith("gym:") and registry.knows([e.id])}
    given = {e.id: e for e in told if e.id not in known}
    specs: dict[str, EnvSpec] = {}
    for name in settings.environments:
        matching = _matching(given, name)
        specs |= {i: EnvSpec.recorded(given[i]) for i in matching}
        if not matching or _matching(known, name):
            try:
                specs |= {spec.id: spec for spec in registry.resolve([name])}
            except MissingExtra:
                raise
            except UserError as error:
                there = f"the given stores have {', '.join(given)}" if given else RECORDINGS
                raise UserError(f"{error}; {there}") from error
    return list(specs.values())


def _matching(ids: Collection[str], pattern: str) -> list[str]:
    """Those that a name or a pattern means. O(1) for a name, of which there may be thousands."""
    if not any(letter in pattern for letter in "*?["):
        return [pattern] if pattern in ids else []
    return [i for i in ids if fnmatchcase(i, pattern)]


def check_environments(settings: RunSettings, specs: Sequence[EnvSpec]) -> None:
    """Raises UserError for what settings say of environments that these are not, and for a device
    that is not there: before anything is recorded or trained.
    """
    _check_observed(settings, specs)
    _check_modulated(settings, specs)
    check_device(settings.device)
    ids = [spec.id for spec in specs]
    for name in settings.demos.episodes_of:
        if name not in ids:
            guess = nearest(name, ids) or f"; expected some of {', '.join(ids[:MOST])}"
            raise UserError(f"demos.episodes_of: {name} is no environment of this run{guess}")
    told = {"evaluation.preference": settings.evaluation.preference}
    told["distill.preference"] = settings.distill.preference
    told |= {f"generalists.{n}.preference": d.preference for n, d in settings.generalists.items()}
    for key, preference in told.items():
        try:
            preference_vector(ids, preference)
        except UserError as error:
            raise UserError(f"{key}: {error}") from error
    for network in {s.observe: s for s in settings.networks()}.values():
        for spec in specs:
            spec.interface.seeing(network.observe)
    for spec in specs:
        phrased(spec, settings.evaluation.instructions)
    longest = max((spec.max_steps or 0 for spec in specs if spec.simulated), default=None)
    for limit in settings.evaluation.limits:
        if longest is not None and limit > longest:
            raise UserError(
                f"evaluation.limits names {limit} steps and no environment lasts longer than "
                f"{longest}; expected shorter limits; lower it"
            )


def _check_observed(settings: RunSettings, specs: Sequence[EnvSpec]) -> None:
    """Raises UserError for a name or pattern of fields that fits none of any environment."""
    fields = _fields(specs)
    for key, patterns in settings.observing().items():
        for pattern in missing(patterns or (), specs):
            raise UserError(
                f"{key} = {pattern}: no environment has such a field"
                f"{nearest(pattern, fields)}; expected some of {', '.join(fields)}; name what is "
                f"to be seen: --{key}"
            )


def _check_modulated(settings: RunSettings, specs: Sequence[EnvSpec]) -> None:
    """Raises UserError where texts are to modulate what is seen of pictures, and none of the
    networks that see pictures sees texts; specialists may see anything.
    """
    if not settings.policy.encoder.film:
        return
    fields = [pair for s in specs for pair in s.observation.items()]
    looking = []
    generalists = [settings.policy_of(d).observe for d in settings.learning().values()]
    for observe in [settings.policy_of(settings.labeled_only).observe, *generalists]:
        wanted = tuple(map(field_name, observe or ("*",)))
        kinds = {f.kind for name, f in fields if any(fnmatchcase(name, p) for p in wanted)}
        looking += [kinds] if "image" in kinds else []
    if looking and not any("text" in kinds for kinds in looking):
        raise UserError(
            "policy.encoder.film = true and the policy sees no text that could change its feature "
            "maps; expected one; name instruction in policy.observe, or set film: false"
        )


def missing(patterns: Sequence[str], specs: Sequence[EnvSpec]) -> list[str]:
    """Those names or patterns of fields that fit none of any environment."""
    fields = _fields(specs)
    return [p for p in patterns if not any(fnmatchcase(name, field_name(p)) for name in fields)]


def _fields(specs: Sequence[EnvSpec]) -> list[str]:
    """All that can be seen: cameras and parts are made where they are named."""
    every = [name for s in specs for name in (*s.observation, *s.cameras, *s.parts)]
    return list(dict.fromkeys(every))
