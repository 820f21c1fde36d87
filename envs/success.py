"""How success is read from what an environment returns. It is declared and typed, never guessed.

What an environment's specification may say (`EnvSpec.success`):

    "info"                 info["success"], else info["is_success"]; without either there is none
    "info:KEY"             that value of info; "info:final.solved" is info["final"]["solved"]
    "info:KEY?"            the same, where a missing value means: not yet
    "info:KEY >= 0.9"      a number of info against a bound, step by step
    "return >= 900"        the sum of rewards when the episode is over
    "reward > 0"           the reward of a step
    "terminated"           the environment ended the episode itself
    a function             of any of FACTS by name, or of info alone; returns true or false
    None                   it has none

True and false are Python's or NumPy's, 0 or 1, or an array of one such. A value that is missing at
some steps and there at others, such as at the last alone, means: not yet.
"""

from __future__ import annotations

import inspect
import operator
import re
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import numpy as np

from alltrades.envs.boundary.contract import BrokenContract

Rule = str | Callable[..., Any] | None
InfoReader = Callable[[Mapping[str, Any]], bool | None]
FactsReader = Callable[[Mapping[str, Any]], bool]
IN_INFO = "info"
KEYS = ("success", "is_success")
FACTS = ("info", "reward", "return_", "terminated", "truncated", "over", "steps")
EXPECTED = "True or False (or 0 or 1, or an array of one such)"
FORMS = "info, info:KEY, info:KEY >= NUMBER, return >= NUMBER, reward >= NUMBER or terminated"
COMPARE = {">=": operator.ge, "<=": operator.le, ">": operator.gt, "<": operator.lt}
_RULE = re.compile(
    r"(?P<what>return|reward|terminated|info(?::(?P<key>[^<>=?]+?))?(?P<open>\?)?)"
    r"\s*(?:(?P<sign>[<>]=?)\s*(?P<bound>\S+))?"
)
MISSING = object()


class Success:
    """Reads success step by step, as a specification says it.

    Raises ValueError for a rule that says nothing.
    """

    def __init__(self, rule: Rule) -> None:
        parsed = _parsed(rule) if isinstance(rule, str) else {}
        self._rule, self._key = rule, parsed.get("key")
        self._owed = self._key is not None and not parsed["open"]
        self._in_info: InfoReader | None = None
        self._in_facts: FactsReader | None = None
        if isinstance(rule, str) and parsed["what"] == IN_INFO:
            self._in_info = _info_reader(parsed)
        elif isinstance(rule, str):
            self._in_facts = _facts_reader(parsed)
        elif rule is not None:
            self._in_facts = _of_function(rule)
        self._return, self._steps, self._said = 0.0, 0, False

    def begin(self, info: Mapping[str, Any]) -> None:
        """Start an episode; what the reset says of success must be true or false too."""
        self._return, self._steps, self._said = 0.0, 0, False
        if self._in_info is not None:
            self._in_info(info)

    def __call__(
        self, info: Mapping[str, Any], reward: float, terminated: bool, truncated: bool, last: bool
    ) -> bool | None:
        """Success at a step; None where nothing is said of it. `last`: nothing but success itself
        can make the episode longer or shorter than to here.

        Raises BrokenContract for a value that is neither true nor false, and at the end of an
        episode in which a value that was declared was never there.
        """
        if self._in_info is not None:
            found = self._in_info(info)
        elif self._in_facts is not None:
            self._return += reward
            self._steps += 1
            facts = (info, reward, self._return, terminated, truncated, last, self._steps)
            return self._in_facts(dict(zip(FACTS, facts, strict=True)))
        else:
            return None
        if found is not None:
            self._said = True
            return found
        if self._key is None:
            return None
        if last and self._owed and not self._said:
            have = ", ".join(f"'{k}'" for k in list(info)[:8]) or "nothing"
            raise BrokenContract(
                f"its info has {have} and had no '{self._key}' at any step; expected the value "
                f"that success='{self._rule}' names, at the last step at least; name another, or "
                f"'info:{self._key}?' where a missing one means no"
            )
        return False  # declared: not yet


def described(rule: Rule) -> str:
    """A rule in words that do not change from process to process."""
    if rule is None:
        return "none"
    if isinstance(rule, str):
        return rule
    named = getattr(rule, "func", rule)
    name = (
        f"{getattr(named, '__module__', '')}:{getattr(named, '__qualname__', type(rule).__name__)}"
    )
    extra = [repr(getattr(rule, a)) for a in ("args", "keywords") if getattr(rule, a, None)]
    return " ".join([name, *extra])


def either(a: bool | None, b: bool | None) -> bool | None:
    """Success at one of two moments; None where neither says anything."""
    return a or b or (b if a is None else a)


def true_or_false(value: Any, what: str) -> bool:
    """A success flag; BrokenContract for anything else than EXPECTED."""
    if value is True or value is False:
        return bool(value)
    found = value
    if not isinstance(value, np.generic | int | float) and hasattr(value, "__array__"):
        found = np.asarray(value)
        if found.size != 1:
            raise _broken(what, f"an array of shape {found.shape}")
        found = found.reshape(()).item() if found.dtype.kind in "biuf" else value
    if isinstance(found, np.generic):
        found = found.item()
    if isinstance(found, bool):
        return found
    if isinstance(found, int | float) and found in (0, 1):
        return bool(found)
    raise _broken(what, _shown(value))


