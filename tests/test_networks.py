"""Networks: the authors' layout of weights, what each computes, factories, and initial gradients."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from ebmcli.errors import ConsentError, EBMError
from ebmcli.networks import NonLocalBlock, Shape, build, build_from
from ebmcli.potential import Potential

Layout = Mapping[str, tuple[int, ...]]

VANILLA_32: Layout = {
    "f.0": (32, 3, 3, 3),
    "f.2": (64, 32, 4, 4),
    "f.4": (128, 64, 4, 4),
    "f.6": (256, 128, 4, 4),
    "f.8": (1, 256, 4, 4),
}
TOY: Layout = {
    "f.0": (32, 2, 1, 1),
    "f.2": (64, 32, 1, 1),
    "f.4": (64, 64, 1, 1),
    "f.6": (64, 64, 1, 1),
    "f.8": (1, 64, 1, 1),
}
NONLOCAL_32: Layout = {
    "convs.0": (32, 3, 3, 3),
    "convs.3.g.0": (16, 32, 1, 1),
    "convs.3.theta": (16, 32, 1, 1),
    "convs.3.phi.0": (16, 32, 1, 1),
    "convs.3.W": (32, 16, 1, 1),
    "convs.4": (64, 32, 3, 3),
    "convs.7.g.0": (32, 64, 1, 1),
    "convs.7.theta": (32, 64, 1, 1),
    "convs.7.phi.0": (32, 64, 1, 1),
    "convs.7.W": (64, 32, 1, 1),
    "convs.8": (128, 64, 3, 3),
    "fc.0": (256, 2048),
    "fc.2": (1, 256),
}
LAYOUTS: dict[str, tuple[Shape, Layout, int]] = {
    "vanilla": ((3, 32, 32), VANILLA_32, 693_569),
    "toy": ((2, 1, 1), TOY, 10_593),
    "nonlocal": ((3, 32, 32), NONLOCAL_32, 628_529),
}
LEAK = 0.05


def by_hand(layout: Layout, seed: int = 0) -> dict[str, Tensor]:
    """A state dict as the authors' code saves it, with weights of about unit gain."""
    generator = torch.Generator().manual_seed(seed)
    weights: dict[str, Tensor] = {}
    for name, size in layout.items():
        fan_in = torch.Size(size[1:]).numel()
        weights[f"{name}.weight"] = torch.randn(size, generator=generator) * fan_in**-0.5
        weights[f"{name}.bias"] = 0.1 * torch.randn(size[0], generator=generator)
    return weights


def plain_stack(weights: dict[str, Tensor], x: Tensor, strides: list[tuple[int, int]]) -> Tensor:
    """Convolutions `f.0`, `f.2`, … with (stride, padding), LeakyReLU between."""
    for i, (stride, padding) in enumerate(strides):
        x = functional.conv2d(x, weights[f"f.{2 * i}.weight"], weights[f"f.{2 * i}.bias"], stride, padding)
        if i + 1 < len(strides):
            x = torch.where(x > 0, x, LEAK * x)
    return x.flatten()


def plain_attention(weights: dict[str, Tensor], name: str, x: Tensor) -> Tensor:
    """x_i + W Σ_j softmax_j(θ_i · φ_j) g_j over max-pooled j, position by position."""

    def project(part: str) -> Tensor:
        weight = weights[f"{name}.{part}.weight"].flatten(1)
        return torch.einsum("oc,nchw->nohw", weight, x) + weights[f"{name}.{part}.bias"][:, None, None]

    g, phi = (functional.max_pool2d(project(part), 2).flatten(2) for part in ("g.0", "phi.0"))
    theta = project("theta").flatten(2)
    attention = torch.einsum("nci,ncj->nij", theta, phi).exp()
    attention = attention / attention.sum(dim=2, keepdim=True)
    y = torch.einsum("nij,ncj->nci", attention, g)
    y = torch.einsum("oc,nci->noi", weights[f"{name}.W.weight"].flatten(1), y)
    return x + (y + weights[f"{name}.W.bias"][:, None]).view_as(x)


