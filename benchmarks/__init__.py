"""Speed benchmarks, each of which reports the ratio to an alternative measured in the same run."""
