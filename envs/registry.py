"""Names of environments, suites and experts. Listing them imports no simulator."""

from __future__ import annotations

import importlib
import importlib.util
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from importlib.metadata import entry_points
from pathlib import Path
from typing import TYPE_CHECKING, Any, overload

from alltrades.data.actions import ActionSpec
from alltrades.data.fields import Field
from alltrades.envs.instructions.wanted import told_apart
from alltrades.envs.spec import EnvSpec
from alltrades.errors import MissingExtra, UserError, nearest
from alltrades.system.blame import blame
from alltrades.system.trust import check_named, remember

if TYPE_CHECKING:
    from alltrades.envs.derived import Draft

Expert = Callable[[Any], Any]  # what the environment returns -> action (A,)
ENTRY_POINTS = "alltrades.environments"
BUILT_IN = (
    "alltrades.envs.planar.registration",
    "alltrades.envs.planar.marks",
    "alltrades.envs.suites.metaworld",
    "alltrades.envs.suites.pusht",
    "alltrades.envs.suites.restoration",
)  # modules that have specs() and suites()
GYMNASIUM = "alltrades.envs.suites.gymnasium_env"  # has gymnasium_spec("gym:ID")


@dataclass
class _Registry:
    specs: dict[str, EnvSpec | Draft] = field(default_factory=dict)
    experts: dict[str, Expert] = field(default_factory=dict)
    suites: dict[str, list[str]] = field(default_factory=dict)
    plugins: list[str] = field(default_factory=list)
    built_in: set[str] = field(default_factory=set)
    loaded: bool = False


_REGISTRY = _Registry()


@overload
def register(
    environment: EnvSpec, make: Expert | None = None, replace: bool = False, *, expert: Any = None
) -> None: ...


@overload
def register(
    environment: str,
    make: Callable[[], Any] | str,
    replace: bool = False,
    *,
    expert: Expert | None = None,
    observation: Mapping[str, Field] | None = None,
    action: ActionSpec | None = None,
    max_steps: int | None = None,
    control_hz: float | None = None,
    **facts: Any,
) -> None: ...


def register(
    environment: EnvSpec | str,
    make: Any = None,
    replace: bool = False,
    *,
    expert: Expert | None = None,
    **facts: Any,
) -> None:
    """Add an environment, and the expert that demonstrates it: any picklable callable from what the
    environment returns to an action; one with `reset(seed)` is told when an episode starts.

        register("mine/dot", Dot, expert=expert, max_steps=20)
        register(spec, expert)

    Args:
        environment: an id, or a whole specification (then its expert stands in place of `make`).
        make: class or function that builds a Gymnasium environment, or its name "module:Class", or
            "gym:ID". Its spaces say the rest when the environment is first used.
        replace: whether it may take the place of another of its name.
        expert: see above.
        facts: what the spaces do not say, or other than they say it: observation (fields by name),
            action, max_steps, control_hz; and further attributes of `EnvSpec`, such as success,
            evaluation_seed, stop_at_success, metrics, symmetries, version.

    Raises UserError for a name that is taken, and for facts that there are not.
    """
    _load()
    new: EnvSpec | Draft
    if isinstance(environment, EnvSpec):
        new, expert = told_apart(environment), expert or make
    else:
        new = _draft(environment, make, facts)
    if new.id in _REGISTRY.specs and not replace:
        raise UserError(
            f"environment '{new.id}' is registered already; expected a new id; pass replace=True "
            "to replace it"
        )
    _REGISTRY.specs[new.id] = new
    _REGISTRY.built_in.discard(new.id)
    _REGISTRY.experts.pop(new.id, None)
    if expert is not None:
        _REGISTRY.experts[new.id] = expert


