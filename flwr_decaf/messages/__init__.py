"""What travels between the relay and the nodes, and its copy on disk."""
