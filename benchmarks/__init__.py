"""Speed benchmarks; each reports the ratio to an alternative measured in the same run."""
