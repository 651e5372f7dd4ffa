"""Tasks: what a model, its batches and its scores are, one file a task."""
