"""A model folder to keep or to share: weights, settings, recipe, card, picture, summary of its metrics."""

from __future__ import annotations

import json
import shlex
import statistics
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from ebmcli import media
from ebmcli.errors import EBMError
from ebmcli.hub import Address, parse
from ebmcli.longrun import LongRun
from ebmcli.models.checkpoint import FILE, Checkpoint, checksum_of, load, save
from ebmcli.models.sampling import SampleSettings, metadata, sample
from ebmcli.storage.files import write_whole
from ebmcli.storage.reading import checked, parse_toml, read_json
from ebmcli.text import json_visible, markdown, one_line
from ebmcli.training import diagnosis
from ebmcli.training.run_folder import Run, hours

PICTURE_SAMPLES = 64
"""Chains that the pictures of a model folder show."""
SUMMARY_RECORDS = 500
"""Newest records of the metrics whose means and spreads are summed up."""
SERIES_RECORDS = 1000
"""Newest records of the metrics that go with the model as they are, for `ebm diagnose`."""
FILES = (FILE, "config.json", "recipe.toml", "metrics.json", "README.md", "samples.png", "bank.png", "verdict.json")
"""What a folder may hold: `bank.png` for models that keep a bank only, `verdict.json` where a long run judged it."""

REGIMES = {
    "non-convergent": "It was learned with short chains (non-convergent learning): {steps} steps from {start} give "
    "its samples. It is a sampler, not a density: longer chains leave the data, as the paper shows.",
    "convergent": "It was learned with chains meant to reach their steady state (convergent learning), from "
    "{start}: an energy whose long chains should stay with the data.",
}
LIMITS = {
    "non-convergent": "Sample it with the step size, noise and number of steps above; with others the images fade or "
    "saturate. Its energies rank nothing and are no likelihoods.",
    "convergent": "Chains longer than those of learning may still drift: hold the energy of long runs from data "
    "against that of data before energies are compared. Energies are likelihoods up to an unknown constant, at best.",
}
STARTS = {"persistent": "a bank of persistent chains", "data": "data images"}


def export(
    source: Path, target: Path, name: str, trusted: bool = False, longrun: Path | None = None, **card_options: Any
) -> Checkpoint:
    """Write the model in file `source` as a folder that stands alone; returns what it holds.

    Args:
        source: a checkpoint file; metrics are summed up where it lies in a run.
        target: the folder, new or empty.
        name: what the model is called.
        trusted: as `ebmcli.models.checkpoint.load`.
        longrun: folder of a long run of this very model: its verdict goes into the model, its figures into
            `verdict.json` and the card.
        card_options: as `card`: address, licence.

    Raises:
        EBMError: `target` exists and is not empty, `source` cannot be read, or the long run is not one of this
            model, not finished, or without a verdict.
    """
    if target.exists() and any(target.iterdir()):
        raise EBMError(f"{target} exists and is not empty", "choose another folder")
    judged = None if longrun is None else _judged(longrun, checksum_of(source, trusted=trusted))
    model = load(source, trusted=trusted)
    judged = _verdict_beside(source, model) if longrun is None else judged
    return write(model, target, name, _summary(source, model.config.updates), trusted, judged, **card_options)


def write(
    model: Checkpoint,
    target: Path,
    name: str,
    summary: dict[str, Any] | None = None,
    trusted: bool = False,
    judged: dict[str, Any] | None = None,
    **card_options: Any,
) -> Checkpoint:
    """Write `model` as a folder that stands alone; files of ours that are there are replaced.

    The weights are those the model is sampled with; the training state and, of a run that averages, the last
    weights stay behind, and no path of this machine goes along. The picture is the first 64 chains of seed 0.
    The same model gives the same bytes.
    """
    config = model.config.model_copy(update={"name": name})
    if judged is not None:
        config = config.model_copy(update={"verdict": judged["verdict"]})
    try:
        target.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise EBMError(f"cannot make the folder {target}: {error.strerror}", "choose another folder") from error
    weights = model.potential.network.state_dict()
    save(target / FILE, weights, config, bank=model.bank, recipe=_without_paths(model.recipe))
    written = load(target / FILE, trusted=trusted)
    settings = SampleSettings.of(written, count=PICTURE_SAMPLES, seed=0)
    x, _ = sample(written, count=PICTURE_SAMPLES, seed=0)
    media.save_png(media.picture(x), target / "samples.png", metadata(written, settings))
    if written.bank is not None:
        media.save_png(media.picture(written.bank[:PICTURE_SAMPLES]), target / "bank.png", metadata(written, settings))
    write_whole(target / "config.json", json.dumps(config.model_dump(mode="json"), indent=2) + "\n")
    write_whole(target / "recipe.toml", written.recipe)
    write_whole(target / "metrics.json", json.dumps(summary or {}, indent=2) + "\n")
    if judged is not None:
        write_whole(target / "verdict.json", json.dumps(judged, indent=2) + "\n")
    write_whole(target / "README.md", card(written, settings, summary or {}, judged, **card_options))
    return written


