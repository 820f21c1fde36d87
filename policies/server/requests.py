"""A client's request: decoded, checked and made of known types before anything is changed by it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from alltrades.data.interface import Interface
from alltrades.errors import UserError, nearest
from alltrades.policies.acting import ActingPolicy
from alltrades.policies.client.messages import unpack
from alltrades.policies.control.chunks import Overlap

KEYS = (
    "observation",
    "observation/state",
    "environment",
    "seed",
    "reset",
    "request_id",
    "known",
    "keep",
    "noise",
)
MAX_FRAMES = 1024  # observations in one request
MAX_ID = 200  # characters of a request id


@dataclass(frozen=True)
class Request:
    """One valid request.

    frames (k, obs_dim) float32, oldest first; `index` of the environment in the policy; `begin`
    when it starts an episode, with `seed` for the noise or None; `id` to be echoed, or None;
    `overlap` of an asynchronous robot, or None.
    """

    frames: np.ndarray
    environment: str
    index: int
    begin: bool
    seed: int | None
    id: int | str | None
    overlap: Overlap | None = None


def read_request(message: bytes | str, policy: ActingPolicy, environment: str | None) -> Request:
    """One message -> request; `environment` is that of the client's running episode, None before
    its first.

    Keys: "observation" or "observation/state" (obs_dim,), or (k, obs_dim) with every frame since
    the last request; "environment", the id, needed once where the policy has several; "reset": true
    starts an episode, as does another environment; "seed" of the episode's noise, read where an
    episode starts; "request_id", an integer or text that the reply repeats.

    An asynchronous robot adds "known" (k, action_dim), k <= horizon: the actions that it executes
    from the observation on while it waits, and what it had planned after them; empty where there
    are none. The reply is then the whole horizon. "keep" (k,) in [0, 1] says how much of each is
    kept, all of it by default; "noise" (draws, horizon, the policy's action_dim) replaces that of
    the episode. Raises UserError or ValueError for anything else, and nothing but these two.
    """
    try:
        return _read(message, policy, environment)
    except (UserError, ValueError):
        raise
    except (
        Exception
    ) as error:  # whatever a stranger's values do to NumPy must not end the connection
        raise ValueError(f"message cannot be read ({type(error).__name__}: {error})") from error


def _read(message: bytes | str, policy: ActingPolicy, environment: str | None) -> Request:
    if isinstance(message, str):
        raise UserError("text frame; expected a binary frame of msgpack")
    request = unpack(message)
    if not isinstance(request, dict):
        raise UserError(f"request is a {type(request).__name__}; expected a map with 'observation'")
    for key in request:
        if key not in KEYS:
            hint = nearest(key[:40], list(KEYS)) if isinstance(key, str) else ""
            raise UserError(
                f"request has the key {str(key)[:40]!r}; expected {', '.join(KEYS)}{hint}"
            )
    named = request.get("environment", _default(policy) if environment is None else environment)
    if not isinstance(named, str):
        raise UserError(
            "request names no environment and the policy has several; expected 'environment' in "
            f"the first request, one of {', '.join(e.id for e in policy.environments[:12])}"
        )
    if len(named) > 200:
        raise UserError(
            f"'environment' has {len(named)} characters; expected the id of one of the policy's "
            "environments"
        )
    reset, seed, name = request.get("reset", False), request.get("seed"), request.get("request_id")
    if not isinstance(reset, (bool, np.bool_)):
        raise UserError(f"'reset' is a {type(reset).__name__}; expected true or false")
    if seed is not None and not (_whole(seed) and 0 <= seed < 2**63):
        raise UserError("'seed' is not an integer in [0, 2^63); expected one, or leave it out")
    if (
        name is not None
        and not _whole(name)
        and not (isinstance(name, str) and len(name) <= MAX_ID)
    ):
        raise UserError(
            f"'request_id' is a {type(name).__name__}; expected an integer or up to {MAX_ID} "
            "characters"
        )
    index = policy.environment_index(named)
    frames = _frames(request, policy.environments[index])
    return Request(
        frames,
        named,
        index,
        bool(reset) or named != environment,
        None if seed is None else int(seed),
        name if name is None or isinstance(name, str) else int(name),
        _overlap(request, policy, policy.environments[index].action_dim),
    )


def _default(policy: ActingPolicy) -> str | None:
    return policy.environments[0].id if len(policy.environments) == 1 else None


def _whole(value: Any) -> bool:
    return isinstance(value, (int, np.integer)) and not isinstance(value, bool)


def _frames(request: dict, interface: Interface) -> np.ndarray:
    given = [request[key] for key in KEYS[:2] if key in request]
    if len(given) != 1:
        raise UserError(
            f"request has {len(given)} observations; expected one, under '{KEYS[0]}' or '{KEYS[1]}'"
        )
    frames = np.atleast_2d(interface.check(given[0]))
    if len(frames) > MAX_FRAMES:
        raise UserError(f"request has {len(frames)} frames; expected at most {MAX_FRAMES}")
    return frames


def _overlap(request: dict, policy: ActingPolicy, dim: int) -> Overlap | None:
    if "known" not in request:
        extra = [key for key in ("keep", "noise") if key in request]
        if extra:
            raise UserError(f"request has '{extra[0]}' without 'known'; expected both, or neither")
        return None
    known = _numbers(request["known"], "'known'")
    if known.ndim != 2 or known.shape[1] != dim or len(known) > policy.horizon:
        raise UserError(
            f"'known' of shape {known.shape}; expected (k, {dim}) with k <= {policy.horizon}"
        )
    known = _finite(known, "'known'", "leave out what is not decided")
    keep = _numbers(request.get("keep", np.ones(len(known))), "'keep'")
    if keep.shape != (len(known),):
        raise UserError(
            f"'keep' of shape {keep.shape}; expected ({len(known)},), a weight for each step of "
            "'known'"
        )
    keep = _finite(keep, "'keep'", "expected weights in [0, 1]")
    if ((keep < 0) | (keep > 1)).any():
        raise UserError(
            "'keep' has entries outside [0, 1]; expected weights, of which 1 freezes a step"
        )
    noise = None
    if "noise" in request:
        shape = (policy.draws, policy.horizon, policy.action_dim)
        noise = _numbers(request["noise"], "'noise'")
        if noise.shape != shape:
            raise UserError(f"'noise' of shape {noise.shape}; expected {shape}")
        noise = _finite(noise, "'noise'", "expected draws of a standard normal")
    return Overlap(known, keep, noise)


def _numbers(value: Any, name: str) -> np.ndarray:
    try:
        values = np.asarray(value)
    except ValueError:
        values = np.empty(0, dtype=object)
    if values.dtype.kind not in "biuf":
        raise UserError(f"{name} of dtype {values.dtype}; expected numbers")
    return values


def _finite(values: np.ndarray, name: str, hint: str) -> np.ndarray:
    with np.errstate(over="ignore"):
        values = values.astype(np.float32)
    if not np.isfinite(values).all():
        raise UserError(f"{name} is not finite; expected finite numbers; {hint}")
    return values
