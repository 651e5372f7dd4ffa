from __future__ import annotations

import pytest
import torch
from torch import nn

from flwr_decaf.clients.optimizers import check_optimizer, create_optimizer
from flwr_decaf.config import Train

NAMES = [
    "adadelta", "adafactor", "adagrad", "adam", "adamax", "adamw", "asgd", "nadam", "radam",
    "rmsprop", "rprop", "sgd",
]  # fmt: skip


def created(**settings):
    return create_optimizer([nn.Parameter(torch.ones(2))], Train(**settings))


def test_the_default_is_adamw_with_the_rate_and_the_decay_of_the_settings():
    optimizer = created(learning_rate=0.25, weight_decay=0.125)
    assert type(optimizer) is torch.optim.AdamW
    assert (optimizer.defaults["lr"], optimizer.defaults["weight_decay"]) == (0.25, 0.125)


def test_an_optimizer_takes_its_own_arguments():
    optimizer = created(optimizer="sgd", optimizer_arguments='{"momentum": 0.9, "nesterov": true}')
    assert type(optimizer) is torch.optim.SGD
    assert (optimizer.defaults["momentum"], optimizer.defaults["nesterov"]) == (0.9, True)


@pytest.mark.parametrize("name", NAMES)
def test_every_optimizer_of_first_order_takes_a_step(name):
    parameter = nn.Parameter(torch.ones(3, 2))
    optimizer = create_optimizer([parameter], Train(optimizer=name))
    parameter.square().sum().backward()
    optimizer.step()
    assert not torch.equal(parameter, torch.ones(3, 2))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"optimizer": "adamv"}, "train.optimizer must be one of .*adamw.*; got 'adamv'"),
        ({"optimizer": "lbfgs"}, "train.optimizer must be one of"),  # its step needs a closure
        ({"optimizer_arguments": "momentum=0.9"}, "arguments of adamw, as a JSON object; got 'mom"),
        ({"optimizer_arguments": "[0.9]"}, r"got '\[0.9\]' \(not a JSON object\)"),
        ({"optimizer_arguments": '{"momentum": 0.9}'}, "unexpected keyword argument 'momentum'"),
        (
            {"optimizer": "sgd", "optimizer_state": "kept"},
            "train.optimizer-state must be fresh with train.optimizer sgd; got kept",
        ),
        (
            {"optimizer_arguments": '{"amsgrad": true}', "optimizer_state": "kept"},
            "must not set amsgrad if train.optimizer-state is kept",
        ),
    ],
)
def test_what_cannot_train_or_be_kept_is_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        check_optimizer(Train(**settings))


@pytest.mark.parametrize("name", ["adam", "adamw"])
def test_moments_of_adam_can_be_kept(name):
    train = Train(optimizer=name, optimizer_state="kept")
    check_optimizer(train)
    parameter = nn.Parameter(torch.ones(2))
    optimizer = create_optimizer([parameter], train)
    parameter.sum().backward()
    optimizer.step()
    assert optimizer.state[parameter].keys() == {"step", "exp_avg", "exp_avg_sq"}  # all is kept
