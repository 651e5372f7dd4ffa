"""Messages between the relay and the nodes, and their copy on disk."""
