"""Forms in which a rotation is written, by way of scipy."""

from __future__ import annotations

import numpy as np
from scipy.spatial.transform import Rotation

FORMS = {  # numbers of each
    "quat_xyzw": 4,
    "quat_wxyz": 4,
    "rpy": 3,
    "rotvec": 3,
    "matrix": 9,
    "rot6d": 6,
    "rot6d_rows": 6,
}


def turned(values: np.ndarray, source: str, to: str) -> np.ndarray:
    """(T, numbers of `source`) -> (T, numbers of `to`).

    rot6d is the first two columns of the matrix, one after another (Zhou et al. 2019, section 4.2);
    rot6d_rows its first two rows, as PyTorch3D writes it. Raises ValueError for a quaternion of
    length 0.
    """
    return _written(_read(np.asarray(values, np.float64), source), to)


def _read(x: np.ndarray, form: str) -> Rotation:
    if form == "quat_xyzw":
        return Rotation.from_quat(x)
    if form == "quat_wxyz":
        return Rotation.from_quat(x[:, [1, 2, 3, 0]])
    if form == "rpy":
        return Rotation.from_euler("xyz", x)
    if form == "rotvec":
        return Rotation.from_rotvec(x)
    if form == "matrix":
        return Rotation.from_matrix(x.reshape(-1, 3, 3))
    a = x[:, :3] / np.linalg.norm(x[:, :3], axis=1, keepdims=True)
    b = x[:, 3:] - (a * x[:, 3:]).sum(1, keepdims=True) * a
    b = b / np.linalg.norm(b, axis=1, keepdims=True)
    m = np.stack([a, b, np.cross(a, b)], axis=1)  # (T, 3, 3) of rows
    return Rotation.from_matrix(m.transpose(0, 2, 1) if form == "rot6d" else m)


def _written(r: Rotation, form: str) -> np.ndarray:
    if form == "quat_xyzw":
        return r.as_quat(canonical=True)
    if form == "quat_wxyz":
        return r.as_quat(canonical=True)[:, [3, 0, 1, 2]]
    if form == "rpy":
        return r.as_euler("xyz")
    if form == "rotvec":
        return r.as_rotvec()
    m = r.as_matrix()
    if form == "matrix":
        return m.reshape(-1, 9)
    return (m.transpose(0, 2, 1) if form == "rot6d" else m)[:, :2].reshape(-1, 6)
