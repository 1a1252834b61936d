"""`ebm inspect`: what a model, a run or a picture of ours is."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from ebmcli.cli import _options as options
from ebmcli.cli._output import Output
from ebmcli.errors import EBMError

PICTURES = (".png", ".npz", ".mp4", ".gif", ".webp", ".apng")


def inspect(
    what: Annotated[
        str | None,
        typer.Argument(
            metavar="MODEL|FILE", help="A model, a run, or a picture, film or npz written by ebm.", show_default=False
        ),
    ] = None,
    verify: Annotated[
        bool,
        typer.Option(
            "--verify",
            help="Read a run, long run, map, sweep or model through, and say which files are sound, damaged "
            "(exit code 1) or cannot be verified.",
        ),
    ] = False,
    energy_scale: options.EnergyScale = None,
    trust_code: options.TrustCode = False,
    json: options.Json = False,
) -> None:
    """Say what a model, a run or a picture of ours is."""
    output = Output(json=json)
    if verify:
        _verify(what, output)
        return
    facts = _picture(Path(what)) if what and what.lower().endswith(PICTURES) else _model(what, energy_scale, trust_code)
    output.table([(key, _text(value)) for key, value in _flat(facts)])
    output.result(facts)


def _verify(what: str | None, output: Output) -> None:
    from ebmcli.inspection.verify import verify
    from ebmcli.models import lookup
    from ebmcli.storage.seals import Soundness

    path = Path(what).expanduser() if what else None
    found = list(verify(path if path is not None and path.exists() else lookup.find(what)))
    output.table([(state, str(file), reason) for file, state, reason in found], ("state", "file", "why"))
    output.result([{"file": file, "state": state.value, "reason": reason} for file, state, reason in found])
    damaged = sum(state is Soundness.DAMAGED for _, state, _ in found)
    if damaged:
        raise EBMError(
            f"{damaged} of {len(found)} {'is' if damaged == 1 else 'are'} damaged",
            "--resume goes on from what is sound, or makes it again",
        )


def _picture(path: Path) -> dict[str, Any]:
    from ebmcli.media import read_metadata

    return read_metadata(path)


def _model(what: str | None, energy_scale: float | None, trusted: bool) -> dict[str, Any]:
    from ebmcli.models import lookup
    from ebmcli.training.run_folder import Run

    file = lookup.look_up(what, trusted).path
    is_run = (file.parent / "run.json").is_file()
    loaded = lookup.load(what, energy_scale=energy_scale, trusted=trusted)
    parameters = sum(p.numel() for p in loaded.potential.parameters())
    facts = {
        "model": what or lookup.default(),
        **loaded.config.model_dump(mode="json"),
        "parameters": parameters,
        "bank_states": 0 if loaded.bank is None else len(loaded.bank),
        "sha256": loaded.digest,
        **({"from": loaded.origin} if loaded.origin else {}),
    }
    if is_run:
        run = Run.open(file.parent)
        facts["run"] = {**run.facts, "newest_metrics": list(run.metrics())[-1:]}
    return facts


def _flat(facts: dict[str, Any], prefix: str = "") -> list[tuple[str, Any]]:
    rows: list[tuple[str, Any]] = []
    for key, value in facts.items():
        rows += _flat(value, f"{prefix}{key}.") if isinstance(value, dict) else [(prefix + key, value)]
    return rows


def _text(value: Any) -> str:
    if value is None:
        return "-"
    return f"{value:g}" if isinstance(value, float) else str(value)
