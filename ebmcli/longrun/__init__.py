"""Long runs on the disk: chains that are kept, go on after any end, and are reported.

folder = Folder.create(path, facts(name, walk))
for record in follow(walk, folder):
    ...
finish(walk, folder, base)
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any

from ebmcli.errors import DivergedError
from ebmcli.evaluation import Baseline, Outcome, Record, Walk, outcome
from ebmcli.longrun import report
from ebmcli.longrun.folder import Folder, facts
from ebmcli.storage.disk import crash_point

__all__ = ["Folder", "facts", "finish", "follow", "report", "summary"]


def follow(walk: Walk, folder: Folder, stop: Callable[[], bool] = lambda: False) -> Iterator[Record]:
    """Go on with a walk, keeping it; a record each, after it has been written.

    Args:
        walk: new, or restored from the folder.
        folder: its own.
        stop: asked after each record; True saves the state and ends the records.

    Raises:
        DivergedError: after the last sound state has been saved.
        EBMError: something could not be written; what was written before stays whole.
    """
    try:
        for record in walk.records():
            folder.append(record)
            stopping = stop()
            moment = walk.is_moment
            if moment:
                assert walk.state is not None
                folder.keep_images(walk.state.x[: walk.settings.chains], record.step)
            if moment or stopping or folder.due:
                folder.save(walk)
            yield record
            if stopping:
                return
    except DivergedError:
        if walk.state is not None:
            folder.save(walk)
        raise


def finish(walk: Walk, folder: Folder, base: Baseline | None) -> Outcome | None:
    """Judge what there is and write picture, page and result; None where there is no data to judge by."""
    found = None if base is None else outcome(walk, base)
    facts = folder.facts
    made = report.Run(
        title=facts["model"] if "/" not in facts["model"] else facts["model_name"],
        settings=walk.settings,
        records=walk.seen,
        frames=[f for f in folder.images() if f[0] <= walk.seen[-1].step],
        outcome=found,
        reference=walk.reference.name if walk.reference is not None else "",
        facts=facts,
        complete=walk.seen[-1].step == walk.settings.steps,
    )
    report.figure(made, report.metadata(made), folder.path / "longrun.png")
    report.html(made, folder.path / "report.html")
    crash_point("reported")
    folder.write_result(_finite(summary(made)))
    return found


def _finite(value: Any) -> Any:
    """As JSON can hold it: what is no number becomes null."""
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def summary(run: report.Run) -> dict[str, Any]:
    """What result.json and `--json` say."""
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
