"""Perturbations: one for all images, by gradients or from scores alone, and one for each image."""