def _broken(what: str, found: str) -> BrokenContract:
    return BrokenContract(
        f"{what} is {found}; expected {EXPECTED}; mend it, or say what counts with `success=` "
        "(docs/environments.md)"
    )


def _shown(value: Any) -> str:
    said = " ".join(repr(value).split())
    return said if len(said) <= 60 else said[:57] + "..."


def _info_reader(parsed: Mapping[str, Any]) -> InfoReader:
    """Success from info, None where it is not there."""
    key, sign = parsed["key"], parsed["sign"]
    if key is None:
        return _usual
    shown = f"info['{key}']"
    if sign is None:
        read: Callable[[Any], bool] = partial(true_or_false, what=shown)
    else:
        compare, bound = COMPARE[sign], float(parsed["bound"])

        def read(value: Any) -> bool:
            return bool(compare(_number(value, shown), bound))

    return lambda info: None if (value := _at(info, key)) is MISSING else read(value)


def _facts_reader(parsed: Mapping[str, Any]) -> FactsReader:
    """Success from reward, return or the end."""
    if parsed["what"] == "terminated":
        return lambda facts: bool(facts["terminated"])
    compare, bound = COMPARE[parsed["sign"]], float(parsed["bound"])
    if parsed["what"] == "reward":
        return lambda facts: bool(compare(facts["reward"], bound))
    return lambda facts: bool(facts["over"]) and bool(compare(facts["return_"], bound))


def _parsed(rule: str) -> dict[str, Any]:
    found = _RULE.fullmatch(rule.strip())
    parsed: dict[str, Any] = {} if found is None else found.groupdict()
    fits = found is not None
    if fits:
        parsed["what"] = parsed["what"].partition(":")[0].removesuffix("?")
        numeric = parsed["what"] in ("return", "reward")
        plain = parsed["what"] == "terminated" or (
            parsed["what"] == "info" and parsed["key"] is None
        )
        fits = not (
            (numeric and parsed["sign"] is None)
            or (plain and (parsed["sign"] is not None or parsed["open"]))
        )
        if parsed["bound"] is not None:
            try:
                fits = fits and np.isfinite(float(parsed["bound"]))
            except ValueError:
                fits = False
    if not fits:
        raise ValueError(f"success = {rule!r}; expected {FORMS}, a function or None")
    return parsed


def _usual(info: Mapping[str, Any]) -> bool | None:
    """What info says under its usual names; BrokenContract where they contradict each other."""
    said = {key: _flag(info[key], key) for key in KEYS if key in info}
    if len(set(said.values())) > 1:
        raise BrokenContract(
            f"info['success'] is {said['success']} and info['is_success'] is "
            f"{said['is_success']}; expected one answer; say which counts, such as "
            "success='info:success'"
        )
    return next(iter(said.values()), None)


def _flag(value: Any, key: str) -> bool:
    """`true_or_false`, at once for what nearly every environment says."""
    return value if type(value) is bool else true_or_false(value, f"info['{key}']")


def _at(info: Any, key: str) -> Any:
    """A value by its key, or by its way through mappings; MISSING where there is none."""
    if key in info:
        return info[key]
    for part in key.split("."):
        if not isinstance(info, Mapping) or part not in info:
            return MISSING
        info = info[part]
    return info


def _number(value: Any, what: str) -> float:
    try:
        array = np.asarray(value, dtype=np.float64)
    except (TypeError, ValueError):
        array = np.array([])
    if array.size != 1 or isinstance(value, str) or not np.isfinite(array).all():
        raise BrokenContract(f"{what} is {_shown(value)}; expected a finite number; mend it")
    return float(array.reshape(()))


def _of_function(rule: Callable[..., Any]) -> FactsReader:
    """A user's function, given the facts that it names."""
    if not callable(rule):
        raise ValueError(f"success = {rule!r}; expected {FORMS}, a function or None")
    parameters = list(inspect.signature(rule).parameters.values())
    named = [p.name for p in parameters if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)]
    every = any(p.kind is p.VAR_KEYWORD for p in parameters)
    needed = [
        p.name
        for p in parameters
        if p.default is p.empty and p.kind not in (p.VAR_KEYWORD, p.VAR_POSITIONAL)
    ]
    unknown = [name for name in needed if name not in FACTS]
    what = f"the success function {getattr(rule, '__name__', type(rule).__name__)}"
    if unknown and len(needed) > 1:
        raise ValueError(
            f"{what} takes '{unknown[0]}'; expected some of {', '.join(FACTS)}, or info alone"
        )
    if unknown:
        return lambda facts: true_or_false(rule(facts["info"]), what)
    known = FACTS if every else tuple(name for name in FACTS if name in named)
    return lambda facts: true_or_false(rule(**{name: facts[name] for name in known}), what)
