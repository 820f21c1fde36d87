"""Meshes with fewer faces, for small pictures."""

from __future__ import annotations

from typing import Any

import numpy as np

CELLS = 24  # of a mesh's longest side, in each of which one point is left
FEW = 400  # faces that a mesh may keep as they are


def thinned(model: Any) -> None:
    """Merge the points of a model's meshes that lie in one cell of a grid, and drop the faces that
    vanish (vertex clustering: Rossignac and Borrel 1993). For a copy that is only drawn.

    A cell is a 24th of the mesh's longest side: below a pixel where the mesh is smaller than a
    third of a picture of 64 pixels.
    """
    for i in range(model.nmesh):
        count, start = int(model.mesh_facenum[i]), int(model.mesh_faceadr[i])
        if count <= FEW:
            continue
        own = slice(start, start + count)
        at, number = int(model.mesh_vertadr[i]), int(model.mesh_vertnum[i])
        points = np.array(model.mesh_vert[at : at + number], float)
        faces = model.mesh_face[own]
        first = _merged(points)[faces]  # (F, 3)
        kept = (
            (first[:, 0] != first[:, 1])
            & (first[:, 1] != first[:, 2])
            & (first[:, 2] != first[:, 0])
        )
        once = np.unique(np.sort(first, axis=1), axis=0, return_index=True)[1]
        kept &= np.isin(np.arange(count), once)
        end = start + int(kept.sum())
        model.mesh_face[start:end] = first[kept]
        for name in ("mesh_facenormal", "mesh_facetexcoord"):
            array = getattr(model, name)
            array[start:end] = array[own][kept]
        model.mesh_facenum[i] = end - start


def _merged(points: np.ndarray) -> np.ndarray:
    """(N,) for each of the points (N, 3) the one that stands for its cell: the nearest to the mean
    of those in it.
    """
    low = points.min(0)
    cell = max(float((points.max(0) - low).max()) / CELLS, 1e-9)
    grid = np.floor((points - low) / cell).astype(np.int64)
    _, group = np.unique(grid, axis=0, return_inverse=True)
    group = group.ravel()
    count = np.bincount(group)
    means = np.stack([np.bincount(group, points[:, k]) for k in range(3)], 1) / count[:, None]
    away = ((points - means[group]) ** 2).sum(1)
    order = np.lexsort((away, group))
    stands = np.empty(len(count), np.int64)
    stands[group[order][::-1]] = order[::-1]  # the nearest of each group is written last
    return stands[group]
