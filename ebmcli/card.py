"""A model folder to keep or to share: weights, settings, recipe, card, picture, summary of its metrics (floor 2)."""

from __future__ import annotations

import json
import statistics
from pathlib import Path
from typing import Any

from ebmcli import diagnosis, media
from ebmcli.checkpoint import FILE, Checkpoint, load, save, write_atomic
from ebmcli.errors import EBMError
from ebmcli.run import Run
from ebmcli.sampling import SampleSettings, metadata, sample

SAMPLES = 64
LAST = 500
"""Records that the summary of the metrics looks back on."""
SERIES = 1000
"""Records whose series go with the model, for `ebm diagnose`."""

REGIMES = {
    "non-convergent": "It was learned with short chains (non-convergent learning): {steps} steps from {start} give "
    "its samples. It is a sampler, not a density: longer chains leave the data, as the paper shows.",
    "convergent": "It was learned with chains meant to reach their steady state (convergent learning), from "
    "{start}: an energy whose long chains should stay with the data.",
}
STARTS = {"persistent": "a bank of persistent chains", "data": "data images"}


def export(source: Path, target: Path, name: str, trusted: bool = False) -> Checkpoint:
    """Write the model in file `source` as a folder that stands alone; returns what it holds.

    The weights are those the file is sampled with; the training state and, of a run that averages,
    the last weights stay behind. The picture is the first 64 chains of seed 0.

    Raises:
        EBMError: `target` exists and is not empty, or `source` cannot be read.
    """
    if target.exists() and any(target.iterdir()):
        raise EBMError(f"{target} exists and is not empty", "choose another folder")
    model = load(source, trusted=trusted)
    config = model.config.model_copy(update={"name": name})
    target.mkdir(parents=True, exist_ok=True)
    weights = model.potential.network.state_dict()
    save(target / FILE, weights, config, bank=model.bank, recipe=model.recipe)
    written = load(target / FILE, trusted=trusted)
    settings = SampleSettings.of(written, count=SAMPLES, seed=0)
    x, _ = sample(written, count=SAMPLES, seed=0)
    picture = media.scatter(x) if config.network == "toy" else media.grid(x)
    media.save_png(picture, target / "samples.png", metadata(written, settings))
    summary = _summary(source, model.config.updates)
    write_atomic(target / "config.json", json.dumps(config.model_dump(mode="json"), indent=2) + "\n")
    write_atomic(target / "recipe.toml", model.recipe)
    write_atomic(target / "metrics.json", json.dumps(summary, indent=2) + "\n")
    write_atomic(target / "README.md", card(written, settings, summary))
    return written


def _summary(source: Path, update: int) -> dict[str, Any]:
    """Means and spreads over the last updates before the checkpoint, if it lies in a run."""
    folder = next((p for p in source.resolve().parents if (p / "run.json").is_file()), None)
    if folder is None:
        return {}
    records = [r for r in Run.open(folder).metrics() if r["update"] <= update]
    recent = records[-LAST:]
    if not recent:
        return {}
    keys = [k for k, v in recent[0].items() if k not in ("update", "seconds") and isinstance(v, float)]
    begun = Run.open(folder).facts.get("init_from")
    return {
        **({"begun_with": begun} if begun else {}),
        "updates": update,
        "series": {k: [_short(r[k]) for r in records[-SERIES:]] for k in diagnosis.SERIES},
        "hours": sum(r["seconds"] for r in records) / 3600,
        "over_last_updates": len(recent),
        "mean": {k: statistics.fmean(r[k] for r in recent) for k in keys},
        "sd": {k: statistics.pstdev([r[k] for r in recent]) for k in keys},
    }


def _short(value: float) -> float:
    return value if isinstance(value, int) else float(f"{value:.6g}")


def card(model: Checkpoint, settings: SampleSettings, summary: dict[str, Any]) -> str:
    """The model card, Markdown with the Hub's metadata."""
    c = model.config
    start = STARTS.get(c.init, f"{c.init} noise")
    parameters = sum(p.numel() for p in model.potential.parameters())
    arguments = ", ".join(f"{k} {v}" for k, v in c.arguments.items())
    learned = ""
    if "begun_with" in summary:
        learned = f"\nThese updates began with the weights of another model: {summary['begun_with']}.\n"
    if summary:
        mean = summary["mean"]
        learned += (
            f"\nOver the last {summary['over_last_updates']} updates: energy difference d "
            f"{mean['energy_difference']:.4g} (sd {summary['sd']['energy_difference']:.3g}), displacement r "
            f"{mean['displacement']:.3g} px a step, straightness {mean['straightness']:.2f}. "
            f"Learning took {summary['hours']:.1f} hours of wall time.\n"
        )
    return f"""---
library_name: ebmcli
license: mit
tags: [energy-based-model, ebmcli, {c.regime}]
---

# {c.name}

An energy-based model of {c.image_size}×{c.image_size} images with {c.channels} channel(s): U(x) = {c.energy_scale:g} ·
F(x), network {c.network} ({arguments}, {parameters:,} weights). Low energy means likely.

![samples](samples.png)

The first {settings.count} chains of seed {settings.seed}: {settings.steps} steps from {settings.start}, step size
{settings.step_size:g}, noise {settings.noise:g}.

    ebm sample {c.name}

    import ebmcli
    x, energy = ebmcli.sample(ebmcli.load("{c.name}"), count=64, seed=0)

## What it is

{REGIMES[c.regime].format(steps=c.steps, start=start)} Verdict on its density: {c.verdict or "not judged yet"}.

## How it was learned

{c.updates:,} updates on {c.data} with chains of {c.steps} steps from {start}, step size {c.step_size:g}, data noise
{c.data_noise:g}; these are the {"averaged" if c.weights == "average" else "last"} weights. `recipe.toml` beside this
file has every setting.
{learned}
## Citation

Erik Nijkamp, Mitch Hill, Tian Han, Song-Chun Zhu, Ying Nian Wu: On the Anatomy of MCMC-Based Maximum Likelihood
Learning of Energy-Based Models. AAAI 2020.
"""
