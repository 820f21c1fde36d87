"""`alltrades deploy`: a policy on a robot. With an exported policy torch is never imported."""

from __future__ import annotations

import argparse
import logging
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field, replace
from logging.handlers import QueueHandler, QueueListener
from pathlib import Path
from queue import SimpleQueue
from typing import TYPE_CHECKING, Any

import numpy as np

from alltrades.data.commit import occupied
from alltrades.data.interface import Interface
from alltrades.envs import registry
from alltrades.envs.robots.load import ROBOTS, load_robot
from alltrades.envs.rollouts.seeding import episode_seed
from alltrades.errors import UserError
from alltrades.policies.acting import ActingPolicy
from alltrades.policies.artifact import facts_of, plugins_of
from alltrades.robots import fit as deployment
from alltrades.robots.loop import ControlLoop
from alltrades.robots.signals import StopSignals
from alltrades.system.files import check_writable, jsonable, write_json
from alltrades.system.progress import REDRAW, StatusLine
from alltrades.system.remote.place import place
from alltrades.system.streams import stream_seed

if TYPE_CHECKING:
    from alltrades.data.store import EpisodeStore

KINDS = ("repeated", "late", "unreadable", "missing")  # of observations that were not answered


@dataclass
class _Session:
    """What there is to report, however the command ends."""

    facts: dict[str, Any] = field(default_factory=dict)
    loop: ControlLoop | None = None
    episodes: list[dict[str, Any]] = field(default_factory=list)
    error: str | None = None


def deploy(args: argparse.Namespace) -> int:
    """Run the command; 0 too when a signal ended it."""
    _check(args)
    if args.json is not None:
        check_writable(args.json)
    registry.load_plugins(args.plugins)
    session = _Session()
    try:
        with logging_aside(), StopSignals() as signals, ExitStack() as stack:
            _drive(args, session, signals, stack)
        _complain(args, session.episodes)
    except BaseException as error:
        session.error = (
            str(error) if isinstance(error, UserError) else f"{type(error).__name__}: {error}"
        )
        raise
    finally:
        if session.loop is not None:
            _report(args, session)
    return 0


def _drive(
    args: argparse.Namespace, session: _Session, signals: StopSignals, stack: ExitStack
) -> None:
    """Set everything up and run the episodes; `stack` takes it down again."""
    policy = _policy(args)
    stack.callback(policy.close)
    if not args.plugins and not deployment.is_remote(args.artifact):
        bring_plugins(args.robot, Path(args.artifact))
    robot = load_robot(args.robot, policy.environments)
    stack.callback(robot.close)
    if args.fast and not robot.waits:
        raise UserError(
            f"--fast with {args.robot}; expected gym:ID or env:ID; other robots run in real time"
        )
    info = deployment.environment_of(policy.environments, robot, args.environment)
    rate = None if args.fast else deployment.rate_of(info, robot, args.rate)
    limits = deployment.limits_of(info, robot, args.limits, rate)
    controller = deployment.make_controller(
        args.mode, policy, {info.id: limits}, args.timeout, rate or robot.control_hz
    )
    stack.callback(controller.close)
    session.facts = {
        "artifact": args.artifact,
        "policy": policy.digest(),
        "robot": args.robot,
        "environment": info.id,
        "mode": args.mode,
        "rate": rate,
        "seed": args.seed,
        "limits": limits.to_json(),
    }
    steps = args.steps or info.max_steps
    if steps is None:
        raise UserError(
            f"how long an episode of '{info.id}' lasts is unknown; expected --steps, the most "
            "actions of one"
        )
    recorded = deployment.recorded_interface(info, robot, limits, rate)
    loop = ControlLoop(
        robot,
        controller,
        replace(recorded, action=limits),
        rate,
        args.timeout,
        hear=policy.hear,
    )
    stack.callback(loop.close)
    store = (
        None if args.record is None else _store(place(args.record), recorded, session.facts, stack)
    )
    session.loop = loop
    signals.halting = lambda: loop.halting
    stack.callback(signals.ignore)  # called first: a robot is closed to the end
    _episodes(args, loop, info.id, steps, store, signals, session.episodes)


def bring_plugins(robot: str, artifact: Path) -> None:
    """Load the plugins of a policy's training where a robot is not known without them."""
    kind, _, rest = robot.partition(":")
    if kind in ("env", "gym", "mujoco") and not rest.endswith((".xml", ".mjcf")):
        needed = not registry.knows([robot if kind == "gym" else rest])
    else:
        needed = not rest and robot not in ROBOTS
    if needed:
        registry.load_named_plugins(plugins_of(facts_of(artifact)), artifact)


