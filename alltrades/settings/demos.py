"""Settings of demonstrations."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import Field, field_validator, model_validator

from alltrades.policies.settings import Frozen
from alltrades.system.remote.place import place


class DemoSettings(Frozen):
    """Where demonstrations come from."""

    path: str | tuple[str, ...] | None = Field(
        None,
        description="an existing store, or several; without it scripted experts are recorded",
    )
    episodes: int | None = Field(
        5,
        ge=1,
        description="demonstrations per environment that are recorded; of a given store, which is "
        "used whole (null) unless this stands on the command line, the first ones",
    )
    episodes_of: dict[str, int] = Field(
        default_factory=dict,
        description="other numbers of demonstrations of single environments, by their ids",
    )
    holdout: float | None = Field(
        None,
        ge=0,
        lt=1,
        description="share of each environment's episodes that nothing learns from, to judge "
        "policies open loop; default 0.2 where there is no simulator, else 0",
    )
    attempts: int = Field(
        5, ge=1, description="tries of the expert per demonstration wanted, before giving up"
    )
    keep: str | None = Field(
        None,
        description="which episodes of the experts are kept: all, successes, or top:SHARE (those "
        "of the highest return); default successes, and all where nothing says success",
    )
    ends: Literal["limit", "success"] = Field(
        "limit",
        description="with simulator.success: never, where demonstrations of the experts end: at "
        "the time limit, or at success, as those of a person who stops when the task is done (else "
        "they end there anyway)",
    )
    interventions: Literal["human", "weighted", "all"] = Field(
        "human",
        description="what is learned of episodes in which a person took over from a policy: the "
        "person's steps alone (HG-DAgger), all steps with half of the weight on the person's "
        "(IWR), or all alike",
    )
    hold_end: bool = Field(
        False, description="train on holding the last action after an episode's end"
    )

    @field_validator("keep")
    @classmethod
    def _is_a_way_of_keeping(cls, value: str | None) -> str | None:
        word, colon, share = (value or "all").partition(":")
        if (word in ("all", "successes") and not colon) or (
            word == "top" and (number := _number(share)) is not None and 0 < number <= 1
        ):
            return value
        raise ValueError(f"keep = {value}; expected all, successes or top:SHARE, such as top:0.5")

    @property
    def top(self) -> float | None:
        """The share that `keep` names."""
        word, _, share = (self.keep or "").partition(":")
        return float(share) if word == "top" else None

    @property
    def stores(self) -> tuple[Path, ...]:
        """The stores that `path` names."""
        paths = (self.path,) if isinstance(self.path, str) else self.path or ()
        return tuple(map(place, paths))

    def wanted(self, environment: str) -> int | None:
        """How many demonstrations of an environment there are to be; None for all."""
        return self.episodes_of.get(environment, self.episodes)

    @model_validator(mode="after")
    def _some_are_recorded(self) -> DemoSettings:
        if self.path is None and self.episodes is None:
            raise ValueError("episodes is null and no path is given; set how many are recorded")
        few = [name for name, number in self.episodes_of.items() if number < 1]
        if few:
            raise ValueError(
                f"episodes_of.{few[0]} = {self.episodes_of[few[0]]}; expected at least 1; leave "
                "the environment out of environments"
            )
        return self


def _number(word: str) -> float | None:
    try:
        return float(word)
    except ValueError:
        return None
