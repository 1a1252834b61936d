"""What a run or a model is, in pictures: Fig. 6 of a toy's density, Fig. 4 of the course of learning."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from ebmcli.data.toys import TOYS
from ebmcli.errors import EBMError
from ebmcli.evaluation import toys
from ebmcli.evaluation.verdict import DRIFT, GAP
from ebmcli.media import plots
from ebmcli.models.checkpoint import Checkpoint, ModelConfig
from ebmcli.models.sampling import sample
from ebmcli.storage.reading import read_json
from ebmcli.training.longruns import Line, in_words
from ebmcli.training.oscillation import SHORT, Oscillation
from ebmcli.training.run_folder import Run

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Records = Sequence[Mapping[str, Any]]

SAMPLES = 10_000
"""Short-run samples of a toy, as in the paper's Fig. 6."""
PIXELS = 240
"""Points along a side of a density's picture."""
FAINTEST = 12.0
"""Range of a logarithmic picture below its greatest value, nats."""
SHOWN = 2000
"""Points of a curve at most."""
RECENT = 200
"""Newest records of d that are shown one by one."""
CONCENTRATED = 1.0
"""KL(true‖model) in nats beyond which a model is no density of the data."""
CLOSE = 0.1
"""KL(true‖model) up to which it is one."""
MATCH = 0.05
"""Total variation above the floor of perfect samples up to which samples match the data."""

FAR_GAP = 10.0
"""A gap or drift beyond which its axis is logarithmic, sd of the data's energy."""
LINEAR_GAP = 2.0
"""Gap up to which its axis is linear; beyond that it is logarithmic, for an energy that is no density has any gap."""

SERIES = ["update", "energy_difference", "gradient_magnitude", "displacement", "straightness", "burn_in_distance"]
"""What an exported model keeps of the last updates."""


def run_of(file: Path) -> Path | None:
    """The folder of the run that a model file lies in; None where it lies in none."""
    return next((p for p in file.resolve().parents if (p / "run.json").is_file()), None)


def records_of(file: Path) -> list[dict[str, Any]]:
    """The records of learning that go with a model file: of its run, or those exported with it; maybe none."""
    folder = run_of(file)
    if folder is not None:
        return list(Run.open(folder).metrics())
    try:
        series = read_json(file.parent / "metrics.json", dict[str, Any])["series"]
        return [dict(zip(series, values, strict=True)) for values in zip(*series.values(), strict=True)]
    except (EBMError, ValueError, KeyError, TypeError, AttributeError):  # none, or of another program
        return []


class ToyDiagnosis(NamedTuple):
    """A toy's energy against its truth."""

    density: toys.Density
    smoothed: toys.Smoothed
    samples: str
    """`short run` or `bank`"""


def of_toy(model: Checkpoint, bank: Tensor | None, count: int = SAMPLES) -> tuple[ToyDiagnosis, Tensor]:
    """Integrals and kernel estimate of a toy's model, and the samples [n 2 1 1] behind the latter."""
    toy = TOYS[model.config.data]
    x = sample(model, batch_size=count, count=count, seed=0)[0] if bank is None else bank
    density = toys.measure(toys.energy_of(model.potential), toy)
    return ToyDiagnosis(density, toys.smoothed(x, toy), "short run" if bank is None else "bank"), x


def toy_in_words(d: ToyDiagnosis) -> str:
    """One sentence: whether the energy is a density of the data, and whether its samples are."""
    kl = d.density.kl_true_model
    if not d.density.normalisable:
        energy = "The energy has no density: it falls without end in some direction"
    elif kl <= CLOSE:
        energy = f"The energy is close to the truth (KL {kl:.3g})"
    elif kl > CONCENTRATED:
        energy = f"The energy's density is not the data's (KL {kl:.3g})"
    else:
        energy = f"The energy's density is roughly the data's (KL {kl:.3g})"
    excess = d.smoothed.total_variation - d.smoothed.floor
    agree = (kl <= CLOSE and d.density.normalisable) == (excess <= MATCH)
    match = "match" if excess <= MATCH else "do not match"
    return (
        f"{energy}, {'and' if agree else 'but'} the smoothed samples of its {d.samples} {match} the data "
        f"(total variation {excess:+.3f} against as many perfect samples)."
    )


