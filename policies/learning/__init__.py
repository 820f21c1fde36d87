"""Training: batches, objectives, stage 1, stage 2, diagnosis."""
