"""The user's own process: the command line, and Flower's engines that it starts."""
