"""One try at an episode: from the start key to the person's verdict."""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from alltrades.data.editing.changes import judged
from alltrades.data.episode import Episode
from alltrades.data.fields import Observation
from alltrades.envs.adapter import EnvironmentFailure
from alltrades.envs.robots.robot import Reading
from alltrades.errors import UserError
from alltrades.robots.signals import StopSignals
from alltrades.robots.teleop.desk import WAIT, Desk
from alltrades.robots.teleop.picture import in_words, tiled
from alltrades.robots.teleop.station import Station

HELP = {
    "ready": "Space start   K another start   Esc quit",
    "running": "Enter keep   Backspace again   Y success   N failure   P pause   Esc quit",
    "review": "Enter keep   Backspace again   Y success   N failure   K another start   Esc quit",
}
UNTOLD = "as recorded"  # success that the person has not judged


@dataclass
class Attempt:
    """Runs one episode at one start.

    Attributes:
        verdict: "accept", "discard", "skip" or "quit", once there is one.
        success: what the person says of it; UNTOLD leaves what the environment said.
    """

    station: Station
    desk: Desk
    signals: StopSignals
    title: str
    verdict: str | None = None
    success: bool | str = UNTOLD
    _phase: str = "ready"
    _paused: bool = False
    _undrawn: str | None = None  # why there is no picture
    _recorded: Episode | None = None

    def run(self, seed: int) -> Episode | None:
        """The episode if it is to be kept. Nothing of one that was interrupted is.

        Raises UserError where the robot or the leader fell silent, and what they raise.
        """
        station = self.station
        try:
            if station.robot.waits:
                station.robot.reset(seed)
            self._wait({"start", "skip", "quit"})
            if self.verdict != "start":
                return None
            self.verdict, self._phase = None, "running"
            ended = station.loop.run(seed, station.steps, self._tick)
        except EnvironmentFailure as failure:
            self.desk.say(f"{self.title}: {failure}; the episode is left out")
            self.verdict = "skip"
            return None
        self._check(ended)
        self._recorded = episode = station.loop.recorded(station.source)
        if self._goes_on:
            self._phase = "review"
            self._wait({"accept", "discard", "skip", "quit"})
        if self.verdict in (None, "quit") and episode is not None:
            self.desk.say(f"{self.title} was not kept: it had not been accepted")
        if self.verdict != "accept":
            return None
        if episode is None:
            self.desk.say(f"{self.title}: nothing was done; not kept")
            return None
        return self._labelled(episode)

    def _labelled(self, episode: Episode) -> Episode:
        said = self.success
        if isinstance(said, str) or said is episode.success:
            return episode
        return replace(episode, **judged(episode, said))

    def _check(self, ended: str) -> None:
        if ended == "timeout":
            raise UserError(
                f"the robot gave no new observation for {self.station.loop.timeout:g} s and was "
                "stopped; expected one at every control step; check its sensors, or raise --timeout"
            )
        if ended == "starved":
            raise UserError(
                f"the leader, or the policy, gave no action for {self.station.loop.timeout:g} s "
                "and the robot was stopped; expected one in time; mend it, or raise --timeout"
            )

    # ---- what the person says --------------------------------------------------------------------
    def _tick(self) -> bool:
        """Asked by the loop at every control step: whether to stop."""
        self._listen({"accept", "discard", "skip", "quit"})
        waited = False
        while self._paused and self.station.robot.waits and self._goes_on:
            waited = True
            self._draw()
            time.sleep(WAIT)
            self._listen({"accept", "discard", "skip", "quit"})
        if waited:
            self.station.loop.ticker.start()
        self._draw()
        return not self._goes_on

    @property
    def _goes_on(self) -> bool:
        return self.verdict is None and not self.signals.asked

    def _wait(self, verdicts: set[str]) -> None:
        """Until the person says one of these."""
        while self._goes_on:
            self._listen(verdicts)
            self._draw()
            time.sleep(WAIT)

    def _listen(self, verdicts: set[str]) -> None:
        controller = self.station.controller
        for word in self.desk.heard(self.station.leader):
            if word in verdicts and self.verdict is None:
                self.verdict = word
            elif word in ("success", "failure") and self._phase != "ready":
                self.success = word == "success"
            elif word == "takeover":
                controller.taken = not controller.taken
            elif self._phase == "running" and (
                word == "pause" or (word == "start" and self._paused)
            ):
                self._paused = not self._paused
                controller.paused = self._paused and not self.station.robot.waits

    # ---- what the person sees --------------------------------------------------------------------
    def _draw(self) -> None:
        self.desk.show(self._picture, self._lines)

    def _picture(self) -> np.ndarray | None:
        found = None
        if self._undrawn is None:
            try:
                found = self.station.robot.picture()
            except UserError as error:
                self._undrawn = str(error)
        return tiled(self._seen()) if found is None else found

    def _seen(self) -> Observation | None:
        """What the robot observed last; of one that waits at its start, that."""
        if self._phase != "ready":
            return self.station.loop.seen
        found = self.station.robot.observe() if self.station.robot.waits else None
        return found.observation if isinstance(found, Reading) else found

    def _lines(self) -> list[str]:
        loop, controller = self.station.loop, self.station.controller
        state: list[Any] = [self.title, f"step {loop.steps}", self._phase]
        if self._paused:
            state.append("PAUSED")
        if controller.intervened is not None and self._phase == "running":
            state.append("YOU ACT" if controller.intervened else "the policy acts")
        if not isinstance(self.success, str):
            state.append("labelled " + ("success" if self.success else "failure"))
        elif self._phase == "review":
            said = None if self._recorded is None else self._recorded.success
            state.append({None: "success unknown", True: "success", False: "no success"}[said])
        keys = HELP[self._phase]
        if self._phase == "running" and controller.intervened is not None:
            keys += "   T take over or hand back"
        return [
            "   ".join(map(str, state)),
            keys,
            self.station.leader.status(),
            *([] if self._undrawn is None else [self._undrawn]),
            *in_words(self._seen())[:4],
        ]
