"""What a long run looks like: images over the energy as in Fig. 2, curves over time, a page."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from ebmcli import media
from ebmcli.evaluation import Estimate, Outcome, Record, Verdict, WalkSettings
from ebmcli.media import page, plots

ROWS = 4
"""Chains in a strip."""
COLUMNS = 10
PHONE_COLUMNS = 6
"""Steps in a strip: of the picture, and of the page."""

Frames = Sequence[tuple[int, Path]]
"""Steps and the files with the images of them."""


class Run(NamedTuple):
    """Everything a report is made of."""

    title: str
    settings: WalkSettings
    records: list[Record]
    frames: Frames
    outcome: Outcome | None
    """None where there was no data to hold the chains against"""
    reference: str
    """name of the distance; empty without data"""
    facts: dict[str, Any]
    complete: bool


def _position(settings: WalkSettings, last: int) -> Callable[[float], float]:
    """From a step to [0, 1]: the logarithm of 1 + step, or the step, as the moments are spaced."""
    if settings.spacing == "log":
        return lambda step: math.log1p(step) / math.log1p(max(1, last))
    return lambda step: step / max(1, last)


def chosen(run: Run, columns: int) -> list[tuple[int, Path]]:
    """The frames of a strip: as evenly spaced as there are frames for, first and last among them."""
    frames = list(run.frames)
    if len(frames) <= columns:
        return frames
    where = _position(run.settings, frames[-1][0])
    wanted = [i / (columns - 1) for i in range(columns)]
    at = np.array([where(step) for step, _ in frames])
    nearest = {int(np.abs(at - w).argmin()) for w in wanted}
    return [frames[k] for k in sorted(nearest)]


def _tiles(run: Run, frames: Frames) -> list[list[np.ndarray]]:
    """Rows of RGB pictures, a column a frame: some chains of it, or for points one heat picture of all."""
    arrays = [media.read_images(path) for _, path in frames]
    if arrays[0].ndim == 2:
        reach = max(1.0, float(np.quantile(np.abs(arrays[0]), 0.999)) * 1.25)
        return [[np.asarray(media.scatter(a, 180, (-reach, reach), 45).convert("RGB")) for a in arrays]]
    rows = []
    for chain in range(min(ROWS, len(arrays[0]))):
        images = [a[chain].transpose(1, 2, 0) for a in arrays]
        rows.append([i.repeat(3, axis=2) if i.shape[2] == 1 else i for i in images])
    return rows


def strip(run: Run, columns: int = COLUMNS, scale: int = 3) -> tuple[Image.Image, list[int]]:
    """Chains (rows) at some steps (columns) side by side, and the steps."""
    frames = chosen(run, columns)
    rows = _tiles(run, frames)
    h, w, _ = rows[0][0].shape
    if h < 100:
        rows = [[t.repeat(scale, axis=0).repeat(scale, axis=1) for t in row] for row in rows]
        h, w = h * scale, w * scale
    gap = max(2, w // 24)
    sheet = np.full((len(rows) * (h + gap) - gap, len(frames) * (w + gap) - gap, 3), 255, dtype=np.uint8)
    for y, row in enumerate(rows):
        for x, tile in enumerate(row):
            sheet[y * (h + gap) : y * (h + gap) + h, x * (w + gap) : x * (w + gap) + w] = tile
    return Image.fromarray(sheet), [step for step, _ in frames]


def steps_text(step: int) -> str:
    """A number of steps, short: 0, 850, 1.5k, 20k, 1M."""
    for unit, name in ((1_000_000, "M"), (1_000, "k")):
        if step >= unit:
            return f"{step / unit:.3g}{name}"
    return str(step)


def _energy_axis(axis: Any, run: Run, where: Callable[[float], float]) -> None:
    """Energies of both groups over the steps, with the data's band."""
    s = run.settings
    u = [where(r.step) for r in run.records]
    energy = np.array([r.energy for r in run.records])
    first, others = energy[:, : s.chains], energy[:, s.chains :]
    low, high = np.quantile(first, [0.025, 0.975], axis=1)
    if run.outcome is not None:
        band = run.outcome.baseline.band
        axis.axhspan(*band, color=plots.COLOURS[2] + "33", lw=0, label="data, 95%")
        axis.axhline(run.outcome.measured.energy_data.value, color=plots.COLOURS[2], lw=1)
    axis.fill_between(u, low, high, color=plots.BAND, lw=0)
    axis.plot(u, first.mean(axis=1), color=plots.COLOURS[0], label=f"chains from {_start(s.start)}")
    if others.size:
        axis.plot(u, others.mean(axis=1), color=plots.COLOURS[1], lw=1, label=f"chains from {_start(s.against)}")
        # Noise begins so high that nothing else would be seen: the picture is cut where the first group lives.
        seen = [*low, *high, *(run.outcome.baseline.band if run.outcome else ())]
        margin = 0.35 * max(max(seen) - min(seen), 1e-9)
        axis.set_ylim(
            min(min(seen), others.mean(axis=1).min()) - 0.1 * margin,
            min(max(seen) + margin, max(max(seen), others.mean(axis=1).max()) + 0.1 * margin),
        )
    axis.set_ylabel("energy U")
    axis.legend(loc="best")
    axis.grid(axis="y")


