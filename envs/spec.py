"""What the rest of the framework knows about an environment."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from alltrades.data.actions import ActionSpec
from alltrades.data.fields import NAME, Field
from alltrades.data.interface import Interface
from alltrades.envs.instructions import INSTRUCTION, Instructions, Phrasing
from alltrades.envs.rendering import Camera, Part, Rendering
from alltrades.envs.success import IN_INFO, Rule, Success
from alltrades.envs.symmetry import Symmetry
from alltrades.errors import UserError


@dataclass(frozen=True)
class EnvSpec:
    """Description of one environment; picklable, so that worker processes can build it.

    Attributes:
        id: name in the registry, such as "planar/reach".
        make: module-level callable (or functools.partial of one) that builds the gymnasium
            environment; None for an environment that only recordings know, which cannot be stepped.
        observation: fields by name, such as {"state": Field.state(16)}; what the environment
            returns is turned into them by `alltrades.envs.spaces`.
        action: limits of the actions: box, and where they are defined rate, acceleration and what
            brings a robot to rest.
        max_steps: time limit in control steps, enforced by the adapter; needed with `make`.
        control_hz: control rate in Hz; None where it is unknown.
        stop_at_success: end the episode at the first success flag; nothing where there is none.
        extra: name of the optional dependency group it needs, or None.
        evaluation_seed: maps evaluation index i to a seed where a published protocol fixes the test
            starts.
        selection_seed: the same for the starts on which policies are chosen, where other seeds are
            not known to be new.
        import_demos: converts a foreign store into episodes, where demonstrations are published
            rather than scripted.
        symmetries: changes of the world under which the task stays the same; training data is
            augmented by them where a network sees nothing else than the field that they map.
        metrics: names of info values of an episode's last step that evaluations report beside
            success; higher is better.
        rebuild: whether every episode gets a new instance, since `reset` leaves something of the
            episode before. `alltrades envs check` finds such environments.
        reproducible: whether equal seeds and actions give equal episodes; an environment that says
            False may depend on a clock, and its results do not repeat.
        version: raise it when observations or actions change meaning.
        success: how success is read (see `alltrades.envs.success`): "info", its usual names in
            info; another of its forms, such as "info:solved" or "return >= 900"; a module-level
            function; None for an environment that has none and is judged by its return.
        cameras: those that it has, by the name of the field that their pictures would be, such as
            {"images.top": Camera("overview")}. They are drawn where a run asks for them.
        parts: the same of numbers of its states, such as {"proprioception": Part((0, 1))}.
        rendering: what of both a run asks for, as `alltrades.envs.rendering.with_cameras` says it;
            `observation` has these fields too.
        instructions: sentences that name what its episodes ask for.
        told: which of them its episodes are told, as the field `instruction`, which `observation`
            has then too; None: no such field is made. `alltrades.envs.instructions` sets it.
        perturbed: how pictures are changed before they are seen, one of
            `alltrades.envs.perturbations.PICTURES`; None: not at all.

    Raises ValueError for what cannot be.
    """

    id: str
    make: Callable[[], Any] | None
    observation: Mapping[str, Field]
    action: ActionSpec
    max_steps: int | None
    control_hz: float | None = 10.0
    stop_at_success: bool = True
    extra: str | None = None
    evaluation_seed: Callable[[int], int] | None = None
    selection_seed: Callable[[int], int] | None = None
    import_demos: Callable[[Any], list[Any]] | None = None
    symmetries: tuple[Symmetry, ...] = ()
    metrics: tuple[str, ...] = ()
    rebuild: bool = False
    reproducible: bool = True
    version: int = 1
    success: Rule = IN_INFO
    cameras: Mapping[str, Camera] = field(default_factory=dict)
    parts: Mapping[str, Part] = field(default_factory=dict)
    rendering: Rendering | None = None
    instructions: Instructions | None = None
    told: Phrasing | None = None
    perturbed: str | None = None

    def __post_init__(self) -> None:
        _ = self.interface  # checks itself
        try:
            Success(self.success)
        except ValueError as error:
            raise ValueError(f"{self.id}: {error}") from error
        if self.make is not None and self.max_steps is None:
            raise ValueError(f"{self.id}: no max_steps; expected a time limit in control steps")
        for symmetry in self.symmetries:
            symmetry.check(self.interface)
        self._check_made()
        self._check_told()

    def _check_told(self) -> None:
        instructions, field = self.instructions, self.observation.get(INSTRUCTION)
        if self.told is not None and (
            instructions is None or field is None or field.kind != "text"
        ):
            raise ValueError(
                f"{self.id}: it is to be told its instruction; expected instructions, and a field "
                f"'{INSTRUCTION}' of text"
            )
        state = self.observation.get("state")
        size = state.shape[0] if state is not None and state.kind == "state" else 0
        columns = [c for goal in instructions.goals for c in goal.target] if instructions else []
        wrong = [c for c in columns if not 0 <= c < size]
        if wrong:
            raise ValueError(
                f"{self.id}: a goal's target is column {wrong[0]} of 'state', which has {size} "
                "numbers; expected columns of it"
            )

    def _check_made(self) -> None:
        own = self.own_observation
        for name, camera in self.cameras.items():
            taken = [made for made in camera.fields(name) if made in own or made in self.parts]
            if taken or not NAME.fullmatch(name):
                raise ValueError(
                    f"{self.id}: a camera called '{name}'{', as a field is' if taken else ''}; "
                    "expected a name of its own, such as 'images.top'"
                )
        for name, part in self.parts.items():
            if name in own or part.of not in own:
                raise ValueError(
                    f"{self.id}: a part called '{name}' of '{part.of}'; expected a name of its own "
                    f"and one of the states {', '.join(own)}"
                )
            try:
                part.field(own[part.of])
            except ValueError as error:
                raise ValueError(f"{self.id}: part '{name}': {error}") from error

    @classmethod
    def recorded(cls, interface: Interface) -> EnvSpec:
        """An environment that only recordings know."""
        return cls(
            interface.id,
            None,
            interface.observation,
            interface.action,
            interface.max_steps,
            interface.control_hz,
            version=interface.version,
        )

    @property
    def simulated(self) -> bool:
        """Whether it can be stepped."""
        return self.make is not None

    def build(self) -> Any:
        """A new instance; raises UserError for an environment that only recordings know."""
        if self.make is None:
            raise UserError(
                f"environment '{self.id}' is known from recordings alone and cannot be stepped; "
                "expected a registered environment; register it"
            )
        return self.make()

    @property
    def steps_alone(self) -> EnvSpec:
        """The same without what only those use who plan rollouts and train: all that a process
        which steps it must be sent.
        """
        return replace(
            self,
            evaluation_seed=None,
            selection_seed=None,
            import_demos=None,
            symmetries=(),
            cameras={},
            parts={},
            instructions=self.instructions if self.told is not None else None,
        )

    @property
    def action_dim(self) -> int:
        return self.action.size

    @property
    def own_observation(self) -> dict[str, Field]:
        """Its fields without those that a run asked for."""
        made = self.rendering.names if self.rendering is not None else ()
        return {name: f for name, f in self.observation.items() if name not in made}

    @property
    def returned(self) -> EnvSpec:
        """The same with the fields alone that its instance returns."""
        if self.rendering is None and self.told is None:
            return self
        made = () if self.told is None else (INSTRUCTION,)
        fields = {name: f for name, f in self.own_observation.items() if name not in made}
        return replace(self, observation=fields, rendering=None, told=None)

    @property
    def sentences(self) -> list[str]:
        """All that its episodes may be told by declaration."""
        if self.instructions is None or self.told is None:
            return []
        held_out = self.told == "held_out"
        goals = self.instructions.goals
        return [s for goal in goals for s in (goal.held_out if held_out else goal.training)]

    @property
    def block(self) -> int:
        """Episodes in a row that are one start under every instruction."""
        return len(self.instructions.goals) if self.instructions and self.told else 1

    @property
    def without_rendering(self) -> EnvSpec:
        """The same with its own fields alone."""
        if self.rendering is None:
            return self
        return replace(self, observation=self.own_observation, rendering=None)

    @property
    def without_pictures(self) -> EnvSpec:
        """The same without what cameras make; parts of its states stay."""
        made = self.rendering
        if made is None or not made.images:
            return self
        fields = {name: f for name, f in self.observation.items() if name not in made.images}
        kept = replace(made, cameras={}) if made.parts else None
        return replace(self, observation=fields, rendering=kept)

    @property
    def interface(self) -> Interface:
        """What a policy must know of it."""
        return Interface(
            self.id,
            self.observation,
            self.action,
            self.max_steps,
            self.control_hz,
            self.version,
        )
