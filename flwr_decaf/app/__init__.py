"""What runs inside Flower: the ServerApp, the ClientApp, and one run."""

ASKED = "FLWR_DECAF_ASKED"  # variable: when the engine was asked for, in seconds since the epoch
