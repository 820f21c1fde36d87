"""Suites of environments: Meta-World, PushT, image restoration, any Gymnasium id."""
