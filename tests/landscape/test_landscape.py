"""Maps of landscapes: toys whose basins and barriers are known, jobs that know no batch, paths, trees, the rule."""

from __future__ import annotations

import math
from collections.abc import Iterator
from itertools import pairwise

import numpy as np
import pytest
import torch
from helpers.digits import classifier, purity

from ebmcli.data.toys import load_toy
from ebmcli.errors import EBMError
from ebmcli.landscape import barriers, basins, grid
from ebmcli.landscape.draw import largest, layout
from ebmcli.landscape.film import frames
from ebmcli.landscape.mapping import Landscape, MapSettings, chart, conditions_of
from ebmcli.landscape.metastable import quench, settle, spread
from ebmcli.landscape.store import Folder
from ebmcli.landscape.subject import first_states, open_subject
from ebmcli.landscape.travel import KEPT, Arrival, Conditions, Job, Travel
from ebmcli.landscape.tree import Node, joins, merge_heights, pruned, tree
from ebmcli.landscape.truth import ToyEnergy
from ebmcli.landscape.ways import between, relax
from ebmcli.random.streams import Purpose, Stream

SADDLE, LOW = 2.684, 0.123
"""Energies of gmm between neighbours and at its minima (density normalised)."""


class Flat:
    """U = 0 in D dimensions."""

    temperature = 1.0

    def __init__(self, size: int) -> None:
        self.shape = (size, 1, 1)

    def energy_and_grad(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return x.new_zeros(len(x)), torch.zeros_like(x)


class Wells(Flat):
    """U = (x² − 1)² · h + ½y²: minima at x = ±1, a saddle of height h at 0."""

    def __init__(self, height: float) -> None:
        super().__init__(2)
        self.height = height

    def energy_and_grad(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        a, b = x[:, :1], x[:, 1:]
        energy = self.height * (a.square() - 1).square() + b.square() / 2
        return energy.flatten(), torch.cat([4 * self.height * a * (a.square() - 1), b], dim=1)


def points(*rows: tuple[float, float]) -> torch.Tensor:
    """2-D points [n 2 1 1]."""
    return torch.tensor(rows, dtype=torch.float32)[:, :, None, None]


@pytest.fixture(scope="module")
def gmm() -> ToyEnergy:
    """The true energy of gmm."""
    return ToyEnergy(load_toy("gmm"))


def made(records: Iterator[object]) -> Landscape:
    """The map that records lead to."""
    *_, last = records
    return last.result  # type: ignore[attr-defined,no-any-return]


FAST = MapSettings(
    step_size=0.12, chain_steps=0, quench_steps=60, strength=6.0, temperature=0.2, patience=60, rounds=1, trials=1,
    string_steps=80,
)  # fmt: skip


def chart_gmm(gmm: ToyEnergy, **more: object) -> Landscape:
    """A small map of the true gmm: eight states near its modes, and a few more."""
    modes = load_toy("gmm").centres().float()[:, :, None, None]  # type: ignore[attr-defined]
    starts = torch.cat([modes, modes[:4] + 0.02])
    settings = MapSettings(**{**FAST.__dict__, "neighbours": 2})
    return made(chart(gmm, starts, settings, **more))  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def mapped(gmm: ToyEnergy) -> Landscape:
    """That map."""
    return chart_gmm(gmm)


# The toys


@pytest.mark.parametrize("name", ["gmm", "rings"])
def test_scores_are_gradients(name: str) -> None:
    """The closed form against autograd, near and far."""
    toy = load_toy(name)
    x = (torch.rand(200, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64) * 2 - 1) * toy.extent
    x.requires_grad_(True)
    (grad,) = torch.autograd.grad(toy.log_density(x).sum(), x)
    torch.testing.assert_close(toy.score(x), grad)
    assert bool(toy.score(torch.zeros(1, 2)).isfinite().all())


def test_points_know_no_batch(gmm: ToyEnergy) -> None:
    """An energy and its gradient are the same bits alone and among others."""
    x = load_toy("gmm").sample(300, torch.Generator().manual_seed(1))
    energy, grad = gmm.energy_and_grad(x)
    for i in (0, 7, 299):
        one, own = gmm.energy_and_grad(x[i : i + 1])
        assert torch.equal(one[0], energy[i])
        assert torch.equal(own[0], grad[i])


def test_gmm_has_eight_basins(mapped: Landscape) -> None:
    """Each mode its own, at the energy known; barriers between neighbours are exact, none is lower."""
    assert len(mapped.basins.members) == 8
    assert sorted(map(len, mapped.basins.members)) == [1] * 4 + [2] * 4
    assert mapped.energies.tolist() == pytest.approx([LOW] * 12, abs=2e-3)
    place = mapped.states[mapped.basins.representatives].flatten(1)
    angle = torch.atan2(place[:, 1], place[:, 0])
    near = 0
    for route in mapped.routes:
        turn = abs(float(angle[route.pair[0]] - angle[route.pair[1]]))
        assert route.barrier > SADDLE * 0.99
        if min(turn, 2 * math.pi - turn) < 1:
            near += 1
            assert route.barrier == pytest.approx(SADDLE, rel=0.01)
        assert route.travelled > LOW
    assert near >= 7
    assert mapped.tree.height == pytest.approx(SADDLE, rel=0.01)
    assert sorted(mapped.tree.leaves) == list(range(8))


def test_a_map_knows_no_batch(gmm: ToyEnergy, mapped: Landscape) -> None:
    """Five jobs at once, or all there are: the same bits."""
    assert same(mapped, chart_gmm(gmm, batch_size=5))


def same(one: Landscape, two: Landscape) -> bool:
    """Whether two maps are the same, but for the number of jobs, some of which are done ahead in vain."""
    tensors = [
        torch.equal(one.states, two.states),
        *(torch.equal(a.path, b.path) for a, b in zip(one.routes, two.routes, strict=True)),
    ]
    numbers = [(x.basins, x.tree, [r[:4] for r in x.routes], x.cells, x.conditions) for x in (one, two)]
    return all(tensors) and numbers[0] == numbers[1]


@pytest.mark.slow
def test_rings_have_four_basins() -> None:
    """A ring is one basin, connected all round; saddles between neighbours are where the density says."""
    rings = ToyEnergy(load_toy("rings"))
    starts = load_toy("rings").sample(40, torch.Generator().manual_seed(0))
    settings = MapSettings(step_size=0.12, strength=8.0, temperature=0.2, neighbours=3)
    found = made(chart(rings, starts, settings))
    radius = found.states[found.basins.representatives].flatten(1).norm(dim=1)
    assert sorted(radius.tolist()) == pytest.approx([0.977, 1.989, 2.993, 3.994], abs=0.01)
    order = radius.argsort().tolist()
    heights = merge_heights(found.tree)
    for (a, b), height in zip(pairwise(order), (7.51, 8.03, 8.36), strict=True):
        assert heights[min(a, b), max(a, b)] == pytest.approx(height, rel=0.05)


@pytest.mark.slow
def test_the_grid_finds_eight_basins(gmm: ToyEnergy) -> None:
    """With α and T left to the rule, for five seeds."""
    for seed in range(5):
        starts = load_toy("gmm").sample(40, torch.Generator().manual_seed(seed))
        found = made(chart(gmm, starts, MapSettings(step_size=0.12, seed=seed)))
        assert len(found.basins.members) == 8
        assert found.tree.height == pytest.approx(SADDLE, rel=0.05)


# Travel


@pytest.mark.slow
def test_basins_of_digits_are_kinds_of_digits() -> None:
    """In a convergent model of digits states that share a basin show the same digit far more often than by chance."""
    subject = open_subject("digits-convergent", torch.device("cpu"))
    settings = MapSettings(step_size=subject.step_size, patience=100)
    *_, settled = settle(subject.potential, first_states(subject, "bank+data", 66, 0), settings.step_size, 2000)
    x, energy = map(torch.cat, zip(*quench(subject.potential, settled.x, settings.step_size, 600), strict=True))
    x = x[energy.argsort()]
    conditions = conditions_of(subject.potential, x, settings, 0.0125)
    grouping = basins.Grouping(subject.potential, x, 1600.0, conditions.radius, rounds=1)
    for results in Travel(subject.potential, x, conditions, batch_size=96).run(grouping):
        for job, arrival in results:
            grouping.give(job, arrival)
    network, accuracy = classifier(16)
    assert accuracy > 0.95
    with torch.no_grad():
        kinds = network(x).argmax(1)
    of_a_kind, chance = purity(grouping.members, kinds)
    assert len(grouping.members) < 60
    assert of_a_kind > chance + 0.1
    shared = [states for states in grouping.members if len(states) > 1]
    order = [state for states in shared for state in states]
    place = {state: number for number, state in enumerate(order)}
    of_a_kind, chance = purity([[place[state] for state in states] for states in shared], kinds[order])
    assert of_a_kind > 1.5 * chance


def test_travel_over_flat_land() -> None:
    """With U = 0 a chain moves (ε²/2)·α a step, and settles at D/α from its target."""
    size, alpha, eps = 50, 100.0, 0.02
    flat = Flat(size)
    states = torch.zeros(2, size, 1, 1)
    states[1, 0] = 2.0
    travel = Travel(flat, states, Conditions(1.0, eps, 0.7, 200, 5000), batch_size=8)
    jobs = [Job(i % 2, 1 - i % 2, i // 2, alpha) for i in range(16)]
    results = run_all(travel, jobs)
    assert all(r.arrived and abs(r.top) < 1e-3 for r in results.values())  # U out of V, to rounding
    expected = (2.0 - 0.5) / (eps**2 / 2 * alpha)
    steps = torch.tensor([float(r.steps) for r in results.values()])
    assert 0.6 * expected < float(steps.mean()) < 2 * expected
    closer = Travel(flat, states, Conditions(1.0, eps, 0.2, 50, 2000), batch_size=8)
    assert not any(r.arrived for r in run_all(closer, jobs).values())


def run_all(travel: Travel, jobs: list[Job]) -> dict[Job, Arrival]:
    """What each of `jobs` comes to."""
    left, results = list(jobs), {}

    class Queue:
        def take(self, count: int) -> list[Job]:
            taken, left[:] = left[:count], left[count:]
            return taken

        def give(self, job: Job, arrival: Arrival) -> None:
            raise AssertionError("the caller gives")

    for part in travel.run(Queue()):
        results.update(part)
    return results


def test_descent_comes_to_rest_on_a_crease() -> None:
    """U = 40·|x₁| + ½x₂²: steps of one length zigzag over the crease for ever; shorter and shorter ones come down."""

    class Creased(Flat):
        def energy_and_grad(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            a, b = x[:, :1], x[:, 1:]
            return (40 * a.abs() + b.square() / 2).flatten(), torch.cat([40 * a.sign(), b], dim=1)

    step = 0.1
    zigzag = 40 * step**2 / 2  # what a step moves, and so twice the mean distance from the crease
    (x, energy), *_ = quench(Creased(2), points((1.03, 0.5), (-0.57, -0.3)), step, 4000)
    assert float(x[:, 0].abs().max()) < zigzag / 100
    assert float(energy.max()) < 40 * zigzag / 100


def test_a_job_knows_no_batch(gmm: ToyEnergy) -> None:
    """Alone, refilled three at a time or all at once, a job does the same to the last bit."""
    states = load_toy("gmm").sample(6, torch.Generator().manual_seed(2))
    jobs = [Job(i, j, 0, 30.0) for i in range(4) for j in range(4) if i != j]
    conditions = Conditions(0.2, 0.05, 0.12, 40, 150)
    one, three, many = (run_all(Travel(gmm, states, conditions, 5, size), jobs) for size in (1, 3, 64))
    assert one == three == many
    assert {r.arrived for r in one.values()} == {True, False}
    assert run_all(Travel(gmm, states, conditions, 6, 64), jobs) != many


def test_the_way_of_a_job(gmm: ToyEnergy) -> None:
    """A way begins at the start, ends at the target, is thinned evenly, and its highest energy is the job's."""
    states = load_toy("gmm").centres().float()[:2, :, None, None]  # type: ignore[attr-defined]
    travel = Travel(gmm, states, Conditions(0.2, 0.05, 0.12, 100, 2000), 0, 4)
    jobs = [Job(0, 1, 0, 40.0), Job(1, 0, 1, 80.0), Job(0, 1, 0, 80.0)]
    results = run_all(travel, jobs)
    for job, way in travel.paths(jobs):
        assert len(way) <= KEPT + 1
        assert torch.equal(way[0], states[job.start])
        assert torch.equal(way[-1], states[job.target])
        top = float(gmm.energy_and_grad(way)[0].max())
        assert top <= results[job].top + 1e-4
        if results[job].steps < KEPT:
            assert top == pytest.approx(results[job].top, abs=1e-3)


def test_adjusted_travel(gmm: ToyEnergy) -> None:
    """With the Metropolis–Hastings test travel arrives too, by other steps."""
    states = load_toy("gmm").centres().float()[:2, :, None, None]  # type: ignore[attr-defined]
    plain = Conditions(0.2, 0.05, 0.12, 100, 2000)
    jobs = [Job(0, 1, k, 60.0) for k in range(4)]
    one, two = (run_all(Travel(gmm, states, c, 0, 4), jobs) for c in (plain, plain._replace(adjust=True)))
    assert all(r.arrived for r in two.values())
    assert one != two


def test_what_is_not_finite_is_said(gmm: ToyEnergy) -> None:
    """A step far too long is an error, not a basin."""
    states = load_toy("rings").sample(2, torch.Generator().manual_seed(0))
    states[1] = torch.inf
    with pytest.raises(EBMError, match="left the finite numbers"):
        run_all(Travel(gmm, states, Conditions(0.2, 0.05, 0.1, 10, 100)), [Job(0, 1, 0, 1.0)])


# Grouping


class Told(Flat):
    """No energy at all: who reaches whom is told by the test."""


def grouped(n: int, reaches: set[tuple[int, int]], order: int = 1, **more: int) -> basins.Basins:
    """Basins of n states where the pairs in `reaches` arrive; results come back in an order."""
    states = torch.arange(n, dtype=torch.float32).view(n, 1, 1, 1) * 10
    grouping = basins.Grouping(Told(1), states, 1.0, 0.5, **more)
    while jobs := grouping.take(7):
        for job in jobs[::order]:
            grouping.give(job, Arrival((job.start, job.target) in reaches, 1.0, 5))
    assert grouping.done
    return grouping.basins


def test_grouping_is_that_of_one_after_the_other() -> None:
    """Founders, joiners in either direction, most successes first; the order of results does not matter."""
    reaches = {(2, 0), (3, 1), (1, 3), (3, 0), (0, 4)}
    for order in (1, -1):
        found = grouped(6, reaches, order)
        assert found.members == [[0, 2, 4], [1, 3], [5]]
        assert found.of == [0, 1, 0, 1, 0, 2]
        assert found.representatives == [0, 1, 5]
    assert grouped(4, set()).members == [[0], [1], [2], [3]]
    # Only the nearest one is tried: 2 reaches 0 but is not tried against it (a tie of flat lines goes to the first).
    assert grouped(3, {(2, 1)}, nearest=1).members == [[0], [1], [2]]


def test_a_state_at_a_representative_joins_it() -> None:
    """Within δ nothing has to travel, once the representative is known to be one."""
    states = torch.tensor([0.0, 5.0, 5.2, 0.1]).view(4, 1, 1, 1)
    grouping = basins.Grouping(Told(1), states, 1.0, 0.5)
    tried = set()
    while jobs := grouping.take(100):
        for job in jobs:
            tried.add(job.start)
            grouping.give(job, Arrival(False, 1.0, 5))
    assert grouping.basins.members == [[0, 3], [1, 2]]
    assert tried == {0, 1, 2}


def test_line_tops() -> None:
    """The highest energy on a straight line over a double well, and that of its ends."""
    wells = Wells(3.0)
    a, b = points((-1, 0), (-1, 0)), points((1, 0), (-1, 1))
    tops = basins.line_tops(wells, a, b, points=11)
    assert tops.tolist() == pytest.approx([3.0, 0.5], abs=1e-5)


# Barriers


def test_search_finds_the_last_rung() -> None:
    """By halving, with a few strengths tried, and the lowest path at the best of them kept."""
    search = barriers.Search([(0, 1), (2, 3)], first=8.0, trials=2)
    tried = set()
    while jobs := search.take(3):
        for job in jobs:
            tried.add((job.start, job.strength))
            ok = job.start < 2 and job.strength > 3.0 and job.trial == 1
            search.give(job, Arrival(ok, 10.0 + job.strength, 9))
    found, never = search.passes
    assert never.job is None
    assert never.top == math.inf
    assert found.job is not None
    assert 3.0 < found.job.strength <= 3.0 / barriers.LESS
    assert found.top == pytest.approx(10 + found.job.strength)
    assert len({s for start, s in tried if start == 0}) <= 9
    assert search.done == 2


def test_string_method_goes_over_the_pass() -> None:
    """From a detour to the straight way over the saddle of a double well: the height is exact."""
    wells = Wells(3.0)
    detour = points(*[(math.cos(a), 2 * math.sin(a)) for a in torch.linspace(math.pi, 0, 12).tolist()])
    assert float(barriers.profile(wells, detour).max()) > 4
    path = barriers.respaced(detour, 16)[None]
    *_, last = barriers.lower(wells, path, 0.1, 900)
    assert last.iteration == 900
    assert float(barriers.profile(wells, last.paths[0]).max()) == pytest.approx(3.0, rel=0.01)
    assert torch.equal(last.paths[0, 0], detour[0])
    gaps = (last.paths[0, 1:] - last.paths[0, :-1]).flatten(1).norm(dim=1)
    assert gaps.tolist() == pytest.approx([2 / 15] * 15, rel=0.06)


def test_respaced() -> None:
    """Equal distances along a bent line; the ends stay."""
    bent = points((0, 0), (3, 0), (3, 1))
    even = barriers.respaced(bent, 5).flatten(1)
    assert even.tolist() == [[0, 0], [1, 0], [2, 0], [3, 0], [3, 1]]


# Trees


def test_tree() -> None:
    """Joins by height, a root of infinite height over what never meets, minimax heights, places to draw."""
    heights = {(0, 1): 5.0, (1, 2): 3.0, (0, 2): 4.0, (3, 4): 2.0}
    assert joins(5, heights) == [(3, 4), (1, 2), (0, 2)]
    root = tree([0.0, 0.5, 1.0, 0.2, 0.3], heights)
    assert root.height == math.inf
    assert [child.height for child in root.children] == [4.0, 2.0]
    assert root.leaves == [0, 1, 2, 3, 4]
    merged = merge_heights(root)
    assert (merged[0, 1], merged[1, 2], merged[3, 4], merged[0, 4]) == (4.0, 3.0, 2.0, math.inf)
    places = layout(root)
    assert [(bar.height, bar.left, bar.right) for bar in places.bars] == [
        (3.0, 1, 2),
        (4.0, 0, 1.5),
        (2.0, 3, 4),
        (math.inf, 0.75, 3.5),
    ]
    assert len(places.stems) == 8
    assert tree([1.0], {}).basin == 0


def test_a_tree_without_some_of_its_basins() -> None:
    """Joins of what is left keep their heights; the figure of many basins shows those with most members."""
    root = tree([0.0, 0.5, 1.0, 0.2, 0.3], {(0, 1): 5.0, (1, 2): 3.0, (0, 2): 4.0, (3, 4): 2.0})
    left = pruned(root, {0, 2, 4})
    assert left is not None
    assert left.leaves == [0, 2, 4]
    assert merge_heights(left) == {(0, 2): 4.0, (0, 4): math.inf, (2, 4): math.inf}
    assert pruned(root, {3}) == Node(0.2, basin=3)
    assert pruned(root, set()) is None


def test_the_largest_basins(mapped: Landscape) -> None:
    """Of the eight modes' basins the four that have two members."""
    sizes = [len(members) for members in mapped.basins.members]
    assert sorted(largest(mapped, 4).leaves) == [basin for basin, size in enumerate(sizes) if size == 2]
    assert largest(mapped) == mapped.tree


# The rule


def cells(temperature: float, *numbers: int, states: int = 32) -> list[grid.Cell]:
    """A side of the grid, weakest pull first."""
    return [grid.Cell(temperature, 2.0**k, states, n) for k, n in enumerate(numbers)]


def test_the_default_is_the_middle_of_the_plateau() -> None:
    """The longest run of equal numbers, not of all or one; a defined answer where there is none."""
    assert grid.choose(cells(0.2, 32, 20, 8, 8, 8, 2)).strength == 8
    assert grid.choose([*cells(0.2, 32, 20, 8, 8, 3, 2), *cells(0.05, 31, 9, 9, 9, 9, 1)]) == grid.Cell(0.05, 4, 32, 9)
    assert grid.choose(cells(0.2, 32, 32, 32, 5, 1, 1)).basins == 5
    assert grid.choose(cells(0.2, 32, 30, 29, 28)).basins == 28
    assert grid.choose(cells(0.2, 1, 1, 1)).basins == 1


def test_strengths_reach_over_hills() -> None:
    """The force over a double well is its height over half the distance."""
    wells, minima = Wells(3.0), points((-1, 0), (1, 0))
    force = grid.force(wells, minima, torch.zeros(2))
    assert force == pytest.approx(3.0, rel=0.05)  # ten points do not hit the top
    hot = Conditions(0.5, 0.1, 0.2, 10, 100)
    assert grid.strong(force, hot, (2, 1, 1)) == pytest.approx(4 * force)
    assert grid.strong(force, hot, (1, 16, 16)) == pytest.approx(255 / 0.2)  # what noise asks for, where hills are low
    assert grid.strengths(8.0, 3) == [2, 4, 8]


# Metastable states


def test_chains_come_to_rest() -> None:
    """From far off the energy falls until it is that of the stationary law, and then they stop; resumed alike."""
    wells = Wells(3.0)
    x = points((-1, 0)).expand(64, -1, -1, -1) + points((0, 20.0))
    records = list(settle(wells, x, 0.1, 20_000, seed=3, batch_size=10))
    assert records[-1].still
    assert not records[0].still
    assert records[-1].step < 20_000
    assert float(records[-1].energy.mean()) == pytest.approx(1.0, abs=0.3)  # two halves of kT, about
    rest = list(settle(wells, x, 0.1, 20_000, seed=3, since=records[1]))
    assert torch.equal(rest[-1].x, records[-1].x)
    [(low, energy)] = quench(wells, records[-1].x, 0.1, 3000)
    assert energy.abs().max() < 1e-3
    assert low[:, 0].abs().flatten().tolist() == pytest.approx([1] * 64, abs=0.01)


def test_spread_is_that_of_the_well() -> None:
    """√(T/k) in each direction, once a chain has had time for it."""

    class Bowl(Flat):
        def energy_and_grad(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            return 50 * x.square().sum(dim=(1, 2, 3)), 100 * x

    measured = spread(Bowl(64), torch.zeros(40, 64, 1, 1), 0.05, 0.25)
    assert measured == pytest.approx(math.sqrt(64 * 0.25 / 100), rel=0.3)


# Between two states


def test_both_ways_over_a_double_well() -> None:
    """The barrier is the saddle's; two states in one well are said to be one."""
    wells = Wells(3.0)
    settings = MapSettings(step_size=0.1, quench_steps=700, trials=2, string_steps=200)
    left, right = points((-0.9, 0.3))[0], points((1.1, -0.2))[0]
    found = between(wells, left, right, settings, 0.1)
    assert float(found.energy.max()) == pytest.approx(3.0, rel=0.02)
    assert found.ends == pytest.approx((0, 0), abs=1e-3)
    assert found.path[0, 0, 0, 0] < 0 < found.path[-1, 0, 0, 0]
    assert found.there is not None
    assert found.back is not None
    with pytest.raises(EBMError, match="same state"):
        between(wells, left, points((-1.1, 0))[0], settings, 0.1)


def test_a_path_as_a_film() -> None:
    """There and back over a double well: a frame a point, the state moving with its mark on the curve."""
    path = points((-1, 0), (-0.5, 0), (0, 0), (0.5, 0), (1, 0))
    energy = barriers.profile(Wells(3.0), path)
    seen = [np.asarray(frame) for frame in frames(path, energy)]
    assert len(seen) == 17 + 15
    assert len({frame.shape for frame in seen}) == 1
    assert not any(np.array_equal(one, two) for one, two in pairwise(seen))
    assert all(np.array_equal(seen[k], seen[-k]) for k in range(1, 16))  # the way back is the way there


def test_recall_falls_into_its_own_well() -> None:
    """Started off its minimum, a state ends in it."""
    relaxed = relax(Wells(3.0), points((0.4, 0.5))[0], 0.1, 100, 600, 0.02)
    assert relaxed.frames[-1].flatten().tolist() == pytest.approx([1, 0], abs=0.03)
    assert len(relaxed.energy) == relaxed.steps[-1] + 1 == 701
    assert len(relaxed.frames) == len(relaxed.steps)


# Kept on the disk


def test_a_journal_that_was_cut_off(tmp_path) -> None:
    """The line that a kill left unfinished is dropped, and the next one does not run into it."""
    store = Folder(tmp_path)
    jobs = {Job(0, i, 0, 0.1 * i): Arrival(i % 2 == 0, 1 / (i + 1), i) for i in range(4)}
    store.append("basins", jobs.items())
    text = store._path.read_text()
    store._path.write_text(text[:-5])
    with pytest.raises(EBMError, match="another process is at work"):
        Folder(tmp_path)
    del store
    again = Folder(tmp_path)
    assert again.jobs("basins") == dict(list(jobs.items())[:3])
    again.append("basins", list(jobs.items())[3:])
    del again
    assert Folder(tmp_path).jobs("basins") == jobs


def test_purposes_have_streams_of_their_own() -> None:
    """Chains, travel and spread draw other numbers."""
    keys = {Stream(0, purpose).key for purpose in Purpose}
    assert len(keys) == len(Purpose)
