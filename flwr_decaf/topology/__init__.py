"""Graphs, mixing matrices and networks: mathematics without Flower."""