def _complain(args: argparse.Namespace, episodes: list[dict[str, Any]]) -> None:
    ended = episodes[-1]["ended"] if episodes else ""
    if ended == "timeout":
        raise UserError(
            f"robot {args.robot} gave no new observation for {args.timeout:g} s and was stopped; "
            "expected one at every control step; check its sensors, or raise --timeout"
        )
    if ended == "starved":
        raise UserError(
            f"the policy gave no fresh action for {args.timeout:g} s and the robot was stopped; "
            "expected one in time; use a faster policy, or raise --timeout"
        )


def _report(args: argparse.Namespace, session: _Session) -> None:
    assert session.loop is not None
    result = (
        session.facts
        | summary(session.loop)
        | {"episodes": session.episodes, "error": session.error}
    )
    written = [args.record] if args.record is not None else []
    if args.json is not None:
        write_json(Path(args.json), result)
        written.append(args.json)
    for line in [*lines(result), *(f"wrote {path}" for path in written)]:
        _say(line)


def _say(line: str) -> None:
    with suppress(OSError):  # a terminal that was closed must not end what goes on without it
        print(line, flush=True)


def _check(args: argparse.Namespace) -> None:
    for name in ("episodes", "steps", "rate", "timeout", "threads"):
        value = getattr(args, name)
        if value is not None and not 0 < value < float("inf"):
            raise UserError(f"--{name} {value}; expected a positive number")
    local = not (deployment.is_remote(args.artifact) or args.artifact.endswith(".onnx"))
    if args.preference and not local:
        raise UserError(
            f"--preference with {args.artifact}; expected a policy's folder; choose the preference "
            "in `export` or `serve`"
        )
    if args.unknown_instruction and not local:
        raise UserError(
            f"--unknown-instruction with {args.artifact}; expected a policy's folder; choose it in "
            "`serve`"
        )


def _policy(args: argparse.Namespace) -> ActingPolicy:
    token = None
    if args.token_file is not None:
        from alltrades.policies.client.token import read_token

        token = read_token(Path(args.token_file))
    policy = deployment.open_policy(
        args.artifact, args.device, args.threads, args.timeout, token, args.certificate
    )
    if args.preference or args.unknown_instruction:
        from alltrades.policies.model.policy import DiffusionPolicy
        from alltrades.policies.model.preference import parse_preference

        assert isinstance(policy, DiffusionPolicy)  # `_check` saw to that
        policy.set_preference(parse_preference(args.preference))
        policy.set_unknown_instruction(args.unknown_instruction)
    return policy


def _store(path: Path, info: Interface, facts: dict[str, Any], stack: ExitStack) -> EpisodeStore:
    """The store to record into, new or continued, with one entry per deployment in its
    provenance. UserError for one of other episodes: what a policy did is no demonstration.
    """
    from alltrades.data.store import EpisodeStore

    if occupied(path):
        store = EpisodeStore.open(path, "a")
    else:
        store = EpisodeStore.create(path)
    stack.callback(store.close)
    earlier = store.provenance.get("deployments", [])
    if len(store) and not earlier:
        raise UserError(
            f"--record {path}: a store of {store.provenance.get('kind', 'other episodes')}; "
            "expected one that deploy wrote, or a new path; choose another (trainings take "
            "several stores: --demos A B)"
        )
    store.declare([info])
    store.set_provenance(deployments=[*earlier, jsonable(facts | {"first_episode": len(store)})])
    return store


def _episodes(
    args: argparse.Namespace,
    loop: ControlLoop,
    environment: str,
    steps: int,
    store: EpisodeStore | None,
    signals: StopSignals,
    done: list[dict[str, Any]],
) -> None:
    """Run them, and note each in `done`; each is recorded when it ends, however it ends."""
    name = "server" if deployment.is_remote(args.artifact) else Path(args.artifact).name
    first = 0 if store is None else len(store)  # a continued store gets new starts
    while len(done) < args.episodes and not signals.asked:
        index = first + len(done)
        root = args.seed if args.seed >= 0 else stream_seed(args.seed, "deploy")
        seed, ended = episode_seed(root, "deploy", environment, index), "failed"
        try:
            with shown(lambda: live(loop, len(done) + 1, args.episodes, steps), signals):
                ended = loop.run(seed, steps, lambda: signals.asked)
        finally:
            episode = loop.recorded(f"deploy/{name}")
            done.append(
                {
                    "seed": seed,
                    "ended": ended,
                    "steps": loop.steps,
                    "success": episode.success if episode else None,
                    "first_success": episode.first_success if episode else None,
                    "return": episode.return_ if episode else 0.0,
                }
            )
            if store is not None and episode is not None:
                store.append([episode])
        _say(f"episode {len(done)}: {ended} after {loop.steps} steps")
        if ended in ("stopped", "timeout", "starved"):
            break


