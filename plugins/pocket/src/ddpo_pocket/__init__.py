"""Pocket: a text-to-image diffusion model of a few million parameters, in Stable Diffusion's own classes."""
