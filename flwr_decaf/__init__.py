"""flwr-decaf: peer-to-peer LoRA fine-tuning on Flower.

Strategies are in ``flwr_decaf.strategies``, the client's mod in ``flwr_decaf.clients``. Importing
this package loads neither torch nor transformers.
"""

from importlib.metadata import version

__version__ = version("flwr-decaf")