def _judged(folder: Path, checksum: str) -> dict[str, Any]:
    """What a finished long run of the model with this checksum came to; the model itself is not loaded for it."""
    opened = LongRun.open(folder)
    result = opened.result
    if opened.facts["model_sha256"] != checksum:
        raise EBMError(
            f"{folder} is a long run of another model ({opened.facts['model_name']})", "give one of this very file"
        )
    if not result.get("complete"):
        raise EBMError(f"the long run in {folder} is not finished", f"go on with it: ebm longrun --resume {folder}")
    if not result.get("verdict"):
        raise EBMError(f"the long run in {folder} has no verdict", "it had no data to hold its chains against")
    return result


class _Estimate(BaseModel):
    """A measured number and its standard error, which may not be known."""

    value: float
    error: float | None = None


class _Measured(BaseModel):
    """What the card needs of the measurements behind a verdict."""

    drift: _Estimate | None = None


class _Verdict(BaseModel):
    """What the card needs of a `verdict.json`; all else in it is kept."""

    verdict: str
    reasons: list[str]
    steps: int
    kernel: str
    start: str
    step_size: float
    measured: _Measured | None = None

    def of_drift(self) -> str:
        """That the chains drift, where the drift is not 0 within its error; empty where it is, or was not measured."""
        drift = None if self.measured is None else self.measured.drift
        if drift is None or (drift.error is not None and abs(drift.value) <= drift.error):
            return ""
        error = "" if drift.error is None else f" ± {drift.error:.2g}"
        return (
            f"Its chains were not at rest: from the third quarter of their steps to the last their mean energy moved "
            f"by {drift.value:+.2g}{error} standard deviations of the data's energy."
        )


def _verdict_beside(source: Path, model: Checkpoint) -> dict[str, Any] | None:
    """The figures behind the verdict of a model that was exported with one; None without, or of another verdict."""
    path = source.parent / "verdict.json"
    if model.config.verdict is None or not path.is_file():
        return None
    raw = read_json(path, dict[str, Any])
    return raw if checked(raw, _Verdict, str(path)).verdict == model.config.verdict else None


def _without_paths(recipe: str) -> str:
    """The recipe, where its data is a path the last name of it only: paths tell of people and their machines.

    Raises:
        EBMError: it is no recipe, so that what it tells cannot be seen.
    """
    if not recipe:
        return recipe
    try:
        source = str(parse_toml(recipe).get("data", {}).get("source", ""))
    except (ValueError, AttributeError) as error:
        raise EBMError("the recipe that the model holds is no recipe", "get the model again") from error
    if not source.startswith(("/", ".", "~", "\\")) and ":" not in source:
        return recipe
    name = str(_data_set(source) or Path(source.replace("\\", "/")).name or "images")
    return recipe.replace(json.dumps(source)[1:-1], name)


def _summary(source: Path, update: int) -> dict[str, Any]:
    """Means and spreads over the last updates before the checkpoint, if it lies in a run.

    A run may keep a record of every so many updates only, so updates are counted by the numbers in the records.
    """
    folder = next((p for p in source.resolve().parents if (p / "run.json").is_file()), None)
    if folder is None:
        try:  # of a folder that was written by `write`
            return read_json(source.parent / "metrics.json", dict[str, Any])
        except EBMError:  # none, or of another program
            return {}
    records = [r for r in Run.open(folder).metrics() if r["update"] <= update]
    older, recent = records[:-SUMMARY_RECORDS], records[-SUMMARY_RECORDS:]
    if not recent:
        return {}
    keys = [k for k, v in recent[0].items() if k not in ("update", "seconds") and isinstance(v, float)]
    begun = Run.open(folder).facts.get("init_from")
    return {
        **({"begun_with": begun} if begun else {}),
        "updates": update,
        "series": {k: [_short(r[k]) for r in records[-SERIES_RECORDS:]] for k in diagnosis.SERIES},
        "hours": hours(records),
        "over_last_updates": recent[-1]["update"] - (older[-1]["update"] if older else 0),
        "mean": {k: statistics.fmean(r[k] for r in recent) for k in keys},
        "sd": {k: statistics.pstdev([r[k] for r in recent]) for k in keys},
    }


def _short(value: float) -> float:
    return value if isinstance(value, int) else float(f"{value:.6g}")


