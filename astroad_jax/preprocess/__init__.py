"""Scaling with fitted parameters that are saved beside the model."""
