"""Apps that tests run in separate processes."""
