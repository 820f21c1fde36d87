"""Bags as files: which there are, and their messages, unpacked by rosbags and mcap."""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any

from alltrades.data.formats.hdf5 import natural
from alltrades.data.formats.recording import Refusal, guarded

SUFFIXES = (".mcap", ".bag", ".db3")
METADATA = "metadata.yaml"


def bag_files(path: Path) -> list[Path]:
    """Bags at a path: itself (a file, or a folder with metadata.yaml), or those in a folder."""
    if not path.is_dir():
        return [path] if path.suffix in SUFFIXES else []
    if (path / METADATA).is_file():
        return [path]
    inside = sorted(path.iterdir(), key=lambda p: natural(p.name))
    found = [p for p in inside if p.suffix in SUFFIXES or (p / METADATA).is_file()]
    return found


class Bag:
    """One bag, open.

    Attributes:
        topics: whose messages are read. unread: topic -> the type of those that are not.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.topics: list[str] = []
        self.unread: dict[str, str] = {}
        self._reader: Any = None
        self._json: dict[str, str] = {}
        if path.suffix == ".mcap":
            self._json = self._channels()
        if not self._json:
            self._ros()

    def _channels(self) -> dict[str, str]:
        """Topics of an MCAP whose messages are JSON; empty where they are of ROS."""
        from mcap.reader import make_reader

        def read() -> dict[str, str]:
            with self.path.open("rb") as file:
                summary = make_reader(file).get_summary()
                if summary is None:
                    raise Refusal(
                        f"{self.path}: no summary at its end: it was cut short; expected "
                        "a whole file; run `mcap recover` on it"
                    )
                return {c.topic: c.message_encoding for c in summary.channels.values()}

        encodings = guarded(self.path, read)
        found = {topic: kind for topic, kind in encodings.items() if kind == "json"}
        if not found and not any(kind in ("cdr", "ros1") for kind in encodings.values()):
            kinds = ", ".join(sorted(set(encodings.values()))) or "no kind"
            raise Refusal(
                f"{self.path}: messages of {kinds}; expected ROS messages or JSON; convert it"
            )
        if found:
            self.topics = sorted(found)
            self.unread = {t: kind for t, kind in encodings.items() if kind != "json"}
        return found

    def _ros(self) -> None:
        from rosbags.highlevel import AnyReader
        from rosbags.typesys import Stores, get_typestore

        if self.path.is_dir():
            text = guarded(self.path, lambda: (self.path / METADATA).read_text("utf-8"))
            for name in re.findall(r"^\s*(?:- |path:\s*)(.+)$", text, re.M):
                if ".." in name.split("/") or name.strip("'\" ").startswith("/"):
                    raise Refusal(
                        f"{self.path}/{METADATA}: a file called '{name[:60]}'; expected "
                        "files of the bag's own folder; do not use it"
                    )
        store = Stores.ROS1_NOETIC if self.path.suffix == ".bag" else Stores.ROS2_HUMBLE

        def start() -> Any:
            reader = AnyReader([self.path], default_typestore=get_typestore(store))
            reader.open()
            return reader

        self._reader = guarded(self.path, start)
        self.topics = sorted({c.topic for c in self._reader.connections})

    def messages(self, topics: Collection[str] | None) -> Iterator[tuple[str, int, Any]]:
        """(topic, time in ns, message) in the order of their times; of all topics with None."""
        if self._json:
            yield from self._of_json(topics)
            return
        reader = self._reader
        chosen = [c for c in reader.connections if topics is None or c.topic in topics]
        if not chosen:
            return
        for connection, time, data in reader.messages(connections=chosen):
            message = guarded(
                f"{self.path}: {connection.topic}", reader.deserialize, data, connection.msgtype
            )
            yield connection.topic, time, message

    def _of_json(self, topics: Collection[str] | None) -> Iterator[tuple[str, int, Any]]:
        from mcap.reader import make_reader

        chosen = [t for t in self.topics if topics is None or t in topics]
        with self.path.open("rb") as file:
            for _, channel, message in make_reader(file, validate_crcs=True).iter_messages(chosen):
                where = f"{self.path}: {channel.topic}"
                value = guarded(where, json.loads, message.data)
                if not isinstance(value, dict):
                    raise Refusal(f"{where}: a message that is no object; expected one")
                yield channel.topic, message.log_time, value

    def close(self) -> None:
        """Close the file."""
        if self._reader is not None:
            self._reader.close()
        self._reader = None
