"""`ebm bench`: what a step costs here, backend by backend, against the plain loop."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ebmcli.cli import _options as options
from ebmcli.cli._output import Output
from ebmcli.native import cores

if TYPE_CHECKING:
    from ebmcli.bench import Case, Figure, Row


def bench(
    what: Annotated[
        str | None,
        typer.Argument(metavar="RECIPE|MODEL", help="Left out: the bundled default model.", show_default=False),
    ] = None,
    suite: Annotated[bool, typer.Option("--suite", help="The networks whose ratios the README quotes.")] = False,
    update: Annotated[bool, typer.Option("--update", help="Whole updates too (slow for large networks).")] = False,
    kernels: Annotated[bool, typer.Option("--kernels", help="MALA too, against its plain loop.")] = False,
    map_: Annotated[bool, typer.Option("--map", help="Jobs of a map too, at once against one at a time.")] = False,
    sizes: Annotated[
        bool, typer.Option("--sizes", help="The fastest backend by number of chains and by image size, too.")
    ] = False,
    memory: Annotated[bool, typer.Option("--memory", help="Peak memory over 2,000 updates, too.")] = False,
    picture: Annotated[
        Path | None,
        typer.Option("--picture", metavar="FILE", help="The ratios as a PNG or SVG.", show_default=False),
    ] = None,
    chains: Annotated[
        int | None, typer.Option("--chains", metavar="N", min=1, help="Chains at once.", show_default="the recipe's")
    ] = None,
    rounds: Annotated[int, typer.Option("--rounds", metavar="N", min=1, help="Interleaved rounds.")] = 9,
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
    import torch

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
        cases = [c._replace(chains=chains) for c in cases]
    only = None if backend == "auto" else backend
    rows: list[measure.Row] = []
    whole: list[dict[str, Any]] = []
    adjusted: list[measure.Adjusted] = []
    travelled: list[measure.Travelled] = []
    with output.progress("timing", len(cases), unit="networks", every=30.0) as bar:
        for case in cases:
            rows += measure.bench(case, place, rounds, only, precision)
            if update:
                timed = measure.updates(case, place, max(3, rounds // 2), only, precision)
                whole += [
                    {"case": case.name, "steps": case.steps, "backend": name, "update": figure, "ratio": ratio}
                    for name, (figure, ratio) in timed.items()
                ]
            if kernels:
                adjusted += measure.metropolis(case, place, rounds, only)
            if map_:
                travelled += measure.journeys(case, place, rounds, only)
            bar.update()
    if picture is not None:
        output.say(f"picture: {measure.picture(rows, picture)}")
    output.table([_row(r) for r in rows], HEADER)
    if whole:
        output.table(
            [(r["case"], r["steps"], r["backend"], _ms(r["update"]), f"{r['ratio']:.2f}") for r in whole],
            ("whole update", "steps", "backend", "ms (quartiles)", "ratio"),
        )
    if adjusted:
        output.table(
            [(r.case, r.backend, _ms(r.step), f"{r.ratio:.2f}", f"{r.acceptance:.2f}") for r in adjusted],
            ("MALA", "backend", "ms a step (quartiles)", "ratio", "accepted"),
        )
    if travelled:
        output.table(
            [(r.case, r.backend, str(r.jobs), _us(r.step), f"{r.ratio:.2f}") for r in travelled],
            ("jobs of a map", "backend", "at once", "µs a step of each (quartiles)", "ratio"),
        )
    scaled: list[measure.Row] = []
    if sizes:
        with output.progress("sizes", unit="sizes", every=30.0) as bar:
            for row in measure.sizes(cases[0], place):
                scaled.append(row)
                bar.update()
        output.table([_row(r) for r in scaled], HEADER)
    peaks = (0, 0)
    if memory:
        with output.progress("memory", measure.UPDATES, unit="updates", every=30.0) as bar:
            peaks = measure.memory(cases[0], place, after=lambda update: bar.update(done=update))
        early, late = (peak / 2**20 for peak in peaks)
        output.say(f"peak memory {early:.0f} MiB after {measure.UPDATES // 10} updates, {late:.0f} MiB after all")
    limits = measure.limit(place)
    noise = measure.noise_share(cases[-1], place, rounds, only, precision)
    output.say(
        f"{torch.get_num_threads()} threads on {place}; "
        + ", ".join(f"{name} {rate:.0f} GFLOP/s" for name, rate in limits.items())
        + f"; of a step of {cases[-1].name}, noise takes "
        + ", ".join(f"{max(share, 0):.0%} ({name})" for name, share in noise.items())
    )
    output.result(
        {
            "device": str(place),
            "threads": torch.get_num_threads(),
            "torch": torch.__version__,
            "limits_gflops": limits,
            "noise_share": noise,
            "steps": [r._asdict() for r in rows],
            "updates": whole,
            "mala": [r._asdict() for r in adjusted],
            "map": [r._asdict() for r in travelled],
            "sizes": [r._asdict() for r in scaled],
            "peak_memory_bytes": {"after_a_tenth": peaks[0], "after_all": peaks[1]} if memory else None,
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
