"""What environments can be told in words: sentences, declared with them and drawn by the seed."""

from alltrades.envs.instructions.sentences import (
    INSTRUCTION,
    Goal,
    Instructions,
    Phrasing,
)
from alltrades.envs.instructions.wanted import phrased, with_instructions

__all__ = ["INSTRUCTION", "Goal", "Instructions", "Phrasing", "phrased", "with_instructions"]
