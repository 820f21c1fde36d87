"""alltrades: one diffusion policy for many environments, from a handful of demonstrations each."""

__version__ = "0.1.0"
