"""Data sets: loading, partitioning over the nodes, and encoding."""
