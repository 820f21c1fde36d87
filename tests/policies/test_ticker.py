"""The ticker against schedules worked out by hand."""

from __future__ import annotations

import pytest

from alltrades.robots.ticker import Ticker


class Clock:
    """Time that passes when somebody sleeps, a little longer than asked, or works."""

    def __init__(self, overshoot: float = 0.0) -> None:
        self.now, self.overshoot = 100.0, overshoot

    def __call__(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds + self.overshoot


def begins(work: list[float], overshoot: float = 0.0) -> tuple[list[float], Ticker]:
    """When each tick of 0.1 s begins, for the work in each, from 0 on."""
    clock = Clock(overshoot)
    ticker = Ticker(10.0, clock, clock.sleep)
    ticker.start()
    out = []
    for seconds in work:
        clock.now += seconds
        ticker.wait()
        out.append(clock.now - 100.0)
    return out, ticker


def test_sleeping_too_long_does_not_add_up() -> None:
    times, ticker = begins([0.03] * 200, overshoot=0.004)
    assert times[-1] == pytest.approx(200 * 0.1 + 0.004) and ticker.missed == 0
    assert ticker.rate == pytest.approx(10.0, rel=1e-3)


def test_work_that_takes_the_whole_period_misses_nothing() -> None:
    times, ticker = begins([0.1] * 20)
    assert times == pytest.approx([0.1 * k for k in range(1, 21)]) and ticker.missed == 0


def test_a_late_tick_begins_at_once_and_those_after_it_are_on_the_old_grid() -> None:
    times, ticker = begins([0.02, 0.13, 0.02, 0.02])
    assert times == pytest.approx([0.1, 0.23, 0.3, 0.4]) and ticker.missed == 1


def test_ticks_that_went_by_are_left_out_and_counted() -> None:
    times, ticker = begins([0.35, 0.01, 0.01])
    assert times == pytest.approx([0.35, 0.4, 0.5]) and ticker.missed == 3


def test_the_time_until_the_next_tick_is_that_of_the_grid_and_never_nothing() -> None:
    clock = Clock()
    ticker = Ticker(10.0, clock, clock.sleep)
    ticker.start()
    for worked, left in ((0.0, 0.1), (0.03, 0.07), (0.07, 0.1), (0.25, 0.05)):
        clock.now += worked
        assert ticker.left() == pytest.approx(left)


def test_without_a_rate_nothing_waits_and_nothing_is_missed() -> None:
    clock = Clock()
    ticker = Ticker(None, clock, clock.sleep)
    ticker.start()
    for _ in range(5):
        clock.now += 0.5
        ticker.wait()
    assert clock.now == 102.5 and ticker.missed == 0 and ticker.rate == pytest.approx(2.0)
