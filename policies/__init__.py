"""Diffusion policies: processes, samplers, backbones, training, distillation, controllers."""
