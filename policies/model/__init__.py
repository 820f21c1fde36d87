"""The policy: normaliser, conditioning, network, diffusion process, sampler."""
