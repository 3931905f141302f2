"""Backbones, the heads on them, networks for attributes, and how they are trained."""
