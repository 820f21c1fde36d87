"""Pages of where a policy looks: what each field changes, saliency, films, success under
perturbations.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from alltrades.report.films import data_url, saliency_png
from alltrades.report.looks import look_parts
from alltrades.report.page import write
from alltrades.report.perturbations import perturbation_part
from alltrades.system.files import replacing, slug

if TYPE_CHECKING:
    from alltrades.policies.learning.saliency import Saliency

PAGE = "report.html"


def write_looks(
    folder: Path,
    title: str,
    found: Mapping[str, Any],
    pictures: Mapping[str, Mapping[str, Saliency]],
    disturbed: Mapping[str, Any] | None,
) -> list[Path]:
    """Write a picture of each camera, and the page of `alltrades diagnose` with all of them;
    returns their paths.

    Raises UserError where the extra `report` is not installed.
    """
    from alltrades import __version__

    paths: list[Path] = []
    shown: dict[str, dict[str, Any]] = {}
    for name, facts in found.items():
        own = {}
        for camera, saliency in pictures.get(name, {}).items():
            data, note = saliency_png(saliency)
            path = folder / "saliency" / f"{slug(name)}.{camera}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            with replacing(path) as partial:
                partial.write_bytes(data)
            paths.append(path)
            own[camera] = {"url": data_url(data), "note": note}
        shown[name] = {**facts, "saliency": own}
    content = {
        "title": title,
        "version": __version__,
        "looks": look_parts(shown),
        "perturbations": perturbation_part(disturbed or {}),
    }
    return [*paths, write("look.html", content, folder / PAGE, "page", plots=False)]
