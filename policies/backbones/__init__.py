"""Denoising networks that share one call: backbone(noisy_chunk, t, condition)."""
