"""Settings: sections, parsing, checks and comparisons."""

from flwr_decaf.config.lora import Lora
from flwr_decaf.config.membership import Membership
from flwr_decaf.config.options import (
    Attack,
    Evaluation,
    Failures,
    Participation,
    Robust,
    part,
)
from flwr_decaf.config.parsing import flatten, parse_config
from flwr_decaf.config.posts import Posts
from flwr_decaf.config.rounds import Rounds
from flwr_decaf.config.sections import Config, Dimat, Tad, Topology
from flwr_decaf.config.setting import Value
from flwr_decaf.config.task import Data, Model
from flwr_decaf.config.training import Train

__all__ = [
    "Attack",
    "Config",
    "Data",
    "Dimat",
    "Evaluation",
    "Failures",
    "Lora",
    "Membership",
    "Model",
    "Participation",
    "Posts",
    "Robust",
    "Rounds",
    "Tad",
    "Topology",
    "Train",
    "Value",
    "flatten",
    "parse_config",
    "part",
]
