"""Comparisons as a table, a picture in the layout of the paper's Fig. 8, a page, and JSON.

Models of one size and data make one comparison; a table, picture or page shows as many as there are, one after another.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from PIL import Image, ImageDraw
from torch import Tensor

from ebmcli import media
from ebmcli._version import __version__
from ebmcli.evaluation.compare import Comparison, Contestant, Side
from ebmcli.evaluation.mixing import Estimate
from ebmcli.evaluation.verdict import Verdict
from ebmcli.media import page
from ebmcli.media.lettering import Colour, shorten, write

HEADER = (
    "model",
    "verdict",
    "energy short",
    "energy long",
    "distance short",
    "distance long",
    "|x| long",
    "ms/step",
    "updates",
)
CROSS_HEADER = ("under", "samples of", "energy of short", "energy of long", "its chains lead to", "distance then")

_INK: Colour = (29, 29, 31)
_SOFT: Colour = (99, 99, 107)
_PAPER: Colour = (255, 255, 255)
_SIDE = 520
"""Width and height of one set of samples in the picture, px."""
_SHOWN = 36
"""Samples of a set that are shown, at most."""


def verdict_of(c: Contestant) -> str:
    """The verdict in words; what became of chains that diverged."""
    return str(c.outcome.judgement.verdict) if c.outcome is not None else "diverged"


def rows(comparisons: Sequence[Comparison]) -> list[tuple[str, ...]]:
    """A row a model, and after those of a comparison one for the data itself, under `HEADER`."""
    return [row for comparison in comparisons for row in _rows(comparison, len(comparisons) > 1)]


def _rows(comparison: Comparison, several: bool) -> list[tuple[str, ...]]:
    found = [
        (
            c.name,
            verdict_of(c),
            _gap(c.short.gap),
            _gap(c.long.gap) if c.long else "–",
            _distance(c.short),
            _distance(c.long) if c.long else "–",
            f"{c.long.saturation.mean_abs:.2f}" if c.long else "–",
            f"{1000 * c.seconds_a_step:.3g}",
            f"{c.model.config.updates:,}" if c.model.config.updates else "–",
        )
        for c in comparison.contestants
    ]
    own = _plain(comparison.contestants[0].short.distance.data, 3)
    name = f"{_data(comparison)}, other half" if several else "the data, other half"
    return [*found, (name, "", "0", "0", own, own, "1.00", "", "")]


def _data(comparison: Comparison) -> str:
    """The data by name, and its size where it is images."""
    config = comparison.contestants[0].model.config
    channels, height, width = config.shape
    return comparison.data if config.is_points else f"{comparison.data} {width}×{height}×{channels}"


def cross_rows(comparisons: Sequence[Comparison]) -> list[tuple[str, ...]]:
    """A row for each model about each other's samples, under `CROSS_HEADER`."""
    return [
        (
            c.a,
            c.b,
            _number(c.short),
            _number(c.long),
            _gap(c.went) if c.went else "–",
            _plain(c.distance.distance, 3) if c.distance else "–",
        )
        for comparison in comparisons
        for c in comparison.crossings
    ]


def notes(comparisons: Sequence[Comparison]) -> list[str]:
    """What the numbers mean."""
    first = comparisons[0]
    names = " or ".join(dict.fromkeys(comparison.data for comparison in comparisons))
    lines = [f"energy: how far its mean is from that of {names}, in standard deviations of the data's energy"]
    for comparison in comparisons:
        d = comparison.contestants[0].short.distance
        lines.append(
            f"distance: {comparison.reference.name} to {_data(comparison)}, {d.images} samples; the data's other half "
            f"{_plain(d.data, 3)}, a Gaussian with the data's mean and covariance {_plain(d.gaussian, 3)}"
        )
    if not all(comparison.reference.points for comparison in comparisons):
        lines.append("|x|: mean |pixel| over the data's; far above 1 is oversaturated")
    settings = first.contestants[0].settings
    lines.append(
        f"short: as each model was trained; long: {first.steps:,} steps; the same starts and noise for all; "
        f"ms/step for all {settings.chains + settings.others} chains"
    )
    if first.cross_steps and any(comparison.crossings for comparison in comparisons):
        lines.append(f"its chains lead to: energy after {first.cross_steps:,} steps from the other's short samples")
    return lines


