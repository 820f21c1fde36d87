"""The settings of a run: one frozen tree of models, the same for recipes, the command line and
Python.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from pydantic import Field, model_validator

from alltrades.envs.rendering.settings import RenderingSettings
from alltrades.policies.settings import (
    Frozen,
    PolicySettings,
    TrainingSettings,
    TrainSettings,
)
from alltrades.settings.adapt import AdaptSettings
from alltrades.settings.compute import ComputeSettings
from alltrades.settings.demos import DemoSettings
from alltrades.settings.distill import DistillSettings
from alltrades.settings.evaluation import EvaluationSettings
from alltrades.settings.eyes import EyesSettings
from alltrades.settings.nested import merge
from alltrades.settings.networks import LabeledOnlySettings, SpecialistCandidate, SpecialistSettings
from alltrades.settings.rollouts import RolloutSettings
from alltrades.settings.rows import (
    END_TO_END,
    GENERALIST,
    OF_EYES,
    OWN_ROWS,
    PRIVILEGED,
    TEACHERS,
    Row,
)
from alltrades.settings.sense import contradictions
from alltrades.settings.simulator import SimulatorSettings
from alltrades.settings.tracking import TrackingSettings
from alltrades.system.machine import processors


class RunSettings(Frozen):
    """Everything `alltrades run` needs."""

    name: str = Field("quickstart", min_length=1, description="names the run folder runs/NAME")
    seed: int = Field(0, ge=0, description="training seed: demonstrations, weights, noise")
    environments: tuple[str, ...] = Field(
        ("planar",), min_length=1, description="suites, environment ids or globs"
    )
    optional_environments: tuple[str, ...] = Field(
        (), description="added where their extra is installed"
    )
    plugins: tuple[str, ...] = Field((), description="modules or files that register environments")
    same_code: bool = Field(
        True, description="run a stage again where the code that made it has changed since"
    )
    device: str = Field("cpu", description="torch device of training and sampling")
    trainings: int | None = Field(
        None,
        ge=1,
        description="networks trained beside one another, each on one processor thread, small ones "
        "in processes of their own; 1: one after the other on all; default: as many as cores, at "
        "most 8; 1 on a GPU",
    )
    compute: ComputeSettings = ComputeSettings()
    simulator: SimulatorSettings = SimulatorSettings()
    rendering: RenderingSettings = RenderingSettings()
    training: TrainingSettings = TrainingSettings()
    demos: DemoSettings = DemoSettings()
    policy: PolicySettings = PolicySettings()
    labeled_only: LabeledOnlySettings = LabeledOnlySettings()
    specialist: SpecialistSettings = SpecialistSettings()
    rollout: RolloutSettings = RolloutSettings()
    eyes: EyesSettings = EyesSettings()
    distill: DistillSettings = DistillSettings()
    generalists: dict[str, DistillSettings] = Field(
        default_factory=dict,
        description="further generalists, made where a row names them; keys left out are as in "
        "distill",
    )
    adapt: AdaptSettings = AdaptSettings()
    evaluation: EvaluationSettings = EvaluationSettings()
    tracking: TrackingSettings = TrackingSettings()
    report: bool = Field(True, description="write the HTML report")

    @model_validator(mode="before")
    @classmethod
    def _inherit(cls, values: Any) -> Any:
        """Fill what a further generalist leaves out from `distill`."""
        if isinstance(values, dict) and isinstance(values.get("generalists"), dict):
            base = values.get("distill") or {}
            if isinstance(base, Frozen):
                base = base.model_dump()
            values = dict(values)
            values["generalists"] = {
                k: merge(base, v) if isinstance(v, dict) else v
                for k, v in values["generalists"].items()
            }
        return values

    @model_validator(mode="after")
    def _preferences_have_a_place(self) -> RunSettings:
        policy = self.policy
        if policy.preference_input:
            for d in (self.distill, *self.generalists.values()):
                if d.preference or d.objective.excess:
                    found = (
                        f"objective {d.objective.kind}"
                        if d.objective.excess
                        else "a fixed preference"
                    )
                    raise ValueError(
                        "policy.preference_input draws the preference in training and a generalist "
                        f"has {found}; expected the linear objective without preference; choose it "
                        "at evaluation.preference"
                    )
        elif self.evaluation.preference:
            raise ValueError(
                "evaluation.preference is given and policies take none; expected "
                "policy.preference_input: true, or distill.preference for a generalist of one "
                "preference"
            )
        return self

    @model_validator(mode="after")
    def _eyes_that_tell_can_learn(self) -> RunSettings:
        asked: dict[str, LabeledOnlySettings | DistillSettings] = {
            "labeled_only": self.labeled_only,
            "distill": self.distill,
        }
        asked |= {f"generalists.{name}": d for name, d in self.generalists.items()}
        for name, own in asked.items():
            if own.privileged and self.policy.encoder.frozen:
                raise ValueError(
                    f"{name}.privileged = {own.privileged:g} and policy.encoder.frozen = true; "
                    "expected encoders that learn on; set one of them back"
                )
        return self

    @model_validator(mode="after")
    def _outcomes_are_told(self) -> RunSettings:
        if self.policy.outcome_input or self.policy.guidance != 1:
            raise ValueError(
                "policy.outcome_input and policy.guidance are what distill.outcome and "
                "distill.guidance make of a generalist's policy; expected neither; set "
                "distill.outcome: condition"
            )
        return self

    @model_validator(mode="after")
    def _goes_on_with_what_it_sees(self) -> RunSettings:
        baseline = self.policy_of(self.labeled_only).observe
        for name, d in self.all_generalists().items():
            seen = self.policy_of(d).observe
            if d.init == "labeled_only" and seen != baseline:
                raise ValueError(
                    f"{name} goes on from the labeled-only policy (init: labeled_only), which sees "
                    f"{_seen(baseline)}, and is to see {_seen(seen)}; expected the same; give "
                    "labeled_only.observe"
                )
        return self

    @property
    def seeing(self) -> RunSettings:
        """What stages go by: where nothing may see success, without its filters and retries."""
        own = self.all_generalists()
        return self.model_copy(update={"distill": own.pop(GENERALIST), "generalists": own})

    def policy_of(self, network: LabeledOnlySettings | DistillSettings) -> PolicySettings:
        """Settings of the labeled-only policy or of a generalist."""
        changes: dict[str, Any] = {}
        if network.observe is not None:
            changes["observe"] = network.observe
        if isinstance(network, DistillSettings) and network.conditioned:
            changes |= {"outcome_input": True, "guidance": network.guidance}
        return self.policy.model_copy(update=changes) if changes else self.policy

    @property
    def privileged(self) -> bool:
        """Whether specialists see other fields than the labeled-only policy."""
        return self.specialist.observe != self.policy_of(self.labeled_only).observe

    def labeled_only_of(self, row: Row) -> PolicySettings:
        """Settings of a row that learns from the demonstrations of all environments alone."""
        policy = self.policy_of(self.labeled_only)
        if row.kind == PRIVILEGED:
            return policy.model_copy(update={"observe": self.specialist.observe})
        if row.kind == END_TO_END:
            return policy.model_copy(update={"encoder": policy.encoder.fresh})
        return policy

    def begins_with(self, row: Row) -> Row:
        """The labeled-only policy from which fine-tuned specialists go on: it sees what they do."""
        return replace(row, kind=PRIVILEGED if self.privileged else "labeled_only")

    def networks(self) -> list[PolicySettings]:
        """Settings of every kind of network that is trained."""
        generalists = [self.policy_of(d) for d in self.learning().values()]
        specialists = [policy for _, policy, _ in self.specialist_candidates()]
        return [*specialists, self.policy_of(self.labeled_only), *generalists]

    def observed(self) -> list[tuple[str, ...] | None]:
        """Patterns of the fields that each kind of network sees; None for all."""
        generalists = [self.policy_of(d).observe for d in self.learning().values()]
        return [self.specialist.observe, self.policy_of(self.labeled_only).observe, *generalists]

    def all_seen(self) -> PolicySettings:
        """Settings of a policy that sees what some network does."""
        kinds = self.observed()
        patterns = [pattern for kind in kinds for pattern in kind or ()]
        observe = None if None in kinds else tuple(dict.fromkeys(patterns))
        return self.policy.model_copy(update={"observe": observe})

    def observing(self) -> dict[str, tuple[str, ...] | None]:
        """The settings that say which fields a network sees, by name."""
        further = {f"generalists.{name}.observe": d.observe for name, d in self.generalists.items()}
        return {
            "policy.observe": self.policy.observe,
            "specialist.observe": self.specialist.observe,
            "labeled_only.observe": self.labeled_only.observe,
            "distill.observe": self.distill.observe,
            **further,
        }

    @model_validator(mode="after")
    def _rows_exist(self) -> RunSettings:
        for name in self.generalists:
            kind, _, number = name.rpartition("_")
            taken = {*OWN_ROWS, *TEACHERS, *(str(r) for r in self._rounds() if r.kind != name)}
            if name in taken or number.isdigit() and kind in {*OWN_ROWS, *TEACHERS}:
                raise ValueError(
                    f"generalists may not be called '{name}': that row or teacher exists already"
                )
        known = self.rows()
        for name in (*self.evaluation.rows, *(r for pair in self.evaluation.compare for r in pair)):
            if name not in known:
                raise ValueError(
                    f"evaluation names row '{name}'; expected one of {', '.join(sorted(known))}"
                )
            if known[name].kind in OF_EYES and self.policy.encoder.pretrain is None:
                raise ValueError(
                    f"evaluation names row '{name}', and no encoder is taught to tell the state; "
                    "expected policy.encoder.pretrain: state; set it, or leave the row out"
                )
        taught = {Row.of_teacher(n).kind for d in self.learning().values() for n in d.teachers}
        named = {known[name].kind for name in self.evaluation.rows}
        if PRIVILEGED in taught | named and not self.privileged:
            raise ValueError(
                f"'{PRIVILEGED}' sees what specialists do, and so does the labeled-only policy "
                f"({_seen(self.specialist.observe)}); expected other fields; name labeled_only, or "
                "give specialist.observe"
            )
        return self

    @model_validator(mode="after")
    def _parts_fit(self) -> RunSettings:
        for line in contradictions(self):
            raise ValueError(line)
        return self

    def training_count(self) -> int:
        """Networks that are trained beside one another."""
        if self.trainings is not None:
            return self.trainings
        return min(8, processors()) if self.device == "cpu" else 1

    def distillations(self) -> dict[str, DistillSettings]:
        """Generalists by row name, those that the evaluation measures."""
        measured = {self.rows()[name].kind for name in self.evaluation.rows}
        return {name: s for name, s in self.all_generalists().items() if name in measured}

    def learning(self) -> dict[str, DistillSettings]:
        """The generalists whose teachers and fields count: those that are measured, and all where
        there are eyes, which learn from all teachers of the recipe.
        """
        eyes = self.policy.encoder.pretrain is not None
        return self.all_generalists() if eyes else self.distillations()

    def rows(self) -> dict[str, Row]:
        """Every row that the evaluation may name."""
        named = [*map(Row, self.generalists), *self._rounds()]
        return OWN_ROWS | {str(row): row for row in named}

    def _rounds(self) -> list[Row]:
        return [
            Row(name, round=r)
            for name, d in self.all_generalists().items()
            if d.rounds.count
            for r in range(d.rounds.count + 1)
        ]

    def all_generalists(self) -> dict[str, DistillSettings]:
        """By name, as stages go by them, measured or not."""
        named = {GENERALIST: self.distill, **self.generalists}
        return {k: d.blind for k, d in named.items()} if self.simulator.blind else named

    def specialist_candidates(self) -> list[tuple[str, PolicySettings, TrainSettings]]:
        """Name, architecture and training of every candidate of specialists from scratch; the
        settings alone without any.
        """
        s = self.specialist
        policy = self.policy.model_copy(
            update={
                "width": s.width,
                "depth": s.depth,
                "observe": s.observe,
                "preference_input": False,
            }
        )
        out = []
        for candidate in s.candidates or (SpecialistCandidate(),):
            changes = candidate.model_dump(exclude_none=True)
            out.append(
                (
                    candidate.name(),
                    policy.model_copy(update=_common(changes, policy)),
                    self.training.of(s.train.model_copy(update=_common(changes, s.train))),
                )
            )
        return out


def _seen(observe: tuple[str, ...] | None) -> str:
    return "all fields" if observe is None else ", ".join(observe)


def _common(changes: dict[str, Any], base: Frozen) -> dict[str, Any]:
    return {k: v for k, v in changes.items() if k in type(base).model_fields}
