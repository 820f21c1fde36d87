"""Stores of demonstrations and rollouts, windows over them, and importance weights."""
