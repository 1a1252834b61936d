"""`ebm bench`: what a step costs here, backend by backend, against the plain loop."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple

import typer

from ebmcli.cli import _options as options
from ebmcli.cli._output import Output
from ebmcli.native import cores

if TYPE_CHECKING:
    from ebmcli.bench import Adjusted, Case, Figure, Row, Travelled


What = Annotated[
    str | None,
    typer.Argument(
        metavar="RECIPE|MODEL", help="What is timed. Left out: the bundled default model.", show_default=False
    ),
]
Suite = Annotated[bool, typer.Option("--suite", help="Time the networks whose ratios the README quotes.")]
Update = Annotated[bool, typer.Option("--update", help="Time whole updates too, which is slow for large networks.")]
Kernels = Annotated[bool, typer.Option("--kernels", help="Time MALA too, against its plain loop.")]
Map = Annotated[bool, typer.Option("--map", help="Time jobs of a map too, all at once against one at a time.")]
Sizes = Annotated[
    bool, typer.Option("--sizes", help="Time the fastest backend by number of chains and by image size too.")
]
Memory = Annotated[bool, typer.Option("--memory", help="Measure the peak memory over 2,000 updates too.")]
Picture = Annotated[
    Path | None,
    typer.Option("--picture", metavar="FILE", help="Draw the ratios as a PNG or SVG.", show_default=False),
]
Chains = Annotated[
    int | None, typer.Option("--chains", metavar="N", min=1, help="Chains at once.", show_default="the recipe's")
]
Rounds = Annotated[int, typer.Option("--rounds", metavar="N", min=1, help="Rounds, in which the backends take turns.")]


def bench(
    what: What = None,
    suite: Suite = False,
    update: Update = False,
    kernels: Kernels = False,
    map_: Map = False,
    sizes: Sizes = False,
    memory: Memory = False,
    picture: Picture = None,
    chains: Chains = None,
    rounds: Rounds = 9,
    device: options.Device = "auto",
    backend: options.Backend = "auto",
    precision: options.Precision = "float32",
    threads: options.Threads = None,
    trust_code: options.TrustCode = False,
    json: options.Json = False,
    quiet: options.Quiet = False,
) -> None:
    """Time a Langevin step of each backend against the plain eager loop.

    Ratios are medians over interleaved rounds in one process. The share is of the fastest matrix
    product or convolution measured in the same run, counted as direct convolutions. MALA and
    jobs of a map are timed in float32.
    """
    from ebmcli import bench as measure
    from ebmcli.engine import device as devices
    from ebmcli.media import plots

    output = Output(json=json, quiet=quiet)
    if picture is not None:
        plots.check_name(picture)
    cores.use(threads)
    place = devices.pick(device)
    cases = list(measure.SUITE) if suite else [_case(what, trust_code)]
    if chains:
        cases = [case._replace(chains=chains) for case in cases]
    only = None if backend == "auto" else backend
    wanted = Wanted(update, kernels, map_)
    timed = _time(cases, wanted, place, rounds, only, precision, output)
    if picture is not None:
        output.say(f"picture: {measure.picture(timed.rows, picture)}")
    _tables(timed, output)
    scaled = _sizes(cases[0], place, output) if sizes else []
    peaks = _memory(cases[0], place, output) if memory else None
    limits = measure.limit(place)
    noise = measure.noise_share(cases[-1], place, rounds, only, precision)
    _result(timed, scaled, peaks, limits, noise, str(place), cases[-1].name, output)


class Wanted(NamedTuple):
    """What is timed besides steps of the backends."""

    updates: bool
    mala: bool
    jobs: bool


class Timed(NamedTuple):
    """What the timing of all networks came to."""

    rows: list[Row]
    updates: list[dict[str, Any]]
    adjusted: list[Adjusted]
    travelled: list[Travelled]


def _time(
    cases: list[Case], wanted: Wanted, place: Any, rounds: int, only: str | None, precision: str, output: Output
) -> Timed:
    """Time each network, with a bar over them."""
    from ebmcli import bench as measure

    timed = Timed([], [], [], [])
    with output.progress("timing", len(cases), unit="networks", every=30.0) as bar:
        for case in cases:
            timed.rows.extend(measure.bench(case, place, rounds, only, precision))
            if wanted.updates:
                whole = measure.updates(case, place, max(3, rounds // 2), only, precision)
                timed.updates.extend(
                    {"case": case.name, "steps": case.steps, "backend": name, "update": figure, "ratio": ratio}
                    for name, (figure, ratio) in whole.items()
                )
            if wanted.mala:
                timed.adjusted.extend(measure.metropolis(case, place, rounds, only))
            if wanted.jobs:
                timed.travelled.extend(measure.journeys(case, place, rounds, only))
            bar.update()
    return timed


def _tables(timed: Timed, output: Output) -> None:
    """Print what was timed, a table for each kind."""
    output.table([_row(r) for r in timed.rows], HEADER)
    if timed.updates:
        output.table(
            [(r["case"], r["steps"], r["backend"], _ms(r["update"]), f"{r['ratio']:.2f}") for r in timed.updates],
            ("whole update", "steps", "backend", "ms (quartiles)", "ratio"),
        )
    if timed.adjusted:
        output.table(
            [(r.case, r.backend, _ms(r.step), f"{r.ratio:.2f}", f"{r.acceptance:.2f}") for r in timed.adjusted],
            ("MALA", "backend", "ms a step (quartiles)", "ratio", "accepted"),
        )
    if timed.travelled:
        output.table(
            [(r.case, r.backend, str(r.jobs), _us(r.step), f"{r.ratio:.2f}") for r in timed.travelled],
            ("jobs of a map", "backend", "at once", "µs a step of each (quartiles)", "ratio"),
        )


def _sizes(case: Case, place: Any, output: Output) -> list[Row]:
    """The fastest backend by number of chains and by image size, in a table."""
    from ebmcli import bench as measure

    rows: list[Row] = []
    with output.progress("sizes", unit="sizes", every=30.0) as bar:
        for row in measure.sizes(case, place):
            rows.append(row)
            bar.update()
    output.table([_row(r) for r in rows], HEADER)
    return rows


def _memory(case: Case, place: Any, output: Output) -> tuple[int, int]:
    """Peak memory in bytes after a tenth of the updates and after all of them."""
    from ebmcli import bench as measure

    with output.progress("memory", measure.UPDATES, unit="updates", every=30.0) as bar:
        peaks = measure.memory(case, place, after=lambda update: bar.update(done=update))
    early, late = (peak / 2**20 for peak in peaks)
    output.say(f"peak memory {early:.0f} MiB after {measure.UPDATES // 10} updates, {late:.0f} MiB after all")
    return peaks


def _result(
    timed: Timed,
    scaled: list[Row],
    peaks: tuple[int, int] | None,
    limits: dict[str, float],
    noise: dict[str, float],
    place: str,
    last: str,
    output: Output,
) -> None:
    """Say what the machine can do, and give all numbers as JSON.

    Args:
        last: name of the network whose share of noise was measured.
    """
    import torch

    output.say(
        f"{torch.get_num_threads()} threads on {place}; "
        + ", ".join(f"{name} {rate:.0f} GFLOP/s" for name, rate in limits.items())
        + f"; of a step of {last}, noise takes "
        + ", ".join(f"{max(share, 0):.0%} ({name})" for name, share in noise.items())
    )
    output.result(
        {
            "device": place,
            "threads": torch.get_num_threads(),
            "torch": torch.__version__,
            "limits_gflops": limits,
            "noise_share": noise,
            "steps": [r._asdict() for r in timed.rows],
            "updates": timed.updates,
            "mala": [r._asdict() for r in timed.adjusted],
            "map": [r._asdict() for r in timed.travelled],
            "sizes": [r._asdict() for r in scaled],
            "peak_memory_bytes": {"after_a_tenth": peaks[0], "after_all": peaks[1]} if peaks else None,
        }
    )


HEADER = (
    "network",
    "chains",
    "backend",
    "ms a step (quartiles)",
    "ratio",
    "share",
    "updates/h",
    "error",
    "drift 50% / 99%",
)


def _ms(figure: Figure) -> str:
    return f"{figure.median * 1e3:.3g} ({figure.first * 1e3:.3g}–{figure.third * 1e3:.3g})"


def _us(figure: Figure) -> str:
    return _ms(figure._replace(**{k: 1e3 * v for k, v in figure._asdict().items()}))


def _row(r: Row) -> tuple[str, ...]:
    return (
        r.case,
        str(r.chains),
        r.backend,
        _ms(r.step),
        f"{r.ratio:.2f}",
        f"{r.share:.0%}",
        "" if r.updates_per_hour is None else f"{r.updates_per_hour:,.0f}",
        "" if r.error is None else f"{r.error:.0e}",
        "" if r.drift_median is None else f"{r.drift_median:.0e} / {r.drift_99:.0e}",
    )


def _case(what: str | None, trust_code: bool) -> Case:
    """The network, size, chains and steps of a recipe, or of a model."""
    from ebmcli import recipe
    from ebmcli.bench import Case
    from ebmcli.models import lookup, origin

    if what is not None and (what.endswith(".toml") or not lookup.is_model(what)):
        r = recipe.load(what)
        arguments = r.network_arguments()
        own = origin.may_import(r, what, trust_code)
        m = r.mcmc
        return Case(what, r.potential.network, r.shape, arguments, r.train.negatives, m.steps, m.step_size, own)
    c = lookup.load(what, trusted=trust_code).config
    return Case(c.name, c.network, c.shape, c.arguments, 64, c.steps, c.step_size, trust_code)
