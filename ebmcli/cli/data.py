"""`ebm data`: list, fetch, show and clear sets of images."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ebmcli.cli import _options as options
from ebmcli.cli._output import Output
from ebmcli.errors import EBMError, UsageError

if TYPE_CHECKING:
    from ebmcli.data import ImageSet
    from ebmcli.data.stats import Stats

app = typer.Typer(add_completion=False, rich_markup_mode=None, help="List, fetch, show and clear sets of images.")

LOOKED_AT, LEAST, VALUES = 4000, 600, 2**23
"""Images that the figures are taken from, evenly over the set: at most, at least, and by their values in memory."""
NOISES = (0.0, 0.015, 0.03)
"""Data noise, pixel units, for which a step size is suggested."""

Source = Annotated[
    str,
    typer.Argument(
        metavar="DATA", help="A public or bundled set's name, user/name[@revision] on the Hub, or files of your own."
    ),
]
Size = Annotated[
    int | None,
    typer.Option("--image-size", metavar="PX", min=1, help="Side of the square.", show_default="the set's own"),
]
Channels = Annotated[
    int | None,
    typer.Option("--channels", metavar="N", min=1, max=3, help="1 grey, 3 colour.", show_default="the set's own"),
]
Crop = Annotated[
    int | None,
    typer.Option("--crop", metavar="PX", min=1, help="Centre cut before the resize.", show_default="the set's own"),
]
Split = Annotated[str, typer.Option("--split", metavar="NAME", help="Part of the set.")]


@app.command("list")
def list_sets(json: options.Json = False) -> None:
    """List the sets of the package, the public ones that have a short name, and what is decoded already."""
    from ebmcli.data import TOYS, bundled, cache, remote
    from ebmcli.data.sets import SETS
    from ebmcli.hub import Address

    output = Output(json=json)
    rows: list[dict[str, Any]] = [
        {"name": b.name, "images": b.count, "size": _size(b.shape), "licence": b.licence, "where": "in the package"}
        for b in bundled().values()
    ]
    for entry in SETS:
        known = remote.known(Address(entry.repo), "train")
        where = f"fetched at {known.revision[:8]}" if known else "on the Hub"
        size = _size((entry.channels, entry.size, entry.size))
        count = entry.splits["train"][1]
        facts = {"name": entry.name, "images": count, "size": size, "licence": entry.licence, "where": where}
        rows.append({**facts, "repo": entry.repo, "about": entry.about, "splits": list(entry.splits)})
    rows += [{"name": name, "images": None, "size": "2-D", "licence": "-", "where": "drawn anew"} for name in TOYS]
    output.table(
        [
            (
                r["name"],
                f"{r['images']:,}" if r["images"] else "-",
                r["size"],
                r["licence"],
                r["where"],
                r.get("repo", ""),
            )
            for r in rows
        ],
        ("set", "images", "size", "licence", "where", "on the Hub"),
    )
    decoded = [
        {"name": e.meta.get("name"), "shape": e.meta["shape"], "bytes": e.size, "key": e.key} for e in cache.entries()
    ]
    if decoded:
        total = sum(d["bytes"] for d in decoded)
        output.say(f"decoded in {cache.folder()}, {total / 1e6:,.1f} MB (ebm data clear frees it):")
        for d in decoded:
            n, *shape = d["shape"]
            output.say(f"  {d['name']}: {n:,} images of {_size(tuple(shape))}, {d['bytes'] / 1e6:,.1f} MB")
    output.result({"sets": rows, "decoded": decoded, "cache": cache.folder()})


@app.command("fetch")
def fetch_set(
    source: Source,
    image_size: Size = None,
    channels: Channels = None,
    crop: Crop = None,
    split: Split = "train",
    column: options.Column = None,
    config: options.Config = None,
    again: Annotated[bool, typer.Option("--again", help="Ask the Hub for the set's newest revision.")] = False,
    json: options.Json = False,
    quiet: options.Quiet = False,
) -> None:
    """Download a set and decode it, so that it is there at once and without network."""
    from ebmcli.cli._fetching import fetch
    from ebmcli.data import bundled, remote
    from ebmcli.data.chosen import chosen

    output = Output(json=json, quiet=quiet)
    source = str(options.with_choice(source, column, config))
    address = remote.address_of(source)
    if again and address is None:
        raise UsageError(f"--again is for sets of the Hub, which {source} is not", "leave it out")
    name, column, config = chosen(source)
    if address is not None and remote.known(address, split, config) is not None and not again:
        remote.fetch(address, split, config=config)  # files that are gone from the Hub's cache come back
    fetch(source, split, output, again)
    images = _load(source, image_size, channels, crop, split, output)
    if name in bundled():  # of other sets it has been said
        output.say(f"{images.name}: {'; '.join(images.notes)}")
    output.result({**_facts(images), **_said(images)})


@app.command("show")
def show(
    source: Source,
    image_size: Size = None,
    channels: Channels = None,
    crop: Crop = None,
    split: Split = "train",
    column: options.Column = None,
    config: options.Config = None,
    noise: Annotated[
        float | None,
        typer.Option("--noise", metavar="SD", min=0.0, help="ε_data that the step size is meant for."),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option("--out", "-o", metavar="PNG", help="Grid of the first 64 images.", show_default="NAME.png"),
    ] = None,
    force: options.Force = False,
    json: options.Json = False,
    quiet: options.Quiet = False,
) -> None:
    """Draw a grid of a set and say what it asks of a recipe: range, spread, distance from noise, step size."""
    from ebmcli import media
    from ebmcli.cli._fetching import fetch
    from ebmcli.data.stats import describe, suggested_step

    output = Output(json=json, quiet=quiet)
    source = str(options.with_choice(source, column, config))
    fetch(source, split, output)
    images = _load(source, image_size, channels, crop, split, output)
    target = out or Path(f"{images.name.replace('/', '--')}.png")
    _refuse_foreign(target, force)
    c, h, w = images.shape
    looked = max(LEAST, min(LOOKED_AT, VALUES // (c * h * w)))
    every = max(1, len(images) // looked)
    stats = describe(images.images(slice(0, every * looked, every)))
    noises = NOISES if noise is None else (noise,)
    steps = {value: suggested_step(stats.local_sd, value) for value in noises}
    media.save_png(media.grid(images.images(slice(0, 64))), target, {"made_by": "ebm data show", **_facts(images)})
    output.table(_rows(images, stats, steps))
    if stats.local_sd < 0.001 and 0.0 in steps:
        output.say("the data has no width of its own in some direction: learning needs data noise (data.noise_std)")
    output.say(f"grid: {target}")
    suggested = [{"noise_std": k, "step_size": v} for k, v in steps.items()]
    output.result({**_facts(images), **stats._asdict(), "suggested": suggested, "out": target, **_said(images)})


@app.command("clear")
def clear(
    name: Annotated[
        str | None, typer.Argument(metavar="NAME", help="Of a set, as ebm data list shows it.", show_default=False)
    ] = None,
    everything: Annotated[bool, typer.Option("--all", help="All decoded sets.")] = False,
    dry_run: options.DryRun = False,
    json: options.Json = False,
    quiet: options.Quiet = False,
) -> None:
    """Remove decoded sets from the cache; they are decoded anew when they are needed.

    Downloads stay in the Hub's cache (hf cache ls, hf cache rm). A set that is cleared is asked for at its newest
    revision the next time.
    """
    from ebmcli.data import cache, remote
    from ebmcli.hub import Address

    output = Output(json=json, quiet=quiet)
    if (name is None) == (not everything):
        raise UsageError("give a NAME, or --all", "ebm data list shows what there is")
    address = remote.address_of(name) if name else None
    wanted = {name, address.repo if address else name}
    chosen = [e for e in cache.entries() if everything or e.meta.get("name") in wanted]
    noted = [a for a in remote.notes() if everything or (address and a.partition("@")[0] == address.repo)]
    if name and not chosen and not noted:
        there = ", ".join(sorted({str(e.meta.get("name")) for e in cache.entries()})) or "nothing"
        raise EBMError(f"nothing of {name!r} is in the cache {cache.folder()}", f"there is: {there}")
    freed = sum(e.size for e in chosen)
    if not dry_run:
        for entry in chosen:
            cache.remove(entry.key)
        for text in noted:
            repo, _, revision = text.partition("@")
            remote.forget(Address(repo, revision or None))
        if everything:
            freed += cache.remove_unfinished()
    output.say(f"{len(chosen)} decoded sets, {freed / 1e6:,.1f} MB, {'would be ' if dry_run else ''}removed")
    output.result({"removed": [e.meta.get("name") for e in chosen], "bytes": freed, "dry_run": dry_run})


def _load(
    source: str, size: int | None, channels: int | None, crop: int | None, split: str, output: Output
) -> ImageSet:
    from ebmcli.data import load
    from ebmcli.data.survey import own_form

    own = own_form(source, split)
    with output.counter("reading images") as progress:
        return load(
            source,
            image_size=size or own.image_size,
            channels=channels or own.channels,
            crop=crop or own.crop,
            split=split,
            progress=progress,
        )


def _facts(images: ImageSet) -> dict[str, Any]:
    revision = {"revision": images.revision} if images.revision else {}
    return {"data": images.name, "count": len(images), "shape": images.shape, "identity": images.identity, **revision}


def _said(images: ImageSet) -> dict[str, Any]:
    return {"skipped": images.skipped, "notes": images.notes, "warnings": images.doubts}


def _rows(images: ImageSet, stats: Stats, steps: dict[float, float]) -> list[tuple[str, str]]:
    def per_channel(values: tuple[float, ...]) -> str:
        return "  ".join(f"{value:+.3f}" for value in values)

    looked = "" if stats.images == len(images) else f" (figures from {stats.images:,} of them)"
    return [
        ("set", images.name + (f" at {images.revision[:8]}" if images.revision else "")),
        ("images", f"{len(images):,} of {_size(images.shape)}{looked}"),
        ("range", f"{stats.low:+.3f} to {stats.high:+.3f}"),
        ("mean of each channel", per_channel(stats.mean)),
        ("sd of each channel", per_channel(stats.sd)),
        ("constant values", f"{stats.constant:.1%}"),
        ("R, from uniform noise", f"{stats.burn_in_distance:.2f}"),
        ("local sd, narrowest", f"{stats.local_sd:.4f}"),
        *(
            (f"ε suggested, noise {noise:g}", f"{step:.4f}" if step > 0 else "none: it needs data noise")
            for noise, step in steps.items()
        ),
    ]


def _size(shape: tuple[int, ...]) -> str:
    c, h, w = shape
    return f"{h}×{w}×{c}"


def _refuse_foreign(target: Path, force: bool) -> None:
    """A grid may replace a picture of ours; anything else that lies there needs --force."""
    from ebmcli.media import read_metadata

    if target.suffix.lower() != ".png":
        raise UsageError(f"--out {target} does not end in .png", "give a name such as data.png")
    if target.is_dir():
        raise EBMError(f"{target} is a folder, not a file", "give a file name in --out")
    if target.exists() and not force:
        try:
            read_metadata(target)
        except EBMError as error:
            raise EBMError(f"{target} exists and was not written by ebm", "give another --out, or --force") from error
