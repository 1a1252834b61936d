"""Energy-based models of images: learn them, sample them, judge them.

    model = ebmcli.load("mnist-shortrun")
    x, energy = ebmcli.sample(model, start="noise", steps=100, count=64, seed=0)

Names are imported when they are first used, so that the command line starts without torch; nothing else is imported
here, so that it soon hears Ctrl-C.
"""

from __future__ import annotations

from ebmcli._version import __version__

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from ebmcli.errors import EBMError
    from ebmcli.models.checkpoint import Checkpoint, ModelConfig
    from ebmcli.models.lookup import load
    from ebmcli.models.sampling import sample
    from ebmcli.networks import build
    from ebmcli.potential import Potential
    from ebmcli.random.streams import Stream
    from ebmcli.sampler import Langevin
    from ebmcli.training.trainer import Trainer


_HOMES = {
    "Checkpoint": "ebmcli.models.checkpoint",
    "EBMError": "ebmcli.errors",
    "Langevin": "ebmcli.sampler",
    "ModelConfig": "ebmcli.models.checkpoint",
    "Potential": "ebmcli.potential",
    "Stream": "ebmcli.random.streams",
    "Trainer": "ebmcli.training.trainer",
    "build": "ebmcli.networks",
    "load": "ebmcli.models.lookup",
    "sample": "ebmcli.models.sampling",
}

__all__ = [
    "Checkpoint",
    "EBMError",
    "Langevin",
    "ModelConfig",
    "Potential",
    "Stream",
    "Trainer",
    "__version__",
    "build",
    "load",
    "sample",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'ebmcli' has no attribute {name!r}")
    import importlib

    return getattr(importlib.import_module(_HOMES[name]), name)
