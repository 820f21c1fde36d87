"""What an episode costs that its environment could not finish: that episode, until too many of an
environment's are lost so.
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Literal

from alltrades.envs.adapter import EnvironmentFailure

Errors = Literal["fail", "count"]
DIVERGED = "diverged"  # the kind that is counted and ends nothing
LEAST, SHARE = 5, 3  # a run ends when at least 5 and more than 1 / 3 of the episodes failed
SAID = 5  # faults of an environment that are said one by one
LONGEST = 240  # characters of a cause


class ManyFailures(EnvironmentFailure):
    """More of an environment's episodes could not be finished than are excused.

    Attributes:
        failures: each of them.
        asked: episodes of the environment.
    """

    def __init__(self, failures: Sequence[EnvironmentFailure], asked: int) -> None:
        first = failures[0]
        super().__init__(first.environment, first.seed, first.step, first.cause, first.kind)
        self.args = (tuple(failures), asked)  # what it is pickled by
        self.failures, self.asked = tuple(failures), asked

    def __str__(self) -> str:
        groups: dict[str, list[EnvironmentFailure]] = {}
        for failure in self.failures:
            groups.setdefault(f"{failure.kind}: {_short(failure.cause)}", []).append(failure)
        parts = []
        for what, mine in groups.items():
            more = f" and {len(mine) - SAID} more" if len(mine) > SAID else ""
            where = ", ".join(f"seed {f.seed} step {f.step}" for f in mine[:SAID])
            parts.append(f"{what} ({where}{more})")
        return (
            f"environment '{self.environment}' could not finish {len(self.failures)} of its "
            f"{self.asked} episodes; expected at most a third: {'; '.join(parts)}; mend it, then "
            "run the same command again"
        )


def say_on_stderr(line: str) -> None:
    """Where faults are said by default."""
    print(line, file=sys.stderr)


class Faults:
    """The episodes of one piece of work that their environments could not finish.

    They are judged in the order of the jobs, so the outcome does not depend on workers: with
    `fail` the first is raised; with `count` the work ends, with `ManyFailures`, as soon as at least
    five and more than a third of all episodes that were asked of an environment raised or hung.
    Diverged ones end nothing then: what acted may be the reason.

    Args:
        errors: see above.
        cost: what a fault costs its episode, in words, for the line that is said.
        say: gets a line for each of the first faults of an environment.
    """

    def __init__(
        self,
        errors: Errors = "count",
        cost: str = "dropped",
        say: Callable[[str], None] = say_on_stderr,
    ) -> None:
        self.errors, self.cost, self.say = errors, cost, say
        self.found: list[EnvironmentFailure] = []
        self._asked: Counter[str] = Counter()
        self._of: dict[str, list[EnvironmentFailure]] = {}

    def expect(self, environments: Iterable[str]) -> None:
        """Episodes that are asked for, by the environment of each; more may follow."""
        self._asked.update(environments)

    def resume(self, known: Iterable[EnvironmentFailure]) -> None:
        """Faults of an earlier process that did a part of this work: they count, and are not said
        again.
        """
        for failure in known:
            self.found.append(failure)
            self._of.setdefault(failure.environment, []).append(failure)
            self._asked[failure.environment] += 1

    def add(self, failure: EnvironmentFailure) -> None:
        """The next fault; raises what ends the work."""
        if self.errors == "fail":
            raise failure
        self.found.append(failure)
        mine = self._of.setdefault(failure.environment, [])
        mine.append(failure)
        asked = self._asked[failure.environment]
        if len(mine) <= SAID:
            self.say(
                f"environment '{failure.environment}' seed {failure.seed}: {line(failure)}; the "
                f"episode is {self.cost}"
                + ("; more of it are not said one by one" if len(mine) == SAID else "")
            )
        broken = [f for f in mine if f.kind != DIVERGED]
        if failure.kind != DIVERGED and len(broken) >= LEAST and SHARE * len(broken) > asked:
            raise ManyFailures(broken, asked)


def line(failure: EnvironmentFailure) -> str:
    """A fault in one line: what happened, where and why."""
    return f"{failure.kind} at step {failure.step}: {_short(failure.cause)}"


def to_json(failures: Iterable[EnvironmentFailure]) -> list[dict[str, Any]]:
    """Faults as plain data."""
    return [
        {
            "environment": f.environment,
            "seed": f.seed,
            "step": f.step,
            "kind": f.kind,
            "cause": _short(f.cause),
        }
        for f in failures
    ]


def from_json(values: Iterable[Mapping[str, Any]]) -> list[EnvironmentFailure]:
    """What `to_json` made."""
    return [
        EnvironmentFailure(v["environment"], v["seed"], v["step"], v["cause"], v["kind"])
        for v in values
    ]


def _short(cause: str) -> str:
    one = " ".join(cause.split())
    return one if len(one) <= LONGEST else one[: LONGEST - 3] + "..."
