"""The map of an energy landscape (§4.4, Fig. 9), from first states to the tree of basins.

    for progress in chart(potential, starts, settings):
        ...
    landscape = progress.result

Metastable states are found by long chains and cooled to their minima; attraction–diffusion groups them into basins
and finds the passes between these. Every random number belongs to a chain or a job, so the map does not depend on
the batch size, nor on whether it was made in one go. The paper gives no values for the settings: they are ours.
"""

from __future__ import annotations

from collections.abc import Generator, Iterator
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from ebmcli.errors import EBMError
from ebmcli.landscape import barriers, basins, grid
from ebmcli.landscape.metastable import Settling, quench, settle, spread
from ebmcli.landscape.store import Store
from ebmcli.landscape.travel import Arrival, Conditions, Job, Plan, Travel
from ebmcli.landscape.tree import Node, tree
from ebmcli.sampler import Target

FARTHER = 1.5
"""δ over the thermal spread of a chain about its minimum."""
SLOWER = 0.9
"""ε of travel over the ε of the model times √T: the same drift as in training, a little under it."""
JOURNAL = 64
"""Jobs after which results are kept."""


@dataclass(frozen=True)
class MapSettings:
    """Everything that decides what map comes out.

    Args:
        step_size: ε of the long chains and of descent, pixel units.
        chain_steps: most steps of the long chains; they end before, when their energy is at rest.
        quench_steps: of gradient descent; 0 keeps the chains' states as they are.
        seed: of chains and jobs.
        strength: α, 1/pixel units; left out, chosen on a grid.
        temperature: T of travel; left out, chosen on a grid.
        travel_step: ε of travel, pixel units; left out, `SLOWER`·ε·√(T over the model's).
        patience: M, steps without a new least distance; the far side of a ring takes over 120.
        limit: S_max, steps of a job.
        adjust: whether travel is Metropolis–Hastings adjusted.
        rounds: times a state is tried against its nearest basins.
        trials: attempts each way for a barrier, at one strength.
        neighbours: basins that each one is connected with.
        pilot: states that the grid is tried on.
        string_steps: iterations of the string method; 0 leaves paths as travelled.
    """

    step_size: float
    chain_steps: int = 2000
    quench_steps: int = 4000
    seed: int = 0
    strength: float | None = None
    temperature: float | None = None
    travel_step: float | None = None
    patience: int = 400
    limit: int = 4000
    adjust: bool = False
    rounds: int = basins.ROUNDS
    trials: int = barriers.TRIALS
    neighbours: int = barriers.NEIGHBOURS
    pilot: int = grid.PILOT
    string_steps: int = 300


class Route(NamedTuple):
    """The lowest path known between two basins."""

    pair: tuple[int, int]
    """basins"""
    barrier: float
    """highest U on it, both ends included"""
    strength: float
    """least α at which travel succeeded"""
    travelled: float
    """highest U of that travel, heat included"""
    path: Tensor
    """[k c h w], from the first basin's representative to the second's"""
    energy: Tensor
    """U along it, `barriers.BETWEEN` values a piece"""


class Landscape(NamedTuple):
    """A map."""

    states: Tensor
    """[n c h w], lowest energy first"""
    energies: Tensor
    """U [n]"""
    starts: list[int]
    """of each state, the number of the first state it came from"""
    basins: basins.Basins
    routes: list[Route]
    tree: Node
    cells: list[grid.Cell]
    """numbers of basins on the grid; empty where α and T were given"""
    strength: float
    conditions: Conditions
    chain_steps: int
    at_rest: bool
    """whether the energy of the long chains was at rest at their end"""
    jobs: int

    @property
    def barriers(self) -> dict[tuple[int, int], float]:
        """Lowest known barrier of each pair of basins that a route connects."""
        return {route.pair: route.barrier for route in self.routes}


class Progress(NamedTuple):
    """How far a map has come."""

    stage: str
    """chains, descent, grid, basins, barriers or paths"""
    done: int
    total: int
    basins: int = 0
    jobs: int = 0
    result: Landscape | None = None
    """of the last record"""


def chart(
    potential: Target,
    starts: Tensor,
    settings: MapSettings,
    *,
    batch_size: int | None = None,
    store: Store | None = None,
) -> Iterator[Progress]:
    """Make a map; the last record has it as its `result`.

    Args:
        potential: U: a `Potential` or any target.
        starts: [n c h w], first states of the long chains, on the potential's device.
        batch_size: chains and jobs at once; changes speed and memory, not the map.
        store: keeps what is done, and knows what was done before.

    Raises:
        EBMError: there are fewer than two states; (DivergedError) a chain left the finite numbers.
    """
    if len(starts) < 2:
        raise EBMError(f"a map needs two states or more, received {len(starts)}")
    return _Chart(potential, starts, settings, batch_size or auto_batch(potential), store or Store()).run()