@contextmanager
def draw_toy(model: Checkpoint, d: ToyDiagnosis, x: Tensor) -> Iterator[Figure]:
    """Truth, learned density and smoothed samples, linear above and logarithmic below, numbers under them (Fig. 6)."""
    toy = TOYS[model.config.data]
    half = toy.extent
    axis = (torch.arange(PIXELS, dtype=torch.float64) + 0.5) / PIXELS * 2 * half - half
    grid = torch.cartesian_prod(axis, axis)
    size = (PIXELS, PIXELS)
    energy = toys.energy_of(model.potential)
    learned = -torch.cat([energy(p) for p in grid.split(toys.BATCH)]).view(size) - d.density.log_z
    columns = (
        ("true density", toy.log_density(grid).view(size)),
        ("learned density", learned),
        (f"{d.samples}, {d.smoothed.samples:,} samples smoothed", toys.estimate(x, axis).clamp_min(1e-30).log()),
    )
    with plots.figure(9.6, 7.0, rows=2, columns=3) as (fig, axes):
        for column, (title, log) in enumerate(columns):
            for row, values in enumerate((log.exp(), log.clamp_min(float(log.max()) - FAINTEST))):
                place = axes[row, column]
                place.imshow(values.T.numpy(), origin="lower", extent=(-half, half, -half, half), cmap="magma")
                place.set_xticks([])
                place.set_yticks([])
                for spine in place.spines.values():
                    spine.set_visible(False)
                if row == 0:
                    place.set_title(title)
        axes[0, 0].set_ylabel("linear")
        axes[1, 0].set_ylabel(f"logarithmic, {FAINTEST:g} nats")
        fig.supxlabel("\n".join(_toy_lines(model.config, d)), fontsize=9, x=0.02, ha="left")
        yield fig


def _toy_lines(config: ModelConfig, d: ToyDiagnosis) -> list[str]:
    p, s = d.density, d.smoothed
    where = "" if p.normalisable else f" (not normalisable: these are of the box ±{p.box:g})"
    return [
        f"{config.name}, update {config.updates:,}, ε {config.step_size:g}, L {config.steps}",
        f"KL(true‖model) {p.kl_true_model:.3g}, KL(model‖true) {p.kl_model_true:.3g}, "
        f"total variation {p.total_variation:.3g}, log Z {p.log_z:.6g}{where}",
        f"{d.samples}: total variation {s.total_variation:.3f} from the truth under the same kernel "
        f"(sd {s.kernel_sd:g}); as many perfect samples: {s.floor:.3f}",
    ]


