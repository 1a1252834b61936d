"""Where tensors live: the choice of a device."""

from __future__ import annotations

import torch

from ebmcli.errors import UsageError


def pick(name: str = "auto") -> torch.device:
    """The device called `name`.

    Args:
        name: `auto` (a CUDA device if there is one, else the CPU), `cpu`, `cuda`, `cuda:1`, `mps`.

    Raises:
        UsageError: the name is unknown, or the device is not there.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError:
        raise UsageError(f"unknown device {name!r}", "use auto, cpu, cuda, cuda:1 (a number from 0) or mps") from None
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise UsageError(
            f"device {name!r} is not there: {torch.cuda.device_count()} CUDA devices seen",
            "use `device` cpu, or install a CUDA build of torch",
        )
    if device.type == "mps" and not torch.backends.mps.is_available():
        raise UsageError("device 'mps' is not there", "use `device` cpu")
    if device.type not in ("cpu", "cuda", "mps"):
        raise UsageError(f"device {name!r} is not supported", "use auto, cpu, cuda or mps")
    return device
