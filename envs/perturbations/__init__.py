"""What a policy may meet that its training did not show: the same episodes, seen otherwise."""

from alltrades.envs.perturbations.pictures import PICTURES, Disturbed
from alltrades.envs.perturbations.wanted import NAMES, check_names, perturbed

__all__ = ["NAMES", "PICTURES", "Disturbed", "check_names", "perturbed"]
