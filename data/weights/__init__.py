"""Importance weights: density-ratio estimators, and the weights of rollouts against
demonstrations.
"""
