"""Networks F(x; θ): one scalar an image.

Each network maps `x [n c h w]` in pixel units of [-1, 1] to `F [n]`. There is no normalisation
anywhere and every LeakyReLU has the same slope. Parameter names are those of the authors' released
code (`f.*` for toy and vanilla, `convs.*` and `fc.*` for nonlocal), so their weights load one to one.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from itertools import pairwise
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ebmcli.consent import import_named, is_code, unasked
from ebmcli.errors import EBMError

Shape = tuple[int, int, int]
"""Channels, height, width of one state; 2-D toys are (2, 1, 1)."""


def is_points(shape: Shape) -> bool:
    """Whether states of this shape are points (one pixel with c coordinates) and not images."""
    return tuple(shape[1:]) == (1, 1)


LARGEST_SIDE = 4096
"""Pixels of a side, and channels, of an image at most."""
LARGEST_WIDTH = 65_536
"""Channels of a network's first layer at most."""
MOST_WEIGHTS = 2**31
"""Weights of a network at most, which take 8 GiB."""
SMALLEST_MAP = 4
"""Feature maps are halved until they are at most this wide (px); the last layer covers what is left."""


def halvings(size: int) -> list[int]:
    """Widths (px) of the feature maps: `size`, then halved (rounded down) until at most 4.

    32 gives [32, 16, 8, 4]: three stride-2 stages, as in the paper's networks. 16 has one stage
    fewer, 64 one more, 28 gives [28, 14, 7, 3] and so a last kernel of 3×3.
    """
    sizes = [size]
    while sizes[-1] > SMALLEST_MAP:
        sizes.append(sizes[-1] // 2)
    return sizes


class Toy(nn.Module):
    """Network of the 2-D toys: 1×1 convolutions c → w → 2w → 2w → 2w → 1 (w = 32 in the paper's code).

    Args:
        shape: (2, 1, 1) for the toys; any (c, 1, 1) works.
        width: channels w of the first layer.
        leak: slope of LeakyReLU below zero.
    """

    def __init__(self, shape: Shape, width: int = 32, leak: float = 0.05) -> None:
        super().__init__()
        if not is_points(shape):
            raise EBMError(
                f"network toy expects states of 1×1, received {shape[1]}×{shape[2]}",
                "use network vanilla or nonlocal for images",
            )
        channels = [shape[0], width, 2 * width, 2 * width, 2 * width]
        layers: list[nn.Module] = []
        for c_in, c_out in pairwise(channels):
            layers += [nn.Conv2d(c_in, c_out, 1), nn.LeakyReLU(leak)]
        self.f = nn.Sequential(*layers, nn.Conv2d(channels[-1], 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        """F(x) [n] of x [n c 1 1]."""
        x = x.flatten(1)
        for layer in self.f:
            # At one position a 1×1 convolution is a linear layer, which torch computes 3 times faster.
            x = F.linear(x, layer.weight.flatten(1), layer.bias) if isinstance(layer, nn.Conv2d) else layer(x)
        return x.flatten()


class Vanilla(nn.Module):
    """The paper's plain ConvNet: a 3×3 convolution, then 4×4 stride-2 stages that double the channels.

    For 32×32: conv(3,1,1) c→w, conv(4,2,1) →2w, →4w, →8w, conv(4,1,0) →1, LeakyReLU between.
    Other sizes have as many stride-2 stages as `halvings` says (16: two, 28: three, 64: four) and
    a last kernel as large as the map that is left (28: 3×3).

    Args:
        shape: (channels, size, size), size ≥ 8 px.
        width: channels w of the first layer (n_f of the authors' code).
        leak: slope of LeakyReLU below zero.
        space_to_depth: fold 2×2 pixels into channels first. The first layers then work on a
            quarter of the positions: about half the cost, and coarser strokes at equal time.
    """

    def __init__(self, shape: Shape, width: int = 32, leak: float = 0.05, space_to_depth: bool = False) -> None:
        super().__init__()
        channels, size, other = shape
        if size != other or size < 8 or (space_to_depth and size % 2):
            raise EBMError(
                f"network vanilla expects square images of 8 px or more, received {size}×{other}"
                + (" with space_to_depth" if space_to_depth else ""),
                "16, 28, 32 and 64 px are usual; space_to_depth needs an even size",
            )
        layers: list[nn.Module] = []
        if space_to_depth:
            layers.append(nn.PixelUnshuffle(2))
            channels, size = 4 * channels, size // 2
        layers += [nn.Conv2d(channels, width, 3, 1, 1), nn.LeakyReLU(leak)]
        sizes = halvings(size)
        for _ in sizes[1:]:
            layers += [nn.Conv2d(width, 2 * width, 4, 2, 1), nn.LeakyReLU(leak)]
            width *= 2
        self.f = nn.Sequential(*layers, nn.Conv2d(width, 1, sizes[-1]))

    def forward(self, x: Tensor) -> Tensor:
        """F(x) [n] of x [n c h w]."""
        return self.f(x).flatten()


class NonLocalBlock(nn.Module):
    """Residual embedded-Gaussian attention over positions (Wang et al. 2018).

    Inner channels are half the outer ones, g and φ are max-pooled by 2, and the output projection
    starts at zero, so that a new block is the identity.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        inner = max(1, channels // 2)
        self.g = nn.Sequential(nn.Conv2d(channels, inner, 1), nn.MaxPool2d(2))
        self.theta = nn.Conv2d(channels, inner, 1)
        self.phi = nn.Sequential(nn.Conv2d(channels, inner, 1), nn.MaxPool2d(2))
        self.W = nn.Conv2d(inner, channels, 1)
        nn.init.zeros_(self.W.weight)
        if self.W.bias is not None:
            nn.init.zeros_(self.W.bias)

    def forward(self, x: Tensor) -> Tensor:
        """x [n c h w] -> [n c h w]."""
        query = self.theta(x).flatten(2).transpose(1, 2)
        key = self.phi(x).flatten(2)
        value = self.g(x).flatten(2).transpose(1, 2)
        attended = torch.softmax(query @ key, dim=-1) @ value
        return x + self.W(attended.transpose(1, 2).reshape(x.shape[0], -1, *x.shape[2:]))


class NonLocal(nn.Module):
    """The paper's network with non-local layers, for convergent learning.

    For 32×32: conv(3,1,1) c→w, pool, then twice: non-local block, conv(3,1,1) to twice the
    channels, pool; linear 4w·4·4 → 8w, linear → 1. Other sizes have as many pools as `halvings`
    says, and a first linear layer as large as the map that is left.

    Args: as `Vanilla`, without space_to_depth.
    """

    def __init__(self, shape: Shape, width: int = 32, leak: float = 0.05) -> None:
        super().__init__()
        channels, size, other = shape
        if size != other or size < 8:
            raise EBMError(
                f"network nonlocal expects square images of 8 px or more, received {size}×{other}",
                "16, 28, 32 and 64 px are usual",
            )
        sizes = halvings(size)
        layers: list[nn.Module] = [nn.Conv2d(channels, width, 3, 1, 1), nn.LeakyReLU(leak), nn.MaxPool2d(2)]
        for _ in sizes[2:]:
            layers += [
                NonLocalBlock(width),
                nn.Conv2d(width, 2 * width, 3, 1, 1),
                nn.LeakyReLU(leak),
                nn.MaxPool2d(2),
            ]
            width *= 2
        self.convs = nn.Sequential(*layers)
        self.fc = nn.Sequential(
            nn.Linear(width * sizes[-1] ** 2, 2 * width), nn.LeakyReLU(leak), nn.Linear(2 * width, 1)
        )

    def forward(self, x: Tensor) -> Tensor:
        """F(x) [n] of x [n c h w]."""
        return self.fc(self.convs(x).flatten(1)).flatten()


NETWORKS: dict[str, Callable[..., nn.Module]] = {"toy": Toy, "vanilla": Vanilla, "nonlocal": NonLocal}


def build(name: str, shape: Shape, *, seed: int = 0, trusted: bool = False, **arguments: Any) -> nn.Module:
    """A new network with PyTorch's default initialisation drawn from `seed`.

    Args:
        name: a key of `NETWORKS`, or `package.module:factory`, where `factory(shape, **arguments)`
            returns an nn.Module that maps [n c h w] to [n].
        shape: (channels, height, width) of one image.
        seed: of the initial weights; torch's global generator is left as it was.
        trusted: allow a factory to be imported, which a file that names one must not bring about by itself.
        arguments: of the network (width, leak, space_to_depth).

    Raises:
        ConsentError: the name is a factory's, and not `trusted`.
        EBMError: unknown name, a factory that cannot be imported, arguments or an output that do not fit.
    """
    factory = NETWORKS.get(name) or _import_factory(name, trusted)
    if name in NETWORKS:
        _check_size(name, shape, arguments)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        try:
            network = factory(shape, **arguments)
        except TypeError as error:
            raise EBMError(
                f"network {name!r} does not take these arguments: {error}",
                "see the potential section of the recipe",
            ) from error
    if name not in NETWORKS:
        _check_scalar(network, name, shape)
    return network


_ARGUMENTS: dict[str, tuple[Callable[[Any], bool], str]] = {
    "width": (lambda v: type(v) is int and 1 <= v <= LARGEST_WIDTH, f"a whole number of 1 to {LARGEST_WIDTH}"),
    "leak": (lambda v: type(v) in (int, float) and -1 <= v <= 1, "a number of -1 to 1"),
    "space_to_depth": (lambda v: type(v) is bool, "true or false"),
}
"""What our networks' arguments may be: a test and its words."""


def build_from(name: str, shape: Shape, arguments: Mapping[str, Any], *, trusted: bool = False) -> nn.Module:
    """As `build`, with arguments that a file names: none of them is taken for one of `build` itself.

    Raises:
        EBMError: as `build`; or an argument is called seed, trusted, name or shape.
    """
    taken = sorted(arguments.keys() & {"name", "shape", "seed", "trusted"})
    if taken:
        raise EBMError(
            f"network {name!r} does not take these arguments: {', '.join(taken)}",
            "see the potential section of the recipe",
        )
    return build(name, shape, trusted=trusted, **arguments)


def _check_size(name: str, shape: Shape, arguments: dict[str, Any]) -> None:
    """Nothing, if a network of ours can be built of these: asked before any memory is.

    Raises:
        EBMError: an argument is out of all bounds, or the network would have too many weights.
    """
    hint = "see the potential section of the recipe"
    if len(shape) != 3 or not all(type(side) is int and 1 <= side <= LARGEST_SIDE for side in shape):
        raise EBMError(f"network {name!r} expects images of up to {LARGEST_SIDE} px, received {list(shape)}", hint)
    for argument, value in ((a, v) for a, v in arguments.items() if a in _ARGUMENTS):
        is_right, expected = _ARGUMENTS[argument]
        if not is_right(value):
            received = repr(value)
            received = received if len(received) <= 40 else f"{received[:37]}..."
            raise EBMError(f"network {name!r} was given {argument} {received}, expected {expected}", hint)
    try:
        with torch.device("meta"):
            weights = sum(p.numel() for p in NETWORKS[name](shape, **arguments).parameters())
    except TypeError as error:
        raise EBMError(f"network {name!r} does not take these arguments: {error}", hint) from error
    except RuntimeError:  # more than a tensor can count
        weights = MOST_WEIGHTS + 1
    if weights > MOST_WEIGHTS:
        raise EBMError(f"network {name!r} would have more than {MOST_WEIGHTS:,} weights", "take a smaller width")


def _import_factory(name: str, trusted: bool) -> Callable[..., nn.Module]:
    if not is_code(name):
        known = ", ".join(NETWORKS)
        raise EBMError(f"unknown network {name!r}", f"use one of {known}, or package.module:factory")
    try:
        factory: Callable[..., nn.Module] = import_named(name, trusted=trusted, refusal=unasked(name))
    except (ImportError, AttributeError, ValueError) as error:
        raise EBMError(
            f"network {name!r} cannot be imported: {error}",
            "give package.module:factory; is it in this folder, installed, or on PYTHONPATH?",
        ) from error
    return factory


def _check_scalar(network: object, name: str, shape: Shape) -> None:
    if not isinstance(network, nn.Module):
        raise EBMError(f"network {name!r} returned {type(network).__name__}, expected an nn.Module")
    hint = "an energy is one scalar an image"
    try:
        with torch.no_grad():
            out = network(torch.zeros(2, *shape))
    except Exception as error:  # whatever the user's code does with them
        raise EBMError(f"network {name!r} does not take 2 images of shape {list(shape)}: {error}", hint) from error
    if not isinstance(out, Tensor) or out.numel() != 2:
        got = f"a tensor of shape {list(out.shape)}" if isinstance(out, Tensor) else type(out).__name__
        raise EBMError(f"network {name!r} returned {got} for 2 images, expected [2]", hint)
