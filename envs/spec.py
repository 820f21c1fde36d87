"""What the rest of the framework knows about an environment."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from alltrades.data.interface import ActionSpec, Interface
from alltrades.envs.symmetry import Reflection, Symmetry


@dataclass(frozen=True)
class EnvSpec:
    """Description of one environment; picklable, so that worker processes can build it.

    Attributes:
        id: name in the registry, such as "planar/reach".
        make: module-level callable (or functools.partial of one) that builds the gymnasium
            environment.
        obs_dim: length of the flat observation vector.
        action: limits of the actions: box, and where they are defined rate, acceleration and what
            brings a robot to rest.
        max_steps: time limit in control steps, enforced by the adapter.
        control_hz: control rate in Hz.
        stop_at_success: end the episode at the first success flag.
        extra: name of the optional dependency group it needs, or None.
        evaluation_seed: maps evaluation index i to a seed where a published protocol fixes the test
            starts.
        selection_seed: the same for the starts on which policies are chosen, where other seeds are
            not known to be new.
        import_demos: converts a foreign store into episodes, where demonstrations are published
            rather than scripted.
        symmetries: changes of the world under which the task stays the same; training data is
            augmented by them.
        image_shape: (height, width) where observation and action are images, flattened row by row.
        metrics: names of info values of an episode's last step that evaluations report beside
            success; higher is better.
        version: raise it when observations or actions change meaning.

    Raises ValueError for what cannot be.
    """

    id: str
    make: Callable[[], Any]
    obs_dim: int
    action: ActionSpec
    max_steps: int
    control_hz: float = 10.0
    stop_at_success: bool = True
    extra: str | None = None
    evaluation_seed: Callable[[int], int] | None = None
    selection_seed: Callable[[int], int] | None = None
    import_demos: Callable[[Any], list[Any]] | None = None
    symmetries: tuple[Symmetry, ...] = ()
    image_shape: tuple[int, int] | None = None
    metrics: tuple[str, ...] = ()
    version: int = 1

    def __post_init__(self) -> None:
        _ = self.interface  # checks itself
        for symmetry in self.symmetries:
            self._check(symmetry)

    @property
    def action_dim(self) -> int:
        return self.action.size

    @property
    def interface(self) -> Interface:
        """What a policy must know of it."""
        return Interface(
            self.id,
            self.obs_dim,
            self.action,
            self.max_steps,
            self.control_hz,
            self.image_shape,
            self.version,
        )

    def _check(self, symmetry: Symmetry) -> None:
        if isinstance(symmetry, Reflection):
            sizes = len(symmetry.observation_index), len(symmetry.action_index)
            if sizes != (self.obs_dim, self.action_dim):
                raise ValueError(
                    f"{self.id}: a reflection of {sizes[0]} observations and {sizes[1]} actions; "
                    f"expected {self.obs_dim} and {self.action_dim}"
                )
        elif max(map(max, symmetry.positions)) >= self.obs_dim:
            raise ValueError(
                f"{self.id}: a translation of observation {max(map(max, symmetry.positions))}; "
                f"expected indices below {self.obs_dim}"
            )
