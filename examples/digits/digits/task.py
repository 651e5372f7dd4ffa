"""Model, data, training and evaluation, independent of Flower and of peers."""

import torch
from sklearn.datasets import load_digits
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

TEST_ROWS = 360


class Net(nn.Module):
    """A small CNN with batch normalization, whose counters are integers."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(1, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU(), nn.MaxPool2d(2),
            nn.Conv2d(16, 32, 3, padding=1), nn.BatchNorm2d(32), nn.ReLU(), nn.MaxPool2d(2),
            nn.Flatten(), nn.Linear(128, 10),
        )  # fmt: skip

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map images (batch, 1, 8, 8) to logits (batch, 10)."""
        return self.layers(x)


def load_train(partition_id: int, num_partitions: int, batch_size: int) -> DataLoader:
    """Load every num_partitions-th row of the training part."""
    images, labels = _digits()
    rows = slice(TEST_ROWS + partition_id, None, num_partitions)
    return DataLoader(TensorDataset(images[rows], labels[rows]), batch_size, shuffle=True)


def load_test() -> DataLoader:
    """Load the test part, which all nodes share."""
    images, labels = _digits()
    return DataLoader(TensorDataset(images[:TEST_ROWS], labels[:TEST_ROWS]), batch_size=128)


def train(net: nn.Module, rows: DataLoader, epochs: int, learning_rate: float) -> float:
    """Train with SGD, and return the mean loss."""
    optimizer = torch.optim.SGD(net.parameters(), lr=learning_rate, momentum=0.9)
    net.train()
    losses = []
    for _ in range(epochs):
        for images, labels in rows:
            optimizer.zero_grad()
            loss = nn.functional.cross_entropy(net(images), labels)
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
    return sum(losses) / len(losses)


@torch.no_grad()
def test(net: nn.Module, rows: DataLoader) -> float:
    """Return the accuracy."""
    net.eval()
    right = sum(int((net(images).argmax(1) == labels).sum()) for images, labels in rows)
    return right / TEST_ROWS


def _digits() -> tuple[torch.Tensor, torch.Tensor]:
    digits = load_digits()
    images = torch.tensor(digits.images, dtype=torch.float32).unsqueeze(1) / 16
    return images, torch.tensor(digits.target)
