"""Long runs on the disk: chains that are kept in a folder, go on after any end, and are reported.

run = begin(folder, name, walk)
for record in follow(walk, run):
    ...
finish(walk, run, base)
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any

from ebmcli.errors import DivergedError
from ebmcli.evaluation import Baseline, Outcome, Record, Walk, outcome
from ebmcli.longrun import report
from ebmcli.longrun.folder import LongRun, begin
from ebmcli.storage.disk import crash_point

__all__ = ["LongRun", "begin", "finish", "follow", "report", "summary"]


def follow(walk: Walk, run: LongRun, stop: Callable[[], bool] = lambda: False) -> Iterator[Record]:
    """Go on with a walk and keep it; yields each record after it has been written.

    Args:
        walk: new, or restored from `run`.
        run: the folder of this walk.
        stop: asked after each record; True saves the state and ends the records.

    Raises:
        DivergedError: the chains left the finite numbers; the last sound state has been saved.
        EBMError: something could not be written; what was written before stays whole.
    """
    try:
        for record in walk.records():
            run.append(record)
            stopping = stop()
            moment = walk.is_moment
            if moment:
                assert walk.state is not None
                run.keep_images(walk.state.x[: walk.settings.chains], record.step)
            if moment or stopping or run.due:
                run.save(walk)
            yield record
            if stopping:
                return
    except DivergedError:
        if walk.state is not None:
            run.save(walk)
        raise


def finish(walk: Walk, run: LongRun, base: Baseline | None) -> Outcome | None:
    """Judge what there is, and write the picture, the page and the result.

    Args:
        walk: as far as it has come, with one record at least.
        run: its folder.
        base: the data's side; None where there is no data to judge by.

    Returns:
        What the walk came to, or None without `base`.
    """
    found = None if base is None else outcome(walk, base)
    facts = run.facts
    made = report.Run(
        title=facts["model"] if "/" not in facts["model"] else facts["model_name"],
        settings=walk.settings,
        records=walk.seen,
        frames=[f for f in run.images() if f[0] <= walk.seen[-1].step],
        outcome=found,
        reference=walk.reference.name if walk.reference is not None else "",
        facts=facts,
        complete=walk.seen[-1].step == walk.settings.steps,
    )
    report.figure(made, report.metadata(made), run.folder / "longrun.png")
    report.html(made, run.folder / "report.html")
    crash_point("reported")
    run.write_result(_finite(summary(made)))
    return found


def _finite(value: Any) -> Any:
    """The value as JSON can hold it: infinities and nan become null."""
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def summary(run: report.Run) -> dict[str, Any]:
    """The numbers of a long run, as result.json holds them."""
    last = run.records[-1]
    values: dict[str, Any] = {
        "model": run.facts["model_name"],
        "model_sha256": run.facts["model_sha256"],
        "steps": last.step,
        "complete": run.complete,
        "kernel": run.settings.kernel,
        "start": run.settings.start if run.settings.start in ("data", "noise", "bank") else "files",
        "step_size": run.facts["step_size"],
        "verdict": None,
        "reasons": [],
        "displacement": last.displacement,
        "largest_pixel": last.largest,
    }
    if run.outcome is None:
        return values
    o = run.outcome
    values |= {"verdict": o.judgement.verdict.value, "reasons": list(o.judgement.reasons)}
    measured = {
        key: value._asdict() if hasattr(value, "_asdict") else value for key, value in o.measured._asdict().items()
    }
    values |= {
        "measured": measured,
        "energy_band": list(o.baseline.band),
        "distance": {"name": run.reference, **o.final._asdict(), "share": o.final.share},
        "distance_short": {**o.baseline.short._asdict(), "share": o.baseline.short.share},
        "likeness": o.likeness._asdict(),
        "acceptance": o.acceptance,
    }
    moments = [r.moment for r in run.records if r.moment is not None]
    values["saturation"] = {"beyond": moments[-1].beyond, "mean_abs": moments[-1].mean_abs} if moments else None
    return values