def plain_nonlocal(weights: dict[str, Tensor], x: Tensor) -> Tensor:
    for name, attention in (("convs.0", ""), ("convs.4", "convs.3"), ("convs.8", "convs.7")):
        if attention:
            x = plain_attention(weights, attention, x)
        x = functional.conv2d(x, weights[f"{name}.weight"], weights[f"{name}.bias"], 1, 1)
        x = functional.max_pool2d(torch.where(x > 0, x, LEAK * x), 2)
    x = x.flatten(1) @ weights["fc.0.weight"].T + weights["fc.0.bias"]
    return (torch.where(x > 0, x, LEAK * x) @ weights["fc.2.weight"].T + weights["fc.2.bias"]).flatten()


@pytest.mark.parametrize("name", LAYOUTS)
def test_weights_have_the_authors_names_shapes_and_number(name: str) -> None:
    """Exactly these: neither more nor other."""
    shape, layout, count = LAYOUTS[name]
    expected = {k: tuple(v.shape) for k, v in by_hand(layout).items()}
    network = build(name, shape)
    assert {k: tuple(v.shape) for k, v in network.state_dict().items()} == expected
    assert sum(p.numel() for p in network.parameters()) == count


@pytest.mark.parametrize("name", LAYOUTS)
def test_the_authors_weights_load_and_compute_what_the_paper_says(name: str) -> None:
    """A state dict made by hand, loaded strictly, against the same function written out."""
    shape, layout, _ = LAYOUTS[name]
    weights = by_hand(layout)
    network = build(name, shape)
    network.load_state_dict(weights, strict=True)
    x = torch.rand(3, *shape, generator=torch.Generator().manual_seed(1)).double() * 2 - 1
    wide = {k: v.double() for k, v in weights.items()}
    if name == "nonlocal":
        expected = plain_nonlocal(wide, x)
    elif name == "toy":
        expected = plain_stack(wide, x, [(1, 0)] * 5)
    else:
        expected = plain_stack(wide, x, [(1, 1), (2, 1), (2, 1), (2, 1), (1, 0)])
    assert expected.std() > 1e-2
    torch.testing.assert_close(network.double()(x), expected, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize(
    ("name", "size", "last", "shape_of_last"),
    [
        ("vanilla", 16, "f.6.weight", (1, 32, 4, 4)),
        ("vanilla", 28, "f.8.weight", (1, 64, 3, 3)),
        ("vanilla", 32, "f.8.weight", (1, 64, 4, 4)),
        ("vanilla", 64, "f.10.weight", (1, 128, 4, 4)),
        ("nonlocal", 16, "fc.0.weight", (32, 16 * 4 * 4)),
        ("nonlocal", 28, "fc.0.weight", (64, 32 * 3 * 3)),
        ("nonlocal", 32, "fc.0.weight", (64, 32 * 4 * 4)),
        ("nonlocal", 64, "fc.0.weight", (128, 64 * 4 * 4)),
    ],
)
def test_other_sizes_have_a_stage_fewer_or_more(
    name: str, size: int, last: str, shape_of_last: tuple[int, ...]
) -> None:
    """One scalar an image at every usual size; the last layer covers the map that is left."""
    network = build(name, (1, size, size), width=8)
    assert tuple(network.state_dict()[last].shape) == shape_of_last
    assert network(torch.zeros(2, 1, size, size)).shape == (2,)


def test_space_to_depth_folds_two_by_two_pixels_first() -> None:
    """The same as the network of half the size, on images folded by hand (c·4 + 2·row + column)."""
    network = build("vanilla", (3, 32, 32), width=8, space_to_depth=True)
    half = build("vanilla", (12, 16, 16), width=8)
    half.load_state_dict(dict(zip(half.state_dict(), network.state_dict().values(), strict=True)))
    x = torch.rand(2, 3, 32, 32)
    folded = x.view(2, 3, 16, 2, 16, 2).permute(0, 1, 3, 5, 2, 4).reshape(2, 12, 16, 16)
    torch.testing.assert_close(network(x), half(folded))
    with pytest.raises(EBMError, match="27×27 with space_to_depth"):
        build("vanilla", (3, 27, 27), space_to_depth=True)


def test_a_new_nonlocal_block_is_the_identity() -> None:
    """And no longer, once its output projection is not zero."""
    block, x = NonLocalBlock(6), torch.randn(2, 6, 7, 7)
    assert torch.equal(block(x), x)
    nn.init.normal_(block.W.weight)
    assert not torch.allclose(block(x), x)


def test_the_leak_reaches_every_activation() -> None:
    """With leak 1 a network is affine in its image."""
    for name, shape in (("toy", (2, 1, 1)), ("vanilla", (1, 16, 16))):
        x, y = torch.randn(2, 1, *shape).double().unbind()
        for leak, affine in ((1.0, True), (0.05, False)):
            f = build(name, shape, leak=leak).double()
            middle, ends = f((x + y) / 2), (f(x) + f(y)) / 2
            assert torch.allclose(middle, ends, rtol=1e-9, atol=1e-12) == affine


@pytest.mark.parametrize(
    ("name", "shape", "said"),
    [
        ("toy", (2, 2, 1), "network toy expects states of 1×1, received 2×1"),
        ("vanilla", (3, 32, 16), "square images of 8 px or more, received 32×16"),
        ("vanilla", (3, 4, 4), "square images of 8 px or more, received 4×4"),
        ("nonlocal", (3, 4, 4), "square images of 8 px or more, received 4×4"),
        ("nonesuch", (3, 32, 32), "unknown network 'nonesuch'"),
    ],
)
def test_what_does_not_fit_is_named(name: str, shape: tuple[int, int, int], said: str) -> None:
    """Expected, received, and a hint."""
    with pytest.raises(EBMError, match=said) as raised:
        build(name, shape)
    assert raised.value.hint


def test_unknown_arguments_are_named() -> None:
    """An argument that the network does not have is a known error, not a TypeError."""
    with pytest.raises(EBMError, match=r"'nonlocal' does not take these arguments.*space_to_depth"):
        build("nonlocal", (3, 32, 32), space_to_depth=True)


@pytest.mark.parametrize("argument", ["seed", "trusted", "name", "shape"])
def test_arguments_of_a_file_are_the_networks_own(argument: str) -> None:
    """A file cannot give the consent to code, or anything else that is the caller's, as an argument of a network."""
    with pytest.raises(EBMError, match=f"does not take these arguments: {argument}"):
        build_from("toy", (2, 1, 1), {"width": 4, argument: 1})


def test_initial_weights_belong_to_the_seed() -> None:
    """The same from the same seed; torch's global generator is left alone."""
    before = torch.random.get_rng_state()
    first, again, other = (build("toy", (2, 1, 1), seed=s).state_dict() for s in (3, 3, 4))
    assert torch.equal(torch.random.get_rng_state(), before)
    assert all(torch.equal(first[k], again[k]) for k in first)
    assert not any(torch.equal(first[k], other[k]) for k in first)


FACTORIES = """
from torch import nn
import torch

class Net(nn.Module):
    def __init__(self, shape, width=2, outputs=1):
        super().__init__()
        self.inner = nn.Linear(shape[0] * shape[1] * shape[2], width * outputs)
        self.outputs = outputs
    def forward(self, x):
        return self.inner(x.flatten(1)).unflatten(1, (self.outputs, -1)).sum(2).squeeze(1)

def not_a_module(shape): return 3
def needs_rgb(shape): return nn.Sequential(nn.Conv2d(3, 1, shape[1]), nn.Flatten())
class Pair(Net):
    def forward(self, x): return x, x
"""


@pytest.fixture
def factories(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The name of a module with factories in it."""
    (tmp_path / "own_networks.py").write_text(FACTORIES)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "own_networks", raising=False)
    return "own_networks"


def test_a_factory_of_ones_own_is_used(factories: str) -> None:
    """`module:factory` gets the shape and the arguments, and its weights come from the seed."""
    shape = (1, 4, 4)
    network, again = (build(f"{factories}:Net", shape, seed=5, trusted=True, width=7) for _ in range(2))
    weight = network.state_dict()["inner.weight"]
    assert weight.shape == (7, 16)
    assert torch.equal(weight, again.state_dict()["inner.weight"])
    x = torch.randn(3, *shape)
    energy, grad = Potential(network, shape, 2.0).energy_and_grad(x)
    torch.testing.assert_close(energy, 2.0 * network(x).detach())
    torch.testing.assert_close(grad, (2.0 * weight.sum(0)).view(1, *shape).expand_as(x))


def test_a_factory_in_the_present_folder_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As it is not by the scripts that pip installs."""
    (tmp_path / "networks_of_here.py").write_text(FACTORIES)
    monkeypatch.setattr(sys, "path", [entry for entry in sys.path if entry])
    monkeypatch.chdir(tmp_path)
    before = list(sys.path)
    with pytest.raises(ConsentError):
        build("networks_of_here:Net", (1, 4, 4))
    assert sys.path == before
    assert sum(p.numel() for p in build("networks_of_here:Net", (1, 4, 4), trusted=True).parameters()) == 2 * 17


@pytest.mark.parametrize(
    ("name", "arguments", "said"),
    [
        ("no_such_module_here:make", {}, "cannot be imported: No module named 'no_such_module_here'"),
        ("own_networks:nothing", {}, "cannot be imported: .*has no attribute 'nothing'"),
        (":make", {}, "':make' cannot be imported"),
        ("own_networks:Net", {"outputs": 2}, r"shape \[2, 2\] for 2 images, expected \[2\]"),
        ("own_networks:Net", {"colour": 1}, "does not take these arguments"),
        ("own_networks:not_a_module", {}, "returned int, expected an nn.Module"),
        ("own_networks:Pair", {}, r"returned tuple for 2 images, expected \[2\]"),
        ("own_networks:needs_rgb", {}, r"does not take 2 images of shape \[1, 4, 4\]"),
    ],
)
def test_a_factory_that_does_not_do_is_named(factories: str, name: str, arguments: dict[str, Any], said: str) -> None:
    """One known error each."""
    with pytest.raises(EBMError, match=said):
        build(name, (1, 4, 4), trusted=True, **arguments)


def test_an_untrusted_file_names_no_code(factories: str) -> None:
    """The module is not even imported."""
    with pytest.raises(EBMError, match=r"names code to run as its network \(own_networks:Net\)") as raised:
        build(f"{factories}:Net", (1, 4, 4))
    assert raised.value.hint
    assert factories not in sys.modules
    build("toy", (2, 1, 1))


@pytest.mark.parametrize("name", ["vanilla", "nonlocal"])
def test_default_initialisation_moves_chains_as_appendix_a_says(name: str) -> None:
    """r of a new network: about 0.01 with the langevin scale at ε = 0.015, about 1e-6 with the unit scale."""
    shape, epsilon = (3, 32, 32), 0.015
    x = torch.rand(8, *shape, generator=torch.Generator().manual_seed(0)) * 2 - 1
    r = {}
    for scale in (2 / epsilon**2, 1.0):
        y = x.clone().requires_grad_()
        (grad,) = torch.autograd.grad(Potential(build(name, shape, seed=1), shape, scale)(y).sum(), y)
        r[scale] = epsilon**2 / 2 * grad.flatten(1).norm(dim=1).mean().item()
    assert 10**-2.5 < r[2 / epsilon**2] < 10**-1.5
    assert 10**-6.5 < r[1.0] < 10**-5.3
