"""Settings of what a generalist learns: distillation, its rounds and visits."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, field_validator, model_validator

from alltrades.data.weights.settings import WeightSettings
from alltrades.policies.learning.objectives import ObjectiveSettings
from alltrades.policies.settings import (
    Frozen,
    NetworkTrainSettings,
)
from alltrades.settings.networks import PRIVILEGED_LOSS
from alltrades.settings.rows import TEACHERS, Row

HALF = 0.5  # share of demonstrations where labeled-only policies teach: see experiments/blind


class VisitSettings(Frozen):
    """Episodes of a policy on new starts, that something is learned from."""

    episodes: int = Field(60, ge=1, description="starts per environment and round")
    tries: int = Field(
        5, ge=1, description="tries of a start until it succeeds; those after the first explore"
    )
    explore: tuple[float, float] = Field(
        (0.05, 0.2), description="scale of the offset of a try's actions, in half action boxes"
    )
    renew: float = Field(
        0.0,
        ge=0,
        le=1,
        description="chance of a new offset per chunk; 0 keeps one for the whole try",
    )
    top: float = Field(
        0.5,
        gt=0,
        le=1,
        description="where nothing says success: share of the first tries, those of the highest "
        "return, whose lowest return stands for success",
    )

    @field_validator("explore")
    @classmethod
    def _ordered(cls, value: tuple[float, float]) -> tuple[float, float]:
        if not 0 < value[0] <= value[1]:
            raise ValueError(
                f"explore = {list(value)}; expected [smallest, largest] with 0 < smallest <= "
                "largest"
            )
        return value


class RoundSettings(VisitSettings):
    """Rounds after stage 2: the generalist is rolled out, and trains on what its visits teach."""

    count: int = Field(0, ge=0, le=1000, description="rounds at most")
    patience: int = Field(
        1, ge=1, description="rounds in a row without help that end them; the best one is kept"
    )
    teacher: Literal["self", "best"] = Field(
        "self",
        description="self: its own successes with their executed actions; best: per environment "
        "the labels of the teacher with the best success at every state visited, its own successes "
        "where none is better",
    )
    share: float = Field(
        0.5, gt=0, lt=1, description="share of the visits of all rounds among an environment's rows"
    )
    init: Literal["previous", "fresh"] = Field(
        "previous", description="go on from the last generalist, or start anew"
    )
    selection: int = Field(
        30, ge=1, description="episodes per environment, on starts of their own, that judge a round"
    )
    train: NetworkTrainSettings = NetworkTrainSettings(steps=3000, lr=5e-4)


class DistillSettings(Frozen):
    """Stage 2: a generalist."""

    teachers: tuple[str, ...] = Field(
        ("scratch",),
        min_length=1,
        description=f"whose rollouts enter: {', '.join(TEACHERS)}; with _2, _3, ... behind a name "
        "the same from another seed: an ensemble, whose mean is learned",
    )
    rollouts: int = Field(
        60,
        ge=0,
        description="rollouts per environment and teacher; 0: the demonstrations' states alone",
    )
    logs: tuple[str, ...] = Field(
        (),
        description="stores of episodes of unknown quality beside the rollouts: their states alone "
        "are used, weighed as rollouts are, and labelled by the first teacher",
    )
    weights: WeightSettings = WeightSettings()
    apply: Literal["sample", "loss"] = Field(
        "sample", description="weights as sampling probabilities or loss factors"
    )
    targets: Literal["noise", "score"] = Field(
        "noise", description="regress drawn chunks, or the teacher's prediction"
    )
    actions: Literal["auto", "fresh", "executed"] = Field(
        "auto",
        description="of rollout rows: fresh chunks of their teachers, or the executed actions; "
        "auto: executed where weights speak of them (success kinds, resultant states, progress)",
    )
    outcome: Literal["filter", "condition"] = Field(
        "filter",
        description="of success kinds: failures are left out; condition: they are kept, and the "
        "network is told which episodes went well, which it is asked for when it acts",
    )
    guidance: float = Field(
        1.0,
        ge=0,
        le=20,
        description="with outcome: condition, classifier-free guidance: 0 any outcome, 1 a good "
        "one, more beyond it",
    )
    label_steps: int = Field(20, ge=1, description="sampling steps while labelling")
    reuse_labels: bool = Field(False, description="demonstration rows keep their recorded actions")
    demo_share: float = Field(
        0.25, ge=0, le=1, description="share of demonstration rows when labels are reused"
    )
    init: Literal["fresh", "labeled_only"] = Field(
        "fresh", description="fresh weights, or those of the labeled-only policy"
    )
    preference: dict[str, float] = Field(
        default_factory=dict, description="lambda per environment; empty: uniform"
    )
    observe: tuple[str, ...] | None = Field(
        None, description="fields of observations that it sees; default as policy.observe"
    )
    privileged: float = Field(0.0, ge=0, description=PRIVILEGED_LOSS)
    objective: ObjectiveSettings = ObjectiveSettings()
    train: NetworkTrainSettings = NetworkTrainSettings()
    rounds: RoundSettings = RoundSettings()

    @property
    def conditioned(self) -> bool:
        """Whether the network is told which episodes went well."""
        return self.outcome == "condition"

    @property
    def weighing(self) -> WeightSettings:
        """How rollouts are weighed: no episode is left out where the network is told of it."""
        return self.weights.blind if self.conditioned else self.weights

    @property
    def executed(self) -> bool:
        """Whether rollout rows keep the actions that were executed."""
        return self.weights.of_actions if self.actions == "auto" else self.actions == "executed"

    @property
    def blind(self) -> DistillSettings:
        """The same without what success would do: no filter, one try of every start.

        What was to be learned from successes alone would now be a mean of good and poor teachers,
        and a generalist's own attempts: labeled-only policies teach alone, if there are some among
        them, demonstrations are half of the rows, and such rounds are not run.
        """
        rounds = self.rounds.model_copy(update={"tries": 1})
        changes = {"weights": self.weights.blind, "outcome": "filter", "guidance": 1.0}
        if self.weights.filtered:
            alone = tuple(name for name in self.teachers if Row.of_teacher(name).labeled_only)
            share = max(self.demo_share, HALF)
            changes |= {"teachers": alone or self.teachers, "demo_share": share}
            if rounds.teacher == "self":
                rounds = rounds.model_copy(update={"count": 0})
        return self.model_copy(update=changes | {"rounds": rounds})

    @model_validator(mode="after")
    def _outcomes_are_known(self) -> DistillSettings:
        if self.conditioned and not self.weights.filtered:
            raise ValueError(
                f"outcome = condition with weights.kind = {self.weights.kind}; expected a success "
                "kind, which says which episodes went well; set weights.kind: success"
            )
        if self.conditioned and not self.executed:
            raise ValueError(
                "outcome = condition with actions = fresh, of which nothing says how they go; "
                "expected executed ones; set actions: auto"
            )
        if self.conditioned and self.init == "labeled_only":
            raise ValueError(
                "outcome = condition with init = labeled_only, whose network takes no outcome; "
                "expected init: fresh"
            )
        if self.guidance != 1 and not self.conditioned:
            raise ValueError(
                f"guidance = {self.guidance:g} with outcome = filter, which guides nothing; "
                "expected outcome: condition"
            )
        return self

    @model_validator(mode="after")
    def _excess_has_no_noise(self) -> DistillSettings:
        if self.objective.excess and self.train.observation_noise > 0:
            raise ValueError(
                f"objective {self.objective.kind} compares with teachers at the observation itself "
                f"and train has observation_noise = {self.train.observation_noise}; set one of "
                "them back"
            )
        return self

    @model_validator(mode="after")
    def _privileged_has_one_loss(self) -> DistillSettings:
        if self.privileged and (self.targets == "score" or self.objective.excess):
            found = "targets = score" if self.targets == "score" else "an excess objective"
            raise ValueError(
                f"privileged = {self.privileged:g} with {found}, which has a loss of its own; "
                "expected targets: noise and an objective of plain losses; set privileged: 0"
            )
        return self

    @field_validator("teachers")
    @classmethod
    def _known(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for name in value:
            Row.of_teacher(name)
        return value
