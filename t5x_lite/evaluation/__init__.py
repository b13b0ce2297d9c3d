"""Scoring and predicting datasets, and opening a run's checkpoints to do so."""
