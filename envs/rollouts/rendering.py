"""Pictures of recorded episodes, drawn after the fact.

An episode is a function of its seed and its actions, so recordings need not hold pictures: what is
kept is drawn when it is wanted, and as often as looks are changed.
"""

from __future__ import annotations

import hashlib
import io
import json
import zipfile
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from alltrades.data.episode import Episode
from alltrades.data.fields import Observation
from alltrades.envs.adapter import EnvAdapter, EnvironmentFailure
from alltrades.envs.rollouts.crew import Crew
from alltrades.envs.rollouts.replay import DIFFERS, Replay, play, steps_of
from alltrades.envs.rollouts.workers import WorkerDied
from alltrades.envs.spec import EnvSpec
from alltrades.errors import UserError
from alltrades.system.files import replacing

AHEAD = 4  # episodes by worker that may wait for one before them: bounds memory
DEATHS = 3  # workers that may die over one episode
FORMAT = 1  # of what a cache keeps


def render_episode(
    spec: EnvSpec,
    episode: Episode,
    fields: Sequence[str] | None = None,
    *,
    steps: Sequence[int] | None = None,
) -> Observation:
    """{field: (T, *shape)} of what the cameras of a specification would have seen of an episode, as
    uint8 pictures (T, H, W, C), and of parts of its states.

    Args:
        spec: with cameras (see `with_cameras`).
        fields: some of what it makes; default all.
        steps: those that are drawn; default all T.

    It is played back from its seed and actions. Raises UserError where that gives another episode,
    and for one that cannot be played back.
    """
    adapter = EnvAdapter(spec.steps_alone)
    try:
        return play(adapter, _replay(spec, episode, fields, steps_of(len(episode), steps)))
    except EnvironmentFailure as failure:
        raise told(failure) from failure
    finally:
        adapter.close()


@dataclass(frozen=True)
class Frames:
    """A folder of pictures of episodes, under names that all they depend on goes into: what is
    there was drawn of the same.
    """

    folder: Path

    def read(self, key: str) -> Observation | None:
        """What was kept under a key; None where nothing readable was."""
        try:
            with np.load(self._path(key), allow_pickle=False) as found:
                return {name: found[name] for name in found.files}
        except (OSError, ValueError, zipfile.BadZipFile, EOFError):
            return None

    def write(self, key: str, frames: Observation) -> None:
        """Keep frames, whole or not at all."""
        buffer = io.BytesIO()
        arrays: dict[str, Any] = dict(frames)
        np.savez_compressed(buffer, **arrays)
        with replacing(self._path(key)) as partial:
            partial.write_bytes(buffer.getvalue())

    def _path(self, key: str) -> Path:
        return self.folder / key[:2] / f"{key}.npz"


def render_episodes(
    specs: Mapping[str, EnvSpec],
    episodes: Iterable[Episode],
    fields: Sequence[str] | None = None,
    *,
    steps: Callable[[Episode], Sequence[int]] | None = None,
    place: bool = True,
    crew: Crew | None = None,
    frames: Frames | None = None,
    progress: Callable[[int], None] = lambda done: None,
) -> Iterator[Observation]:
    """What `render_episode` returns of each episode, in their order, over the workers of a crew.

    Args:
        specs: of every environment; nothing is drawn of one without cameras.
        episodes: read as far as they are drawn: memory is bounded by a few of each worker.
        fields: some of what the specifications make, of each environment those that it has; default
            all.
        steps: those of an episode that are drawn; default all.
        place: whether environments that can show an observation at once do so (see `Replay`);
            without, all episodes are stepped and checked, and pictures are those of a live
            recording, bit for bit.
        crew: what steps environments; default this process.
        frames: where pictures are kept, and found again.
        progress: called with the number of episodes finished.

    Raises UserError as `render_episode`, and for an episode over which workers died or hung.
    """
    made = {n for spec in specs.values() if spec.rendering for n in spec.rendering.names}
    for name in fields or ():
        if name not in made:
            raise UserError(
                f"'{name}' is nothing that cameras of {', '.join(specs)} make; expected some of "
                f"{', '.join(sorted(made))}"
            )
    own = crew or Crew(0)
    try:
        job = _Rendering(specs, fields, steps, place, own, frames, progress)
        yield from job.run(iter(episodes))
    finally:
        if crew is None:
            own.close()


