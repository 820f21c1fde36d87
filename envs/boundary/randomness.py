"""The global random generators, which some environments draw from, as one episode has them."""

from __future__ import annotations

import random
import sys
from typing import Any

import numpy as np
from numpy.random import mtrand

from alltrades.system.streams import GLOBAL_STATE, stream_seed


class Outside:
    """The global random state of whoever steps environments: behind `with` it is as before it.

    Held by one thread at a time; nested, the outermost counts. Costs some 30 us.
    """

    def __init__(self) -> None:
        self._depth = 0
        self._kept: tuple[Any, ...] = ()

    def __enter__(self) -> None:
        GLOBAL_STATE.acquire()
        if self._depth == 0:
            generator = _torch_generator()
            state = None if generator is None else generator.get_state()
            self._kept = mtrand.get_bit_generator(), random.getstate(), generator, state
        self._depth += 1

    def __exit__(self, *_: object) -> None:
        self._depth -= 1
        if self._depth == 0:
            bits, python, generator, state = self._kept
            mtrand.set_bit_generator(bits)
            random.setstate(python)
            if generator is not None:
                generator.set_state(state)
        GLOBAL_STATE.release()


OUTSIDE = Outside()


class EpisodeRandomness:
    """Python's, NumPy's and, in a process that has loaded it, torch's global random state.

    Inside `with` they are those of the episode of `seed`, and go on where its last `with` ended;
    behind it they are as before. Nested, the outermost counts: enter it around many steps, and
    `OUTSIDE` around many of these, since copying Python's state costs as much as a step of fast
    physics. So whether something was drawn is told by one number drawn more, which an episode sees
    as one number left out where it draws for the first time.
    """

    def __init__(self, seed: int) -> None:
        self._seed, self._depth, self._begun, self._draws = seed, 0, False, False
        self._bits = np.random.MT19937(stream_seed(seed, "np.random"))
        self._python: Any = None
        self._next = 0.0  # what Python's generator gives in this state
        self._torch: Any = None

    @property
    def entered(self) -> bool:
        """Whether the global state is this episode's now."""
        return self._depth > 0

    def __enter__(self) -> None:
        if self._depth == 0:
            OUTSIDE.__enter__()
            mtrand.set_bit_generator(self._bits)
            generator = _torch_generator()
            if self._torch is not None:
                generator.set_state(self._torch)
            elif generator is not None:
                generator.manual_seed(stream_seed(self._seed, "torch"))
            if not self._begun:
                random.seed(stream_seed(self._seed, "random"))
                self._python, self._begun = random.getstate(), True
                self._next = random.random()
            random.setstate(self._python)
        self._depth += 1

    def __exit__(self, *_: object) -> None:
        self._depth -= 1
        if self._depth == 0:
            self._draws = self._draws or random.random() != self._next
            if self._draws:
                self._python = random.getstate()
            generator = _torch_generator()
            if generator is not None:
                self._torch = generator.get_state()
            OUTSIDE.__exit__()


def _torch_generator() -> Any:
    return getattr(sys.modules.get("torch"), "default_generator", None)
