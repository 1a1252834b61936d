"""From a recipe to a run that learns: builds the trainer, keeps the folder, goes on after any end."""

from __future__ import annotations

import copy
import logging
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor

from ebmcli import media
from ebmcli.errors import DivergedError, EBMError
from ebmcli.models.checkpoint import FILE, Checkpoint, ModelConfig, versions
from ebmcli.models.checkpoint import save as save_model
from ebmcli.networks import build
from ebmcli.potential import Potential
from ebmcli.random.streams import Purpose, Stream
from ebmcli.recipe import loads
from ebmcli.sampler import Langevin, run
from ebmcli.sampler.starts import noise_start
from ebmcli.storage.tensors import read_tensors
from ebmcli.training import longruns
from ebmcli.training.bank import Data
from ebmcli.training.run_folder import Run, Saved
from ebmcli.training.trainer import Trainer, UpdateRecord

if TYPE_CHECKING:
    from ebmcli.recipe import Recipe

GRID = 64
"""Images in a sample grid."""


log = logging.getLogger("ebmcli.training.session")

LASTING = ("data", "potential", "mcmc", "train", "optimizer", "guard")
"""Sections of a recipe that decide what is learned."""


class Event(NamedTuple):
    """One update, and what was written after it."""

    record: UpdateRecord
    picture: Path | None
    saved: Saved | None


def _network(config: ModelConfig) -> str:
    """A network in words."""
    arguments = ", ".join(f"{key} {value}" for key, value in config.arguments.items())
    return f"{config.network} ({arguments}) of {config.image_size}×{config.image_size}×{config.channels}"


def build_potential(recipe: Recipe, device: torch.device, backend: str = "auto", trusted: bool = False) -> Potential:
    """A new potential as the recipe says, with initial weights drawn from its seed.

    Raises:
        ConsentError: the recipe names code as its network, and is not `trusted`.
    """
    seed, arguments = recipe.train.seed, recipe.network_arguments()
    network = build(recipe.potential.network, recipe.shape, seed=seed, trusted=trusted, **arguments)
    scale = recipe.energy_scale_value()
    return Potential(network.to(device), recipe.shape, scale, recipe.mcmc.temperature, backend, recipe.train.precision)


def build_trainer(recipe: Recipe, potential: Potential, data: Data) -> Trainer:
    """Algorithm 1 as the recipe says."""
    r = recipe
    return Trainer(potential, data, r.mcmc, r.optimizer, r.train, r.guard, r.data.noise_std)


def _learned_with(recipe: Recipe) -> dict[str, Any]:
    """The settings that a run keeps for good, under dotted keys."""
    values = recipe.model_dump(mode="json", by_alias=True, include=set(LASTING), exclude={"train": {"updates"}})
    return {f"{section}.{key}": value for section, table in values.items() for key, value in table.items()}


