"""The function g of Algorithm 1, line 3: Adam or SGD, their schedule, and Eq. 13's scaling."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from ebmcli.recipe.sections import OptimizerSettings, Phase


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
        self.schedule = settings.schedule()
        self.gradient_clip = settings.gradient_clip
        self.energy_scale = energy_scale
        self._start(self.schedule.phases[0])

    def _start(self, phase: Phase) -> None:
        self.current = phase
        self.torch = OPTIMIZERS[phase.name](self.parameters, phase)

    def step(self, update: int, factor: float = 1.0) -> float:
        """Apply the gradients in place; returns the rate used (Adam: γ, SGD: γ0): `factor` times the schedule's."""
        phase, rate = self.schedule.phase(update), factor * self.schedule.rate(update)
        if phase != self.current:
            self._start(phase)
        if self.gradient_clip:
            # The gradients are those of U = energy_scale · F, and the limit is meant for F: it does not depend on ε.
            limit = self.gradient_clip * self.energy_scale
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
        self._start(self.schedule.phase(max(update, 1)))
        state: dict[int, dict[str, Tensor]] = {}
        for name, tensor in tensors.items():
            index, _, key = name.partition(".")
            state.setdefault(int(index), {})[key] = tensor.clone()
        self.torch.load_state_dict({**self.torch.state_dict(), "state": state})