class _Rendering:
    """One call of `render_episodes`: which worker has which episode."""

    def __init__(
        self,
        specs: Mapping[str, EnvSpec],
        fields: Sequence[str] | None,
        steps: Callable[[Episode], Sequence[int]] | None,
        place: bool,
        crew: Crew,
        frames: Frames | None,
        progress: Callable[[int], None],
    ) -> None:
        self.specs, self.fields, self.steps, self.place = dict(specs), fields, steps, place
        self.crew, self.frames, self.progress = crew, frames, progress
        self._waiting: deque[tuple[int, Replay]] = deque()
        self._running: dict[int, tuple[int, Replay]] = {}  # by host
        self._finished: dict[int, Observation] = {}
        self._keys: dict[int, str] = {}
        self._deaths: dict[int, int] = {}
        self._read = 0

    def run(self, episodes: Iterator[Episode]) -> Iterator[Observation]:
        crew, handed, ended = self.crew, 0, False
        with crew.lock:
            crew.start({name: spec.steps_alone for name, spec in self.specs.items()}, {})
            try:
                while True:
                    while not ended and self._read < handed + AHEAD * len(crew):
                        episode = next(episodes, None)
                        ended = episode is None
                        if episode is not None:
                            self._add(episode)
                    while handed in self._finished:
                        yield self._finished.pop(handed)
                        handed += 1
                        self.progress(handed)
                    if handed == self._read and ended:
                        return
                    self._deal()
                    if self._running:
                        self._gather()
            finally:
                if self._running:  # nobody waits for them any more
                    crew.close()

    def _add(self, episode: Episode) -> None:
        index, spec = self._read, self.specs[episode.environment]
        names = [] if spec.rendering is None else spec.rendering.names
        asked = [n for n in names if self.fields is None or n in self.fields]
        replay = None
        if asked:
            steps = steps_of(len(episode), None if self.steps is None else self.steps(episode))
            replay = replace(_replay(spec, episode, asked, steps), place=self.place)
        self._read += 1
        if replay is None:
            self._finished[index] = {}
            return
        if self.frames is not None:
            self._keys[index] = key_of(spec, replay)
            found = self.frames.read(self._keys[index])
            if found is not None:
                self._finished[index] = found
                return
        self._waiting.append((index, replay))

    def _deal(self) -> None:
        for host in self.crew.idle():
            if self._waiting:
                index, replay = self._waiting.popleft()
                self._running[host] = index, replay
                self.crew.send(host, [replace(replay, lane=host)])

    def _gather(self) -> None:
        for host in self.crew.wait():
            try:
                replies = self.crew.receive(host)
            except WorkerDied as death:
                self._lost(host, death)
                continue
            for _, value in replies or ():
                index, _ = self._running.pop(host)
                if isinstance(value, EnvironmentFailure):
                    raise told(value)
                assert isinstance(value, dict)  # of frames: an episode is not asked for
                if self.frames is not None:
                    self.frames.write(self._keys[index], value)
                self._finished[index] = value

    def _lost(self, host: int, death: WorkerDied) -> None:
        """Put the episode of a dead worker back, unless it hung or died too often."""
        if host in self._running:
            index, replay = self._running.pop(host)
            self._deaths[index] = self._deaths.get(index, 0) + 1
            if death.hung or self._deaths[index] >= DEATHS:
                raise UserError(
                    f"environment '{replay.environment}', episode with seed {replay.seed}: cannot "
                    f"be played back to be drawn: {death.cause}; expected an environment that "
                    "steps; raise --rollout.timeout, or leave the episode out"
                )
            self._waiting.appendleft((index, replay))
        self.crew.restart(host, death)


def told(failure: EnvironmentFailure) -> UserError:
    """Why an episode was not drawn, for users."""
    if failure.kind != DIFFERS:
        return UserError(str(failure))
    return UserError(
        f"environment '{failure.environment}', episode with seed {failure.seed}: played back from "
        f"its seed and actions it is another at step {failure.step}: {failure.cause}; expected the "
        "recorded one; use the simulator, its version and the registration that recorded it, or "
        "record it again with --rendering.cameras"
    )


def key_of(spec: EnvSpec, replay: Replay) -> str:
    """Digest of all that the pictures of an episode depend on."""
    made = spec.rendering.described() if spec.rendering is not None else {}
    packages = [version(name) for name in ("alltrades", "mujoco", "gymnasium")]
    facts: list[Any] = [FORMAT, packages, replay.environment, spec.interface.digest(), made]
    facts += [replay.seed, replay.fields, replay.steps, replay.place]
    digest = hashlib.sha256(json.dumps(facts).encode())
    digest.update(np.ascontiguousarray(replay.actions).tobytes())
    for name, value in replay.recorded.items():
        own = value.encode() if isinstance(value, str) else np.ascontiguousarray(value).tobytes()
        digest.update(name.encode() + own)
    return digest.hexdigest()


def _replay(
    spec: EnvSpec, episode: Episode, fields: Sequence[str] | None, steps: tuple[int, ...]
) -> Replay:
    where = f"environment '{spec.id}', episode with seed {episode.seed}"
    if spec.rendering is None:
        raise UserError(f"{where}: nothing is asked of its cameras; give --rendering.cameras")
    if episode.actions is None:
        raise UserError(
            f"{where}: it has no actions and cannot be played back to be drawn; expected some; "
            "leave it out"
        )
    names = spec.rendering.names if fields is None else list(fields)
    unknown = [name for name in names if name not in spec.rendering.names]
    if unknown:
        raise UserError(
            f"{where}: '{unknown[0]}' is nothing that its cameras make; expected some of "
            f"{', '.join(spec.rendering.names)}"
        )
    own = [name for name in spec.own_observation if name in episode.observations]
    if not own:
        raise UserError(
            f"{where}: it has none of {', '.join(spec.own_observation)}, by which a replay is "
            "checked; expected some"
        )
    if steps[-1] >= len(episode) or steps[0] < 0:
        raise UserError(f"{where}: step {steps[-1]} of {len(episode)}; expected steps that it has")
    recorded = {name: episode.observations[name] for name in own}
    return Replay(0, spec.id, episode.seed, episode.actions, recorded, tuple(names), steps)
