"""Layers with a hand-written gradient to their input, for the `stack` backend.

Autograd keeps what it does not need here (pre-activations, graphs) and prefers contiguous layouts. These layers keep
their outputs only, work in channels_last, and change gradients in place. Each one has

    pack()                        weights in the layout the arithmetic wants, read from the module at each call
    forward(x, packed)            (output, whatever backward needs)
    backward(g, x, kept, packed)  ∂F/∂x from g = ∂F/∂output, which it may overwrite

Images are [n c h w] in channels_last; the output of a `Dense` layer is [n out]. All of it runs under inference mode.
"""

from __future__ import annotations

import copy
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ebmcli.native.plain import flat, parse
from ebmcli.networks import NonLocal, NonLocalBlock, Shape

aten = torch.ops.aten
Kept = tuple[Tensor, ...]


class Layer(Protocol):
    """What the stack needs of a layer; see the top of this file."""

    def pack(self) -> Kept:
        """The weights, in the layout of the arithmetic."""
        ...

    def forward(self, x: Tensor, packed: Kept) -> Kept:
        """The output first, then what `backward` needs."""
        ...

    def backward(self, g: Tensor, x: Tensor, kept: Kept, packed: Kept) -> Tensor:
        """∂F/∂x."""
        ...


def _activate(y: Tensor, leak: float) -> Tensor:
    return y if leak == 1 else F.leaky_relu_(y, leak)


def _deactivate(g: Tensor, y: Tensor, leak: float) -> Tensor:
    """Gradient before a LeakyReLU; the sign of its output y is that of its input."""
    if leak != 1:
        aten.leaky_relu_backward.grad_input(g, y, leak, True, grad_input=g)
    return g


class Unshuffle:
    """PixelUnshuffle(2): [n c 2h 2w] -> [n 4c h w]."""

    def pack(self) -> Kept:
        """No weights."""
        return ()

    def forward(self, x: Tensor, packed: Kept) -> Kept:
        """Every 2×2 pixels into channels."""
        return (F.pixel_unshuffle(x, 2).contiguous(memory_format=torch.channels_last),)

    def backward(self, g: Tensor, x: Tensor, kept: Kept, packed: Kept) -> Tensor:
        """Channels back to pixels."""
        return F.pixel_shuffle(g, 2)


class Conv:
    """Convolution, 2×2 max-pooling if `pool`, LeakyReLU.

    The pooling comes first because a monotone function commutes with it, and acts on a quarter as much.
    """

    def __init__(self, module: nn.Conv2d, leak: float, pool: bool = False) -> None:
        self.module = module
        self.leak = leak
        self.pool = pool
        self.padding = (int(module.padding[0]), int(module.padding[1]))

    def pack(self) -> Kept:
        """Weight in channels_last."""
        return (self.module.weight.contiguous(memory_format=torch.channels_last),)

    def forward(self, x: Tensor, packed: Kept) -> Kept:
        """Output; with pooling also what was pooled (for its shape) and from where."""
        y = F.conv2d(x, packed[0], self.module.bias, self.module.stride, self.padding)
        if not self.pool:
            return (_activate(y, self.leak),)
        pooled, places = aten.max_pool2d_with_indices(y, [2, 2], [2, 2])
        return _activate(pooled, self.leak), y, places

    def backward(self, g: Tensor, x: Tensor, kept: Kept, packed: Kept) -> Tensor:
        """The transposed convolution of what comes through the activation."""
        g = _deactivate(g, kept[0], self.leak)
        if self.pool:
            g = _unpool(g, kept[1], kept[2])
        return self.transposed(g, x, packed)

    def transposed(self, g: Tensor, x: Tensor, packed: Kept) -> Tensor:
        """∂F/∂x from the gradient at the convolution's output."""
        grads = aten.convolution_backward(
            g, x, packed[0], None, self.module.stride, self.padding, [1, 1], False, [0, 0], 1, [True, False, False]
        )
        return grads[0]


