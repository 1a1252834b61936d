"""Energy-based models of images: learn them, sample them, judge them.

    model = ebmcli.load("mnist-shortrun")
    x, energy = ebmcli.sample(model, start="noise", steps=100, count=64, seed=0)

Names are imported when they are first used, so that the command line starts without torch; nothing else is imported
here, so that it soon hears Ctrl-C.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from ebmcli.chains import Stream
    from ebmcli.checkpoint import Checkpoint, ModelConfig
    from ebmcli.errors import EBMError
    from ebmcli.models import load
    from ebmcli.networks import build
    from ebmcli.pretrained import Potential
    from ebmcli.sampler import Langevin
    from ebmcli.sampling import sample
    from ebmcli.trainer import Trainer

__version__ = "0.1.0"

_HOMES = {
    "Checkpoint": "ebmcli.checkpoint",
    "EBMError": "ebmcli.errors",
    "Langevin": "ebmcli.sampler",
    "ModelConfig": "ebmcli.checkpoint",
    "Potential": "ebmcli.pretrained",
    "Stream": "ebmcli.chains",
    "Trainer": "ebmcli.trainer",
    "build": "ebmcli.networks",
    "load": "ebmcli.models",
    "sample": "ebmcli.sampling",
}

__all__ = [
    "Checkpoint",
    "EBMError",
    "Langevin",
    "ModelConfig",
    "Potential",
    "Stream",
    "Trainer",
    "build",
    "load",
    "sample",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'ebmcli' has no attribute {name!r}")
    import importlib

    return getattr(importlib.import_module(_HOMES[name]), name)
