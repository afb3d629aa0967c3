"""Tenshot: ten shots in, a fast Stable Diffusion model out."""

__version__ = "0.1.0"
