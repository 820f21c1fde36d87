"""The page of `alltrades diagnose`: what each field changes, where the policy looks, success under
perturbations.
"""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Mapping
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from alltrades.report import looks
from alltrades.report.page import write
from alltrades.report.perturbations import perturbation_part
from alltrades.report.view.pictures import SIDE, colours, image_library
from alltrades.system.files import replacing, slug

if TYPE_CHECKING:
    from alltrades.policies.learning.saliency import Saliency

PAGE = "report.html"
HEAT = np.array([255.0, 40.0, 0.0])  # colour of what changes the actions most
GAP = 4  # pixels between pictures


def write_looks(
    folder: Path,
    title: str,
    found: Mapping[str, Any],
    pictures: Mapping[str, Mapping[str, Saliency]],
    disturbed: Mapping[str, Any] | None,
) -> list[Path]:
    """Write a picture of each camera, and the page with all of them; returns their paths.

    Raises UserError where the extra `report` is not installed.
    """
    from alltrades import __version__

    paths, parts = [], []
    for name, facts in found.items():
        shown = []
        for camera, own in pictures.get(name, {}).items():
            data, note = saliency_png(own)
            path = folder / "saliency" / f"{slug(name)}.{camera}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            with replacing(path) as partial:
                partial.write_bytes(data)
            paths.append(path)
            url = f"data:image/png;base64,{b64encode(data).decode()}"
            shown.append({"name": camera, "url": url, "note": note})
        parts.append(
            {
                "name": name,
                "heading": looks.look_heading(name, facts),
                "head": looks.look_heads(facts),
                "lines": looks.look_lines(facts),
                "warnings": facts["warnings"],
                "pictures": shown,
            }
        )
    content = {
        "title": title,
        "version": __version__,
        "parts": parts,
        "perturbations": perturbation_part(disturbed or {}),
    }
    return [*paths, write("look.html", content, folder / PAGE, "page", plots=False)]


def saliency_png(own: Saliency) -> tuple[bytes, str]:
    """A strip of frames above the same with what changes the actions in red, the mean of all frames
    last; and what red is.

    Red is as strong as the root of the change is, over that of the greatest one.
    """
    pillow = image_library()
    frames, _ = colours(own.frames)
    frames = np.concatenate([frames, frames.astype(np.float64).mean(0)[None].astype(np.uint8)])
    maps = np.concatenate([own.maps, own.mean[None]])
    most = float(own.maps.max())
    height, width = frames.shape[1:3]
    scale = max(1, SIDE // max(height, width))
    grey = frames.astype(np.float64).mean(-1, keepdims=True)
    heat = np.sqrt(maps / most)[..., None] if most > 0 else np.zeros((*maps.shape, 1))
    drawn = np.rint((1 - 0.8 * heat) * grey + 0.8 * heat * HEAT).astype(np.uint8)
    whole = pillow.new("RGB", (len(frames) * (width * scale + GAP), 2 * (height * scale + GAP)))
    whole.paste((255, 255, 255), (0, 0, *whole.size))
    for k, pair in enumerate(zip(frames, drawn)):
        for row, frame in enumerate(pair):
            picture = pillow.fromarray(np.ascontiguousarray(frame))
            picture = picture.resize((width * scale, height * scale), pillow.NEAREST)
            whole.paste(picture, (k * (width * scale + GAP), row * (height * scale + GAP)))
    out = BytesIO()
    whole.save(out, "png", optimize=True)
    note = f"reddest: hiding it changes the actions by {most:.3f} of their variance"
    return out.getvalue(), note if most > 0 else "hiding any part of it changes no action"