class Learning:
    """A trainer and its run folder.

    Args:
        recipe: resolved.
        data: positives; `name` and `identity` of it go into checkpoints.
        folder: the run, new or begun; None learns without writing (a dry run).
        trusted: allow code that the recipe names as its network to be imported.
    """

    def __init__(
        self,
        recipe: Recipe,
        data: Data,
        folder: Run | None,
        device: torch.device,
        backend: str = "auto",
        trusted: bool = False,
    ) -> None:
        self.recipe = recipe
        self.data = data
        self.folder = folder
        self.device = device
        self.potential = build_potential(recipe, device, backend, trusted)
        self.trainer = build_trainer(recipe, self.potential, data)
        self._sampler: Potential | None = None
        self._saved_at = time.monotonic()
        self.stop: Callable[[], bool] = lambda: False
        """Asked after each update; True saves a checkpoint and ends the events."""
        self.long_runs: longruns.LongRuns | None = None
        """Gets the weights of each update that the recipe wants a long run of; whoever made it runs them."""

    def resume(self) -> int:
        """Continue from the newest sound checkpoint, or from the start if the run has none; returns its update.

        Damaged and unverified checkpoints are named in warnings.

        Raises:
            EBMError: there are checkpoints and none is sound; recipe.toml is not what the run learned with.
        """
        assert self.folder is not None
        self.folder.tidy()
        found = self.folder.newest_sound()
        if found.saved is not None:
            self._check_recipe(found.saved)
            self._take(found.saved)
            self.folder.set_aside(found)
            self.folder.finish(found.saved, self.recipe.log.keep_last)
        for note in found.notes:
            log.warning(note)
        self.folder.cut_metrics(self.trainer.update)
        longruns.cut(self.folder.folder, self.trainer.update)
        return self.trainer.update

    def _check_recipe(self, saved: Saved) -> None:
        """Nothing, if recipe.toml has the settings that are in the model of a checkpoint, but for what may change."""
        assert self.folder is not None
        _, said = read_tensors(saved.folder / FILE)
        before, now = (
            _learned_with(loads(said.get("recipe", ""), f"in {saved.folder / FILE}")),
            _learned_with(self.recipe),
        )
        changed = [key for key in now if now[key] != before.get(key)]
        if changed:
            raise EBMError(
                f"{self.folder.recipe_path} is not the recipe that the run learned with: {', '.join(changed)} "
                f"{'is' if len(changed) == 1 else 'are'} another",
                "bring it back: only train.updates and log.* can be set anew",
            )

    def _take(self, saved: Saved) -> None:
        """Weights and everything else of a checkpoint."""
        assert self.folder is not None
        state, progress = self.folder.load(saved)
        prefix = "network."
        weights = {k.removeprefix(prefix): v for k, v in state.items() if k.startswith(prefix)}
        try:
            self.potential.network.load_state_dict(weights, strict=True)
            self.trainer.load(state, progress["update"])
        except (KeyError, IndexError, RuntimeError, ValueError, TypeError) as error:
            what = str(error).splitlines()[0]
            raise EBMError(
                f"the state in {saved.folder} is not that of this recipe: {what}", "is it another run's?"
            ) from error

    def begin_with(self, model: Checkpoint) -> None:
        """Begin with another model's weights, and with its bank where both keep one (its states in turn, if fewer).

        Raises:
            EBMError: the model's network is another one.
        """
        network = self.potential.network
        mine, its = network.state_dict(), model.potential.network.state_dict()
        if {k: v.shape for k, v in mine.items()} != {k: v.shape for k, v in its.items()}:
            raise EBMError(
                f"the weights of {model.config.name} do not fit: it is {_network(model.config)}, "
                f"the recipe wants {_network(self.config())}",
                "set data.image_size, data.channels and potential.* as in its recipe: ebm recipe show MODEL",
            )
        network.load_state_dict(its, strict=True)
        trainer = self.trainer
        trainer.average = [p.detach().clone() for p in trainer.parameters] if trainer.average else []
        if trainer.bank is not None and model.bank is not None:
            trainer.bank.states = model.bank[torch.arange(len(trainer.bank)) % len(model.bank)]

    def events(self) -> Iterator[Event]:
        """Learn until the recipe's number of updates is reached, writing what the recipe says on the way.

        Raises:
            DivergedError: after the last sound state has been saved.
        """
        every, total = self.recipe.log, self.recipe.train.updates
        if self.folder is not None and not self.folder.checkpoints():
            self.save()
        try:
            for record in self.trainer.updates(total):
                u, last = record.update, record.update == total
                picture = saved = None
                # Asked once: a signal after this is seen after the next update, which is then saved.
                stopping = self.stop()
                if self.folder is not None:
                    if u % every.metrics_every == 0 or last or record.rolled_back:
                        self.folder.append({k: v for k, v in record._asdict().items() if v != ""})
                    if every.samples_every and (u % every.samples_every == 0 or last):
                        picture = self.draw(u)
                    if self.long_runs is not None and self.long_runs.due(u):
                        self.long_runs.begin(u, self.write_model)  # before the checkpoint, after which it would be late
                    if self._due(u) or last or stopping:
                        saved = self.save()
                yield Event(record, picture, saved)
                if stopping:
                    return
        except DivergedError:
            # The last sound state is the one that the next update breaks: earlier ones stay beside it.
            if self.folder is not None:
                self.save(keep=self.recipe.log.keep_last + 1)
            raise

    def _due(self, update: int) -> bool:
        every = self.recipe.log
        by_count = bool(every.checkpoint_every) and update % every.checkpoint_every == 0
        minutes = (time.monotonic() - self._saved_at) / 60
        return by_count or bool(every.checkpoint_minutes and minutes >= every.checkpoint_minutes)

    def save(self, keep: int | None = None) -> Saved:
        """Write a checkpoint of this moment; `keep` numbered ones stay, as many as the recipe says if left out."""
        assert self.folder is not None
        trainer = self.trainer
        model = self.folder.folder / ".model.tmp"
        self.write_model(model)
        state = trainer.state() | {f"network.{k}": v for k, v in self.potential.network.state_dict().items()}
        progress = {"versions": versions(), "threads": torch.get_num_threads()}
        self._saved_at = time.monotonic()
        return self.folder.save(trainer.update, model, state, progress, keep or self.recipe.log.keep_last)

    def write_model(self, path: Path) -> None:
        """Write the model of this moment: averaged weights where the recipe averages, settings, and some of the bank.

        Raises:
            EBMError: it cannot be written.
        """
        last, average, bank = self.potential.network.state_dict(), self._average_weights(), self.trainer.bank
        save_model(
            path,
            average or last,
            self.config(),
            bank=bank.states if bank else None,
            recipe=self.recipe.dumps(),
            last=last if average else None,
        )

    def config(self) -> ModelConfig:
        """The settings that travel with the weights."""
        r = self.recipe
        return ModelConfig(
            name=r.recipe.name,
            network=r.potential.network,
            arguments=r.network_arguments(),
            image_size=r.data.image_size,
            channels=r.data.channels,
            energy_scale=self.potential.energy_scale,
            temperature=r.mcmc.temperature,
            step_size=r.mcmc.step_size,
            noise=r.mcmc.noise,
            steps=r.mcmc.steps,
            init=r.mcmc.init,
            init_scale=r.mcmc.init_scale,
            data_noise=r.data.noise_std,
            regime=r.recipe.regime,
            updates=self.trainer.update,
            weights="average" if r.train.ema else "last",
            data=getattr(self.data, "name", ""),
            data_identity=getattr(self.data, "identity", ""),
            crop=r.data.crop,
            recipe_hash=r.hash(),
            versions=versions(),
        )

    def _average_weights(self) -> dict[str, Tensor] | None:
        if not self.trainer.average:
            return None
        names = [n for n, p in self.potential.network.named_parameters() if p.requires_grad]
        averaged = dict(zip(names, self.trainer.average, strict=True))
        return {**self.potential.network.state_dict(), **averaged}

    def samples(self) -> Tensor:
        """The grid's states [64 c h w]: the bank's first, or L steps from the noise of seed 0.

        The averaged weights are used where the recipe averages, as in the model that is saved.
        """
        trainer = self.trainer
        if trainer.bank is not None:
            return trainer.bank.states[:GRID]
        mcmc = trainer.mcmc
        potential = self._sampling_potential()
        chains = torch.arange(GRID, device=self.device)
        init = mcmc.init if mcmc.init != "data" else "uniform"
        x = noise_start(init, Stream(0, Purpose.START), chains.cpu(), potential.shape, mcmc.init_scale)
        kernel = Langevin(potential, mcmc.step_size, mcmc.noise, mcmc.temperature)
        state = kernel.init(x.to(self.device), Stream(0, Purpose.MCMC), chains)
        return run(kernel, state, mcmc.steps).state.x

    def _sampling_potential(self) -> Potential:
        average = self._average_weights()
        if average is None:
            return self.potential
        if self._sampler is None:
            p = self.potential
            network = copy.deepcopy(p.network)
            self._sampler = Potential(network, p.shape, p.energy_scale, p.temperature, p.requested_backend, p.precision)
        with torch.no_grad():
            for name, value in self._sampler.network.state_dict().items():
                value.copy_(average[name])
        return self._sampler

    def draw(self, update: int) -> Path:
        """Write the sample grid of this moment; returns where."""
        assert self.folder is not None
        x = self.samples()
        return media.save_png(media.picture(x), self.folder.picture(update))
