"""The code that runs inside Flower: the ServerApp, the ClientApp, and a single run."""

# Environment variable with the time at which flwr-decaf started the engine, in seconds since epoch.
STARTED_AT = "FLWR_DECAF_STARTED_AT"
