"""Strategies: one small class per method, on a common base.

To add one, write a file in this folder, a line in ``registries.STRATEGIES``, and a row in
tests/strategies/conformance.py.
"""

from flwr.serverapp.strategy import Strategy

from flwr_decaf import registries
from flwr_decaf.registries import Registry
from flwr_decaf.strategies.centralized import Centralized
from flwr_decaf.strategies.dec_lora import DecLoRA
from flwr_decaf.strategies.decaf import DeCAF
from flwr_decaf.strategies.decentralized import DecentralizedStrategy
from flwr_decaf.strategies.dimat import DIMAT
from flwr_decaf.strategies.dlora import DLoRA
from flwr_decaf.strategies.dlora_fa import DLoRAFA
from flwr_decaf.strategies.fedavg import FedAvg
from flwr_decaf.strategies.gradient_tracking import GradientTracking
from flwr_decaf.strategies.local_only import LocalOnly
from flwr_decaf.strategies.relay_sum import RelaySum
from flwr_decaf.strategies.tad_lora import TADLoRA

STRATEGIES: Registry[type[Strategy]] = Registry(registries.STRATEGIES)

__all__ = [
    "DIMAT",
    "STRATEGIES",
    "Centralized",
    "DLoRA",
    "DLoRAFA",
    "DeCAF",
    "DecLoRA",
    "DecentralizedStrategy",
    "FedAvg",
    "GradientTracking",
    "LocalOnly",
    "RelaySum",
    "TADLoRA",
]
