"""What runs inside Flower: the ServerApp, the ClientApp, and one run."""
