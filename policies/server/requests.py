"""A client's request: decoded, checked and made of known types before anything is changed by it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from alltrades.data.fields import Field, Observation, field_name
from alltrades.data.interface import TEXT_KEYS, Interface
from alltrades.errors import UserError, nearest
from alltrades.policies.acting import ActingPolicy
from alltrades.policies.client.messages import MAX_MESSAGE, read_seed, unpack
from alltrades.policies.control.chunks import Overlap

OBSERVATION = "observation"
KEYS = ("environment", "seed", "reset", "request_id", "known", "keep", "noise")  # and fields
MAX_FRAMES = 1024  # observations in one request
MAX_ID = 200  # characters of a request id
MAX_TEXT = 2000  # characters of a text


def message_limit(policy: ActingPolicy) -> int:
    """Bytes of a request with as many frames as are executed or seen of a chunk, of the largest
    environment's images, and of all else that requests hold.
    """
    frames = max(policy.n_obs_steps, policy.n_action_steps)
    images = max(
        sum(int(np.prod(f.shape)) * np.dtype(f.dtype).itemsize for f in e.of_kind("image").values())
        for e in policy.environments
    )
    return MAX_MESSAGE + frames * images


@dataclass(frozen=True)
class Request:
    """One valid request.

    frames {field: (k, *shape) or text}, oldest first; `index` of the environment in the policy;
    `begin` when it starts an episode, with `seed` for the noise or None; `id` to be echoed, or
    None; `overlap` of an asynchronous robot, or None.
    """

    frames: Observation
    environment: str
    index: int
    begin: bool
    seed: int | None
    id: int | str | None
    overlap: Overlap | None = None


def read_request(message: bytes | str, policy: ActingPolicy, environment: str | None) -> Request:
    """One message -> request; `environment` is that of the client's running episode, None before
    its first.

    Keys: the fields of the observation, either in a map under "observation" or as they are, such as
    "observation/images/front", where dots and slashes are the same; "prompt" or "task" is the only
    text, an array under "observation" the only state. Values are (*shape,), or (k, *shape) with
    every frame since the last request, of the field's dtype. Further fields are left out.
    "environment", the id, needed once where the policy has several; "reset": true
    starts an episode, as does another environment; "seed" of the episode's noise, read where an
    episode starts: any integer, of more than 64 bits as text; "request_id", an integer or text that
    the reply repeats.

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
        raise UserError(f"request is a {type(request).__name__}; expected a map with fields")
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
    frames = _frames(_observation(request, policy.environments[index]), policy.environments[index])
    return Request(
        frames,
        named,
        index,
        bool(reset) or named != environment,
        None if seed is None else read_seed(seed),
        name if name is None or isinstance(name, str) else int(name),
        _overlap(request, policy, policy.environments[index].action_dim),
    )


def _default(policy: ActingPolicy) -> str | None:
    return policy.environments[0].id if len(policy.environments) == 1 else None


def _whole(value: Any) -> bool:
    return isinstance(value, (int, np.integer)) and not isinstance(value, bool)


def _observation(request: dict, interface: Interface) -> dict[str, Any]:
    """What a request says of the fields, by name. A key that is neither one of them nor marked as
    part of the observation is a mistake.
    """
    out: dict[str, Any] = {}
    for key, value in request.items():
        if key in KEYS:
            continue
        if not isinstance(key, str):
            raise UserError(f"request has the key {str(key)[:40]}; expected names of fields")
        name = field_name(key)
        known = name in interface.observation or key in TEXT_KEYS
        if key == OBSERVATION:
            inner = value if isinstance(value, dict) else {_only_state(interface): value}
        elif known or "." in key.replace("/", "."):
            inner = {name: value}
        else:
            expected = [*interface.observation, *KEYS]
            raise UserError(
                f"request has the key {key[:40]!r}; expected {', '.join(expected)}; further fields "
                f"of an observation as '{OBSERVATION}/NAME'{nearest(key[:40], expected)}"
            )
        for inner_key, given in inner.items():
            inner_name = field_name(str(inner_key))
            if inner_name in out:
                raise UserError(f"request has '{inner_name[:40]}' twice; expected it once")
            out[inner_name] = given
    _check_texts(out, interface)
    return out


def _check_texts(values: dict[str, Any], interface: Interface) -> None:
    """UserError where the only text is said in several ways, and not alike."""
    own = interface.of_kind("text")
    names = [n for n in values if n in TEXT_KEYS or n in own]
    said = {values[n] for n in names if isinstance(values[n], str)}
    if len(own) == 1 and len(said) > 1:
        raise UserError(
            f"request has {' and '.join(map(repr, names))}, which say different things; expected "
            "one of them; leave the others out"
        )


def _only_state(interface: Interface) -> str:
    states = list(interface.of_kind("state"))
    if len(states) != 1:
        raise UserError(
            f"'{OBSERVATION}' is an array and '{interface.id}' has {len(states)} states; expected "
            f"{interface.described()}"
        )
    return states[0]


def _frames(values: dict[str, Any], interface: Interface) -> Observation:
    """Checked frames (k, *shape) of each field, copied, and texts."""
    fields = interface.observation
    if any(name in values and _has_frames(values[name], f) for name, f in fields.items()):
        frames = interface.check_frames(values)
    else:
        checked = interface.check(values)
        frames = {name: v if isinstance(v, str) else v[None] for name, v in checked.items()}
    for name, value in frames.items():
        if isinstance(value, str) and len(value) > MAX_TEXT:
            raise UserError(
                f"text '{name}' has {len(value)} characters; expected at most {MAX_TEXT}"
            )
        if len(value) > MAX_FRAMES and not isinstance(value, str):
            raise UserError(f"request has {len(value)} frames; expected at most {MAX_FRAMES}")
    return frames


def _has_frames(value: Any, f: Field) -> bool:
    """Whether a value is (k, *shape), or (k, H, W) of images of one channel."""
    if f.kind == "text":
        return False
    shape = np.shape(value)
    return len(shape) > len(f.shape) or (
        f.kind == "image" and f.shape[2] == 1 and len(shape) == 3 and shape != f.shape
    )


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
