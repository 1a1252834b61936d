"""What was timed, as one picture."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from ebmcli.bench.steps import Row
from ebmcli.media import plots


def picture(rows: Sequence[Row], path: Path) -> Path:
    """Bars: how many times faster than the plain loop each backend is, network by network.

    Raises:
        EBMError: the picture cannot be written.
    """
    cases = list(dict.fromkeys(row.case for row in rows))
    backends = list(dict.fromkeys(row.backend for row in rows))
    thick = 0.8 / len(backends)
    with plots.figure(8, 0.9 + 0.28 * len(backends) * len(cases)) as (fig, axes):
        for number, backend in enumerate(backends):
            mine = [(cases.index(row.case), row) for row in rows if row.backend == backend]
            places = [case + number * thick for case, _ in mine]
            ratios = [row.ratio for _, row in mine]
            colour = plots.FAINT if backend == "eager" else plots.COLOURS[number - 1]
            axes.barh(places, ratios, height=0.9 * thick, color=colour, label=backend)
            for place, (_, row) in zip(places, mine, strict=True):
                text = f" {row.ratio:.1f}×, {row.step.median * 1e3:.3g} ms"
                axes.text(row.ratio, place, text, va="center", fontsize=8)
        axes.set_yticks([case + (len(backends) - 1) * thick / 2 for case in range(len(cases))], cases)
        axes.invert_yaxis()
        axes.set_xlim(0, 1.25 * max(row.ratio for row in rows))
        axes.set_xlabel("one Langevin step: times faster than the plain loop (higher is better)")
        axes.legend(loc="lower right")
        return plots.save(fig, path)