@contextmanager
def draw_learning(config: ModelConfig, records: Records, o: Oscillation, words: str) -> Iterator[Figure]:
    """d, v, r and straightness over updates; cross-correlation, ACF and PACF by lag, with bands (Fig. 4)."""
    if not records:
        raise EBMError("there are no records to draw")
    thin = records[:: max(1, math.ceil(len(records) / SHOWN))]
    updates = [r["update"] for r in thin]
    blue, red = plots.COLOURS[0], plots.COLOURS[1]
    with plots.figure(13.0, 6.4, rows=2, columns=4) as (fig, axes):
        (d_axis, v_axis, r_axis, s_axis), (c_axis, a_axis, p_axis, h_axis) = axes
        newest = records[-RECENT:]
        d = np.array([r["energy_difference"] for r in newest])
        at = np.array([r["update"] for r in newest])
        d_axis.axhline(0, color=plots.FAINT, linewidth=0.8)
        d_axis.plot(at, d, color="#bbbbbb", linewidth=0.7)
        for sign, colour, name in ((d < 0, red, "expansion"), (d >= 0, blue, "contraction")):
            d_axis.plot(at[sign], d[sign], ".", color=colour, markersize=3, label=name)
        d_axis.set_title(f"energy difference d, last {len(newest)} records")
        d_axis.legend(loc="best")
        v_axis.semilogy(updates, [r["gradient_magnitude"] for r in thin], color=blue, linewidth=0.9)
        v_axis.set_title("gradient magnitude v")
        _draw_displacement(r_axis, config, thin)
        s_axis.plot(updates, [r["straightness"] for r in thin], color=blue, linewidth=0.9)
        s_axis.set_ylim(0, 1)
        s_axis.set_title("straightness of the paths")
        _lags(c_axis, [("", o.cross, blue)], range(-o.lags, o.lags + 1), o)
        c_axis.set_title("d now and v later: correlation")
        _lags(a_axis, [("d", o.acf_d, blue), ("v", o.acf_v, red)], range(1, o.lags + 1), o)
        a_axis.set_title("autocorrelation")
        _lags(p_axis, [("d", o.pacf_d, blue), ("v", o.pacf_v, red)], range(1, o.lags + 1), o)
        p_axis.set_title("partial autocorrelation")
        _draw_shares(h_axis, o, records)
        for axis in (d_axis, v_axis, r_axis, s_axis):
            axis.set_xlabel("update")
            axis.ticklabel_format(axis="x", style="plain", useOffset=False)
            axis.locator_params(axis="x", nbins=4)
        fig.supxlabel(words, fontsize=9, x=0.01, ha="left", wrap=True)
        yield fig


@contextmanager
def draw_long_runs(config: ModelConfig, lines: Sequence[Line]) -> Iterator[Figure]:
    """Gap and drift of a training's long runs over its updates, with error bars and verdicts.

    It shows when an energy becomes a density: chains from data then keep the energy of the data.
    """
    with plots.figure(8.0, 5.8, rows=2, sharex=True) as (fig, axes):
        _draw_values(axes[0], lines, "gap", GAP[0])
        axes[0].set_title("gap: energy of long chains minus that of the data, sd of the data's energy")
        _draw_values(axes[1], lines, "drift", DRIFT)
        axes[1].set_title("drift of that energy between the last two quarters of the steps, sd")
        axes[0].legend(loc="best", title="verdict", title_fontsize=8)
        updates = [line["update"] for line in lines]
        margin = 0.04 * max(1, max(updates) - min(updates))
        axes[1].set_xlim(min(updates) - margin, max(updates) + margin)
        axes[1].xaxis.get_major_locator().set_params(integer=True)
        axes[1].set_xlabel("update")
        fig.supxlabel(f"{config.name}; {in_words(lines[-1])}", fontsize=9, x=0.02, ha="left", wrap=True)
        yield fig


def _draw_values(axis: Axes, lines: Sequence[Line], key: str, tolerated: float) -> None:
    """Gap or drift over updates, a colour for each verdict, and the band that a density of the data stays in."""
    from matplotlib.ticker import SymmetricalLogLocator

    axis.axhspan(-tolerated, tolerated, color=plots.BAND, linewidth=0, label="tolerated of a density")
    axis.axhline(0, color=plots.FAINT, linewidth=0.8)
    measured = [line for line in lines if line["verdict"] is not None]
    axis.plot(*_points(measured, key), color=plots.FAINT, linewidth=0.8, zorder=1)
    verdicts = dict.fromkeys(line["verdict"] for line in measured)
    for name, colour in zip(verdicts, itertools.cycle(plots.COLOURS), strict=False):
        mine = [line for line in measured if line["verdict"] == name]
        errors = _points(mine, f"{key}_error")[1]
        style: dict[str, Any] = {"color": colour, "markersize": 5, "capsize": 3, "elinewidth": 1.2}
        axis.errorbar(*_points(mine, key), yerr=errors, fmt="o", label=name, **style)
    failed = [line["update"] for line in lines if line["verdict"] is None]
    if failed:
        axis.plot(failed, [0.0] * len(failed), "x", color=plots.FAINT, label="none")
    largest = max((abs(value) for value in _points(measured, key)[1]), default=0.0)
    if largest > FAR_GAP:  # a model that is no density may be anywhere; one that nearly is asks for a plain scale
        axis.set_yscale("symlog", linthresh=LINEAR_GAP)
        axis.yaxis.set_major_locator(SymmetricalLogLocator(base=10, linthresh=LINEAR_GAP, subs=(1, 3)))
    axis.yaxis.set_major_formatter("{x:g}")


