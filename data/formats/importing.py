"""The import itself: episode by episode into a store that appears when it is whole."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, cast

from alltrades.data.episode import Episode
from alltrades.data.fields import TEXTS
from alltrades.data.formats.convert import Converter, instruction_of
from alltrades.data.formats.importing_shards import import_shared
from alltrades.data.formats.mapping import Map
from alltrades.data.formats.recording import Recording, Refusal, guarded
from alltrades.data.interface import Interface
from alltrades.data.shards import drop_shards
from alltrades.data.store import BATCH_BYTES, EpisodeStore
from alltrades.errors import UserError
from alltrades.system.files import remove

Tasks = Literal["instruction", "environments"]
PART = 512  # episodes of one append
PICTURES = 2**23  # bytes of one append of pictures: the next are decoded while it is written


@dataclass
class Import:
    """One import: what of, how, and where to.

    Attributes:
        environment: id of the environment; with `tasks` "environments" the beginning of the ids.
        skip_damaged: leave out episodes that are refused, and say so.
        left_out: what was, one line each.
        workers: processes that read at the same time; the store is the same for any number.
        reopen: opens the recording in another process; needed by several.
    """

    recording: Recording
    mapping: Map
    environment: str
    out: Path
    tasks: Tasks = "instruction"
    skip_damaged: bool = False
    left_out: list[str] = field(default_factory=list)
    workers: int = 1
    reopen: Callable[[], Recording] | None = None

    def __post_init__(self) -> None:
        self.ids: dict[str, str] = {}  # instruction -> environment
        assert self.workers == 1 or self.reopen is not None
        if cast(Recording | None, self.recording) is None:  # on its way to another process
            return
        self.converter = Converter(self.recording, self.mapping)
        self.told = instruction_of(self.mapping, self.recording)
        if self.tasks == "environments" and self.told is None:
            raise UserError(
                f"{self.recording.path}: --tasks environments, and no text {' or '.join(TEXTS)} "
                "from a key of the recording; expected one that tells tasks apart; map it"
            )

    def sent(self) -> Import:
        """The same for another process, which opens the recording again."""
        return replace(self, recording=cast(Recording, None), left_out=[])

    def received(self) -> Import:
        """The same in that process."""
        assert self.reopen is not None
        return replace(self, recording=self.reopen())

    @property
    def partial(self) -> Path:
        """Where the store stands until it is whole."""
        return self.out.with_name(f".{self.out.name}.importing")

    def run(self, report: Callable[[int, int], None] = lambda done, total: None) -> EpisodeStore:
        """Import everything; what an interrupted import left goes on where it was.

        Memory of each process is bounded by two episodes, or what of short ones has about
        BATCH_BYTES: one is read while another is written. Raises UserError when there is something
        at `out`, and `Refusal` for what cannot be imported; then nothing is left behind.
        """
        if self.out.exists():
            raise UserError(
                f"{self.out}: something is there already; expected a new path; choose another, or "
                "delete it"
            )
        store = self._begin()
        try:
            with store:
                if self.workers > 1:
                    import_shared(self, store, report)
                else:
                    drop_shards(self.partial)
                    self.append(store, report, self.next_of(store), len(self.recording))
                if not len(store):
                    raise Refusal(f"{self.recording.path}: no episodes; expected at least one")
                self.note(store)
        except Refusal:
            remove(self.partial)
            raise
        self.partial.rename(self.out)
        return EpisodeStore.open(self.out)

    def _begin(self) -> EpisodeStore:
        facts = {
            "imported": str(self.recording.path.resolve()),
            "mapping": self.mapping.to_json(),
            "import": self.identity(),
            **self._found(),
        }
        if not (self.partial / "commit.json").exists():
            return EpisodeStore.create(self.partial, provenance=facts)
        store = EpisodeStore.open(self.partial, "a")
        if store.provenance.get("import") != facts["import"]:
            store.close()
            raise UserError(
                f"{self.partial}: another import to {self.out} is unfinished, of "
                f"{store.provenance.get('imported')} or with another mapping; expected the same "
                "command, which goes on with it; or delete that folder"
            )
        return store

    def _found(self) -> dict[str, Any]:
        found = {
            "warnings": list(self.recording.warnings),
            "left_out": list(self.left_out),
            "tasks": dict(self.ids),
        }
        return {name: value for name, value in found.items() if value}

    def note(self, store: EpisodeStore) -> None:
        """Keep what was found until now, where the store does not say so yet."""
        said, found = store.provenance, self._found()
        if any(said.get(name) != value for name, value in found.items()):
            store.set_provenance(**found)

    def noted(self, said: Mapping[str, Any]) -> None:
        """Take over what a process found that read later episodes, from its shard's provenance."""
        self.left_out += [x for x in said.get("left_out", ()) if x not in self.left_out]
        for line in said.get("warnings", ()):
            self.recording.warn(line)
        for task in said.get("tasks", ()):
            self._id_of(task)

    def identity(self) -> str:
        """Of what decides the outcome: source, episodes, mapping, options."""
        facts = [
            str(self.recording.path.resolve()),
            len(self.recording),
            self.mapping.to_json(),
            self.environment,
            self.tasks,
            self.skip_damaged,
        ]
        return hashlib.sha256(json.dumps(facts).encode()).hexdigest()[:16]

    # ---- episodes --------------------------------------------------------------------------------
    def next_of(self, store: EpisodeStore) -> int:
        """Number of the episode of the recording behind those that a store has, or left out."""
        return int(store.columns()["seed"][-1]) + 1 if len(store) else 0

    def append(
        self, store: EpisodeStore, report: Callable[[int, int], None], first: int, total: int
    ) -> None:
        """Append episodes `first` to `total`, behind those that are there already."""
        declared = set(store.interfaces())
        if first:
            self._see_first(first)
        if len(store):
            first = max(first, self.next_of(store))
            self.remember(store)
        part: list[Episode] = []
        size = 0
        report(first, total)
        with ThreadPoolExecutor(1) as writer:
            writing: Future[None] | None = None
            for i in range(first, total):
                episode = self._read(i)
                if episode is None:
                    continue
                part.append(episode)
                size += episode.nbytes
                if len(part) == PART or size >= (PICTURES if _pictures(episode) else BATCH_BYTES):
                    if writing is not None:
                        writing.result()
                    writing = writer.submit(self._write, store, part, declared)
                    part, size = [], 0
                    report(i + 1, total)
            if writing is not None:
                writing.result()
        self._write(store, part, declared)
        report(total, total)

    def _see_first(self, stop: int) -> None:
        """What the first episode that is imported tells of all."""
        for i in range(stop):
            if self._read(i) is not None:
                break
        self.ids.clear()

    def remember(self, store: EpisodeStore) -> None:
        """Go on as the interrupted process would have: with what it had found until then."""
        said = store.provenance
        self._see_first(self.next_of(store))
        self.ids |= said.get("tasks", {})
        self.left_out += [x for x in said.get("left_out", []) if x not in self.left_out]
        fresh = self.recording.warnings
        before = said.get("warnings", [])
        self.recording.warnings = [*before, *(w for w in fresh if w not in before)]

    def _write(self, store: EpisodeStore, part: list[Episode], declared: set[str]) -> None:
        fresh: dict[str, Interface] = {}
        for e in part:
            if e.environment not in declared and e.environment not in fresh:
                fresh[e.environment] = guarded(self.recording.path, self.converter.interface, e)
        if fresh:
            try:
                store.declare(list(fresh.values()))
            except ValueError as error:
                raise Refusal(f"{self.recording.path}: {error}") from error
            declared |= set(fresh)
        self.note(store)
        store.append(part)

    def _read(self, i: int) -> Episode | None:
        where = self.recording.where(i)
        try:
            e = guarded(where, lambda: self.converter.episode(i, self.environment))
        except Refusal as refusal:
            if not self.skip_damaged:
                raise
            if str(refusal) not in self.left_out:
                self.left_out.append(str(refusal))
            return None
        return self._of_task(e) if self.tasks == "environments" else e

    def _of_task(self, episode: Episode) -> Episode:
        """The episode in the environment of its task, without the instruction."""
        assert self.told is not None
        name = self._id_of(str(episode.observations[self.told]))
        rest: dict[str, Any] = {k: v for k, v in episode.observations.items() if k != self.told}
        if not rest:
            raise Refusal(f"{self.recording.path}: no field beside the instruction; map one")
        return replace(episode, environment=name, observations=rest)

    def _id_of(self, task: str) -> str:
        """The environment of a task, in the order in which these are met."""
        if task not in self.ids:
            words = re.sub(r"[^a-z0-9]+", "-", task.lower()).strip("-")[:60].strip("-") or "task"
            name, known = f"{self.environment}-{words}", set(self.ids.values())
            count = 2
            while name in known:
                name, count = f"{self.environment}-{words}-{count}", count + 1
            self.ids[task] = name
        return self.ids[task]


def _pictures(episode: Episode) -> bool:
    return any(not isinstance(v, str) and v.ndim == 4 for v in episode.observations.values())
