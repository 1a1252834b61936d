"""Reading networks that are plain sequences of layers, for the backends that know such."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import nn


class PlainLayer(NamedTuple):
    """A convolution or linear layer and the activation behind it."""

    module: nn.Conv2d | nn.Linear
    numbers: tuple[int, ...]
    """channels in, out; kernel y, x; stride y, x; padding y, x; height and width of the input"""
    leak: float
    """slope of the LeakyReLU, 1 for none"""

    @property
    def multiplications(self) -> int:
        """Of one image, forward."""
        _, _, ky, kx, sy, sx, py, px, h, w = self.numbers
        return self.module.weight.numel() * ((h + 2 * py - ky) // sy + 1) * ((w + 2 * px - kx) // sx + 1)


def flat(network: nn.Module) -> list[nn.Module]:
    """The modules in the order of the forward pass. Raises ValueError where that order is not known."""
    if network._forward_hooks or network._forward_pre_hooks:
        raise ValueError("a module with forward hooks")
    if type(network) is nn.Sequential:
        return [module for child in network for module in flat(child)]
    children = dict(network.named_children())
    if children.keys() == {"f"} and isinstance(children["f"], nn.Sequential):
        return flat(children["f"])
    if children:
        raise ValueError(f"{type(network).__name__} is not a plain sequence")
    return [network]


def parse(network: nn.Module, shape: tuple[int, int, int]) -> tuple[list[PlainLayer], int]:
    """The layers and the factor of the first space-to-depth (1: none). ValueError: unsupported."""
    c, h, w = shape
    width, unshuffle = 0, 1  # width: elements a chain after Flatten, 0 before it
    layers: list[PlainLayer] = []
    activated = True
    for place, module in enumerate(flat(network)):
        kind = type(module)
        if isinstance(module, nn.Conv2d) and kind is nn.Conv2d:
            if isinstance(module.padding, str) or module.padding_mode != "zeros":
                raise ValueError("a convolution with a padding that is not a number of zeros")
            if module.groups != 1 or module.dilation != (1, 1):
                raise ValueError("a convolution with groups or dilation")
            if width or module.in_channels != c:
                raise ValueError(f"a convolution of {module.in_channels} channels gets {width or c}")
            (ky, kx), (sy, sx) = module.kernel_size, module.stride
            py, px = (int(p) for p in module.padding)
            if h + 2 * py < ky or w + 2 * px < kx:
                raise ValueError(f"a {ky}x{kx} convolution gets an image of {h}x{w}")
            layers.append(PlainLayer(module, (c, module.out_channels, ky, kx, sy, sx, py, px, h, w), 1.0))
            c, h, w = module.out_channels, (h + 2 * py - ky) // sy + 1, (w + 2 * px - kx) // sx + 1
            activated = False
        elif isinstance(module, nn.Linear) and kind is nn.Linear:
            if width != module.in_features:
                raise ValueError(f"a linear layer of {module.in_features} inputs gets {width or 'an image'}")
            layers.append(PlainLayer(module, (c, module.out_features, h, w, 1, 1, 0, 0, h, w), 1.0))
            c, h, w, width = module.out_features, 1, 1, module.out_features
            activated = False
        elif isinstance(module, nn.LeakyReLU) or kind is nn.ReLU:
            leak = float(getattr(module, "negative_slope", 0.0))
            if activated or leak < 0:
                raise ValueError("an activation that does not follow a layer, or has a negative leak")
            layers[-1] = layers[-1]._replace(leak=leak)
            activated = True
        elif isinstance(module, nn.PixelUnshuffle):
            if place != 0 or module.downscale_factor != 2 or h % 2 or w % 2:
                raise ValueError("a PixelUnshuffle that is not the first module, or not by 2")
            c, h, w, unshuffle = 4 * c, h // 2, w // 2, 2
        elif isinstance(module, nn.Flatten):
            if module.start_dim != 1 or module.end_dim not in (-1, 1 if width else 3):
                raise ValueError("a Flatten that keeps dimensions")
            width = c * h * w
        elif kind is not nn.Identity:
            raise ValueError(f"{kind.__name__} is not supported")
    if not layers or (c, h, w) != (1, 1, 1):
        raise ValueError(f"the output of an image is [{c} {h} {w}], not one scalar")
    for layer in layers:
        for parameter in layer.module.parameters():
            if parameter.dtype != torch.float32 or parameter.device.type != "cpu":
                raise ValueError(f"a parameter is {parameter.dtype} on {parameter.device}, not float32 on cpu")
    return layers, unshuffle
