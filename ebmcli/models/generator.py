"""A short run as a generator of images: x = M(z, u), K Langevin steps from z with noise u.

After Nijkamp, Hill, Zhu, Wu (NeurIPS 2019), who keep the chains that trained an energy as the thing that was learned:
`interpolate` walks between two starts z, `reconstruct` finds the start that leads to a given image.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor, nn

from ebmcli.errors import DivergedError, UsageError
from ebmcli.models.checkpoint import Checkpoint
from ebmcli.random.streams import Purpose, Stream
from ebmcli.sampler import Langevin, run
from ebmcli.sampler.starts import noise_start

BATCH_CHAINS = 64
"""Chains that run at once."""
FIRST_RATE = 0.5
"""First step of the descent as a share of ½∂‖x − M(z)‖²/∂z: 1 is x − M(z) itself."""
FADING_ITERATIONS = 20
"""Iterations after which the step of the descent has fallen to a half, then to a third, and so on."""

_LINEAR_PIECES = (
    nn.Conv2d,
    nn.Linear,
    nn.LeakyReLU,
    nn.ReLU,
    nn.PixelUnshuffle,
    nn.MaxPool2d,
    nn.AvgPool2d,
    nn.Flatten,
    nn.Identity,
)


class Generator:
    """x = M(z, u): the chains of a model, K steps long, with the noise u of each fixed by its number.

    Args:
        model: the model.
        steps: K; left out, the model's own.
        step_size: ε, pixel units; left out, the model's own.
        noise: τ; left out, the model's own; 0 leaves u out.
        seed: of u and of starts from noise.
    """

    def __init__(
        self,
        model: Checkpoint,
        steps: int | None = None,
        step_size: float | None = None,
        noise: float | None = None,
        seed: int = 0,
    ) -> None:
        config = model.config
        self.model, self.seed = model, seed
        self.steps = config.steps if steps is None else steps
        self.kernel = Langevin(
            model.potential,
            config.step_size if step_size is None else step_size,
            config.noise if noise is None else noise,
            config.temperature,
        )
        self.stream = Stream(seed, Purpose.MCMC)

    @property
    def device(self) -> torch.device:
        """Where chains run."""
        return self.model.potential.device

    @property
    def is_piecewise_linear(self) -> bool:
        """Whether ∂U/∂x is constant between kinks, so that M(z) moves with z as z does, almost everywhere."""
        name = self.model.config.network
        leaves = [m for m in self.model.potential.network.modules() if not list(m.children())]
        return name in ("toy", "vanilla") and all(isinstance(m, _LINEAR_PIECES) for m in leaves)

    def start(self, chains: Tensor) -> Tensor:
        """z [n c h w] from noise, on the CPU, one for each of `chains` (int64 [n])."""
        config = self.model.config
        stream = Stream(self.seed, Purpose.START)
        return noise_start(config.noise_init, stream, chains, config.shape, config.init_scale)

    def __call__(self, z: Tensor, chains: Tensor) -> Tensor:
        """M(z, u) [n c h w] on the CPU; `chains` (int64 [n]) say whose u each gets.

        Raises:
            DivergedError: a chain left the finite numbers.
        """
        parts = []
        for part, numbers in zip(z.split(BATCH_CHAINS), chains.split(BATCH_CHAINS), strict=True):
            state = self.kernel.init(part.to(self.device), self.stream, numbers.to(self.device))
            parts.append(run(self.kernel, state, self.steps).state.x.cpu())
        x = torch.cat(parts)
        if not bool(torch.isfinite(x).all()):
            raise DivergedError(
                f"chains left the finite numbers within {self.steps} steps", f"ε is {self.kernel.step_size:g}"
            )
        return x

    def pull_back(self, z: Tensor, chains: Tensor, g: Tensor) -> Tensor:
        """(∂M/∂z)ᵀ g [n c h w]: a gradient at the images, brought back through all the steps to their starts.

        Step k contributes g ← g − (ε²/2T)·∇²U(x_k) g, a Hessian–vector product at its state alone. The states are
        recomputed in pieces of √K from the first of each piece, so that 2√K of them are held, and no activations
        but those of one step.
        """
        size = max(1, math.isqrt(self.steps))
        out = []
        for part, numbers, back in zip(
            z.split(BATCH_CHAINS), chains.split(BATCH_CHAINS), g.split(BATCH_CHAINS), strict=True
        ):
            state = self.kernel.init(part.to(self.device), self.stream, numbers.to(self.device))
            kept = [state]
            for begin in range(size, self.steps, size):
                state = run(self.kernel, state, size).state
                assert state.step == begin
                kept.append(state)
            back = back.to(self.device)
            for first in reversed(kept):
                piece = [first]
                for _ in range(min(size, self.steps - first.step) - 1):
                    piece.append(self.kernel.step(piece[-1])[0])
                for state in reversed(piece if self.steps else []):
                    back = back - self.kernel.drift * self._hessian_times(state.x, back)
            out.append(back.cpu())
        return torch.cat(out)

    def _hessian_times(self, x: Tensor, g: Tensor) -> Tensor:
        """∇²U(x) g [n c h w]."""
        x = x.detach().clone().requires_grad_(True)
        with torch.enable_grad():
            (grad,) = torch.autograd.grad(self.model.potential(x).sum(), x, create_graph=True)
            if not grad.requires_grad:
                return torch.zeros_like(x)
            (product,) = torch.autograd.grad((grad * g).sum(), x, allow_unused=True)
        return torch.zeros_like(x) if product is None else product.detach()


# Interpolation


class Interpolation(NamedTuple):
    """The images between pairs of starts."""

    x: Tensor
    """[pairs frames c h w]"""
    angles: Tensor
    """θ of each frame, 0 to π/2 [frames]"""

    @property
    def steps(self) -> Tensor:
        """Distance of each frame to the next, root mean square over pixels [pairs frames−1]."""
        return (self.x[:, 1:] - self.x[:, :-1]).square().mean(dim=(2, 3, 4)).sqrt()

    @property
    def jump(self) -> Tensor:
        """The largest step over the median step, each by its angle, of each pair [pairs]: near 1 for a smooth way.

        It grows with the number of frames where neighbouring chains part: at the kinks of a piecewise linear network
        they do so however near they begin, and more frames have smaller steps beside the same jumps.
        """
        rates = self.steps / self.angles.diff()
        return rates.max(dim=1).values / rates.median(dim=1).values.clamp_min(1e-12)

    def at(self, count: int) -> Interpolation:
        """`count` ≥ 2 frames (all, if there are fewer) at distances as equal as can be, both ends among them."""
        frames = torch.linspace(0, len(self.angles) - 1, min(count, len(self.angles))).round().long()
        return Interpolation(self.x[:, frames], self.angles[frames])


def mixed(z1: Tensor, z2: Tensor, angles: Tensor) -> Tensor:
    """sin θ·z1 + cos θ·z2 for each θ: [pairs c h w] twice -> [pairs frames c h w].

    The mixture of two normal starts is one of them again; of uniform ones it has their variance.
    """
    shape = (1, -1, *[1] * (z1.dim() - 1))
    return angles.sin().view(shape) * z1[:, None] + angles.cos().view(shape) * z2[:, None]


def interpolate(generator: Generator, pairs: int, frames: int) -> Iterator[Interpolation]:
    """Images between `pairs` pairs of starts, `frames` ≥ 2 of each at uniform θ; what is ready so far, pair by pair.

    Every frame of a pair gets the same Langevin noise u, that of its pair's number.
    """
    angles = torch.linspace(0, math.pi / 2, frames, dtype=torch.float64).float()
    done = []
    for pair in range(pairs):
        z1, z2 = generator.start(torch.tensor([2 * pair])), generator.start(torch.tensor([2 * pair + 1]))
        z = mixed(z1, z2, angles)[0]
        done.append(generator(z, torch.full((frames,), pair)))
        yield Interpolation(torch.stack(done), angles)


# Reconstruction


class Attempt(NamedTuple):
    """Where a reconstruction is after some iterations."""

    iteration: int
    error: Tensor
    """mean squared error a pixel of each image now [n]"""
    best: Tensor
    """the least so far [n]"""
    x: Tensor
    """the images with the least error [n c h w]"""
    z: Tensor
    """where their chains begin [n c h w]"""


def reconstruct(
    generator: Generator, images: Tensor, iterations: int, exact: bool, rate: float = FIRST_RATE
) -> Iterator[Attempt]:
    """Minimise ‖x − M(z, u)‖² over z by gradient descent through the chain, from z of noise; u is held fixed.

    The chain is not smooth (its kinks make neighbours part), so that no step size descends for ever: the step falls
    as 1/(1 + i/`FADING_ITERATIONS`), and the best start so far is kept. There is an attempt of every iteration, the
    start's first.

    Args:
        generator: M.
        images: x [n c h w].
        iterations: ≥ 0.
        exact: bring the gradient back through every step (`Generator.pull_back`); otherwise M(z) is taken to move
            as z does, which is the same for piecewise linear networks and costs nothing.
        rate: of the first step.

    Raises:
        UsageError: the cheap gradient for a network that it is wrong for.
    """
    if not exact and not generator.is_piecewise_linear:
        raise UsageError(
            f"network {generator.model.config.network} is not piecewise linear, and the cheap gradient is wrong for it",
            "take the exact `gradient`",
        )
    chains = torch.arange(len(images))
    z = generator.start(chains).to(images)
    best = torch.full((len(images),), math.inf)
    x_best, z_best = z, z
    for iteration in range(iterations + 1):
        x = generator(z, chains)
        error = (x - images).square().mean(dim=(1, 2, 3))
        better = error < best
        best = torch.where(better, error, best)
        wide = better.view(-1, *[1] * (z.dim() - 1))
        x_best, z_best = torch.where(wide, x, x_best), torch.where(wide, z, z_best)
        yield Attempt(iteration, error, best, x_best, z_best)
        g = x - images
        if exact:
            g = generator.pull_back(z, chains, g)
        z = z - rate / (1 + iteration / FADING_ITERATIONS) * g
