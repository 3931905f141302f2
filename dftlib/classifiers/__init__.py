"""Classifiers that nobody may change: torch networks with gradients, and those that only answer."""