def _draft(name: str, make: Any, facts: Mapping[str, Any]) -> Draft:
    from alltrades.envs.derived import FACTS, Draft, Named

    unknown = [fact for fact in facts if fact not in FACTS]
    if unknown:
        raise UserError(
            f"register('{name}') was given {unknown[0]}{nearest(unknown[0], list(FACTS))}; "
            f"expected some of {', '.join(FACTS)}"
        )
    if isinstance(make, str) and make.startswith("gym:"):
        make = Named(f"{GYMNASIUM}:GymnasiumEnv", (make.removeprefix("gym:"),))
    elif isinstance(make, str) and ":" in make:
        make = Named(make)
    if not callable(make):
        raise UserError(
            f"register('{name}') was given {make!r} to build it with; expected a class or "
            "function, or its name 'module:Class'"
        )
    return Draft(name, make, facts)


def register_suite(name: str, ids: Sequence[str]) -> None:
    """Name a list of environments."""
    _REGISTRY.suites[name] = list(ids)


def _load() -> None:
    """Register what is built in and what other packages offer; once, at first use."""
    if _REGISTRY.loaded:
        return
    _REGISTRY.loaded = True  # set first: what is loaded here calls `register`
    for name in BUILT_IN:
        module = importlib.import_module(name)
        for spec, expert in module.specs():
            register(spec, expert)
            _REGISTRY.built_in.add(spec.id)
        for suite, ids in module.suites().items():
            register_suite(suite, ids)
    for point in entry_points(group=ENTRY_POINTS):
        try:
            hook = point.load()  # a function that registers, or a module whose import did
            if callable(hook):
                hook()
        except (Exception, SystemExit) as error:
            raise UserError(
                f"entry point '{point.name} = {point.value}' of group {ENTRY_POINTS} cannot be "
                f"loaded: {blame(error)}; repair or remove the package that declares it"
            ) from error


def load_plugins(names: Sequence[str]) -> None:
    """Import modules, or files by path, that register environments, robots, backbones, encoders or
    estimators; the folder of a file joins the import path, where workers find what it defines.

    For plugins that the user names: they are trusted from then on (`load_named_plugins`). Raises
    UserError, which names plugin, file and line, for one that is not there or cannot be imported.
    """
    for name in names:
        found = _import_plugin(name)
        if found not in _REGISTRY.plugins:
            _REGISTRY.plugins.append(found)
        remember(found)


def load_named_plugins(names: Sequence[str], by: Path | str) -> None:
    """`load_plugins` for plugins that a file or folder `by` names; UserError for one that the user
    has never named and does not trust.
    """
    new = [name for name in names if name not in _REGISTRY.plugins]
    check_named(new, by)
    load_plugins(new)


def _import_plugin(name: str) -> str:
    """Import a plugin; returns a module's name, or the whole path of a file."""
    path, shown = Path(name), name
    if name.endswith(".py"):
        if not path.exists():
            raise UserError(
                f"plugin {name} does not exist; expected a Python file or an importable "
                "module; check the path"
            )
        folder = str(path.resolve().parent)
        if folder not in sys.path:
            sys.path.insert(0, folder)
        name = path.stem
    try:
        module = importlib.import_module(name)
    except (Exception, SystemExit) as error:
        missing = error.name if isinstance(error, ModuleNotFoundError) else None
        if missing is not None and (name == missing or name.startswith(f"{missing}.")):
            raise UserError(
                f"plugin '{name}' cannot be imported; expected a Python file or an importable "
                "module; check the name"
            ) from error
        raise UserError(
            f"plugin {shown} cannot be imported: {blame(error, _folder(shown))}; expected a "
            "module that registers its parts; mend it"
        ) from error
    if module.__file__ is None:  # any folder can be imported, as a namespace of nothing
        raise UserError(
            f"plugin {shown}: a folder without __init__.py; expected a Python file, or a "
            "module that registers its parts; name the file"
        )
    if shown.endswith(".py") and Path(module.__file__ or "").resolve() != path.resolve():
        raise UserError(
            f"plugin {shown}: the name '{name}' belongs to another module; expected a name of "
            "its own; rename the file"
        )
    return str(path.resolve()) if shown.endswith(".py") else shown


