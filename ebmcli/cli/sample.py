"""`ebm sample`: draw samples from a model and write a picture, an array or a folder."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ebmcli.cli import _options as options
from ebmcli.cli._output import Output
from ebmcli.errors import EBMError, UsageError
from ebmcli.native import cores

if TYPE_CHECKING:
    from torch import Tensor

    from ebmcli.models.checkpoint import Checkpoint
    from ebmcli.models.sampling import SampleSettings

TRACE_MOMENTS = 10
"""Columns of a trace after the start."""
FARTHEST_PIXEL = 10.0
"""A pixel beyond this has left the data's range, [-1, 1], and noise about it: the step is too long."""
TRACE_ROWS = 8
"""Chains that a trace shows."""


class Format(StrEnum):
    """What is written."""

    grid = "grid"
    npz = "npz"
    folder = "folder"


SUFFIX = {Format.grid: ".png", Format.npz: ".npz", Format.folder: ""}


From = Annotated[
    str | None,
    typer.Option(
        "--from",
        metavar="START",
        help="noise, data, bank, or a path to images. Left out: the bank if the model keeps one, else noise.",
        show_default=False,
    ),
]
Trace = Annotated[
    bool, typer.Option("--trace", help="Show the first chains over time, one in each row, with its start at the left.")
]
Written = Annotated[
    Format, typer.Option("--format", help="Write one picture of all samples (grid), an array (npz), or a PNG of each.")
]
Weights = Annotated[
    str,
    typer.Option(
        "--weights",
        metavar="WHICH",
        help="Which weights: default, or last, those without averaging of a run that averages its weights.",
    ),
]


def sample(
    model: options.Model = None,
    from_: From = None,
    steps: options.Steps = None,
    count: options.Count = 64,
    seed: options.Seed = 0,
    step_size: options.StepSize = None,
    noise: options.Noise = None,
    temperature: options.Temperature = None,
    data: options.Data = None,
    trace: Trace = False,
    format_: Written = Format.grid,
    out: options.Out = None,
    weights: Weights = "default",
    energy_scale: options.EnergyScale = None,
    trust_code: options.TrustCode = False,
    batch_size: options.BatchSize = None,
    device: options.Device = "auto",
    backend: options.Backend = "auto",
    precision: options.Precision = "float32",
    threads: options.Threads = None,
    force: options.Force = False,
    json: options.Json = False,
    quiet: options.Quiet = False,
) -> None:
    """Draw samples from a learned energy by Langevin dynamics.

    Settings that are left out are the model's own. The same seed gives the same bytes, for any
    batch size and number of threads.
    """
    output = Output(json=json, quiet=quiet)
    _check(weights, trace, format_)
    from ebmcli.engine import device as devices
    from ebmcli.models import lookup
    from ebmcli.models.sampling import SampleSettings, metadata

    cores.use(threads)
    place = devices.pick(device)
    how: dict[str, Any] = {"device": place, "backend": backend, "precision": precision, "trusted": trust_code}
    loaded = lookup.load(model, energy_scale=energy_scale, weights=weights, **how)
    own = {"step_size": step_size, "noise": noise, "temperature": temperature, "data": data}
    settings = SampleSettings.of(loaded, start=from_, steps=steps, count=count, seed=seed, **own)
    name = model or lookup.default()
    target = out or Path(f"{lookup.label(name)}-seed{seed}{SUFFIX[format_]}")
    made = metadata(loaded, settings)
    if trace and not loaded.config.is_points:
        made["trace"] = True
    _refuse_others(target, format_, made, out is not None, force)
    x, energy, history = _run(loaded, settings, batch_size or 256, trace, output)
    _write(x, history, target, format_, made, force)
    _tell(loaded, settings, name, target, float(x.abs().max()), output)
    spread = energy.std().item() if count > 1 else 0.0
    result: dict[str, Any] = {"energy_mean": energy.mean().item(), "energy_sd": spread}
    result |= {"backend": loaded.potential.backend.name, **metadata(loaded, settings)}
    output.result({"out": target, "model": name, **result})


def _check(weights: str, trace: bool, format_: Format) -> None:
    if weights not in ("default", "last"):
        raise UsageError(f"--weights {weights!r} is not known", "use default or last")
    if trace and format_ is not Format.grid:
        raise UsageError(f"--trace makes a picture, --format {format_} does not", "leave out --format")