def _all(comparisons: Sequence[Comparison]) -> list[Contestant]:
    return [c for comparison in comparisons for c in comparison.contestants]


def picture(comparisons: Sequence[Comparison]) -> Image.Image:
    """Short-run beside long-run samples, a row a model (the layout of Fig. 8)."""
    contestants = _all(comparisons)
    pad, top, words = 36, 74, 92
    width = 3 * pad + 2 * _SIDE
    height = top + len(contestants) * (words + _SIDE + pad)
    sheet = Image.new("RGB", (width, height), _PAPER)
    draw = ImageDraw.Draw(sheet)
    for column, text in enumerate(("short run, as trained", f"after {comparisons[0].steps:,} steps")):
        write(draw, (pad + column * (_SIDE + pad), 48), text, 22, _SOFT)
    for number, c in enumerate(contestants):
        y = top + number * (words + _SIDE + pad)
        write(draw, (pad, y + 26), shorten(c.name, 28, _SIDE), 28, _INK)
        write(draw, (2 * pad + _SIDE, y + 26), shorten(verdict_of(c), 28, _SIDE), 28, _INK)
        for column, side in enumerate((c.short, c.long)):
            left = pad + column * (_SIDE + pad)
            if side is None:
                write(draw, (left, y + 60), shorten(c.diverged, 20, _SIDE), 20, _SOFT)
                continue
            about = f"energy {_gap(side.gap)} σ, distance {_distance(side)}"
            write(draw, (left, y + 60), shorten(about, 20, _SIDE), 20, _SOFT)
            sheet.paste(_samples(side.x), (left, y + words - 12))
    return sheet


def _samples(x: Tensor) -> Image.Image:
    if media.is_plane(x):
        reach = 1.2 * float(x.abs().max())
        return media.scatter(x, _SIDE, (-reach, reach)).convert("RGB")
    columns = max(1, math.isqrt(min(len(x), _SHOWN)))
    grid = media.grid(x[: columns * columns], columns=columns, width=_SIDE).convert("RGB")
    return grid if grid.width <= _SIDE else grid.resize((_SIDE, _SIDE), Image.Resampling.BOX)


def report(comparisons: Sequence[Comparison]) -> page.Page:
    """Everything on one page."""
    names = ", ".join(c.name for c in _all(comparisons))
    data = ", ".join(_data(comparison) for comparison in comparisons)
    steps = comparisons[0].steps
    found = page.Page(f"Compared: {names}", f"{steps:,} steps each, against {data}", _STYLE)
    found.add(page.table(rows(comparisons), HEADER))
    for c in _all(comparisons):
        found.add(page.heading(c.name))
        if c.outcome is not None:
            judged = c.outcome.judgement
            good = None if judged.verdict is Verdict.UNMIXED else judged.matches
            found.add(page.verdict(str(judged.verdict), judged.reasons, good))
        else:
            found.add(page.verdict("diverged", [c.diverged], False))
        sides = [("short run, as trained", c.short)] + ([(f"after {steps:,} steps", c.long)] if c.long else [])
        pictures = [
            page.picture(_samples(side.x), f"{what}: energy {_gap(side.gap)} σ, distance {_distance(side)}")
            for what, side in sides
        ]
        found.add(f'<div class="pair">{"".join(pictures)}</div>')
    crossings = [(comparison, c) for comparison in comparisons for c in comparison.crossings]
    if crossings:
        found.add(page.heading("Each under the others"), page.table(cross_rows(comparisons), CROSS_HEADER))
        pictures = [
            page.picture(
                _samples(c.x),
                f"chains of {c.a}, begun at short samples of {c.b}, after {comparison.cross_steps:,} steps",
            )
            for comparison, c in crossings
            if c.x is not None
        ]
        found.add(f'<div class="pair">{"".join(pictures)}</div>')
    found.add(page.heading("What the numbers are"), *(page.paragraph(line) for line in notes(comparisons)))
    return found