def card(
    model: Checkpoint,
    settings: SampleSettings,
    summary: dict[str, Any],
    judged: dict[str, Any] | None = None,
    address: str | None = None,
    licence: str | None = None,
) -> str:
    """The model card, Markdown with the Hub's metadata.

    Args:
        model: what the folder holds.
        settings: of its picture.
        summary: of its metrics; may be empty.
        judged: result of a long run of this model.
        address: `user/repo` on the Hub, by which others get the model; its name where left out.
        licence: of the weights, an identifier of the Hub; left out, the card names none.
    """
    c = model.config
    start = STARTS.get(c.init, f"{markdown(c.init)} noise")
    parameters = sum(p.numel() for p in model.potential.parameters())
    arguments = ", ".join(f"{markdown(k)} {markdown(v)}" for k, v in c.arguments.items())
    verdict = f"Verdict on its density: {markdown(c.verdict or 'not judged yet')}."
    if judged is not None:
        j = checked(judged, _Verdict, "the verdict")
        lines = (*j.reasons, *filter(None, [j.of_drift()]))
        verdict += (
            f" After {j.steps:,} steps of {markdown(j.kernel)} from {markdown(j.start)}, step size {j.step_size:.4g} "
            "(`verdict.json`):\n" + "".join(f"\n- {markdown(line)}" for line in lines)
        )
    size = "points in the plane" if c.is_points else f"{c.image_size}×{c.image_size} images"
    channels = "" if c.is_points else f" with {c.channels} channel{'s' if c.channels > 1 else ''}"
    data, origin = markdown(c.data), markdown(settings.start)
    what = one_line(address or c.name)
    picture = "samples" if settings.start != "bank" else "samples, on from the bank's states"
    bank = (
        ""
        if model.bank is None
        else f"\n![states of the bank](bank.png)\n\nStates of its bank ({len(model.bank)} kept).\n"
    )
    return f"""---
{_metadata(model, licence)}---

# {markdown(c.name)}

An energy-based model of {size}{channels}: U(x) = {c.energy_scale:g} · F(x), network {markdown(c.network)} ({arguments},
{parameters:,} weights). Low energy means likely.

![{picture}](samples.png)

The first {settings.count} chains of seed {settings.seed}: {settings.steps} steps from {origin}, step size
{settings.step_size:g}, noise {settings.noise:g}.
{bank}
## Use

    pip install ebmcli
    ebm sample {shlex.quote(what)}

In Python:

    import ebmcli
    model = ebmcli.load({json.dumps(what, ensure_ascii=False)})
    x, energy = ebmcli.sample(model, count=64, seed=0)

x is [64 c h w] with data in [-1, 1], energy is U [64].

## What it is

{REGIMES[c.regime].format(steps=c.steps, start=start)} {verdict}

## How it was learned

{c.updates:,} updates on {data} with chains of {c.steps} steps from {start}, step size {c.step_size:g}, data noise
{c.data_noise:g}; these are the {"averaged" if c.weights == "average" else "last"} weights. `recipe.toml` beside this
file has every setting.
{_learned(summary)}{_provenance(model.recipe)}
## Limits

{LIMITS[c.regime]} It repeats what is in its data, biases too, and has seen nothing else.

## Citation

Erik Nijkamp, Mitch Hill, Tian Han, Song-Chun Zhu, Ying Nian Wu: On the Anatomy of MCMC-Based Maximum Likelihood
Learning of Energy-Based Models. AAAI 2020.
"""


def _metadata(model: Checkpoint, licence: str | None) -> str:
    """The Hub's YAML; every text is a JSON string, which YAML reads as itself."""
    c = model.config
    rows: dict[str, Any] = {
        "library_name": "ebmcli",
        "tags": ["energy-based-model", "ebmcli", c.regime],
    }
    if not c.is_points:
        rows["pipeline_tag"] = "unconditional-image-generation"
    if licence:
        rows["license"] = licence
    address = _data_set(c.data)
    if address is not None:
        rows["datasets"] = [address.repo]
    return "".join(f"{key}: {json_visible(json.dumps(value, ensure_ascii=False))}\n" for key, value in rows.items())


def _data_set(source: str) -> Address | None:
    """The data set of the Hub that a model says it was learned from, as far as that makes sense."""
    try:
        return parse(source, "dataset")
    except EBMError:  # the address of something else: a model's own words are not ours to refuse
        return None


def _learned(summary: dict[str, Any]) -> str:
    text = ""
    try:
        if "begun_with" in summary:
            text = f"\nThese updates began with the weights of another model: {markdown(summary['begun_with'])}.\n"
        mean, sd = summary["mean"], summary["sd"]
        return text + (
            f"\nOver the last {markdown(summary['over_last_updates'])} updates: energy difference d "
            f"{mean['energy_difference']:.4g} (sd {sd['energy_difference']:.3g}), displacement r "
            f"{mean['displacement']:.3g} px a step, straightness {mean['straightness']:.2f}. "
            f"Learning took {summary['hours']:.1f} hours of wall time.\n"
        )
    except (KeyError, TypeError, ValueError):  # no summary, or that of a file from elsewhere
        return text


def _provenance(recipe: str) -> str:
    """Where the recipe's values come from, as it says itself."""
    try:
        said = parse_toml(recipe).get("provenance", {})
    except ValueError:
        return ""
    if not isinstance(said, dict):
        return ""
    lines = [f"- {markdown(key)}: {markdown(text)}" for key, text in said.items()]
    return "\nWhere the settings come from:\n\n" + "\n".join(lines) + "\n" if lines else ""
