"""flwr-decaf: peer-to-peer LoRA fine-tuning on Flower.

The strategies are in ``flwr_decaf.strategies``, the client mod in ``flwr_decaf.clients``. Importing
this package imports neither torch nor transformers.
"""

from importlib.metadata import version

__version__ = version("flwr-decaf")
