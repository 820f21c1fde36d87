"""Environments: specifications, registry, adapters, rollouts and evaluation."""
