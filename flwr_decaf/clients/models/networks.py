"""Convolutional networks for small images and a multi-layer perceptron, by name.

To add one, write a function ``(channels, side, width, classes) -> nn.Module`` whose module maps
images of shape (n, channels, side, side) to logits of shape (n, classes), and a line in
``NETWORKS``.
"""

from __future__ import annotations

import math
from collections.abc import Callable

from torch import Tensor, nn
from torch.nn.functional import relu

_VGG_16 = ((1, 1), (2, 2), (4, 4, 4), (8, 8, 8), (8, 8, 8))  # relative widths, by stage


class _Block(nn.Module):
    """Two 3 x 3 convolutions and a shortcut, which is projected if the shape changes (option B)."""

    def __init__(self, into: int, out: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(into, out, 3, stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(out)
        self.conv2 = nn.Conv2d(out, out, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(out)
        self.shortcut = nn.Sequential()
        if stride > 1 or into != out:
            self.shortcut.append(nn.Conv2d(into, out, 1, stride, bias=False))
            self.shortcut.append(nn.BatchNorm2d(out))

    def forward(self, x: Tensor) -> Tensor:
        y = self.bn2(self.conv2(relu(self.bn1(self.conv1(x)))))
        return relu(y + self.shortcut(x))


def resnet_20(channels: int, side: int, width: int, classes: int) -> nn.Module:
    """Build the ResNet-20 of CIFAR (He et al., arXiv 1512.03385): stages of w, 2w and 4w."""
    layers: list[nn.Module] = [
        nn.Conv2d(channels, width, 3, padding=1, bias=False),
        nn.BatchNorm2d(width),
        nn.ReLU(),
    ]
    into = width
    for stage in range(3):
        for block in range(3):
            out, stride = width << stage, 2 if stage and block == 0 else 1
            layers.append(_Block(into, out, stride))
            into = out
    pooled = [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(into, classes)]
    return nn.Sequential(*layers, *pooled)


def vgg_16(channels: int, side: int, width: int, classes: int) -> nn.Module:
    """Build VGG-16 (arXiv 1409.1556) for CIFAR, with batch-norm and a single linear layer.

    Pooling rounds sizes up, so that images smaller than 32 x 32 also pass through all five stages.
    """
    layers: list[nn.Module] = []
    into = channels
    for stage in _VGG_16:
        for factor in stage:
            out = factor * width
            layers += [nn.Conv2d(into, out, 3, padding=1), nn.BatchNorm2d(out), nn.ReLU()]
            into = out
        layers.append(nn.MaxPool2d(2, ceil_mode=True))
        side = math.ceil(side / 2)
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(into * side**2, classes))


def mlp(channels: int, side: int, width: int, classes: int) -> nn.Module:
    """Build a perceptron with two hidden layers of ``width`` units."""
    return nn.Sequential(
        nn.Flatten(),
        nn.Linear(channels * side**2, width),
        nn.ReLU(),
        nn.Linear(width, width),
        nn.ReLU(),
        nn.Linear(width, classes),
    )


NETWORKS: dict[str, Callable[[int, int, int, int], nn.Module]] = {
    "resnet-20": resnet_20,
    "vgg-16": vgg_16,
    "mlp": mlp,
}
