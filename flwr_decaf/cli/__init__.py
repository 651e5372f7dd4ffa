"""The command line, and Flower's engines that it starts."""