def auto_batch(potential: Target) -> int:
    """Jobs at once: enough to keep the engine busy, and for points the interpreter out of the way."""
    c, h, w = potential.shape
    return 1024 if c * h * w < 64 else 96


def conditions_of(potential: Target, minima: Tensor, settings: MapSettings, temperature: float) -> Conditions:
    """What jobs at a temperature have in common; δ is measured at the minima [n c h w]."""
    s = settings
    eps = s.travel_step or SLOWER * s.step_size * (temperature / potential.temperature) ** 0.5
    radius = FARTHER * spread(potential, minima, eps, temperature, s.seed)
    return Conditions(temperature, eps, radius, s.patience, s.limit, s.adjust)


class _Chart:
    def __init__(self, potential: Target, starts: Tensor, settings: MapSettings, batch_size: int, store: Store) -> None:
        self.potential, self.starts, self.settings = potential, starts, settings
        self.batch_size, self.store = batch_size, store
        self.jobs = 0

    def run(self) -> Iterator[Progress]:
        s = self.settings
        settled = yield from self._settle()
        states, energies, order = yield from self._quench(settled.x)
        cells: list[grid.Cell] = []
        strength, temperature = s.strength, s.temperature
        if strength is None or temperature is None:
            cells = yield from self._grid(states, energies)
            chosen = grid.choose(cells)
            strength, temperature = strength or chosen.strength, temperature or chosen.temperature
        conditions = conditions_of(self.potential, states, s, temperature)
        travel = Travel(self.potential, states, conditions, s.seed, self.batch_size)
        grouping = basins.Grouping(self.potential, states, strength, conditions.radius, s.rounds)
        for _ in self._work("basins", travel, grouping):
            yield Progress("basins", grouping.decided, len(states), len(grouping.members), self.jobs)
        found = grouping.basins
        routes = yield from self._routes(travel, found, energies, strength)
        heights = [float(energies[i]) for i in found.representatives]
        root = tree(heights, {route.pair: route.barrier for route in routes})
        result = Landscape(
            states.cpu(), energies.cpu(), order, found, routes, root, cells, strength, conditions,
            settled.step, settled.still, self.jobs,
        )  # fmt: skip
        yield Progress("paths", s.string_steps, s.string_steps, len(found.members), self.jobs, result)

    def _settle(self) -> Generator[Progress, None, Settling]:
        s, device = self.settings, self.starts.device
        kept = self.store.read("chains")
        now = Settling(self.starts, 0, torch.full((len(self.starts),), torch.nan, device=device), False)
        if kept is not None and _fits(kept[0], x=self.starts.shape, energy=self.starts.shape[:1]):
            tensors, facts = kept
            now = Settling(
                tensors["x"].to(device), facts.get("step", 0), tensors["energy"].to(device), facts.get("still", False)
            )
        yield Progress("chains", now.step, s.chain_steps)
        records = settle(
            self.potential, self.starts, s.step_size, s.chain_steps, seed=s.seed, batch_size=self.batch_size, since=now
        )
        for now in records:
            self.store.write("chains", {"x": now.x, "energy": now.energy}, step=now.step, still=now.still)
            yield Progress("chains", now.step, s.chain_steps)
        return now

    def _quench(self, x: Tensor) -> Generator[Progress, None, tuple[Tensor, Tensor, list[int]]]:
        s = self.settings
        kept = self.store.read("states")
        if kept is None or not _fits(kept[0], x=x.shape, energy=x.shape[:1], order=x.shape[:1]):
            parts = []
            for part in quench(self.potential, x, s.step_size, s.quench_steps, self.batch_size):
                parts.append(part)
                yield Progress("descent", min(len(parts) * self.batch_size, len(x)), len(x))
            states, energies = (torch.cat(parts_) for parts_ in zip(*parts, strict=True))
            order = torch.sort(energies, stable=True).indices
            self.store.write("states", {"x": states[order], "energy": energies[order], "order": order})
            return states[order], energies[order], order.tolist()
        tensors, _ = kept
        return tensors["x"].to(x.device), tensors["energy"].to(x.device), tensors["order"].tolist()

    def _grid(self, states: Tensor, energies: Tensor) -> Generator[Progress, None, list[grid.Cell]]:
        s = self.settings
        index = torch.linspace(0, len(states) - 1, min(s.pilot, len(states))).round().long().to(states.device)
        few = states[index]
        pull = grid.force(self.potential, states, energies)
        temperatures = [s.temperature] if s.temperature else [t * self.potential.temperature for t in grid.TEMPERATURES]
        cells, done = [], 0
        for number, temperature in enumerate(temperatures):
            conditions = conditions_of(self.potential, states, s, temperature)
            alphas = [s.strength] if s.strength else grid.strengths(grid.strong(pull, conditions, self.potential.shape))
            side = grid.Side(
                [
                    basins.Grouping(self.potential, few, a, conditions.radius, rounds=1, nearest=grid.NEAREST)
                    for a in alphas
                ]
            )
            travel = Travel(self.potential, few, conditions, s.seed, self.batch_size)
            total = len(few) * len(alphas) * len(temperatures)
            for _ in self._work(f"grid-{number}", travel, side):
                yield Progress("grid", done + side.decided, total, 0, self.jobs)
            done += side.decided
            cells += [grid.Cell(temperature, g.strength, len(few), len(g.members)) for g in side.groupings]
        return cells

    def _routes(
        self, travel: Travel, found: basins.Basins, energies: Tensor, strength: float
    ) -> Generator[Progress, None, list[Route]]:
        s, states = self.settings, travel.states
        number = {state: basin for basin, state in enumerate(found.representatives)}
        pairs = barriers.neighbours(self.potential, states, found.representatives, s.neighbours)
        index = torch.tensor(found.representatives, device=states.device)
        pull = grid.force(self.potential, states[index], energies[index])
        sure = 2 * grid.strong(pull, travel.conditions, self.potential.shape)
        search = barriers.Search(pairs, max(barriers.STRONGEST * strength, sure), s.trials)
        for _ in self._work("barriers", travel, search):
            yield Progress("barriers", search.done, len(pairs), len(found.members), self.jobs)
        passes = [p for p in search.passes if p.job is not None]
        paths = yield from self._paths(travel, passes)
        routes = []
        for one, path in zip(passes, paths, strict=True):
            energy = barriers.profile(self.potential, path)
            assert one.job is not None
            pair = (number[one.pair[0]], number[one.pair[1]])
            routes.append(Route(pair, float(energy.max()), one.job.strength, one.top, path.cpu(), energy.cpu()))
        return routes

    def _paths(self, travel: Travel, passes: list[barriers.Pass]) -> Generator[Progress, None, Tensor]:
        """Each pass's travel, let down by the string method: [p nodes c h w]."""
        s, device = self.settings, travel.states.device
        if not passes:
            return travel.states.new_empty(0, barriers.NODES, *self.potential.shape)
        kept = self.store.read("paths")
        if kept is not None and _fits(kept[0], paths=(len(passes), barriers.NODES, *self.potential.shape)):
            paths, step = kept[0]["paths"].to(device), kept[1].get("step", 0)
        else:
            jobs = [p.job for p in passes if p.job is not None]
            ways = dict(travel.paths(jobs))
            # A job may have gone from the second to the first.
            turned = [ways[j] if j.start == p.pair[0] else ways[j].flip(0) for j, p in zip(jobs, passes, strict=True)]
            paths, step = torch.stack([barriers.respaced(way, barriers.NODES) for way in turned]), 0
        for now in barriers.lower(self.potential, paths, s.step_size, s.string_steps, done=step):
            paths = now.paths
            self.store.write("paths", {"paths": paths}, step=now.iteration)
            yield Progress("paths", now.iteration, s.string_steps, 0, self.jobs)
        return paths

    def _work(self, stage: str, travel: Travel, plan: Plan) -> Iterator[None]:
        """Do a plan's jobs, those that were not done before; keeps results, and a record now and then."""
        known = _Known(plan, self.store.jobs(stage))
        fresh: list[tuple[Job, Arrival]] = []
        for results in travel.run(known):
            for job, arrival in results:
                plan.give(job, arrival)
            fresh += results
            self.jobs += len(results)
            if len(fresh) >= JOURNAL:
                self.store.append(stage, fresh)
                fresh = []
                yield
        if fresh:
            self.store.append(stage, fresh)
        self.jobs += known.answered
        yield


def _fits(tensors: dict[str, Tensor], **shapes: tuple[int, ...]) -> bool:
    """Whether what was kept is of this map: what is not is made anew."""
    return all(name in tensors and tuple(tensors[name].shape) == tuple(shape) for name, shape in shapes.items())


class _Known:
    """A plan whose jobs were done before are answered at once."""

    def __init__(self, plan: Plan, results: dict[Job, Arrival]) -> None:
        self.plan, self.results, self.answered = plan, results, 0

    def take(self, count: int) -> list[Job]:
        jobs: list[Job] = []
        while count > len(jobs):
            new = self.plan.take(count - len(jobs))
            if not new:
                break
            for job in new:
                if job in self.results:
                    self.answered += 1
                    self.plan.give(job, self.results[job])
                else:
                    jobs.append(job)
        return jobs

    def give(self, job: Job, arrival: Arrival) -> None:
        self.plan.give(job, arrival)
