"""Options that several commands share, so that each means the same everywhere.

Use them as annotations: `def sample(model: Model = None, seed: Seed = 0, json: Json = False) -> None`.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated

import typer

from ebmcli.consent import is_code
from ebmcli.errors import UsageError
from ebmcli.native.cores import MOST


def check_device(value: str) -> str:
    """Accept auto, cpu, cuda, cuda:i and mps; whether the device is there is seen when it is used."""
    if re.fullmatch(r"auto|cpu|cuda(:\d+)?|mps", value):
        return value
    raise typer.BadParameter(f"{value!r} is not one of auto, cpu, cuda, cuda:0, cuda:1, …, mps")


def consent_again(network: str) -> str:
    """The flag that a command to go on with needs, where the network is code: consent is asked for anew each time."""
    return " --trust-code" if is_code(network) else ""


Model = Annotated[
    str | None,
    typer.Argument(
        metavar="MODEL",
        envvar="EBM_MODEL",
        help="A bundled name, else a folder, file or run, else user/repo[@revision] on the Hub. "
        "Left out: the bundled default.",
        show_default=False,
    ),
]
Out = Annotated[
    Path | None,
    typer.Option("--out", "-o", metavar="PATH", help="Where the result goes.", show_default=False),
]
Seed = Annotated[
    int,
    typer.Option("--seed", metavar="N", min=0, max=2**63 - 1, help="Random numbers: the same seed, the same result."),
]
Device = Annotated[
    str,
    typer.Option("--device", metavar="DEVICE", callback=check_device, help="auto, cpu, cuda[:i] or mps."),
]
Threads = Annotated[
    int | None,
    typer.Option("--threads", metavar="N", min=1, max=MOST, help="CPU threads.", show_default="all cores"),
]
Data = Annotated[
    str | None,
    typer.Option(
        "--data",
        metavar="DATA",
        help="Other data than the recipe's: a folder or archive of images, a file, a bundled set, or one of the Hub.",
        show_default=False,
    ),
]
Column = Annotated[
    str | None,
    typer.Option(
        "--column",
        metavar="NAME",
        help="Column of the images in parquet files or a set of the Hub, or array in an .npz, where there are several.",
        show_default=False,
    ),
]
Config = Annotated[
    str | None,
    typer.Option(
        "--config",
        metavar="NAME",
        help="Which of several sets that lie together: a folder of parquet files, or a configuration on the Hub.",
        show_default=False,
    ),
]
Steps = Annotated[
    int | None,
    typer.Option("--steps", metavar="N", min=0, help="Langevin steps.", show_default="the model's own"),
]
StepSize = Annotated[
    float | None,
    typer.Option("--step-size", metavar="E", min=1e-9, help="ε, pixel units.", show_default="the model's own"),
]
Noise = Annotated[
    float | None,
    typer.Option("--noise", metavar="T", min=0.0, help="τ: 1, or 0 for descent.", show_default="the model's own"),
]
Temperature = Annotated[
    float | None,
    typer.Option("--temperature", metavar="T", min=1e-9, help="U is divided by it.", show_default="the model's own"),
]
Kernel = Annotated[str, typer.Option("--kernel", metavar="NAME", help="langevin, mala, hmc or underdamped.")]
EnergyScale = Annotated[
    float | None,
    typer.Option("--energy-scale", metavar="S", help="For a file that does not say it.", show_default=False),
]
Count = Annotated[int, typer.Option("--count", "-n", metavar="N", min=1, help="How many.")]
BatchSize = Annotated[
    int | None,
    typer.Option(
        "--batch-size",
        metavar="N",
        min=1,
        help="How many at once; changes memory, not the result.",
        show_default="by size",
    ),
]
Set = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="KEY=VALUE",
        help="Override a recipe's value, e.g. train.updates=100. Repeatable.",
        show_default=False,
    ),
]
Json = Annotated[bool, typer.Option("--json", help="The result as JSON on stdout.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Warnings and errors only.")]
Verbose = Annotated[bool, typer.Option("--verbose", "-v", help="More on stderr.")]
Force = Annotated[bool, typer.Option("--force", "-f", help="Replace what is there.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Say what would be done, and do nothing.")]
TrustCode = Annotated[
    bool,
    typer.Option(
        "--trust-code",
        help="Import the code (package.module:factory) that a model or recipe names as its network.",
    ),
]
Precision = Annotated[
    str,
    typer.Option(
        "--precision",
        metavar="P",
        help="float32, or on a CUDA device tf32 or bf16: faster, for non-convergent models only.",
    ),
]
Backend = Annotated[
    str,
    typer.Option("--backend", metavar="NAME", help="Who computes gradients: auto, native, stack, graph or generic."),
]


def with_choice(data: str | None, column: str | None, config: str | None) -> str | None:
    """`data` with what --column and --config choose of it.

    Raises:
        UsageError: there is no data that they could be for, or an empty name.
    """
    given = [option for option, value in (("--column", column), ("--config", config)) if value is not None]
    if not given:
        return data
    if data is None:
        raise UsageError(f"{given[0]} is for --data", "in a recipe write data.source=DATA#column=NAME")
    if "" in (column, config):
        raise UsageError(f"{' and '.join(given)}: an empty name", "leave the option out, or name what is meant")
    from ebmcli.data.chosen import chosen

    return str(chosen(data).but(column, config))
