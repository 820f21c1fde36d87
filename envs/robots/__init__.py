"""Robots: what `alltrades deploy` observes and moves, real or simulated. Nothing here needs
torch.
"""

from alltrades.data.actions import ActionSpec
from alltrades.envs.robots.robot import Outcome, Reading, Robot

__all__ = ["ActionSpec", "Outcome", "Reading", "Robot"]