def _tell(model: Checkpoint, settings: SampleSettings, name: str, target: Path, largest: float, output: Output) -> None:
    """Say what was drawn and where it is; `largest` is the greatest |pixel|."""
    s, c, backend = settings, model.config, model.potential.backend
    start = s.start if s.start in ("noise", "data", "bank") else "files"
    output.say(
        f"{name}: {s.count} chains from {start}, {s.steps} steps, ε {s.step_size:g}, τ {s.noise:g}, "
        f"T {s.temperature:g}, seed {s.seed}, {c.weights} weights of update {c.updates:,}, "
        f"backend {backend.name}: {target}"
    )
    if largest > FARTHEST_PIXEL:
        output.warn(
            f"chains went far from the data's range: largest |pixel| {largest:.3g}; "
            f"the model was trained with step size {c.step_size:g}"
        )
    if backend.note:
        output.warn(backend.note)


def _refuse_others(target: Path, format_: Format, made: dict[str, Any], named: bool, force: bool) -> None:
    """Say before sampling where something is in the way; with `force` it is replaced.

    Under a name that the user gave, samples may replace samples, and pictures of starts (no steps) such pictures.
    Under the name that is taken where none was given, only the very same may be replaced: which runs share that name
    is not the user's choice.

    Args:
        made: what the new file will say of itself.
        named: the user gave the name.
    """
    from ebmcli.media import read_metadata, refuse_foreign

    if format_ is Format.folder:
        if target.is_dir() and any(target.iterdir()) and not force:
            raise EBMError(f"{target} is not empty", "give another --out, or --force")
        return
    if target.suffix.lower() != SUFFIX[format_]:
        raise UsageError(
            f"--out {target} does not end in {SUFFIX[format_]}, which is what --format {format_} writes",
            f"give a name such as {target.with_suffix(SUFFIX[format_]).name}",
        )
    refuse_foreign(target, force)
    if force or not target.exists():
        return
    there = read_metadata(target)
    same = _kind(there) == _kind(made) if named else {**there, "made_by": ""} == {**made, "made_by": ""}
    if not same:
        what = "something else than these samples" if named else "samples with other settings"
        raise EBMError(f"{target} holds {what}", "give another --out, or --force to replace it")


def _kind(facts: dict[str, Any]) -> tuple[frozenset[str], bool]:
    """What a file of ours is, by what it says of itself: which facts it has, and whether it shows chains or starts."""
    settings = facts.get("settings")
    steps = settings.get("steps") if isinstance(settings, dict) else None
    return frozenset(facts) - {"trace", "precision", "model_from"}, steps == 0


def _run(
    model: Checkpoint, settings: SampleSettings, batch_size: int, trace: bool, output: Output
) -> tuple[Tensor, Tensor, list[Tensor]]:
    """Samples, energies, and for a trace the first chains at some moments."""
    import torch

    from ebmcli.models.sampling import batches

    x = torch.empty(settings.count, *model.config.shape)
    energy = torch.empty(settings.count)
    moments = {round(settings.steps * i / TRACE_MOMENTS) for i in range(TRACE_MOMENTS + 1)} if trace else set()
    history = {m: torch.empty(min(TRACE_ROWS, settings.count), *model.config.shape) for m in sorted(moments)}
    parts = -(-settings.count // batch_size)
    with output.progress("sampling", settings.steps * parts, unit="steps", every=30.0) as bar:
        done = 0
        for progress in batches(model, settings, batch_size, moments):
            state = progress.path.state
            x[progress.chains], energy[progress.chains] = state.x.cpu(), state.energy.cpu()
            if progress.step in history:
                rows = progress.chains[progress.chains < TRACE_ROWS]
                history[progress.step][rows] = x[rows]
            part = int(progress.chains[0]) // batch_size
            done = part * settings.steps + progress.step
            bar.update(done=done, U=float(state.energy.mean()))
    return x, energy, list(history.values())


def _write(x: Tensor, history: list[Tensor], target: Path, format_: Format, info: dict[str, Any], force: bool) -> None:
    import torch

    from ebmcli import media

    if format_ is Format.npz:
        media.save_npz(x, target, info)
    elif format_ is Format.folder:
        media.save_folder(x, target, info, force=force)
    elif history and not media.is_plane(x):
        frames = torch.stack(history, dim=1)
        picture = media.grid(frames.flatten(0, 1), columns=frames.shape[1])
        media.save_png(picture, target, info)
    else:
        media.save_png(media.picture(x), target, info)
