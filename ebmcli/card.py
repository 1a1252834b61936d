"""A model folder to keep or to share: weights, settings, recipe, card, picture, summary of its metrics (floor 2)."""

from __future__ import annotations

import json
import statistics
from pathlib import Path
from typing import Any

from ebmcli import media
from ebmcli.checkpoint import FILE, Checkpoint, load, save, write_atomic
from ebmcli.errors import EBMError
from ebmcli.run import Run
from ebmcli.sampling import SampleSettings, metadata, sample

SAMPLES = 64
LAST = 500
"""Updates that the summary of the metrics looks back on."""

REGIMES = {
    "non-convergent": "It was learned with short chains (non-convergent learning): {steps} steps from {start} give "
    "its samples. It is a sampler, not a density: longer chains leave the data, as the paper shows.",
    "convergent": "It was learned with chains meant to reach their steady state (convergent learning), from "
    "{start}: an energy whose long chains should stay with the data.",
}
STARTS = {"persistent": "a bank of persistent chains", "data": "data images"}


def export(source: Path, target: Path, name: str, trusted: bool = False, longrun: Path | None = None) -> Checkpoint:
    """Write the model in file `source` as a folder that stands alone; returns what it holds.

    The weights are those the file is sampled with; the training state and, of a run that averages,
    the last weights stay behind. The picture is the first 64 chains of seed 0.

    With `longrun`, the folder of a long run of this very model, its verdict goes into the model, and its figures
    into `verdict.json` and the card.

    Raises:
        EBMError: `target` exists and is not empty, `source` cannot be read, or the long run is not one of this
            model, not finished, or without a verdict.
    """
    if target.exists() and any(target.iterdir()):
        raise EBMError(f"{target} exists and is not empty", "choose another folder")
    model = load(source, trusted=trusted)
    config = model.config.model_copy(update={"name": name})
    judged = None if longrun is None else _judged(longrun, model)
    if judged is not None:
        config = config.model_copy(update={"verdict": judged["verdict"]})
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
    if judged is not None:
        write_atomic(target / "verdict.json", json.dumps(judged, indent=2) + "\n")
    write_atomic(target / "README.md", card(written, settings, summary, judged))
    return written


def _judged(folder: Path, model: Checkpoint) -> dict[str, Any]:
    """What a finished long run of this model came to."""
    from ebmcli.longrun import Folder

    opened = Folder.open(folder)
    result = opened.result
    if opened.facts["model_sha256"] != model.digest:
        raise EBMError(
            f"{folder} is a long run of another model ({opened.facts['model_name']})", "give one of this very file"
        )
    if not result.get("complete"):
        raise EBMError(f"the long run in {folder} is not finished", f"go on with it: ebm longrun --resume {folder}")
    if not result.get("verdict"):
        raise EBMError(f"the long run in {folder} has no verdict", "it had no data to hold its chains against")
    return result


def _summary(source: Path, update: int) -> dict[str, Any]:
    """Means and spreads over the last updates before the checkpoint, if it lies in a run."""
    folder = next((p for p in source.resolve().parents if (p / "run.json").is_file()), None)
    if folder is None:
        return {}
    records = [r for r in Run.open(folder).metrics() if r["update"] <= update]
    recent = records[-LAST:]
    if not recent:
        return {}
    keys = [k for k in recent[0] if k not in ("update", "seconds")]
    begun = Run.open(folder).facts.get("init_from")
    return {
        **({"begun_with": begun} if begun else {}),
        "updates": update,
        "hours": sum(r["seconds"] for r in records) / 3600,
        "over_last_updates": len(recent),
        "mean": {k: statistics.fmean(r[k] for r in recent) for k in keys},
        "sd": {k: statistics.pstdev([r[k] for r in recent]) for k in keys},
    }


def card(
    model: Checkpoint, settings: SampleSettings, summary: dict[str, Any], judged: dict[str, Any] | None = None
) -> str:
    """The model card, Markdown with the Hub's metadata; `judged` is the result of a long run."""
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
    verdict = f"Verdict on its density: {c.verdict or 'not judged yet'}."
    if judged is not None:
        reasons = "".join(f"\n- {reason}" for reason in judged["reasons"])
        verdict += (
            f" After {judged['steps']:,} steps of {judged['kernel']} from {judged['start']}, step size "
            f"{judged['step_size']:.4g} (`verdict.json`):\n{reasons}"
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

{REGIMES[c.regime].format(steps=c.steps, start=start)} {verdict}

## How it was learned

{c.updates:,} updates on {c.data} with chains of {c.steps} steps from {start}, step size {c.step_size:g}, data noise
{c.data_noise:g}; these are the {"averaged" if c.weights == "average" else "last"} weights. `recipe.toml` beside this
file has every setting.
{learned}
## Citation

Erik Nijkamp, Mitch Hill, Tian Han, Song-Chun Zhu, Ying Nian Wu: On the Anatomy of MCMC-Based Maximum Likelihood
Learning of Energy-Based Models. AAAI 2020.
"""