class ImageConv(Conv):
    """A convolution of an image, which has few channels.

    Libraries have no good transposed convolution to one or three channels. A matrix product to all of a pixel's
    ky·kx·c shares, and their sum, share by share over all pixels, is 2 to 4 times as fast.
    """

    def pack(self) -> Kept:
        """Weight, and [ky·kx·c out] of it."""
        weight = self.module.weight
        return (*super().pack(), weight.permute(2, 3, 1, 0).reshape(-1, len(weight)).contiguous())

    def transposed(self, g: Tensor, x: Tensor, packed: Kept) -> Tensor:
        """The shares of each output position, added where they belong."""
        n, out, h, w = g.shape
        _, c, height, width = x.shape
        (ky, kx), (sy, sx), (py, px) = self.module.kernel_size, self.module.stride, self.padding
        shares = (packed[1] @ g.permute(0, 2, 3, 1).reshape(-1, out).t()).view(ky, kx, c, n, h, w)
        padded = g.new_zeros(c, n, height + 2 * py, width + 2 * px)
        for i in range(ky):
            for j in range(kx):
                padded[:, :, i : i + sy * h : sy, j : j + sx * w : sx] += shares[i, j]
        return padded[:, :, py : py + height, px : px + width].transpose(0, 1)


def _conv(module: nn.Conv2d, leak: float, pool: bool = False) -> Conv:
    return (ImageConv if module.in_channels <= 4 else Conv)(module, leak, pool)


def _unpool(g: Tensor, x: Tensor, places: Tensor) -> Tensor:
    g = g.contiguous(memory_format=torch.channels_last)
    return aten.max_pool2d_with_indices_backward(g, x, [2, 2], [2, 2], [0, 0], [1, 1], False, places)


class Dense:
    """A matrix product and LeakyReLU: a linear layer, or a convolution whose kernel is as large as its image.

    Args:
        module: weight [out, c·h·w] or [out c h w].
        leak: slope of the LeakyReLU, 1 for none.
        image: (c, h, w) of the input.
    """

    def __init__(self, module: nn.Conv2d | nn.Linear, leak: float, image: Shape) -> None:
        self.module = module
        self.leak = leak
        self.image = image

    def pack(self) -> Kept:
        """Weight [out, h·w·c], the order of an image in channels_last, its transpose, and a bias if there is one."""
        c, h, w = self.image
        weight = self.module.weight
        if h * w > 1:
            weight = weight.reshape(-1, c, h, w).permute(0, 2, 3, 1)
        weight = weight.reshape(-1, c * h * w)
        transposed = weight.t().contiguous()
        return (weight, transposed) if self.module.bias is None else (weight, transposed, self.module.bias)

    def forward(self, x: Tensor, packed: Kept) -> Kept:
        """x [n c h w] or [n c] -> [n out]."""
        flat = x.permute(0, 2, 3, 1).reshape(len(x), -1) if x.dim() == 4 else x
        y = torch.addmm(packed[2], flat, packed[1]) if len(packed) > 2 else torch.mm(flat, packed[1])
        return (_activate(y, self.leak),)

    def backward(self, g: Tensor, x: Tensor, kept: Kept, packed: Kept) -> Tensor:
        """∂F/∂x in the shape of x."""
        g = torch.mm(_deactivate(g, kept[0], self.leak), packed[0])
        if x.dim() == 2:
            return g
        c, h, w = self.image
        return g.view(-1, h, w, c).permute(0, 3, 1, 2)


def _plain(conv: object) -> tuple[Tensor, Tensor]:
    """Weight [out c] and bias [out] of a 1×1 convolution."""
    assert isinstance(conv, nn.Conv2d)
    assert conv.bias is not None
    return conv.weight.flatten(1), conv.bias


