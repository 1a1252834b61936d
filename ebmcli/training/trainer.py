"""Algorithm 1: maximum likelihood learning with MCMC samples, as a generator of update records."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Mapping
from typing import NamedTuple

import torch
from torch import Tensor

from ebmcli.engine.precision import computing
from ebmcli.errors import DivergedError, EBMError
from ebmcli.potential import Potential
from ebmcli.random.streams import Purpose, Stream
from ebmcli.recipe.sections import GuardSettings, MCMCSettings, OptimizerSettings, TrainSettings
from ebmcli.sampler import Langevin, Path, run
from ebmcli.sampler.starts import noise_start
from ebmcli.training.bank import Bank, Data
from ebmcli.training.guard import Guard
from ebmcli.training.optimizers import Optimizer

LARGEST_PIXEL = 100.0
"""A negative sample beyond this (in units of the data's range) has left for good."""

HINT = "lower the learning rate, take more MCMC steps, or set optimizer.gradient_clip"


class UpdateRecord(NamedTuple):
    """One weight update. Means are over chains, and over states of the path where it says so."""

    update: int
    energy_difference: float
    """d_s = mean U(x⁺) − mean U(x⁻) (Eq. 10): < 0 expansion, > 0 contraction"""
    gradient_magnitude: float
    """v: mean of ‖∂U/∂y‖ over chains and the L + 1 states (§3.1)"""
    displacement: float
    """r = (ε²/2)·v/T, pixel units (§3.2)"""
    straightness: float
    """mean of ‖x_L − x_0‖ / Σ‖steps‖, in [0, 1]"""
    burn_in_distance: float
    """R: mean distance of an initial state and a positive, pixel units"""
    energy_data: float
    energy_samples: float
    largest_pixel: float
    """max |x⁻|"""
    learning_rate: float
    """γ (Adam) or γ0 (SGD)"""
    seconds: float
    """wall time of this update"""
    rolled_back: str = ""
    """why learning went back to an earlier state before this update, where it did"""


class PathNumbers(NamedTuple):
    """What the chains of an update show before its energy difference is known; see `UpdateRecord`."""

    update: int
    gradient_magnitude: float
    displacement: float
    straightness: float
    burn_in_distance: float
    largest_pixel: float


RETRY_STREAMS = 40
"""Bits of an update's number in the address of its random numbers; above them stands the count of failures."""


class Trainer:
    """Learns the weights of a potential.

    Nothing random is kept between updates: a trainer is its weights, optimiser memory, bank,
    moving average, guard and the number of updates done, and continues bit for bit from those.

    Args:
        potential: whose weights are changed in place.
        data: positives.
        mcmc, optimizer, train, guard: sections of a recipe. Without a guard, or with no retries, learning ends at
            the first value out of bounds.
        data_noise: ε_data, pixel units: standard deviation of the noise added to positives, drawn anew at each use.

    Raises:
        EBMError: images of another shape than the potential's, or fewer chains in the bank than negatives.
    """

    def __init__(
        self,
        potential: Potential,
        data: Data,
        mcmc: MCMCSettings,
        optimizer: OptimizerSettings,
        train: TrainSettings,
        guard: GuardSettings | None = None,
        data_noise: float = 0.0,
    ) -> None:
        if tuple(data.shape) != tuple(potential.shape):
            raise EBMError(
                f"the data's images are {tuple(data.shape)}, the potential's {tuple(potential.shape)}",
                "(channels, height, width) must agree",
            )
        self.bank_size = mcmc.bank_size or 0
        if mcmc.init == "persistent" and train.negatives > self.bank_size:
            raise EBMError(
                f"an update takes {train.negatives} negatives from a bank of {self.bank_size} chains",
                "raise mcmc.bank_size or lower train.negatives",
            )
        self.potential = potential
        self.data = data
        self.mcmc = mcmc
        self.train = train
        self.data_noise = data_noise
        self.parameters = [p for p in potential.parameters() if p.requires_grad]
        self.optimizer = Optimizer(self.parameters, optimizer, potential.energy_scale)
        self.kernel = Langevin(potential, mcmc.step_size, mcmc.noise, mcmc.temperature)
        self.update = 0
        self.average = [p.detach().clone() for p in self.parameters] if train.ema else []
        reach = mcmc.noise * mcmc.step_size * math.sqrt(math.prod(potential.shape))
        self.guard = Guard(guard, mcmc.steps, reach) if guard is not None and guard.retries else None
        self.bank = self._new_bank() if mcmc.init == "persistent" else None
        self.negatives = torch.empty(0, *potential.shape)

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.parameters[0].device

    def updates(self, until: int | None = None) -> Iterator[UpdateRecord]:
        """Make updates until `until` are done in all (`train.updates` if left out); a record each.

        Raises:
            DivergedError: a value is not finite or out of all bounds. Weights, optimiser and bank
                are then those of the last update that was sound; with a guard, which had to give up, they
                are those it went back to, and `update` is the one that failed.
        """
        last = self.train.updates if until is None else until
        while self.update < last:
            yield self._update() if self.guard is None else self._guarded(self.guard)

    def _guarded(self, guard: Guard) -> UpdateRecord:
        """The next update that succeeds, from an earlier state if need be."""
        reason = ""
        if not guard.kept:
            guard.keep(self.update, self._memory())
        while True:
            try:
                record = self._update()
                break
            except DivergedError as error:
                failed = self.update + 1
                snapshot = guard.back(failed)
                self._go_back(snapshot.tensors, snapshot.update, failed)
                if guard.exhausted:
                    tries = f"going back to update {snapshot.update} did not help ({guard.failures - 1} times)"
                    self.update, guard.failures = failed, 0
                    raise DivergedError(f"{error.message}; {tries}", HINT) from error
                reason = f"{error.message}; went back to the weights of update {snapshot.update}"
        guard.saw(record)
        if guard.due(record.update):
            guard.keep(record.update, self._memory())
        return record._replace(rolled_back=reason)

    def _memory(self) -> dict[str, Tensor]:
        """Weights and what goes with them: all that going back brings back."""
        tensors = {f"optimizer.{k}": v for k, v in self.optimizer.state().items()}
        tensors |= {f"average.{i}": p for i, p in enumerate(self.average)}
        return tensors | {f"weight.{i}": p for i, p in enumerate(self.parameters)}

    def _go_back(self, tensors: dict[str, Tensor], update: int, failed: int) -> None:
        """Take an earlier `_memory` back; bank chains that the failed energy threw out start anew."""
        assert self.guard is not None
        with torch.no_grad():
            for i, p in enumerate(self.parameters):
                p.copy_(tensors[f"weight.{i}"])
        self._take(tensors, update)
        if self.bank is not None:
            lost = self.guard.foreign(self.bank.states).nonzero().flatten()
            if len(lost):
                stream = self._stream(Purpose.BANK_START, failed)
                self.bank.write(lost, self._start(self.mcmc.bank_init, stream, lost))

    def state(self) -> dict[str, Tensor]:
        """Everything that continues a run, besides the potential's weights and `update`.

        The tensors are the trainer's own: write or copy them before the next update.
        """
        tensors = {f"optimizer.{k}": v for k, v in self.optimizer.state().items()}
        tensors |= {f"average.{i}": p for i, p in enumerate(self.average)}
        if self.bank is not None:
            tensors["bank"] = self.bank.states
        if self.guard is not None:
            tensors |= {f"guard.{k}": v for k, v in self.guard.state().items()}
        return tensors

    def load(self, tensors: dict[str, Tensor], update: int) -> None:
        """Continue after `update` with what `state` returned then (the weights are loaded by the caller)."""
        self._take(tensors, update)
        if self.bank is not None:
            self.bank.states = tensors["bank"].clone()
        if self.guard is not None:
            self.guard.load(_under("guard.", tensors), self.device)
        self.update = update

    def _take(self, tensors: dict[str, Tensor], update: int) -> None:
        self.optimizer.load(_under("optimizer.", tensors), update)
        self.average = [tensors[f"average.{i}"].to(self.device).clone() for i in range(len(self.average))]

    def _stream(self, purpose: Purpose, update: int) -> Stream:
        # After a failure with other numbers: it may have been the batch.
        failures = self.guard.failures if self.guard else 0
        return Stream(self.train.seed, purpose, update + (failures << RETRY_STREAMS))

    def _positives(self, update: int) -> Tensor:
        n = self.train.positives
        x = self.data.draw(n, self._stream(Purpose.DATA, update).generator())
        return self._with_data_noise(x, self._stream(Purpose.DATA_NOISE, update))

    def _with_data_noise(self, x: Tensor, stream: Stream) -> Tensor:
        if self.data_noise:
            z = stream.normal(torch.arange(len(x)), 0, self.potential.shape)
            x = x + self.data_noise * z
        return x.to(self.device)

    def _new_bank(self) -> Bank:
        slots = torch.arange(self.bank_size)
        stream = self._stream(Purpose.BANK_START, 0)
        return Bank(self._start(self.mcmc.bank_init, stream, slots).cpu())

    def _start(self, init: str, stream: Stream, chains: Tensor) -> Tensor:
        if init == "data":
            # The model learns the data with its noise, so that is what informative starts are.
            x = self.data.draw(len(chains), stream.generator())
            return self._with_data_noise(x, stream)
        x = noise_start(init, stream, chains, self.potential.shape, self.mcmc.init_scale)
        return x.to(self.device)

    def _initial(self, update: int) -> tuple[Tensor, Tensor]:
        """Initial states [m c h w] and whose random numbers they use (bank slots, or 0 … m−1)."""
        m = self.train.negatives
        stream = self._stream(Purpose.START, update)
        if self.bank is None:
            chains = torch.arange(m)
            return self._start(self.mcmc.init, stream, chains), chains
        generator = self._stream(Purpose.BANK, update).generator()
        slots = self.bank.draw(m, generator)
        x = self.bank.states[slots].to(self.device)
        anew = torch.from_numpy(generator.random(m) < self.mcmc.rejuvenation)
        if anew.any():
            x[anew.to(self.device)] = self._start(self.mcmc.bank_init, stream, slots[anew])
        return x, slots

    def _update(self) -> UpdateRecord:
        began = time.perf_counter()
        update = self.update + 1
        positives = self._positives(update)
        start, chains = self._initial(update)
        stream = self._stream(Purpose.MCMC, update)
        state = self.kernel.init(start, stream, chains.to(self.device))
        path = run(self.kernel, state, self.mcmc.steps)
        negatives = path.state.x
        seen = self._measure(update, positives, start, path)
        self._check(update, seen._asdict())
        self._check_reach(seen)
        if self.guard is not None:
            self.guard.check_path(seen)

        self.optimizer.torch.zero_grad(set_to_none=True)
        with computing(self.device):
            energy = self.potential(torch.cat([positives, negatives]))
            energy_data = energy[: len(positives)].mean()
            energy_samples = energy[len(positives) :].mean()
            difference = energy_data - energy_samples
            difference.backward()
        energies = {
            "energy_difference": difference.item(),
            "energy_data": energy_data.item(),
            "energy_samples": energy_samples.item(),
        }
        self._check(update, energies)
        if self.guard is not None:
            self.guard.check_difference(update, energies["energy_difference"])
        self._check_gradient(update)

        rate = self.optimizer.step(update, self.guard.slowdown(update) if self.guard else 1.0)
        with torch.no_grad():
            decay = min(self.train.ema, (1 + update) / (10 + update))
            for mean, p in zip(self.average, self.parameters, strict=False):
                mean.lerp_(p, 1 - decay)
        if self.bank is not None:
            self.bank.write(chains, negatives)
        self.negatives = negatives
        self.update = update
        seconds = time.perf_counter() - began
        return UpdateRecord(**seen._asdict(), **energies, learning_rate=rate, seconds=seconds)

    def _measure(self, update: int, positives: Tensor, start: Tensor, path: Path) -> PathNumbers:
        pairs = min(len(positives), len(start))
        burn_in = (start[:pairs] - positives[:pairs]).flatten(1).norm(dim=1).mean()
        moved = (path.state.x - start).flatten(1).norm(dim=1)
        straightness = (moved / path.length.clamp_min(1e-30)).mean()
        v = path.gradient_magnitude.mean()
        numbers = torch.stack([v, straightness, burn_in, path.state.x.abs().max()]).tolist()
        return PathNumbers(
            update=update,
            gradient_magnitude=numbers[0],
            displacement=self.kernel.drift * numbers[0],
            straightness=numbers[1],
            burn_in_distance=numbers[2],
            largest_pixel=numbers[3],
        )

    def _check_gradient(self, update: int) -> None:
        """A finite loss may have a gradient that is not, and the weights would be lost with it."""
        norms = [p.grad.norm() for p in self.parameters if p.grad is not None]
        if norms and not torch.stack(norms).isfinite().all():
            raise DivergedError(f"update {update} diverged: the weights' gradient is not finite", HINT)

    def _check(self, update: int, numbers: Mapping[str, float]) -> None:
        """The first guard: learning that has left the finite numbers ends here, with its state sound."""
        for name, value in numbers.items():
            if not math.isfinite(value):
                raise DivergedError(f"update {update} diverged: {name} is {value}", HINT)

    def _check_reach(self, record: PathNumbers) -> None:
        """The second guard: chains that were thrown out of all bounds end learning too."""
        # A mean step as long as half the data's range in every pixel is an explosion, at any step size.
        limit = math.sqrt(math.prod(self.potential.shape))
        scale = max(1.0, self.mcmc.init_scale)
        if record.displacement > limit * scale or record.largest_pixel > LARGEST_PIXEL * scale:
            raise DivergedError(
                f"update {record.update} diverged: displacement {record.displacement:.3g} a step, "
                f"largest |pixel| {record.largest_pixel:.3g}",
                HINT,
            )


def _under(prefix: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """The tensors whose names begin so, without it."""
    return {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}
