"""A clock and an executor that a test moves by hand."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Executor, Future
from typing import Any


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


class Immediate(Executor):
    """Every call is done when it was submitted."""

    def submit(self, function: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future:
        future: Future = Future()
        try:
            future.set_result(function(*args, **kwargs))
        except Exception as error:
            future.set_exception(error)
        return future


class Later(Executor):
    """Calls are done when `deliver` says so, or when somebody has to wait for one; waiting takes
    `wait` seconds.
    """

    def __init__(self, clock: Clock, wait: float = 0.0) -> None:
        self.clock, self.wait = clock, wait
        self.pending: list[tuple[Future, Any]] = []

    def submit(self, function: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future:
        outer, inner = _Waited(self), Immediate().submit(function, *args, **kwargs)
        self.pending.append((outer, inner))
        return outer

    def deliver(self, count: int | None = None) -> None:
        """Let the oldest calls (all of them) be done."""
        now, self.pending = self.pending[:count], [] if count is None else self.pending[count:]
        for outer, inner in now:
            if inner.exception() is not None:
                outer.set_exception(inner.exception())
            else:
                outer.set_result(inner.result())


class Working(Executor):
    """Calls take `seconds` of a clock, which go by while somebody waits for them."""

    def __init__(self, clock: Any, seconds: float) -> None:
        self.clock, self.seconds = clock, seconds

    def submit(self, function: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future:
        return _Worked(
            self.clock, self.clock.now + self.seconds, Immediate().submit(function, *args, **kwargs)
        )


class _Worked(Future):
    def __init__(self, clock: Any, due: float, inner: Future) -> None:
        super().__init__()
        self.clock, self.due, self.inner = clock, due, inner

    def exception(self, timeout: float | None = None) -> BaseException | None:
        assert timeout is not None
        if not self.done() and self.clock.now + timeout < self.due - 1e-9:
            self.clock.now += timeout
            raise TimeoutError
        if not self.done():
            self.clock.now = max(self.clock.now, self.due)
            error = self.inner.exception()
            self.set_result(self.inner.result()) if error is None else self.set_exception(error)
        return super().exception(0)


class _Waited(Future):
    def __init__(self, executor: Later) -> None:
        super().__init__()
        self.executor = executor

    def result(self, timeout: float | None = None) -> Any:
        if not self.done():
            self.executor.clock.now += self.executor.wait
            self.executor.deliver()
        return super().result(0)