class Attention:
    """`NonLocalBlock`: x + W·softmax(θ(x)·φ(x)ᵀ)·g(x) over positions, with φ and g max-pooled by 2.

    Positions are rows: p = h·w of them for queries θ, m of them after the pooling for keys φ and values g.
    """

    def __init__(self, module: NonLocalBlock) -> None:
        self.module = module

    def pack(self) -> Kept:
        """Weights and biases of θ, φ, g as one [3i c] and [3i]; W [c i] and its bias."""
        projections = [_plain(conv) for conv in (self.module.theta, self.module.phi[0], self.module.g[0])]
        out_weight, out_bias = _plain(self.module.W)
        return torch.cat([w for w, _ in projections]), torch.cat([b for _, b in projections]), out_weight, out_bias

    def forward(self, x: Tensor, packed: Kept) -> Kept:
        """Output, queries [n p i], keys and values [n m i], attention [n p m], the pooling's input and places."""
        weight, bias, out_weight, out_bias = packed
        n, c, h, w = x.shape
        i = out_weight.shape[1]
        rows = x.permute(0, 2, 3, 1).reshape(-1, c)
        query = torch.addmm(bias[:i], rows, weight[:i].t()).view(n, h * w, i)
        wide = torch.addmm(bias[i:], rows, weight[i:].t()).view(n, h, w, 2 * i).permute(0, 3, 1, 2)
        pooled, places = aten.max_pool2d_with_indices(wide, [2, 2], [2, 2])
        key, value = pooled.permute(0, 2, 3, 1).reshape(n, -1, 2 * i).split(i, 2)
        attention = torch.softmax(query @ key.transpose(1, 2), dim=-1)
        y = torch.addmm(out_bias, (attention @ value).view(-1, i), out_weight.t()).add_(rows)
        return y.view(n, h, w, c).permute(0, 3, 1, 2), query, key, value, attention, wide, places

    def backward(self, g: Tensor, x: Tensor, kept: Kept, packed: Kept) -> Tensor:
        """Through the residual, the softmax and the three projections."""
        weight, _, out_weight, _ = packed
        _, query, key, value, attention, wide, places = kept
        n, c, h, w = x.shape
        i = out_weight.shape[1]
        rows = g.permute(0, 2, 3, 1).reshape(-1, c)
        attended = (rows @ out_weight).view(n, h * w, i)
        scores = aten._softmax_backward_data(attended @ value.transpose(1, 2), attention, -1, torch.float32)
        both = torch.cat([scores.transpose(1, 2) @ query, attention.transpose(1, 2) @ attended], dim=2)
        pooled = both.view(n, h // 2, w // 2, 2 * i).permute(0, 3, 1, 2)
        projected = _unpool(pooled, wide, places).permute(0, 2, 3, 1).reshape(-1, 2 * i)
        total = torch.addmm(rows, (scores @ key).view(-1, i), weight[:i]).addmm_(projected, weight[i:])
        return total.view(n, h, w, c).permute(0, 3, 1, 2)


def read(network: nn.Module, shape: Shape) -> list[Layer]:
    """The layers of a plain stack (as `native` understands it) or of `NonLocal`.

    Raises:
        ValueError: the network is of neither kind, or not float32.
    """
    if any(parameter.dtype != torch.float32 for parameter in network.parameters()):
        raise ValueError("parameters that are not float32")
    return _read_nonlocal(network, shape) if type(network) is NonLocal else _read_plain(network, shape)


def _read_plain(network: nn.Module, shape: Shape) -> list[Layer]:
    # The parser wants a network on the CPU; the weights are read from the one that was given.
    parsed, factor = parse(copy.deepcopy(network).cpu(), shape)
    modules = [m for m in flat(network) if isinstance(m, nn.Conv2d | nn.Linear)]
    layers: list[Layer] = [Unshuffle()] if factor > 1 else []
    for module, layer in zip(modules, parsed, strict=True):
        c, _, ky, kx, _, _, py, px, h, w = layer.numbers
        if (ky, kx, py, px) == (h, w, 0, 0):
            layers.append(Dense(module, layer.leak, (c, h, w)))
        else:
            assert isinstance(module, nn.Conv2d)
            if layers and isinstance(layers[-1], Dense):
                raise ValueError("a convolution that pads the output of a matrix product")
            layers.append(_conv(module, layer.leak))
    if not isinstance(layers[-1], Dense):
        raise ValueError("a last layer that pads its image")
    return layers


def _read_nonlocal(network: NonLocal, shape: Shape) -> list[Layer]:
    if any(m._forward_hooks or m._forward_pre_hooks for m in network.modules()):
        raise ValueError("a module with forward hooks")
    layers: list[Layer] = []
    size = shape[1]
    conv: nn.Conv2d | None = None
    for module in network.convs:
        if isinstance(module, nn.Conv2d):
            conv = module
        elif isinstance(module, nn.LeakyReLU):
            assert conv is not None
            layers.append(_conv(conv, module.negative_slope, pool=True))
            size //= 2
        elif isinstance(module, NonLocalBlock):
            layers.append(Attention(module))
    first, activation, last = network.fc
    assert isinstance(first, nn.Linear)
    assert isinstance(activation, nn.LeakyReLU)
    assert isinstance(last, nn.Linear)
    layers.append(Dense(first, activation.negative_slope, (first.in_features // size**2, size, size)))
    return [*layers, Dense(last, 1.0, (last.in_features, 1, 1))]