def _start(start: str | None) -> str:
    return start if start in ("data", "noise", "bank") else "files"


def _ticks(axis: Any, steps: Sequence[int], where: Callable[[float], float]) -> None:
    axis.set_xticks([where(s) for s in steps], [steps_text(s) for s in steps])
    axis.set_xlabel("step")


def figure(run: Run, metadata: dict[str, Any], path: Path) -> Path:
    """The picture of a long run, as the paper's Fig. 2: images at some steps over the energy; returns its path."""
    picture, steps = strip(run)
    last = run.records[-1].step
    where = _position(run.settings, last)
    width = 9.0
    strip_height = width * 0.9 * picture.height / picture.width
    with plots.figure(width, strip_height + 3.6, rows=2, gridspec_kw={"height_ratios": [strip_height + 0.3, 3.0]}) as (
        fig,
        (top, bottom),
    ):
        top.imshow(np.asarray(picture), interpolation="nearest")
        pitch = (picture.width + 1) / len(steps)
        top.set_xticks([(i + 0.5) * pitch for i in range(len(steps))], [steps_text(s) for s in steps])
        top.set_yticks([])
        top.tick_params(length=0)
        for side in top.spines.values():
            side.set_visible(False)
        verdict = f": {run.outcome.judgement.verdict}" if run.outcome else ""
        top.set_title(f"{run.title}{verdict}")
        _energy_axis(bottom, run, where)
        _ticks(bottom, steps, where)
        bottom.set_xlim(-0.5 / max(1, len(steps) - 1), 1 + 0.5 / max(1, len(steps) - 1))
        return plots.save(fig, path, metadata)


