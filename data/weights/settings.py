"""How rollouts are weighted towards the demonstrations' states."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from alltrades.data.weights.estimators import ESTIMATORS
from alltrades.data.weights.reaching import At
from alltrades.errors import UserError, nearest

SUCCESS = "success"
MIXTURE = "mixture"


class WeightSettings(BaseModel):
    """How rollouts are weighted towards the demonstrations' states."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: str = Field(
        "ratio",
        description="none; mixture (a share of demonstration states, all weights 1); ratio "
        "(logistic regression), rulsif, classifier-mlp or an estimator of a plugin; success "
        "(filter), also before one of these: success*ratio",
    )
    discount: float = Field(
        1.0,
        gt=0,
        le=1,
        description="of success kinds: an episode that succeeds after T steps counts discount^T, "
        "so that a policy learns to be quick; 1 counts all alike, as where nothing says success",
    )
    top: float = Field(
        0.5,
        gt=0,
        le=1,
        description="of success kinds where nothing says success: share of an environment's "
        "rollouts, those of the highest return, that stands for successes",
    )
    alpha: float = Field(
        0.2,
        gt=0,
        lt=1,
        description="share of demonstration states, of all kinds but none and success; the ratio "
        "is bounded by 1/alpha",
    )
    share: Literal["weighted", "alpha"] = Field(
        "weighted",
        description="weighted: demonstrations get what their weights give them, up to demo_cap; "
        "alpha: exactly alpha, so that weights are compared at one share",
    )
    at: At = Field(
        "state",
        description="whose ratio weighs a row: its own state's; resultant: that of the state which "
        "its executed actions reach `ahead` steps later; progress: by how much that exceeds the "
        "row's own",
    )
    ahead: int = Field(
        16, ge=1, description="steps to the resultant state, or to the last of an episode"
    )
    floor: float = Field(0.1, ge=0, description="smallest weight")
    ess_min: float = Field(
        0.3,
        ge=0,
        le=1,
        description="smallest effective share of episodes before weights are flattened",
    )
    auc_min: float = Field(
        0.0,
        ge=0,
        lt=1,
        description="weights are off where the held-out AUC's interval reaches below this; 0.5 "
        "trusts only shifts that held-out episodes confirm",
    )
    demo_cap: float = Field(0.3, ge=0, le=1, description="largest share of demonstration states")
    folds: int = Field(5, ge=2, description="folds over episodes")

    @property
    def filtered(self) -> bool:
        """Whether rollouts without success, or of low return where nothing says success, are left
        out.
        """
        return self.kind == SUCCESS or self.kind.startswith(f"{SUCCESS}*")

    @property
    def of_actions(self) -> bool:
        """Whether a rollout row's weight speaks of the actions that were executed there."""
        return self.filtered or (self.estimator is not None and self.at != "state")

    @property
    def blind(self) -> WeightSettings:
        """The same without what success would do."""
        if not self.filtered:
            return self
        kind = self.kind.partition("*")[2] or "none"
        return self.model_copy(update={"kind": kind, "discount": 1.0})

    @property
    def estimator(self) -> str | None:
        """Name of the ratio's estimator; None where no ratio is estimated."""
        name = self.kind.removeprefix(f"{SUCCESS}*")
        return None if name in ("none", MIXTURE, SUCCESS) else name

    @property
    def base_share(self) -> float:
        """Of demonstration states before weights."""
        plain = self.estimator is None and not self.kind.endswith(MIXTURE)
        return 0.0 if plain else self.alpha

    def check(self) -> None:
        """Raises UserError for a kind that is neither built in nor offered by a plugin."""
        if self.estimator is None or self.estimator in ESTIMATORS:
            return
        known = ["none", MIXTURE, SUCCESS, *ESTIMATORS.names()]
        raise UserError(
            f"distill.weights.kind = {self.kind}; expected one of {', '.join(known)}, or "
            f"{SUCCESS}*NAME{nearest(self.kind, known)}; load the plugin that brings it with "
            "--plugins"
        )

    @model_validator(mode="after")
    def _ahead_needs_a_ratio(self) -> WeightSettings:
        if self.at != "state" and self.estimator is None:
            raise ValueError(
                f"at = {self.at} with kind: {self.kind}, which estimates no ratio; expected a kind "
                "that does, such as ratio; set kind: ratio or at: state"
            )
        return self

    @model_validator(mode="after")
    def _discount_needs_success(self) -> WeightSettings:
        if self.discount < 1 and not self.filtered:
            raise ValueError(
                f"discount = {self.discount} with kind: {self.kind}; expected a success kind, "
                "whose episodes end at their success; set discount: 1 or kind: success"
            )
        return self
