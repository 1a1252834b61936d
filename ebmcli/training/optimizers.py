"""The function g of Algorithm 1, line 3: Adam or SGD, their schedule, and Eq. 13's scaling."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ebmcli.errors import EBMError


@dataclass(frozen=True)
class Phase:
    """An optimiser and its learning rate, from one update on.

    Args:
        name: `adam` or `sgd`.
        learning_rate: Adam: γ. SGD: γ0, and γ = γ0 / energy_scale (Eq. 13: (ε²/2)·γ0 with the
            langevin scale), so that the change of the weights does not depend on ε.
        decay: factor on the rate for each update since the phase began.
        minimum: floor of the decayed rate.
        betas: of Adam.
        momentum: of SGD.
        from_update: first update (counted from 1) of this phase.
    """

    name: str = "adam"
    learning_rate: float = 1e-4
    decay: float = 1.0
    minimum: float = 0.0
    betas: tuple[float, float] = (0.9, 0.999)
    momentum: float = 0.0
    from_update: int = 1


@dataclass(frozen=True)
class OptimizerSettings:
    """All phases in order, and what is common to them.

    Args:
        phases: the first begins at update 1.
        warmup: updates over which the rate rises linearly from 0.
        gradient_clip: largest norm of the gradient of mean F(x⁺) − mean F(x⁻) with respect to the
            weights (without the energy scale, so that it does not depend on ε); 0 is off.
    """

    phases: tuple[Phase, ...] = (Phase(),)
    warmup: int = 0
    gradient_clip: float = 0.0

    def phase(self, update: int) -> Phase:
        """The phase that makes this update (counted from 1)."""
        begun = [p for p in self.phases if p.from_update <= update]
        return begun[-1] if begun else self.phases[0]

    def rate(self, update: int) -> float:
        """γ (Adam) or γ0 (SGD) of this update."""
        phase = self.phase(update)
        rate = max(phase.learning_rate * phase.decay ** (update - phase.from_update), phase.minimum)
        return rate * min(1.0, update / self.warmup) if self.warmup else rate


def _adam(parameters: list[nn.Parameter], phase: Phase) -> torch.optim.Optimizer:
    fused = parameters[0].device.type in ("cpu", "cuda")
    return torch.optim.Adam(parameters, lr=phase.learning_rate, betas=phase.betas, fused=fused, foreach=not fused)


def _sgd(parameters: list[nn.Parameter], phase: Phase) -> torch.optim.Optimizer:
    return torch.optim.SGD(parameters, lr=phase.learning_rate, momentum=phase.momentum)


OPTIMIZERS = {"adam": _adam, "sgd": _sgd}


class Optimizer:
    """Applies one weight update a call; changes of phase start a new optimiser without memory."""

    def __init__(self, parameters: Sequence[nn.Parameter], settings: OptimizerSettings, energy_scale: float) -> None:
        self.parameters = list(parameters)
        self.settings = settings
        self.energy_scale = energy_scale
        self._start(settings.phases[0])

    def _start(self, phase: Phase) -> None:
        if phase.name not in OPTIMIZERS:
            raise EBMError(f"unknown optimizer {phase.name!r}", f"use one of {', '.join(OPTIMIZERS)}")
        self.current = phase
        self.torch = OPTIMIZERS[phase.name](self.parameters, phase)

    def step(self, update: int, factor: float = 1.0) -> float:
        """Apply the gradients in place; returns the rate used (Adam: γ, SGD: γ0): `factor` times the schedule's."""
        phase, rate = self.settings.phase(update), factor * self.settings.rate(update)
        if phase != self.current:
            self._start(phase)
        if self.settings.gradient_clip:
            # The gradients are those of U = energy_scale · F.
            limit = self.settings.gradient_clip * self.energy_scale
            torch.nn.utils.clip_grad_norm_(self.parameters, limit)
        scale = 1 / self.energy_scale if phase.name == "sgd" else 1.0
        for group in self.torch.param_groups:
            group["lr"] = rate * scale
        self._lay_out()
        self.torch.step()
        return rate

    def _lay_out(self) -> None:
        """Moments in the layout of their weights, which a backend may have changed: fused steps walk both as one."""
        for weight, moments in self.torch.state.items():
            for name, moment in moments.items():
                if isinstance(moment, Tensor) and moment.shape == weight.shape and moment.stride() != weight.stride():
                    moments[name] = torch.empty_like(weight.detach()).copy_(moment)

    def state(self) -> dict[str, Tensor]:
        """The optimiser's memory, flat: `0.exp_avg`, `0.step`, …"""
        state = self.torch.state_dict()["state"]
        return {
            f"{index}.{key}": torch.as_tensor(value)
            for index, values in state.items()
            for key, value in values.items()
            if value is not None
        }

    def load(self, tensors: dict[str, Tensor], update: int) -> None:
        """Continue after `update` with what `state` returned then."""
        self._start(self.settings.phase(max(update, 1)))
        state: dict[int, dict[str, Tensor]] = {}
        for name, tensor in tensors.items():
            index, _, key = name.partition(".")
            state.setdefault(int(index), {})[key] = tensor.clone()
        self.torch.load_state_dict({**self.torch.state_dict(), "state": state})
