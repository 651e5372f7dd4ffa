"""Decentralized SGD by a bare loop, by this package and by other frameworks."""
