"""A run, stage by stage: order, keys, paths, and what each stage does."""