def _points(lines: Sequence[Line], key: str) -> tuple[list[int], list[float]]:
    """Updates, and what the long runs have under `key` (nan where they have nothing)."""
    values: list[Any] = [line[key] for line in lines]  # type: ignore[literal-required]
    return [line["update"] for line in lines], [math.nan if value is None else value for value in values]


def _draw_displacement(axis: Axes, config: ModelConfig, records: Records) -> None:
    """r with what it may balance: the noise of a step, and the way from the start to the data."""
    updates = [r["update"] for r in records]
    axis.semilogy(updates, [r["displacement"] for r in records], color=plots.COLOURS[0], linewidth=0.9, label="r")
    way = [r["burn_in_distance"] / config.steps for r in records]
    axis.semilogy(updates, way, color=plots.COLOURS[2], linewidth=0.9, linestyle="--", label="R/L")
    if config.noise:
        noise = config.noise * config.step_size * math.sqrt(math.prod(config.shape))
        axis.axhline(noise, color=plots.COLOURS[1], linewidth=0.9, linestyle=":", label="ε√D, noise a step")
    axis.legend(loc="best")
    axis.set_title("displacement r, pixel units")


def _draw_shares(axis: Axes, o: Oscillation, records: Records) -> None:
    d = np.array([r["energy_difference"] for r in records if r["update"] >= o.first])
    low, high = np.quantile(d, (0.005, 0.995))
    edges = np.linspace(min(low, 0.0), max(high, 0.0), 41).tolist()
    for sign, colour in ((d < 0, plots.COLOURS[1]), (d >= 0, plots.COLOURS[0])):
        axis.hist(d[sign], bins=edges, color=colour)
    axis.axvline(0, color=plots.FAINT, linewidth=0.8)
    axis.set_yticks([])
    axis.set_title(f"d: {o.expansion:.0%} expansion, {1 - o.expansion:.0%} contraction")
    axis.set_xlabel(f"updates {o.first:,} to {o.last:,}")


def _lags(axis: Axes, series: Sequence[tuple[str, list[float], str]], lags: range, o: Oscillation) -> None:
    """Correlations as stems over lags in updates, and the band within which chance stays."""
    at = np.array(lags) * o.every
    axis.axhspan(-o.band, o.band, color=plots.BAND, linewidth=0)
    axis.axhline(0, color=plots.FAINT, linewidth=0.8)
    for number, (name, values, colour) in enumerate(series):
        shift = (number - (len(series) - 1) / 2) * 0.3 * o.every
        shown = values[len(values) - len(at) :]
        axis.vlines(at + shift, 0, shown, color=colour, linewidth=2.2, label=name)
    if len(series) > 1:
        axis.legend(loc="best")
    axis.set_xlabel("lag, updates")
    bound = max(0.25, 1.1 * max(abs(v) for _, values, _ in series for v in values[-len(at) :]))
    axis.set_ylim(-bound, bound)


def sign_pattern(o: Oscillation) -> str:
    """Fig. 4's cross-correlation in words: positive at lag 0, negative a few updates away."""
    if o.every > SHORT // 2:
        return "not to be seen: records are too far apart"
    middle = o.cross[o.lags]
    around = [o.cross[o.lags + k] for k in range(-SHORT // o.every, SHORT // o.every + 1) if k]
    low = min(around)
    text = f"{middle:+.2f} at lag 0, lowest {low:+.2f} within {SHORT} updates"
    as_paper = middle > o.band and low < -o.band
    return f"{text}: {'the' if as_paper else 'not the'} pattern of the paper's Fig. 4"
