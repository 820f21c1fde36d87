"""Where everything of a run lies: the one place that knows the names of its files."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from alltrades.settings.rows import Row


@dataclass(frozen=True)
class RunFolder:
    """The files of a run below `path`."""

    path: Path

    @property
    def settings(self) -> Path:
        return self.path / "settings.yaml"

    @property
    def checks(self) -> Path:
        """What checks of the environments found."""
        return self.path / "environments.json"

    # ---- stores ----------------------------------------------------------------------------------
    @property
    def demos(self) -> Path:
        return self.path / "stores" / "demos.zarr"

    @property
    def held_out(self) -> Path:
        """Demonstrations that nothing is trained on."""
        return self.path / "stores" / "held_out.zarr"

    def rollouts(self, teacher: Row) -> Path:
        return self.path / "stores" / f"rollouts_{teacher.teacher}.zarr"

    def pictures(self, teacher: Row) -> tuple[Path, Path]:
        """What cameras see of a teacher's rollouts: as far as eyes need it, and what generalists
        learn from beside.
        """
        name = f"pictures_{teacher.teacher}"
        return self.path / "stores" / f"{name}_eyes.zarr", self.path / "stores" / f"{name}.zarr"

    @property
    def starts(self) -> Path:
        """Random starts whose pictures the eyes learn from."""
        return self.path / "stores" / "starts.zarr"

    def visits(self, row: Row) -> Path:
        """Episodes of the generalist that a round of it learns from."""
        return self.path / "stores" / f"{row}.zarr"

    # ---- networks and weights --------------------------------------------------------------------
    def policy(self, row: Row) -> Path:
        """Artifact of a row; for specialists a folder with one artifact per environment."""
        if row.specialists:
            return self.path / "policies" / "specialists" / row.teacher
        return self.artifact(str(row))

    def artifact(self, name: str) -> Path:
        return self.path / "policies" / name

    @property
    def eyes(self) -> Path:
        """Encoders of cameras that were taught to tell the state."""
        return self.artifact("eyes")

    def weights(self, row: Row) -> Path:
        return self.path / "weights" / str(row)

    def weights_summary(self, row: Row) -> Path:
        return self.path / "weights" / f"{row}.json"

    # ---- measurements ----------------------------------------------------------------------------
    @property
    def experts(self) -> Path:
        """Successes and tries of the scripted experts."""
        return self.path / "experts.json"

    @property
    def rollout_counts(self) -> Path:
        return self.path / "rollouts.json"

    def evaluation(self, name: str) -> Path:
        return self.path / "evaluation" / f"{name}.json"

    def selection(self, row: Row) -> Path:
        """Success on the starts that judge rounds."""
        return self.path / "selection" / f"{row}.json"

    def rounds(self, row: Row) -> Path:
        return self.path / "rounds" / f"{row}.json"

    @property
    def eye_errors(self) -> Path:
        """How far off the eyes are."""
        return self.path / "eyes.json"

    @property
    def open_loop(self) -> Path:
        """Errors of chunks on held-out episodes."""
        return self.path / "open_loop.json"

    @property
    def perturbations(self) -> Path:
        """A row under perturbations of what it sees."""
        return self.path / "perturbations.json"

    @property
    def looks(self) -> Path:
        """What a row looks at."""
        return self.path / "looks.json"

    @property
    def films(self) -> Path:
        """An episode of every environment as that row's cameras see it."""
        return self.path / "films"

    @property
    def trajectories(self) -> Path:
        return self.path / "trajectories.json"

    @property
    def comparison(self) -> Path:
        return self.path / "comparison.json"

    @property
    def advice(self) -> Path:
        return self.path / "advice.json"
