"""Rollouts: the one loop that steps environments, its workers, seeds, and what is measured on
episodes.
"""
