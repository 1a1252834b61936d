"""What a Langevin step costs on this machine, against plain loops measured in the same run."""

from ebmcli.bench.costs import UPDATES, Adjusted, Travelled, journeys, memory, metropolis, sizes
from ebmcli.bench.picture import picture
from ebmcli.bench.steps import (
    SUITE,
    Case,
    Figure,
    Row,
    bench,
    interleaved,
    limit,
    noise_share,
    updates,
)

__all__ = [
    "SUITE",
    "UPDATES",
    "Adjusted",
    "Case",
    "Figure",
    "Row",
    "Travelled",
    "bench",
    "interleaved",
    "journeys",
    "limit",
    "memory",
    "metropolis",
    "noise_share",
    "picture",
    "sizes",
    "updates",
]
