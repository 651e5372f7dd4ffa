"""Graphs, mixing matrices and time-varying networks: pure mathematics, without Flower."""
