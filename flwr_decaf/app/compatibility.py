"""Settings that exclude one another, which is found without loading a model or data."""

from __future__ import annotations

from flwr_decaf.clients.learning_rate import WITH_WARMUP
from flwr_decaf.config import Config, Train
from flwr_decaf.config.setting import spelled
from flwr_decaf.rules import FACTORIZING
from flwr_decaf.strategies import STRATEGIES, FedAvg, GradientTracking, TADLoRA


def check_compatibility(config: Config) -> None:
    """Refuse settings of a run that exclude one another, or that would have no effect.

    Raises
    ------
    ValueError
        If there are any.
    """
    if issubclass(STRATEGIES[config.strategy], FedAvg):
        _refuse_peer_settings(config)
    else:
        _check_moments(config)
        _check_pretraining(config)
    _check_warmup(config.train)
    _check_dora(config)
    _check_ranks(config)
    _check_energy(config)
    _check_initialization(config)
    _check_checkpointing(config)


def _refuse_peer_settings(config: Config) -> None:
    """Refuse settings that have an effect only without a server."""
    none = Config()
    for key, value, default in (
        ("drop-probability", config.drop_probability, none.drop_probability),
        ("local-head", config.local_head, none.local_head),
        ("participation", config.participation, none.participation),
        ("robust.method", config.robust.method, none.robust.method),
        ("attack.sign-flipping", config.attack.sign_flipping, none.attack.sign_flipping),
        ("posts.encryption", config.posts.encryption, none.posts.encryption),
        ("posts.energy", config.posts.energy, none.posts.energy),
        ("topology.membership", config.topology.membership, none.topology.membership),
        ("rounds.mode", config.rounds.mode, none.rounds.mode),
    ):
        if value != default:
            raise ValueError(
                f"{key} must be {spelled(default)} with strategy {config.strategy}; got "
                f"{spelled(value)}; it applies only to nodes on a graph"
            )


def _check_moments(config: Config) -> None:
    """Refuse to keep moments where a factor that is not trained gets another basis."""
    kept = config.train.optimizer_state == "kept"
    if kept and config.robust.method != "none" and STRATEGIES[config.strategy] is TADLoRA:
        raise ValueError(
            f"train.optimizer-state must be fresh with strategy {config.strategy} and a robust "
            "rule, which factorizes products while one of the factors is not trained; got kept; "
            'set it to fresh, or robust.method to "none"'
        )


def _check_pretraining(config: Config) -> None:
    """Refuse to track the change of a round of pretraining, which is no step of the later ones."""
    epochs = config.train.pretrain_epochs
    if epochs and STRATEGIES[config.strategy] is GradientTracking:
        raise ValueError(
            f"train.pretrain-epochs must be 0 with strategy {config.strategy}, which would correct "
            f"the second round by the change in pretraining; got {epochs}; omit it, or use dlora"
        )


def _check_warmup(train: Train) -> None:
    """Refuse a warm-up that the schedule would ignore."""
    if train.warmup_steps and train.schedule not in WITH_WARMUP:
        raise ValueError(
            f"train.warmup-steps must be 0 with train.schedule {train.schedule}; got "
            f"{train.warmup_steps}; set it to 0, or the schedule to {', '.join(WITH_WARMUP)}"
        )


def _check_dora(config: Config) -> None:
    """Refuse DoRA where products are mixed."""
    rule = getattr(STRATEGIES[config.strategy], "rule", "")
    if config.lora.use_dora and (rule in FACTORIZING or config.robust.method != "none"):
        raise ValueError(
            "lora.use-dora must be false where products B A are mixed, since the norms that DoRA "
            f"trains are not part of a product; got true with strategy {config.strategy} and "
            f"robust.method {config.robust.method}; set it to false, or use dlora without a robust "
            "method"
        )


def _check_ranks(config: Config) -> None:
    """Refuse ranks of nodes where factors are averaged, or where they have no meaning."""
    if not config.lora.ranks:
        return
    lora, ranks = config.lora, config.lora.ranks_in_turn
    rule = getattr(STRATEGIES[config.strategy], "rule", "")
    if rule not in FACTORIZING:
        raise ValueError(
            f"lora.ranks must be empty with strategy {config.strategy}, as only products of "
            f"factors can be mixed across ranks; got {lora.ranks!r}; omit it, or use decaf"
        )
    if max(ranks) > lora.rank:
        raise ValueError(
            f"lora.ranks must be at most lora.rank, {lora.rank}; got {max(ranks)}; set lora.rank "
            "to the largest rank"
        )
    for key, value, only in (
        ("rank-pattern", lora.rank_pattern, ""),
        ("init-lora-weights", lora.init_lora_weights, "default"),
    ):
        if value != only:
            raise ValueError(
                f"lora.ranks must be empty with lora.{key} {value!r}, which defines factors of one "
                f"rank; got {lora.ranks!r}; omit one of them"
            )


def _check_energy(config: Config) -> None:
    """Refuse a share of the energy of products that contain parts of the base."""
    name = config.lora.init_lora_weights
    if config.posts.energy < 1.0 and name not in ("default", "gaussian"):
        raise ValueError(
            f"posts.energy must be 1 with lora.init-lora-weights {name!r}, whose products contain "
            f"the largest components of the base; got {config.posts.energy}; omit one of them"
        )


def _check_initialization(config: Config) -> None:
    """Refuse factors that are taken from quantized weights, before these are loaded."""
    name, quantized = config.lora.init_lora_weights, config.model.quantization
    if quantized != "none" and name not in ("default", "gaussian"):
        raise ValueError(
            f"lora.init-lora-weights must be default or gaussian with model.quantization "
            f"{quantized}, since the rest of the weights would be quantized again; got {name!r}; "
            "set it to default, or model.quantization to none"
        )


def _check_checkpointing(config: Config) -> None:
    """Refuse checkpointing of layers that are not in training mode, which it would not apply to."""
    if config.train.gradient_checkpointing and config.model.dropout == "none":
        raise ValueError(
            "train.gradient-checkpointing must be false with model.dropout none, which puts layers "
            "in evaluation mode, where transformers does not apply it; got true; set model.dropout "
            "to adapted"
        )
