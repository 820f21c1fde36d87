"""Where everything of an adaptation lies: beside the artifact that it makes."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from alltrades.settings.rows import Row
from alltrades.system.files import slug

KINDS = {"scratch": "scratch", "joint_init": "finetuned"}  # of candidates: row -> setting


@dataclass(frozen=True)
class AdaptFolder:
    """The files of an adaptation below `path`, which is the artifact's folder too."""

    path: Path

    @property
    def settings(self) -> Path:
        return self.path / "settings.yaml"

    @property
    def demos(self) -> Path:
        """The demonstrations that were given, of the new environments."""
        return self.path / "stores" / "demos.zarr"

    def practice(self, number: int) -> Path:
        """Demonstrations that are learned from, and the successes of so many rounds."""
        return self.path / "stores" / f"practice_{number}.zarr"

    def visits(self, environment: str, number: int) -> Path:
        """Episodes of the best candidate on new starts."""
        return self.path / "stores" / f"visits_{number}" / f"{slug(environment)}.zarr"

    @property
    def replay(self) -> Path:
        """Rollouts of the generalist in environments before."""
        return self.path / "stores" / "replay.zarr"

    @property
    def grown(self) -> Path:
        """The generalist with the new environments, before it learns them."""
        return self.path / "policies" / "grown"

    def candidate(self, row: Row) -> Path:
        """One artifact per new environment."""
        return self.path / "policies" / self._name(row)

    def selection(self, row: Row) -> Path:
        """Success on the starts that choose among candidates."""
        return self.path / "selection" / f"{self._name(row)}.json"

    @staticmethod
    def _name(row: Row) -> str:
        return KINDS[row.kind] + (f"_{row.number}" if row.number > 1 else "")

    @property
    def selection_open_loop(self) -> Path:
        """The same on held-out episodes, where nothing can be rolled out."""
        return self.path / "selection" / "open_loop.json"

    def evaluation(self, name: str) -> Path:
        return self.path / "evaluation" / f"{name}.json"

    @property
    def open_loop(self) -> Path:
        return self.path / "open_loop.json"

    @property
    def report(self) -> Path:
        return self.path / "adapt.json"
