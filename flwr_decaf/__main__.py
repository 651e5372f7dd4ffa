"""``python -m flwr_decaf`` is the command ``flwr-decaf``."""

from flwr_decaf.cli.commands import app

app(prog_name="flwr-decaf")