def _curves(run: Run) -> list[tuple[str, Image.Image]]:
    """Small figures for the page, wide enough for a phone, each with its caption."""
    last = run.records[-1].step
    where = _position(run.settings, last)
    marks = [0, *(round(last ** (i / 4)) if run.settings.spacing == "log" else last * i // 4 for i in range(1, 5))]
    looked = [r for r in run.records if r.moment is not None]

    def draw(plot: Callable[[Any], None], height: float = 2.5) -> Image.Image:
        with plots.figure(4.6, height) as (fig, axis):
            plot(axis)
            _ticks(axis, sorted(set(marks)), where)
            return plots.to_image(fig)

    def energy(axis: Any) -> None:
        _energy_axis(axis, run, where)

    def distance(axis: Any) -> None:
        u = [where(r.step) for r in looked]
        d = [r.moment.distance for r in looked if r.moment is not None]
        axis.fill_between(
            u, [v.distance - 2 * v.error for v in d], [v.distance + 2 * v.error for v in d], color=plots.BAND, lw=0
        )
        axis.plot(u, [v.distance for v in d], color=plots.COLOURS[0], label="chains")
        axis.axhline(d[0].data, color=plots.COLOURS[2], label="held-out data")
        axis.axhline(d[0].gaussian, color=plots.FAINT, ls="--", label="Gaussian")
        axis.set_ylim(0 if min(v.distance for v in d) >= 0 else None)
        axis.set_ylabel("distance to the data")
        axis.legend()

    def saturated(axis: Any) -> None:
        u = [where(r.step) for r in looked]
        axis.plot(u, [r.moment.beyond for r in looked if r.moment is not None], color=plots.COLOURS[1])
        axis.axhline(0.001, color=plots.COLOURS[2], lw=1)
        axis.set_ylabel("share of pixels")

    def remembered(axis: Any) -> None:
        axis.plot([where(r.step) for r in run.records], [r.memory.value for r in run.records], color=plots.COLOURS[3])
        axis.axhline(0, color=plots.FAINT, lw=1)
        axis.set_ylabel("memory of the start")

    def accepted(axis: Any) -> None:
        pairs = [(where(r.step), r.acceptance) for r in run.records if r.acceptance is not None]
        axis.plot([p[0] for p in pairs], [p[1] for p in pairs], color=plots.COLOURS[4])
        axis.set_ylim(0, 1)
        axis.set_ylabel("acceptance")

    found = [("Energy of the chains, mean and 95% of them, with the data's band", draw(energy, 3.0))]
    if looked:
        found.append((f"{run.reference} of the chains to the data, two standard errors either side", draw(distance)))
        found.append(("Pixels beyond the data's range; the data itself has 0.001", draw(saturated)))
    found.append(("What chains remember of their starts: 1 at the start, 0 when it is forgotten", draw(remembered)))
    if any(r.acceptance is not None for r in run.records):
        found.append(("Acceptance of the Metropolis–Hastings test", draw(accepted)))
    return found


def numbers(run: Run) -> list[tuple[str, str]]:
    """The rows of the page's table: what was measured."""
    rows: list[tuple[str, str]] = []
    if run.outcome is not None:
        o = run.outcome
        m = o.measured
        rows += [
            ("energy of the data", f"{_pm(m.energy_data)}, sd {m.energy_data_sd:.4g}"),
            ("energy of the long chains", _pm(m.energy_long)),
            ("energy of the model's own samples", _pm(m.energy_short) if m.energy_short else "-"),
            ("gap to the data", f"{_pm(m.gap)} sd of the data's"),
            ("states below their image of the data", f"{m.below.value:.1%} (equal: 50%)"),
            ("drift over the last half", f"{_pm(m.drift)} sd"),
            ("R-hat of the energy", f"{m.rhat:.4f}"),
            ("effective draws of the energy", f"{m.ess:.0f}"),
            ("autocorrelation time", f"{m.autocorrelation_time:.0f} steps"),
            ("memory of the start", _pm(m.memory)),
            (f"{run.reference}, chains", f"{o.final.distance:.4g} ± {o.final.error:.2g}"),
            (
                f"{run.reference}, model's own samples",
                f"{o.baseline.short.distance:.4g} ± {o.baseline.short.error:.2g}",
            ),
            ("the same of held-out data", f"{o.final.data:.4g} ({o.final.images} images each)"),
            ("the same of a Gaussian like the data", f"{o.final.gaussian:.4g}"),
            ("steepness of the energy over the data", f"{m.steepness:.3g} (a density has 1 or more)"),
            ("diversity", f"{o.likeness.diversity:.3f} of the data's"),
            ("nearest image of the data", f"{o.likeness.nearest:.3f} of the data's own"),
        ]
        moments = [r.moment for r in run.records if r.moment is not None]
        if moments:
            rows.append(("pixels beyond the data's range", f"{moments[-1].beyond:.4f} (the data: 0.001)"))
            rows.append(("mean |x|", f"{moments[-1].mean_abs:.3f} of the data's"))
        if o.acceptance is not None:
            rows.append(("acceptance over the last half", f"{o.acceptance:.3f}"))
    last = run.records[-1]
    rows.append(("displacement r a step, last", f"{last.displacement:.4g} px at ε {run.facts['step_size']:.4g}"))
    rows.append(("largest |pixel|, last", f"{last.largest:.4g}"))
    return rows


def _pm(estimate: Estimate) -> str:
    return f"{estimate.value:.4g} ± {estimate.error:.2g}"


def html(run: Run, path: Path) -> Path:
    """The page of a long run, one file; returns its path."""
    s, f = run.settings, run.facts
    last = run.records[-1].step
    lead = (
        f"{s.chains} chains from {_start(s.start)}"
        + (f" and {s.others} from {_start(s.against)}" if s.against else "")
        + f", {last:,} steps of {s.kernel}, ε {f['step_size']:.4g}, T {s.temperature:g}, seed {s.seed}"
        + ("" if run.complete else f"; interrupted, {s.steps:,} were asked for")
    )
    document = page.Page(
        f"Long run of {run.title}",
        lead,
        ".plots { display: grid; gap: 0 1.5rem; grid-template-columns: repeat(auto-fit, minmax(min(100%, 21rem), 1fr));"
        " } .plots figure img, .strip img { width: 100%; } th, td { white-space: normal; overflow-wrap: anywhere; }"
        " td:first-child { overflow-wrap: normal; }",
    )
    if run.outcome is None:
        document.add(page.verdict("no verdict", ["There was no data to hold the chains against."]))
    else:
        judgement = run.outcome.judgement
        good = None if judgement.verdict is Verdict.UNMIXED else judgement.matches
        document.add(page.verdict(judgement.verdict.value, [_sentence(r) for r in judgement.reasons], good))
    picture, steps = strip(run, PHONE_COLUMNS)
    caption = f"A chain a row, at steps {', '.join(steps_text(step) for step in steps)}"
    if s.chains and run.frames and media.read_images(run.frames[0][1]).ndim == 2:
        caption = f"All chains at steps {', '.join(steps_text(step) for step in steps)}"
    document.add('<div class="strip">', page.picture(picture, caption), "</div>", page.heading("Over time"))
    document.add('<div class="plots">')
    document.add(*(page.picture(image, text, plot=True) for text, image in _curves(run)))
    document.add("</div>", page.heading("Numbers"))
    document.add(page.table(numbers(run), ("measured", "value")))
    document.add(
        page.paragraph("Means of chains are over the last half of the steps, ± is one standard error.", "lead")
    )
    document.add(page.heading("How it was made"))
    shown = {**f["settings"], **f, "start": _start(s.start), "against": s.against and _start(s.against)}
    for private in ("settings", "model", "data", "data_path"):  # a page that is passed on names no folders
        shown.pop(private, None)
    document.add(page.table([(k.replace("_", " "), v) for k, v in shown.items() if v is not None]))
    return document.save(path)


def _sentence(text: str) -> str:
    return text[:1].upper() + text[1:] + "."


def metadata(run: Run) -> dict[str, Any]:
    """What the picture says of itself."""
    from ebmcli._version import __version__

    s, f = run.settings, run.facts
    values = {**f["settings"], "step_size": f["step_size"]}
    for key in ("start", "against"):
        values[key] = values[key] and _start(values[key])
    values.pop("data")
    return {
        "made_by": f"ebm {__version__}",
        "longrun": True,
        "model": f["model_name"],
        "model_sha256": f["model_sha256"],
        "step": run.records[-1].step,
        "kernel": s.kernel,
        "settings": values,
    }


def sparkline(values: Sequence[float], width: int = 16) -> str:
    """A curve in one line of text, its least value ▁, its greatest █."""
    if not values:
        return ""
    picked = torch.tensor(values, dtype=torch.float64)
    if len(picked) > width:
        picked = torch.stack([part.mean() for part in picked.tensor_split(width)])
    low, high = float(picked.min()), float(picked.max())
    if not (math.isfinite(low) and high > low):
        return "▁" * len(picked)
    return "".join("▁▂▃▄▅▆▇█"[min(7, int(8 * (v - low) / (high - low)))] for v in _list(picked))


def _list(values: Tensor) -> list[float]:
    return [float(v) for v in values]