def _folder(plugin: str) -> Path | None:
    """Where a plugin's files lie, as far as that is known without running it."""
    if plugin.endswith(".py"):
        return Path(plugin).resolve().parent
    spec = importlib.util.find_spec(plugin.split(".")[0])
    return Path(spec.origin).parent if spec is not None and spec.origin else None


def loaded_plugins() -> list[str]:
    """What `load_plugins` has loaded: modules by name, files by their whole path."""
    return list(_REGISTRY.plugins)


def knows(environments: Sequence[str]) -> bool:
    """Whether all of these environments are known, installed or not."""
    for env_id in environments:
        try:
            get(env_id)
        except MissingExtra:
            continue
        except UserError:
            return False
    return True


def installed(environments: Iterable[str]) -> dict[str, EnvSpec]:
    """Those of some environments that are known and can be built here, by id."""
    found = {}
    for env_id in environments:
        with suppress(UserError):
            found[env_id] = get(env_id)
    return found


def suite(name: str) -> tuple[str, ...]:
    """The ids that a suite means; of anything else, its name."""
    _load()
    return tuple(_REGISTRY.suites.get(name, (name,)))


def means(name: str) -> bool:
    """Whether a suite, an id or a glob means environments that are known, installed or not."""
    try:
        resolve([name])
    except MissingExtra:
        return True
    except UserError:
        return False
    return True


def list_environments() -> list[str]:
    """Ids of all registered environments, installed or not."""
    _load()
    return sorted(_REGISTRY.specs)


def is_built_in(env_id: str) -> bool:
    """Whether an environment comes with this package, whose tests check it."""
    _load()
    return env_id in _REGISTRY.built_in


def list_suites() -> dict[str, list[str]]:
    """Suites by name."""
    _load()
    return {name: list(ids) for name, ids in _REGISTRY.suites.items()}


def get(env_id: str) -> EnvSpec:
    """Specification of an environment; "gym:ID" makes one for any Gymnasium id.

    Raises UserError for unknown names and for environments whose extra is not installed.
    """
    _load()
    if env_id.startswith("gym:") and env_id not in _REGISTRY.specs:
        _REGISTRY.specs[env_id] = importlib.import_module(GYMNASIUM).gymnasium_spec(env_id)
    if env_id not in _REGISTRY.specs:
        known = [*_REGISTRY.specs, *_REGISTRY.suites]
        raise UserError(
            f"no environment or suite '{env_id}'{nearest(env_id, known)}; `alltrades envs` lists "
            "them"
        )
    spec = _REGISTRY.specs[env_id]
    if not isinstance(spec, EnvSpec):
        spec = _REGISTRY.specs[env_id] = spec.spec()
    require_extra(spec)
    return spec


def require_extra(spec: EnvSpec) -> None:
    """Raise UserError when the optional dependency of an environment is missing."""
    modules = {"metaworld": "metaworld", "pusht": "gym_pusht", "restoration": "skimage"}
    module = modules.get(spec.extra or "")
    if module is not None and importlib.util.find_spec(module) is None:
        raise MissingExtra(
            f"environment '{spec.id}' needs the package {module}, which is not installed",
            spec.extra or "",
        )


def expert(env_id: str) -> Expert | None:
    """The scripted expert of an environment, or None."""
    get(env_id)
    return _REGISTRY.experts.get(env_id)


def resolve(names: Sequence[str]) -> list[EnvSpec]:
    """Specifications of suites, ids and globs such as "planar/*", in order, each once."""
    _load()
    ids: dict[str, Any] = {}
    for name in names:
        if name in _REGISTRY.suites:
            ids |= dict.fromkeys(_REGISTRY.suites[name])
        elif any(c in name for c in "*?["):
            found = [i for i in sorted(_REGISTRY.specs) if fnmatchcase(i, name)]
            if not found:
                raise UserError(f"no environment matches '{name}'; `alltrades envs` lists them")
            ids |= dict.fromkeys(found)
        else:
            ids[name] = None
    return [get(i) for i in ids]
