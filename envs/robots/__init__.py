"""Robots: what `alltrades deploy` observes and moves, real or simulated. Nothing here needs
torch.
"""

from alltrades.envs.robots.robot import Outcome, Reading, Robot, RobotLimits

__all__ = ["Outcome", "Reading", "Robot", "RobotLimits"]
