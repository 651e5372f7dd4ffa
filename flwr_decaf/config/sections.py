"""All settings of a run, as frozen dataclasses.

A field ``local_steps`` of ``train`` is the key ``train.local-steps`` of
``[tool.flwr.app.config]``. Each value is checked when it is parsed, and the rest of the package
relies on that.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from pathlib import Path

from flwr_decaf.checks import Check, above, at_least, each_of, one_of, whole_numbers
from flwr_decaf.config.lora import Lora
from flwr_decaf.config.membership import Membership
from flwr_decaf.config.options import Attack, Evaluation, Failures, Participation, Robust
from flwr_decaf.config.posts import Posts
from flwr_decaf.config.rounds import Rounds
from flwr_decaf.config.setting import setting
from flwr_decaf.config.task import Data, Model
from flwr_decaf.config.training import Train
from flwr_decaf.registries import POST_DTYPES, STRATEGIES, TRACKERS
from flwr_decaf.topology.graphs import TOPOLOGIES
from flwr_decaf.topology.time_varying import DYNAMIC
from flwr_decaf.topology.weights import WEIGHTS


@dataclass(frozen=True)
class Graph:
    """The communication graph and its mixing weights."""

    name: str = setting("ring", "Family of the communication graph.", one_of(TOPOLOGIES))
    file: str = setting(
        "",
        "JSON file with a graph, a mixing matrix, or a list of either for successive rounds; "
        "replaces topology.name.",
    )
    weights: str = setting(
        "auto",
        "Rule for the mixing weights of edges; auto uses the strategy's own.",
        one_of(["auto", *WEIGHTS]),
    )
    dynamic: str = setting(
        "static", "How the graph of each round is drawn from the base graph.", one_of(DYNAMIC)
    )
    edge_probability: float = setting(
        0.5,
        "Probability of an edge (erdos-renyi) or of rewiring one (small-world).",
        Check("be in [0, 1]", lambda p: bool(0 <= p <= 1), "0.5 draws half of the possible edges"),
    )
    activation_probability: float = setting(
        0.5,
        "Probability that an edge of the base graph is active in a round (edge-activation).",
        Check("be in [0, 1]", lambda p: bool(0 <= p <= 1), "0.5 activates half of the edges"),
    )
    peers: int = setting(
        1,
        "Maximum number of neighbours of each node in a round (base).",
        at_least(1, "a node needs at least one peer"),
    )
    degree: int = setting(
        4,
        "Number of neighbours of each node (random-regular, small-world).",
        at_least(1, "every node needs a neighbour; 4 is common"),
    )
    seed: int = setting(
        0, "Seed of the random graphs.", at_least(0, "any number from 0 up draws a graph")
    )


@dataclass(frozen=True)
class Topology(Membership, Graph):
    """The graph, and whether nodes join and leave."""


@dataclass(frozen=True)
class Tad:
    """Settings of TAD-LoRA."""

    phase_length: str = setting(
        "auto",
        "Number of rounds in which TAD-LoRA trains one factor before it switches to the other; "
        "auto derives it from the network.",
        Check(
            'be a number of rounds from 1 up, or "auto"',
            lambda value: value == "auto" or (value.isdecimal() and int(value) > 0),
            '"auto" derives it from the network',
        ),
    )
    mixes: str = setting(
        "both",
        "Factors that TAD-LoRA mixes: both, or only the active one (RoLoRA).",
        one_of(["both", "active"]),
    )


@dataclass(frozen=True)
class FedAvg:
    """Settings of FedAvg."""

    dtype: str = setting(
        "fp32",
        "How FedAvg's uploads and downloads are rounded; the values are those of posts.dtype.",
        one_of(POST_DTYPES),
    )


@dataclass(frozen=True)
class Dimat:
    """Settings of DIMAT.

    Without matching, models are averaged directly. Batch-norm statistics are recomputed in either
    case: after the merge, or also before units are compared.
    """

    matching: str = setting(
        "activations",
        "Whether DIMAT matches hidden units before averaging.",
        one_of(["activations", "none"]),
    )
    reset_batch_norm: str = setting(
        "after", "When batch-norm statistics are recomputed.", one_of(["after", "before-and-after"])
    )
    max_samples: int = setting(
        0,
        "Number of a node's rows that are used to compare units; 0 uses all.",
        at_least(0, "0 uses all rows of a node"),
    )


@dataclass(frozen=True)
class Run:
    """Settings of a run as a whole."""

    strategy: str = setting(
        "decaf",
        "Method, or several methods, separated by commas, to run one after another.",
        each_of(STRATEGIES),
        many=True,
    )
    num_server_rounds: int = setting(
        8, "Number of rounds.", at_least(1, "a run needs at least one round")
    )
    evaluate_average: bool = setting(False, "Also evaluate the average of the nodes' models.")
    seed: int = setting(
        0,
        "Seed of the data, the initialization and the training.",
        at_least(0, "any number from 0 up"),
    )
    seeds: str = setting(
        "",
        "Seeds of several runs, separated by commas; replaces seed.",
        whole_numbers("0, 1, 2"),
        many=True,
    )
    sweep: str = setting(
        "",
        "Settings with several values, each of which defines a run, as KEY = VALUE, VALUE; "
        "KEY = VALUE, VALUE.",
    )
    output_dir: str = setting("runs", "Folder in which run folders are created.")
    run_name: str = setting(
        "",
        "Name of the run folder; if empty, it is derived from the time and the settings file.",
        Check(
            "be a plain name, or empty",
            lambda name: not name or (Path(name).name == name and name != ".."),
            "omit slashes and dots",
        ),
    )
    resume_from: str = setting("", "Run folder of a run to resume from its last checkpoint.")
    checkpoint_every: int = setting(
        1,
        "Number of rounds between two checkpoints; 0 writes none.",
        at_least(0, "0 writes no checkpoints, so that the run cannot be resumed"),
    )
    round_timeout: float = setting(
        3600.0,
        "Seconds to wait for the nodes in a round.",
        above(0, "allow for the time that the slowest node needs"),
    )
    mixing_steps: str = setting(
        "1",
        "Number of times that posts are exchanged and mixed in a round; period is one period of "
        "the graphs.",
        Check(
            'be a number from 1 up, or "period"',
            lambda value: value == "period" or (value.isdecimal() and int(value) > 0),
            '"period" reaches exact consensus with topology.dynamic = "base"',
        ),
    )
    weighted_mixing: bool = setting(
        False,
        "Weight nodes by their numbers of examples in every mix, as in FedAvg.",
    )
    local_head: bool = setting(
        False,
        "Keep parameters other than the LoRA factors, such as a head, local to each node instead "
        "of mixing them (ConLoRA); they are still posted, for nodes that lose their state.",
    )
    trackers: str = setting(
        "",
        "Experiment trackers to which metrics are written as well, separated by commas.",
        each_of(TRACKERS, empty=True),
        many=True,
    )


@dataclass(frozen=True)
class Config(Participation, Failures, Evaluation, Run):
    """All settings; those of the base classes have no section.

    Several strategies, ``seeds`` or swept values define several runs: see ``comparison``.
    """

    evaluate_every: int = setting(
        -1,
        "Number of rounds between two evaluations; -1 evaluates up to four times between the first "
        "and the last, 0 only before the first round.",
        at_least(-1, "-1 evaluates up to four times between the first and the last evaluation"),
    )
    topology: Topology = field(default_factory=Topology)
    model: Model = field(default_factory=Model)
    lora: Lora = field(default_factory=Lora)
    data: Data = field(default_factory=Data)
    tad: Tad = field(default_factory=Tad)
    dimat: Dimat = field(default_factory=Dimat)
    fedavg: FedAvg = field(default_factory=FedAvg)
    rounds: Rounds = field(default_factory=Rounds)
    posts: Posts = field(default_factory=Posts)
    robust: Robust = field(default_factory=Robust)
    attack: Attack = field(default_factory=Attack)
    train: Train = field(default_factory=Train)

    @property
    def evaluation(self) -> Evaluation:
        """Rounds and nodes that are evaluated; -1 becomes a fifth of the rounds, rounded up."""
        every = self.evaluate_every
        if every < 0:
            every = math.ceil(self.num_server_rounds / 5)
        return Evaluation(every, self.evaluate_fraction)
