from __future__ import annotations

import pytest
import torch
from torch import nn

from flwr_decaf.matching import find_groups, permuted
from tests.matching.models import (
    MODELS,
    Wrapped,
    build,
    draw,
    groups_of,
    logits,
    pictures,
    state_of,
)


@pytest.mark.parametrize("name", MODELS)
class TestEveryArchitecture:
    def test_has_the_groups_that_were_counted_by_hand(self, name):
        assert len(groups_of(name)) == MODELS[name][1]

    def test_computes_the_same_when_units_are_permuted(self, name):
        model = build(name)
        groups, state = groups_of(name), state_of(model)
        moved = permuted(state, groups, draw(groups))
        expected = logits(model, state)
        assert not all(torch.equal(moved[key], state[key]) for key in state)
        assert float((logits(model, moved) - expected).abs().max() / expected.abs().max()) < 1e-12

    def test_each_group_can_be_permuted_alone(self, name):
        model = build(name)
        groups, state = groups_of(name), state_of(model)
        for group in groups:
            moved = permuted(state, [group], [torch.arange(group.size).flip(0)])
            torch.testing.assert_close(logits(model, moved), logits(model, state))


def test_two_linear_layers_by_hand():
    model = Wrapped(nn.Sequential(nn.Linear(2, 3), nn.ReLU(), nn.Linear(3, 2)))
    (group,) = find_groups(model, {"pixel_values": torch.zeros(4, 2)})
    assert [tuple(member) for member in group.members] == [
        ("network.0.weight", 0, 1),
        ("network.0.bias", 0, 1),
        ("network.2.weight", 1, 1),
    ]
    state = {
        "network.0.weight": torch.tensor([[1.0, 2], [3, 4], [5, 6]]),
        "network.0.bias": torch.tensor([7.0, 8, 9]),
        "network.2.weight": torch.tensor([[1.0, 2, 3], [4, 5, 6]]),
        "network.2.bias": torch.tensor([0.0, 1]),
    }
    moved = permuted(state, [group], [torch.tensor([2, 0, 1])])
    assert moved["network.0.weight"].tolist() == [[5, 6], [1, 2], [3, 4]]
    assert moved["network.0.bias"].tolist() == [9, 7, 8]
    assert moved["network.2.weight"].tolist() == [[3, 1, 2], [6, 4, 5]]
    assert moved["network.2.bias"].tolist() == [0, 1]


def test_flattened_channels_are_permuted_in_blocks():
    model = Wrapped(nn.Sequential(nn.Conv2d(1, 2, 1), nn.Flatten(), nn.Linear(2 * 4, 1)))
    (group,) = find_groups(model, {"pixel_values": torch.zeros(3, 1, 2, 2)})
    weight = {"network.2.weight": torch.arange(8.0)[None], "network.0.weight": torch.zeros(2, 1)}
    moved = permuted(weight | {"network.0.bias": torch.zeros(2)}, [group], [torch.tensor([1, 0])])
    assert moved["network.2.weight"].tolist() == [[4, 5, 6, 7, 0, 1, 2, 3]]


class Odd(nn.Module):
    def __init__(self, last):
        super().__init__()
        self.first = nn.Conv2d(1, 4, 3)
        self.last = last

    def forward(self, pixel_values):
        return self.last(self.first(pixel_values)).mean(dim=(2, 3))


@pytest.mark.parametrize(
    ("layer", "why"),
    [
        (nn.GroupNorm(2, 4), r"group_norm in last \(GroupNorm\)"),
        (nn.Conv2d(4, 4, 3, groups=2), r"a convolution in 2 groups in last \(Conv2d\)"),
        (nn.PixelShuffle(2), r"pixel_shuffle in last \(PixelShuffle\)"),
        (nn.Softmax(dim=1), r"softmax in last \(Softmax\)"),
    ],
    ids=lambda value: type(value).__name__,
)
def test_an_unsupported_layer_is_rejected_by_its_name(layer, why):
    with pytest.raises(ValueError, match=why):
        find_groups(Odd(layer), pictures(2) | {"pixel_values": torch.rand(2, 1, 8, 8)})


def test_units_added_to_the_input_stay_in_place():
    class Skip(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.last = nn.Linear(4, 4), nn.Linear(4, 2)

        def forward(self, pixel_values):
            return self.last(self.first(pixel_values) + pixel_values)

    assert find_groups(Skip(), {"pixel_values": torch.zeros(3, 4)}) == []


def test_the_training_mode_of_the_model_is_restored():
    model = build("mlp").train()
    find_groups(model, pictures(2))
    assert model.training
