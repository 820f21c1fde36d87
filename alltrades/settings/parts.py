"""The settings of a run's parts: demonstrations, each kind of network, rollouts, rounds,
distillation.
"""

from __future__ import annotations

from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, field_validator, model_validator

from alltrades.data.weights.settings import WeightSettings
from alltrades.envs.success import FORMS, Success
from alltrades.policies.learning.objectives import ObjectiveSettings
from alltrades.policies.settings import (
    LARGEST_LR,
    MOST_ROWS,
    Frozen,
    NetworkTrainSettings,
)
from alltrades.settings.rows import TEACHERS, Row
from alltrades.system.machine import processors
from alltrades.system.remote.place import place

DECLARED, NONE, NEVER = "declared", "none", "never"  # of `SimulatorSettings.success`


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
                raise ValueError(
                    f"{name} = {rule!r}; expected declared, none or {FORMS}"
                ) from error
        return self


class SpecialistCandidate(Frozen):
    """What one candidate of cross-validation changes; keys left out are as in `specialist`."""

    width: int | None = Field(None, ge=8)
    depth: int | None = Field(None, ge=1)
    batch: int | None = Field(None, ge=1, le=MOST_ROWS)
    lr: float | None = Field(None, gt=0, le=LARGEST_LR)
    weight_decay: float | None = Field(None, ge=0)
    observation_noise: float | None = Field(None, ge=0, le=1)

    def name(self) -> str:
        """Its changes in words."""
        return (
            ", ".join(f"{k} {v}" for k, v in self.model_dump(exclude_none=True).items()) or "as set"
        )


class SpecialistSettings(Frozen):
    """Stage 1: one small policy per environment. Everything else is as in `policy`."""

    width: int = Field(96, ge=8, description="hidden width of a specialist trained from scratch")
    depth: int = Field(2, ge=1, description="residual blocks of a specialist trained from scratch")
    observe: tuple[str, ...] | None = Field(
        None,
        description="fields of observations that specialists see, by name or pattern; default all, "
        "whatever the generalist sees",
    )
    selection: Literal["last", "holdout", "cv"] = Field(
        "last",
        description="last weights; as many steps as held-out episodes prefer (3 demonstrations and "
        "more); or candidate and steps by cross-validation over episodes, one choice for all "
        "environments (not for fine-tuned specialists)",
    )
    candidates: tuple[SpecialistCandidate, ...] = Field(
        (),
        max_length=8,
        description="settings that `cv` compares, such as [{width: 64}, {}, {observation_noise: "
        "0.05}]",
    )
    folds: int = Field(
        3,
        ge=2,
        description="groups of episodes that `cv` holds out in turn (fewer where demonstrations "
        "are)",
    )
    patience: int = Field(
        2,
        ge=1,
        le=10,
        description="looks at the held-out loss, one every tenth of the steps, without a new "
        "lowest after which `cv` trains a candidate no further",
    )
    selection_environments: int = Field(
        10, ge=1, description="environments that take part in `cv`, evenly spread"
    )
    train: NetworkTrainSettings = NetworkTrainSettings(steps=2500)
    finetune: NetworkTrainSettings = NetworkTrainSettings(steps=1000, lr=3e-4)

    @model_validator(mode="after")
    def _candidates_are_compared(self) -> SpecialistSettings:
        if self.candidates and self.selection != "cv":
            raise ValueError(
                f"candidates are given but selection = {self.selection}; set selection: cv or "
                "remove them"
            )
        names = [c.name() for c in self.candidates]
        if len(set(names)) < len(names):
            raise ValueError(f"candidates repeat ({'; '.join(names)}); expected different ones")
        return self


PRIVILEGED_LOSS = (
    "weight of a loss beside the denoising loss: the error of the state as encoders of cameras "
    "tell it, which begin with policy.encoder.pretrain and are not frozen; 0: none"
)


class LabeledOnlySettings(NetworkTrainSettings):
    """The baseline: the generalist's network and its training on demonstrations alone."""

    privileged: float = Field(0.0, ge=0, description=PRIVILEGED_LOSS)
    observe: tuple[str, ...] | None = Field(
        None, description="fields of observations that it sees; default as policy.observe"
    )

    @property
    def train(self) -> NetworkTrainSettings:
        """Its training alone."""
        return NetworkTrainSettings(**self.model_dump(exclude={"observe", "privileged"}))


class RolloutSettings(Frozen):
    """Pseudo-trajectories."""

    lanes: int = Field(32, ge=1, description="episodes in flight")
    batch: int = Field(
        8,
        ge=1,
        description="rows of every policy call, at most the lanes of a policy; many pay off for "
        "images",
    )
    engine: Literal["torch", "onnx"] = Field(
        "torch",
        description="what computes chunks: PyTorch on its device, or onnxruntime, which is faster "
        "on a processor",
    )
    workers: int | None = Field(
        None,
        ge=0,
        description="processes that step environments; 0: this one, with --rollout.timeout 0; "
        "default: every processor",
    )
    errors: Literal["fail", "count"] = Field(
        "count",
        description="what an environment that raises or hangs costs: fail: the command; count: its "
        "episode, until at least five and more than a third of an environment's fail so",
    )
    timeout: float = Field(
        60.0,
        ge=0,
        description="seconds that one reset or step may take before its worker is killed, ten "
        "times as many for building an environment; 0: for ever",
    )
    growth: float = Field(
        1.0,
        ge=0,
        description="GiB that a worker may grow by, beside its environments and recorded episodes, "
        "before another takes its place; 0: any number",
    )

    def acting(self) -> dict[str, Any]:
        """What an episode depends on, besides its policy and start."""
        return self.model_dump(mode="json", exclude={"workers", "growth"})

    def worker_count(self) -> int:
        return self.workers if self.workers is not None else processors()


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
        """The same without what success would do: no filter, one try of every start."""
        rounds = self.rounds.model_copy(update={"tries": 1})
        told = {"outcome": "filter", "guidance": 1.0}
        return self.model_copy(update={"weights": self.weights.blind, "rounds": rounds} | told)

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


class TrackingSettings(Frozen):
    """Metrics beside the JSONL files."""

    wandb: Literal["offline", "online", "disabled"] = Field("offline", description="wandb mode")
    project: str = Field("alltrades", description="wandb project")


def _number(word: str) -> float | None:
    try:
        return float(word)
    except ValueError:
        return None
