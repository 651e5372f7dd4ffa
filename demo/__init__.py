"""Real pictures and a real image encoder for the examples and tests; not a part of the package."""
