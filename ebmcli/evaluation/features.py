"""The embedded feature network: images to 112 numbers that tell what is in them.

The stem and the first eleven blocks of EfficientNet-Lite0 (Tan & Le 2019, its ImageNet weights; Apache-2.0, see
`assets/features`). A Fréchet distance over these features is not an Inception distance, and its numbers are not
comparable with published FIDs: here it is always called by the name of its features.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn import functional

from ebmcli.consent import import_named
from ebmcli.errors import ConsentError, EBMError
from ebmcli.storage.paths import typed_path

WEIGHTS = Path(__file__).parent.parent / "assets" / "features" / "efflite0_trunk112_fp16.safetensors"
NAME = "efficientnet-lite0-112"
SIZE = 64
"""Images are brought to this side (px) before the network sees them."""
BLOCK = 256
"""Images in one pass: memory, and what the sums of a convolution depend on."""

_STAGES = ((1, 3, 1, 16, 1), (2, 3, 2, 24, 6), (2, 5, 2, 40, 6), (3, 3, 2, 80, 6), (3, 5, 1, 112, 6))
"""Repeats, kernel, stride of the first, channels out, expansion."""


class _Conv(nn.Module):
    """A convolution with the padding of TensorFlow's SAME, and the batch norm after it folded into it."""

    def __init__(self, weight: Tensor, norm: tuple[Tensor, Tensor, Tensor, Tensor], stride: int, groups: int) -> None:
        super().__init__()
        gain, bias, mean, variance = norm
        factor = gain / (variance + 1e-3).sqrt()
        self.register_buffer("weight", (weight * factor[:, None, None, None]).contiguous())
        self.register_buffer("bias", bias - mean * factor)
        self.stride, self.groups = stride, groups

    def forward(self, x: Tensor) -> Tensor:
        weight: Tensor = self.get_buffer("weight")
        k, s = weight.shape[-1], self.stride
        # SAME: as many outputs as ceil(size / stride), and an odd pixel of padding goes to the far side.
        pads = [max((-(-n // s) - 1) * s + k - n, 0) for n in x.shape[-1:-3:-1]]
        if any(p % 2 for p in pads):
            x = functional.pad(x, [part for p in pads for part in (p // 2, p - p // 2)])
            pads = [0, 0]
        padding = (pads[1] // 2, pads[0] // 2)
        return functional.conv2d(x, weight, self.get_buffer("bias"), s, padding, 1, self.groups)


class _Block(nn.Module):
    """Expand, filter each channel, project; added to its input where the shapes allow."""

    def __init__(self, expand: _Conv | None, depthwise: _Conv, project: _Conv, residual: bool) -> None:
        super().__init__()
        self.expand, self.depthwise, self.project, self.residual = expand, depthwise, project, residual

    def forward(self, x: Tensor) -> Tensor:
        y = x if self.expand is None else functional.relu6(self.expand(x))
        y = self.project(functional.relu6(self.depthwise(y)))
        return x + y if self.residual else y


class Trunk(nn.Module):
    """uint8 RGB images [n 3 h w] of any size -> features [n 112] float32.

    Args:
        weights: the tensors of the safetensors file, under EfficientNet-Lite's own names.

    Raises:
        KeyError: one is missing.
    """

    def __init__(self, weights: dict[str, Tensor]) -> None:
        super().__init__()

        def conv(name: str, norm: str, stride: int = 1, groups: int = 1) -> _Conv:
            parts = [weights[f"{norm}.{p}"].float() for p in ("weight", "bias", "running_mean", "running_var")]
            return _Conv(weights[f"{name}.weight"].float(), (parts[0], parts[1], parts[2], parts[3]), stride, groups)

        self.stem = conv("_conv_stem", "_bn0", stride=2)
        blocks: list[nn.Module] = []
        channels = 32
        for repeats, _, first_stride, out, expansion in _STAGES:
            for repeat in range(repeats):
                prefix, stride = f"_blocks.{len(blocks)}", first_stride if repeat == 0 else 1
                inner = channels * expansion
                blocks.append(
                    _Block(
                        conv(f"{prefix}._expand_conv", f"{prefix}._bn0") if expansion > 1 else None,
                        conv(f"{prefix}._depthwise_conv", f"{prefix}._bn1", stride, groups=inner),
                        conv(f"{prefix}._project_conv", f"{prefix}._bn2"),
                        stride == 1 and channels == out,
                    )
                )
                channels = out
        self.blocks = nn.Sequential(*blocks)

    def forward(self, images: Tensor) -> Tensor:
        """uint8 [n 3 h w] -> [n 112]."""
        x = images.float()
        if x.shape[-2:] != (SIZE, SIZE):
            x = functional.interpolate(x, (SIZE, SIZE), mode="bilinear", align_corners=False)
        x = ((x - 127) / 128).to(memory_format=torch.channels_last)
        return self.blocks(functional.relu6(self.stem(x))).mean(dim=(2, 3))


class Features(NamedTuple):
    """A feature network and what it is called wherever its distances are shown."""

    name: str
    network: Callable[[Tensor], Tensor]
    """uint8 [n 3 h w] -> [n d]"""

    def __call__(self, x: Tensor) -> Tensor:
        """Features [n d] float64 of images [n c h w] in [-1, 1], as they would be seen: cut off, in 256 steps."""
        images = x.clamp(-1, 1).add(1).mul(127.5).round().to(torch.uint8)
        if images.shape[1] == 1:
            images = images.expand(-1, 3, -1, -1)
        with torch.inference_mode():
            parts = [self.network(block).double() for block in images.split(BLOCK)]
        return torch.cat(parts).clone()


def load_features(source: str | None = None, *, trusted: bool = False) -> Features:
    """The embedded network, or another one.

    Args:
        source: None for the embedded one; a safetensors file with other weights of the same trunk; or
            `package.module:factory`, whose call gives a module that takes uint8 RGB images [n 3 h w] and returns
            features [n d]. The latter is the way to Inception: its published weights are pickles, which are
            never opened here, so the code that loads them is the user's.
        trusted: allow `source` to import code.

    Raises:
        EBMError: the file is a pickle or TorchScript, is not such a trunk, or the code fails.
        ConsentError: code is named without `trusted`.
    """
    if source is None:
        return Features(NAME, Trunk(load_file(WEIGHTS)))
    if ":" in source and not Path(source).exists():
        return _imported(source, trusted)
    path = typed_path(source)
    if not path.is_file():
        raise EBMError(f"no feature network at {source}", "give a safetensors file, or package.module:factory")
    with open(path, "rb") as file:
        head = file.read(2)
    if head[:1] == b"\x80" or head == b"PK":
        raise EBMError(
            f"{path} is a pickle or TorchScript, which can run code when read and is never opened",
            "name code that loads it: `features` package.module:factory `trusted`",
        )
    try:
        return Features(path.stem, Trunk(load_file(path)))
    except (SafetensorError, KeyError, RuntimeError, OSError) as error:
        what = str(error).splitlines()[0]
        raise EBMError(
            f"{path} does not hold the weights of an EfficientNet-Lite0 trunk: {what}",
            "other networks: `features` package.module:factory `trusted`",
        ) from error


def _imported(source: str, trusted: bool) -> Features:
    refusal = f"the feature network {source} would import code, which is not done unasked"
    try:
        network = import_named(source, trusted=trusted, refusal=refusal)()
        network = network.eval() if isinstance(network, nn.Module) else network
        shape = list(network(torch.zeros(2, 3, SIZE, SIZE, dtype=torch.uint8)).shape)
    except ConsentError:
        raise
    except Exception as error:  # whatever code of the user's may raise
        what = " ".join(str(error).split())
        raise EBMError(
            f"the feature network {source} fails: {type(error).__name__}: {what}", "expected uint8 [n 3 h w] -> [n d]"
        ) from error
    if len(shape) != 2 or shape[0] != 2:
        raise EBMError(f"the feature network {source} returns {shape} for 2 images", "expected [2, features]")
    return Features(source, network)
