"""Images and an image encoder for the examples and tests; not part of the package."""
