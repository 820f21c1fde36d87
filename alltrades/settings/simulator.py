"""What a run believes of its simulators."""

from __future__ import annotations

from fnmatch import fnmatchcase

from pydantic import Field, model_validator

from alltrades.envs.success import FORMS, Success
from alltrades.policies.settings import Frozen

DECLARED, NONE, NEVER = "declared", "none", "never"  # of `SimulatorSettings.success`


class SimulatorSettings(Frozen):
    """What is believed of the simulator."""

    success: str = Field(
        DECLARED,
        description="how success is read: declared (as each environment says it), a rule such as "
        "'return >= 900' or info:solved, or none (all are judged by return); never: no stage but "
        "the evaluation sees it, nothing is filtered or chosen",
    )
    rules: dict[str, str] = Field(
        default_factory=dict,
        description="the same by environment or pattern, in place of it, such as "
        "{'gym:Walker2d-v5': 'return >= 900'}",
    )

    instructions: bool = Field(
        False,
        description="the field instruction where environments have sentences that name their "
        "goals; made anyway where an observe names it",
    )

    @property
    def blind(self) -> bool:
        """Whether nothing but the evaluation may see success."""
        return self.success == NEVER

    def rule(self, environment: str) -> str:
        """How success is read in an environment."""
        fits = (rule for name, rule in self.rules.items() if fnmatchcase(environment, name))
        return next(fits, DECLARED if self.blind else self.success)

    @model_validator(mode="after")
    def _says_something(self) -> SimulatorSettings:
        for name, rule in {"success": self.success, **self.rules}.items():
            if rule in (DECLARED, NONE) or (name, rule) == ("success", NEVER):
                continue
            try:
                Success(rule)
            except ValueError as error:
                never = f", {NEVER}" if name == "success" else ""
                raise ValueError(
                    f"{name} = {rule!r}; expected declared, none{never} or {FORMS}"
                ) from error
        return self
