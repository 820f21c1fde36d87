"""What stands between an artifact and a robot: which environment, which limits, which rate, which
controller.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import numpy as np

from alltrades.data.actions import ActionSpec
from alltrades.data.interface import Interface
from alltrades.envs.robots.robot import Robot
from alltrades.errors import UserError, nearest
from alltrades.policies.acting import ActingPolicy
from alltrades.policies.client.remote import RemotePolicy
from alltrades.policies.control.controller import Controller
from alltrades.policies.control.ensembling import Ensembling
from alltrades.policies.control.limits import read_limits
from alltrades.policies.control.realtime import RealTimeController

SCHEMES = ("ws", "wss")


def is_remote(artifact: str) -> bool:
    """Whether an artifact's name is the address of a server."""
    return artifact.partition("://")[0] in SCHEMES


def open_policy(
    artifact: str,
    device: str = "cpu",
    threads: int = 1,
    timeout: float = 1.0,
    token: str | None = None,
    certificate: str | None = None,
) -> ActingPolicy:
    """A policy from its folder, an exported .onnx file (without torch), or a `RemotePolicy` of
    ws://HOST:PORT.

    A local policy has been called once: its first call takes longer than all others.

    Raises UserError for what is none of them.
    """
    if is_remote(artifact):
        return _connect(artifact, timeout, token, certificate)
    if artifact.endswith(".onnx"):
        from alltrades.policies.onnx.onnx_policy import OnnxPolicy

        policy: ActingPolicy = OnnxPolicy(artifact, threads)
    else:
        import torch

        from alltrades.policies.model.loading import load_policy

        check_device(device)
        torch.set_num_threads(threads)
        policy = load_policy(Path(artifact), device)
    policy.act(
        policy.layout.empty(1, frames=policy.n_obs_steps),
        np.zeros(1, np.int64),
        np.zeros((1, policy.draws, policy.horizon, policy.action_dim), np.float32),
    )
    return policy


def _connect(
    address: str, timeout: float, token: str | None, certificate: str | None
) -> RemotePolicy:
    try:
        parts = urlsplit(address)
        port = parts.port
    except ValueError:
        parts, port = urlsplit(""), None
    if not parts.hostname or port is None or parts.path not in ("", "/"):
        raise UserError(f"server address '{address}'; expected ws://HOST:PORT, or wss://HOST:PORT")
    return RemotePolicy(
        parts.hostname,
        port,
        timeout,
        token=token,
        tls=parts.scheme == "wss",
        certificate=certificate,
    )


def check_device(device: str) -> None:
    """Raise UserError for a device on which torch cannot compute here."""
    import torch

    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        raise UserError(
            f"--device {device} cannot be used ({error}); expected cpu, or a device that torch has"
        ) from error


def environment_of(
    environments: Sequence[Interface], robot: Robot, given: str | None = None
) -> Interface:
    """The environment that a robot is: the one named, else what the robot says of itself, else the
    policy's only one.

    Raises UserError where that is none of the policy's, or where the robot does not fit it.
    """
    ids = [e.id for e in environments]
    name = given or robot.environment
    if name is None:
        if len(ids) > 1:
            raise UserError(
                f"the policy knows {len(ids)} environments; expected --environment and one of "
                f"{', '.join(ids[:12])}"
            )
        name = ids[0]
    if name not in ids:
        raise UserError(
            f"the policy does not know environment '{name}'; expected --environment and one of "
            f"{', '.join(ids[:12])}{nearest(name, ids)}"
        )
    info = environments[ids.index(name)]
    if robot.limits.size != info.action_dim:
        raise UserError(
            f"the robot takes {robot.limits.size} action values and '{name}' has "
            f"{info.action_dim}; expected the same; choose another --environment"
        )
    if robot.interface is not None:
        check_fields(info, robot.interface)
        if robot.interface.id == name and not same_known(info, robot.interface):
            raise UserError(
                f"environment '{name}' changed since the policy was trained (bounds, rate or "
                "version); train again or use the environment it was trained on"
            )
    return info


def check_fields(info: Interface, own: Interface) -> None:
    """Raise UserError where a robot does not observe what a policy sees of its environment."""
    for name, f in info.observation.items():
        found = own.observation.get(name)
        if found is None or not found.same(f):
            raise UserError(
                f"the policy sees '{name}' ({f}) of '{info.id}' and the robot has "
                f"{own.described() if found is None else f'there {found}'}; expected the same; "
                "choose another --environment, or train on what this robot observes"
            )