@contextmanager
def shown(text: Callable[[], str], signals: StopSignals) -> Iterator[None]:
    """Show what `text` returns on a live line, from a thread: a terminal that stops reading must
    not stop the robot's loop.
    """
    over = threading.Event()

    def draw() -> None:
        told = False
        with suppress(OSError), StatusLine() as status:  # OSError: the terminal was closed
            ended = False
            while not ended:
                ended = over.wait(REDRAW)
                if signals.ignored and not told:
                    told = True
                    status.clear()
                    print(
                        "alltrades: a signal was ignored, as the robot was being stopped already",
                        file=sys.stderr,
                        flush=True,
                    )
                if not ended:
                    status.show(text)

    thread = threading.Thread(target=draw, name="display", daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join(1.0)


@contextmanager
def logging_aside() -> Iterator[None]:
    """Write this package's warnings from a thread, as a stderr that nobody reads must not stop the
    robot's loop either.
    """
    records: SimpleQueue[logging.LogRecord] = SimpleQueue()
    handler, listener = QueueHandler(records), QueueListener(records, logging.StreamHandler())
    logger = logging.getLogger("alltrades")
    logger.addHandler(handler)
    listener.start()
    try:
        yield
    finally:
        logger.removeHandler(handler)
        listener.stop()


def live(loop: ControlLoop, episode: int, episodes: int, steps: int) -> str:
    """The line that is shown while it runs."""
    recent = 1e3 * np.asarray(loop.latencies[-100:] or [0.0])
    parts = [
        f"episode {episode}/{episodes}",
        f"step {loop.steps}/{steps}",
        f"{loop.ticker.rate:.1f} Hz",
        f"latency {np.median(recent):.1f} ms, max {recent.max():.1f}",
        f"missed {loop.ticker.missed}",
        f"held {loop.held}",
        f"guard {_counts(loop.refusals)}",
    ]
    if loop.operator_holds:
        parts.append("HELD BY THE OPERATOR")
    return "  ".join(parts)


def summary(loop: ControlLoop) -> dict[str, Any]:
    """What all episodes came to, in plain values; latencies in ms."""
    spent = 1e3 * np.asarray(loop.latencies if len(loop.latencies) else [0.0])
    observed = {kind: loop.feed.counts[kind] for kind in KINDS}
    return {
        "steps": len(loop.latencies),
        "held": loop.held,
        "paused": loop.paused,
        "missed": loop.ticker.missed,
        "seconds": loop.seconds,
        "measured_rate": (len(loop.latencies) + loop.held + loop.paused) / loop.seconds
        if loop.seconds
        else 0.0,
        "latency_ms": {
            "p50": float(np.percentile(spent, 50)),
            "p95": float(np.percentile(spent, 95)),
            "p99": float(np.percentile(spent, 99)),
            "max": float(spent.max()),
        },
        "chunks": loop.controller.statistics(),
        "observations": observed,
        "refusals": loop.refusals,
        "first_action_at": loop.first_action_at,
        "torch_imported": "torch" in sys.modules,
    }


def lines(result: dict[str, Any]) -> list[str]:
    """The summary as it is printed."""
    ms = result["latency_ms"]
    found = result["chunks"]
    paused = (
        [f"held by the operator for {result['paused']} control steps"] if result["paused"] else []
    )
    chunks = (
        []
        if found is None
        else [
            f"asynchronous: {found['chunks']} chunks, {found['late']} late, {found['failures']} "
            f"failed calls, no action at {found['held'] + found['stopped']} steps; delay p50 "
            f"{found['delay_ms']['p50'] or 0:.2f} ms, max {found['delay_ms']['max'] or 0:.2f}"
        ]
    )
    return [
        f"{result['environment']} on {result['robot']}: {_outcomes(result['episodes'])}, "
        f"{result['steps']} steps at {result['measured_rate']:.1f} Hz",
        f"observation to action: p50 {ms['p50']:.2f} ms, p95 {ms['p95']:.2f}, p99 {ms['p99']:.2f}, "
        f"max {ms['max']:.2f}; {result['missed']} deadlines missed",
        f"observations not used: {_counts(result['observations'])}; last action held "
        f"{result['held']} times; guard refused: {_counts(result['refusals'])}",
        *paused,
        *chunks,
    ]


def _outcomes(episodes: list[dict[str, Any]]) -> str:
    """Successes of episodes, or their returns where nothing says success."""
    told = [e["success"] for e in episodes if e["success"] is not None]
    if told or not episodes:
        unknown = f" ({len(episodes) - len(told)} do not say)" if len(told) < len(episodes) else ""
        return f"{sum(told)} of {len(episodes)} episodes succeeded{unknown}"
    mean = sum(e["return"] for e in episodes) / len(episodes)
    return f"{len(episodes)} episodes, success unknown, mean return {mean:.4g}"


def _counts(counts: dict[str, int]) -> str:
    """Those that are not zero."""
    return ", ".join(f"{name} {count}" for name, count in counts.items() if count) or "none"
