"""The command line, which starts Flower's engines."""
