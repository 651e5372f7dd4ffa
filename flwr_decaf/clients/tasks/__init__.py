"""Tasks: a model, its batches and its scores, one file per task."""
