"""Signals that stop a robot; sent by the test to itself."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator

import pytest

from alltrades.robots.signals import NAMES, StopSignals


@pytest.fixture(autouse=True)
def _terminal() -> Iterator[None]:
    """As in a terminal, also where the tests themselves run under nohup."""
    before = signal.signal(signal.SIGHUP, signal.SIG_DFL)
    yield
    signal.signal(signal.SIGHUP, before)


def send(number: int) -> None:
    os.kill(os.getpid(), number)


@pytest.mark.parametrize("name", NAMES)
def test_the_first_asks_the_second_interrupts_and_no_other_does(name: str) -> None:
    number = getattr(signal, name)
    before = signal.getsignal(number)
    with StopSignals() as signals:
        assert not signals.asked
        send(number)
        assert signals.asked and not signals.ignored
        with pytest.raises(KeyboardInterrupt):
            send(number)
        assert not signals.ignored
        send(number)
        send(signal.SIGTERM)
        assert signals.ignored
    assert signal.getsignal(number) is before


def test_while_the_robot_is_being_stopped_a_second_one_is_ignored_and_noted() -> None:
    with StopSignals() as signals:
        signals.halting = lambda: True
        send(signal.SIGINT)
        assert signals.asked and not signals.ignored
        send(signal.SIGINT)
        assert signals.ignored
        signals.halting = lambda: False
        with pytest.raises(KeyboardInterrupt):
            send(signal.SIGINT)
        signals.ignore()
        send(signal.SIGINT)


def test_nohup_stays_in_force() -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with StopSignals() as signals:
            send(signal.SIGHUP)
            assert not signals.asked
            send(signal.SIGTERM)
            assert signals.asked
    finally:
        signal.signal(signal.SIGHUP, before)
