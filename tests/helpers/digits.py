"""What a digit is, for tests: a small classifier learned from the digits of the package."""

from __future__ import annotations

import gzip
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import ebmcli

FOLDER = Path(ebmcli.__file__).parent / "assets" / "data" / "mnist-10k"


def digits(size: int) -> tuple[Tensor, Tensor]:
    """All 10,000 in [-1, 1] at size×size, and which digit each is."""
    raw = gzip.decompress((FOLDER / "train-images-idx3-ubyte.gz").read_bytes())
    x = torch.from_numpy(np.frombuffer(raw, np.uint8, offset=16).copy()).view(-1, 1, 28, 28).float() / 127.5 - 1
    raw = gzip.decompress((FOLDER / "train-labels-idx1-ubyte.gz").read_bytes())
    labels = torch.from_numpy(np.frombuffer(raw, np.uint8, offset=8).copy()).long()
    return F.interpolate(x, size=(size, size), mode="bilinear", antialias=True), labels


def classifier(size: int) -> tuple[nn.Module, float]:
    """A ConvNet learned from 9,000 of the digits, and its accuracy on the others."""
    torch.manual_seed(0)
    x, labels = digits(size)
    layers = [nn.Conv2d(1, 16, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(16, 32, 3, padding=1), nn.ReLU()]
    net = nn.Sequential(*layers, nn.MaxPool2d(2), nn.Flatten(), nn.Linear(32 * (size // 4) ** 2, 10))
    optimizer = torch.optim.Adam(net.parameters(), 2e-3)
    for _ in range(4):
        for batch in torch.randperm(9000).split(64):
            noisy = x[batch] + 0.05 * torch.randn(len(batch), 1, size, size)
            optimizer.zero_grad()
            F.cross_entropy(net(noisy), labels[batch]).backward()
            optimizer.step()
    with torch.no_grad():
        return net, float((net(x[9000:]).argmax(1) == labels[9000:]).float().mean())


def purity(members: list[list[int]], kinds: Tensor) -> tuple[float, float]:
    """Share of states that are of their basin's commonest kind, and the same when kinds are dealt out at random."""

    def share(kinds: Tensor) -> float:
        return sum(int(kinds[states].bincount().max()) for states in members) / len(kinds)

    generator = torch.Generator().manual_seed(0)
    chance = [share(kinds[torch.randperm(len(kinds), generator=generator)]) for _ in range(200)]
    return share(kinds), sum(chance) / len(chance)
