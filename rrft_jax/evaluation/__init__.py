"""Measures a model on held-out splits."""
