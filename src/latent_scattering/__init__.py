"""Generative models made by inverting a scattering transform."""

__version__ = "0.1.0"