def same_known(info: Interface, own: Interface) -> bool:
    """Whether a robot's environment is what the policy was trained on, as far as that is known."""
    box = not info.action.bounded or all(
        np.array_equal(a, b) for a, b in zip(info.action.box, own.action.box)
    )
    rate = info.control_hz is None or info.control_hz == own.control_hz
    return box and rate and info.version == own.version


def recorded_interface(
    info: Interface, robot: Robot, limits: ActionSpec, rate: float | None
) -> Interface:
    """What a store says of episodes of a robot: all that it observes, where it tells, and the box
    and the rate that were found where the policy does not know them.
    """
    own = robot.interface
    if own is not None and own.id == info.id:
        return own
    observation = info.observation if own is None else own.observation
    action = info.action
    if not action.bounded:
        action = replace(limits, rate=None, acceleration=None, stop=None)
    hz = info.control_hz or robot.control_hz or rate
    return replace(info, observation=observation, action=action, control_hz=hz)


def limits_of(
    info: Interface, robot: Robot, file: Path | str | None = None, rate: float | None = None
) -> ActionSpec:
    """The narrowest of what the environment, the robot and a file of limits allow, with what brings
    the robot to rest (see `stop_of`).

    Args:
        file: limits per control step of the environment, as those of the environment itself.
        rate: control steps per second of the loop; limits per step are converted, so that those per
            second stay. None, or a robot that waits for every action: the environment's own.

    Raises UserError where the boxes do not meet, where nobody says what they are, and for what is
    wrong with the file.
    """
    trained = info.control_hz or robot.control_hz or rate or 1.0
    rate = trained if rate is None or robot.waits else rate
    moving = replace(info, action=replace(info.action, stop=None))
    limits = moving.action if file is None else read_limits(file, [moving])[info.id]
    limits = limits.at_rate(trained, rate)
    own = robot.limits.at_rate(robot.control_hz or trained, rate)
    low, high = (
        choose(a, b) for choose, a, b in zip((np.maximum, np.minimum), limits.box, own.box)
    )
    if not info.action.bounded and not np.isfinite([low, high]).all():
        raise UserError(
            f"the box of the actions of '{info.id}' is unknown, to the policy and to the robot; "
            "expected low and high in the robot's limits, or in --limits FILE"
        )
    entry: dict[str, Any] = {
        "low": low.tolist(),
        "high": high.tolist(),
        **{k: v for k, v in (("rate", own.rate), ("acceleration", own.acceleration)) if v},
    }
    limits = limits.tightened(entry, f"limits of the robot as '{info.id}'")
    return limits.stopping_at(stop_of(info, robot), f"limits of '{info.id}'")


def stop_of(info: Interface, robot: Robot) -> Sequence[float | None] | None:
    """What brings a robot to rest: its own stop action, else its environment's; None for a robot
    that waits anyway.

    Raises UserError where neither declares one: such a robot would be left with its last action,
    which may be a velocity.
    """
    if robot.waits:
        return None
    stop = info.action.stop if robot.limits.stop is None else robot.limits.stop
    if stop is None:
        raise UserError(
            f"neither the robot nor '{info.id}' says what brings it to rest; expected `stop` in "
            "the robot's limits: 0 for a velocity or a torque, None for a value that it keeps, "
            "such as a position"
        )
    return stop


def rate_of(info: Interface, robot: Robot, given: float | None = None) -> float:
    """Control rate in Hz: the one given, else the robot's, which must be that of the policy's
    environment.

    Raises UserError where the two differ, and where neither is known.
    """
    if given is not None:
        return given
    trained = info.control_hz or robot.control_hz
    if trained is None:
        raise UserError(
            f"the control rate of '{info.id}' is unknown, to the policy and to the robot; expected "
            "--rate HZ"
        )
    rate = robot.control_hz or trained
    if abs(rate - trained) > 0.01 * trained:
        raise UserError(
            f"the robot runs at {rate:g} Hz and '{info.id}' was trained at {trained:g} Hz; "
            "expected the same; give --rate HZ to choose one"
        )
    return rate


def make_controller(
    mode: str,
    policy: ActingPolicy,
    limits: Mapping[str, ActionSpec],
    stop_after: float,
    rate: float | None = None,
) -> Controller | RealTimeController:
    """The controller of one robot: "sync" waits for every chunk, "async" draws the next one while
    the robot moves, "ensemble" draws one at every step and averages those that overlap.

    Args:
        stop_after: seconds without a fresh action after which an asynchronous robot stops.
        rate: control steps per second, which tell an asynchronous robot how many of them a chunk
            takes; None: the environment's.
    """
    if mode == "async":
        return RealTimeController(policy, guard=limits, stop_after=stop_after, rate=rate)
    if mode == "ensemble":
        return Controller(policy, guard=limits, execution=Ensembling())
    return Controller(policy, guard=limits)