_STYLE = """
.pair { display: flex; flex-wrap: wrap; gap: 0 1.5rem; }
.pair figure { flex: 1 1 18rem; max-width: 30rem; }
.pair img { width: 100%; }
"""


def about(comparisons: Sequence[Comparison]) -> dict[str, Any]:
    """What made a picture: models, data, settings; no path, no time."""
    settings = comparisons[0].contestants[0].settings
    return {
        "made_by": f"ebm {__version__}",
        "models": [{"name": c.name, "sha256": c.model.digest or None} for c in _all(comparisons)],
        "data": [Path(comparison.data).name for comparison in comparisons],
        "steps": comparisons[0].steps,
        "count": settings.chains,
        "seed": settings.seed,
        "kernel": settings.kernel,
    }


def as_json(comparisons: Sequence[Comparison]) -> dict[str, Any]:
    """All numbers: `steps`, and under `comparisons` one for every size and data of the models."""
    return {"steps": comparisons[0].steps, "comparisons": [_comparison(c) for c in comparisons]}


def _comparison(comparison: Comparison) -> dict[str, Any]:
    d = comparison.contestants[0].short.distance
    return {
        "data": comparison.data,
        "shape": list(comparison.contestants[0].model.config.shape),
        "distance": comparison.reference.name,
        "distance_of_halves": d.data,
        "distance_of_gaussian": d.gaussian,
        "models": [_contestant(c) for c in comparison.contestants],
        "across": [
            {
                "under": c.a,
                "samples_of": c.b,
                "energy_short": c.short,
                "energy_long": c.long,
                "energy_after": c.went._asdict() if c.went else None,
                "distance_after": c.distance.distance if c.distance else None,
                "steps": comparison.cross_steps,
            }
            for c in comparison.crossings
        ],
    }


def _contestant(c: Contestant) -> dict[str, Any]:
    def side(s: Side | None) -> dict[str, Any] | None:
        if s is None:
            return None
        return {
            "energy": s.gap._asdict(),
            "distance": s.distance._asdict(),
            "share": s.distance.share,
            "saturation": s.saturation._asdict(),
        }

    return {
        "model": c.name,
        "sha256": c.model.digest or None,
        "verdict": verdict_of(c),
        "reasons": list(c.outcome.judgement.reasons) if c.outcome else [c.diverged],
        "energy_data_mean": c.energy_data[0],
        "energy_data_sd": c.energy_data[1],
        "short": side(c.short),
        "long": side(c.long),
        "acceptance": c.outcome.acceptance if c.outcome else None,
        "step_size": c.outcome.step_size if c.outcome else c.settings.step_size,
        "milliseconds_a_step": 1000 * c.seconds_a_step,
        "chains": c.settings.chains + c.settings.others,
        "updates": c.model.config.updates,
        "weights": sum(p.numel() for p in c.model.potential.parameters()),
        "backend": c.model.potential.backend.name,
    }


def _gap(estimate: Estimate) -> str:
    return _number(estimate.value) + _error(estimate.error)


def _number(value: float) -> str:
    """Three figures, with a sign."""
    return f"{'−' if value < 0 else '+'}{_plain(abs(value), 3)}" if math.isfinite(value) else "–"


def _distance(side: Side) -> str:
    return _plain(side.distance.distance, 3) + _error(side.distance.error)


def _error(value: float) -> str:
    return f" ± {_plain(value, 1)}" if math.isfinite(value) else ""


def _plain(value: float, figures: int) -> str:
    """So many figures, without powers of ten where thousands are enough."""
    rounded = float(f"{value:.{figures}g}")
    text = f"{rounded:,.0f}" if 10 ** (figures - 1) <= abs(rounded) < 1e7 else f"{rounded:g}"
    return text.replace("-", "−")
