"""Diffusion: noise, noise schedule, samplers, guidance, context windows and the denoising loop."""
