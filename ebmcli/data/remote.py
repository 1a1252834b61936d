"""Data sets of the Hub: found by `datasets`, downloaded once at a fixed commit, and read without network after that.

What a set's splits and image column are is asked of the Hub's own loader and kept in a small note in our cache, with
the commit; the files themselves lie in the Hub's cache (`HF_HOME`). A set named without a revision stays at the
commit it was first fetched at until it is fetched anew.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ebmcli.data import parquet
from ebmcli.data.bundled import bundled
from ebmcli.data.chosen import chosen
from ebmcli.data.noted import Part, forget, keep, known, notes
from ebmcli.data.sets import public
from ebmcli.data.source import SPLITS, Source
from ebmcli.data.toys import TOYS
from ebmcli.errors import EBMError
from ebmcli.hub import client, faults
from ebmcli.hub.address import Address, parse
from ebmcli.storage.paths import typed_path

if TYPE_CHECKING:
    from ebmcli.data.source import Item

__all__ = ["Part", "address_of", "fetch", "forget", "known", "notes", "open_remote"]

log = logging.getLogger("ebmcli.data")

Progress = Callable[[int, int], None]
"""Called with (bytes done, bytes in all)."""


def address_of(source: str | Path) -> Address | None:
    """The Hub's address that `source` means; None for a bundled set, a toy, or a path.

    Raises:
        UsageError: it is a URL, and not one of a data set on the Hub.
    """
    name = chosen(source).place
    if name in bundled() or name in TOYS or typed_path(name).exists():
        return None
    short, at, revision = name.partition("@")
    known = public(short)
    return parse(known.repo + at + revision if known else name, "dataset")


def fetch(
    address: Address,
    split: str,
    progress: Progress | None = None,
    again: bool = False,
    column: str | None = None,
    config: str | None = None,
) -> Part:
    """Find the split of a set, download its files, and note what was found.

    Args:
        address: of the set; without a revision, its newest commit is taken, and kept from then on.
        split: "train", "test", or a name of the set's own.
        progress: called while downloading.
        again: ask the Hub even if it was fetched before, for its newest commit; where it cannot be reached, what
            was fetched serves, and that is said.
        column: of the images, where the set has several.
        config: which of several configurations, each a set of its own.

    Raises:
        EBMError: exit code 4: no such set, no access, no network; exit code 1: no such split or image column,
            several columns or configurations and none named, a disk that is full.
    """
    part = known(address, split, config)
    if part is not None and not again and _whole(part):
        return part
    if faults.offline():
        raise faults.HubError(
            f"the data set {address} is not in the cache, and HF_HUB_OFFLINE allows no network",
            f"fetch it once with network: ebm data fetch {address.repo}; or give local files with --data PATH",
        )
    if part is not None and not again:
        _download(part, progress)
        return part
    try:
        sha = client.commit_of(address, "dataset")
        found = client.attempt(f"data set {address}", _find, address, sha, split, progress, column, config)
    except faults.HubError as error:
        if not error.passing or part is None or not _whole(part):
            raise
        log.warning(f"{error.message}; the copy of {part.revision[:8]} in the cache serves")
        return part
    keep(address, split, found)
    return found


def open_remote(
    address: Address,
    split: str,
    progress: Progress | None = None,
    column: str | None = None,
    config: str | None = None,
) -> Source:
    """The images of a set's split, not yet decoded; downloaded first where that was not done.

    Raises:
        EBMError: as `fetch`.
    """
    part = known(address, split, config) or fetch(address, split, progress, column=column, config=config)
    if column and column != part.column:
        if part.files and not _whole(part):
            _fetch_again(part, progress)
        part = part._replace(column=parquet.choose_column(_paths(part)[0], column)[0] if part.files else column)

    def items(n: int) -> Iterator[Item]:
        if part.files:
            if not _whole(part):  # the Hub's cache was cleared: the same commit again
                _fetch_again(part, progress)
            yield from parquet.items(_paths(part), part.column, n)
        else:
            yield from _generic(part, n)

    of = f", configuration {part.config}" if part.config else ""
    where = f"{part.repo} at {part.revision[:8]}{of}, split {part.name}, column {part.column}"
    stamp = f"hub:{part.repo}@{part.revision}:{part.name}:{part.column}" + (f":{part.config}" if part.config else "")
    return Source(where, (), part.rows, items, stamp=stamp, revision=part.revision)


def _find(
    address: Address, sha: str, split: str, progress: Progress | None, wanted: str | None, config: str | None
) -> Part:
    """Ask the Hub's loader for splits, files and features; download the files of one split."""
    declared = config if config and config in _configs(address.repo, sha) else None
    builder = _builder(address.repo, sha, declared)
    splits = {str(name): list(files) for name, files in (builder.config.data_files or {}).items()}
    name = _choose(address, split, list(splits))
    prefix = f"hf://datasets/{address.repo}@{sha}/"
    paths = [str(url).partition(prefix)[2] for url in splits[name]]
    if any(part in ("", ".", "..") for path in paths if path for part in path.split("/")):
        raise EBMError(f"the data set {address} has files whose names lead out of it", "choose another set")
    is_parquet = bool(paths) and all(path.endswith(".parquet") for path in paths)
    if not declared and not _says_configs(address.repo, sha, paths):
        own = parquet.only_config(paths, config, f"the data set {address}")
        paths = [path for path in paths if path in own]
    features = builder.info.features or {}
    images = [column for column, feature in features.items() if type(feature).__name__ == "Image"]
    column = _column(address, images, wanted)
    part = Part(address.repo, sha, name, column, tuple(paths) if is_parquet else (), 0, config or "")
    if is_parquet:
        _download(part, progress)
        files = _paths(part)
        column = parquet.choose_column(files[0], column or wanted)[0]
        return part._replace(column=column, rows=parquet.count(files, column))
    log.info(f"downloading {address} by its own loader, split {name}")
    data = _load(part)
    images = [column for column, feature in data.features.items() if type(feature).__name__ == "Image"]
    if not images:
        there = ", ".join(data.features)
        raise EBMError(f"the data set {address} has no column of images: it has {there[:300]}", "choose another set")
    return part._replace(column=column or _column(address, images, wanted), rows=len(data))


def _column(address: Address, images: list[str], wanted: str | None) -> str:
    """The column among those that hold images; empty where none is known yet.

    Raises:
        EBMError: the one that is wanted is not there, or several may be meant.
    """
    entry = public(address.repo)
    if wanted is not None and images and wanted not in images:
        raise EBMError(
            f"the data set {address} has no column {wanted!r} of images: it has {', '.join(images)[:300]}",
            "name one of these with `column`",
        )
    if wanted in images:
        return str(wanted)
    if entry and entry.column in images:
        return entry.column
    if not images:
        return ""
    column, notes = parquet.pick(images, f"the data set {address}")
    for note in notes:
        log.info(note)
    return column


def _configs(repo: str, sha: str) -> list[str]:
    """The configurations that a set declares."""
    return [str(name) for name in _asked(repo, lambda datasets: datasets.get_dataset_config_names(repo, revision=sha))]


def _says_configs(repo: str, sha: str, paths: list[str]) -> bool:
    """Whether the publishers themselves say which files belong together, as far as that can be asked here."""
    if len(parquet.configs(paths)) < 2:
        return True
    card = client.api().dataset_info(repo, revision=sha).card_data
    return bool(card and card.get("configs"))


def _choose(address: Address, split: str, there: list[str]) -> str:
    """The set's own name of a split: what the table says, the same name, or one that means it."""
    entry = public(address.repo)
    told = [entry.splits[split][0]] if entry and split in entry.splits else []
    for name in (*told, split, *SPLITS.get(split, ())):
        if name in there:
            return name
    raise EBMError(
        f"the data set {address} has no split {split!r}: it has {', '.join(there) or 'none'}", "name one of these"
    )


def _builder(repo: str, sha: str, config: str | None) -> Any:
    def build(datasets: Any) -> Any:
        try:
            return datasets.load_dataset_builder(repo, config, revision=sha)
        except ValueError as error:
            if config is None and "Config name is missing" in str(error):
                there = [str(name) for name in datasets.get_dataset_config_names(repo, revision=sha)]
                raise parquet.several(f"the data set {repo}", there) from error
            raise

    return _asked(repo, build)


def _asked(repo: str, ask: Callable[[Any], Any]) -> Any:
    """What the Hub's loader answers.

    Raises:
        EBMError: it cannot read the set.
    """
    datasets = _datasets(repo)
    try:
        return ask(datasets)
    except (
        ValueError,
        datasets.exceptions.DatasetNotFoundError,
        datasets.exceptions.DataFilesNotFoundError,
    ) as error:
        if isinstance(faults.explain(error, repo), faults.HubError):  # the Hub's failures are explained as such
            raise
        raise _unreadable(repo, error) from error


def _unreadable(repo: str, error: Exception) -> EBMError:
    what = faults.clean(str(error).split("\n")[0])[:240]
    return EBMError(f"the data set {repo} cannot be read: {what}", "get its files and give them with `data` PATH")


def _datasets(repo: str) -> Any:
    try:
        import datasets
    except ImportError as error:
        raise EBMError(
            f"the data set {repo} is on the Hub, and reading it needs the package datasets",
            "pip install 'ebmcli[data]'; or give local files with `data` PATH",
        ) from error
    datasets.disable_progress_bars()
    datasets.utils.logging.set_verbosity_error()
    # Versions before 4 can run a set's own script, where the environment or an answer at the keyboard allows it.
    datasets.config.HF_DATASETS_TRUST_REMOTE_CODE = False
    client.api()  # its remarks are said in our words
    return datasets


def _load(part: Part) -> Any:
    config = part.config or None
    return _datasets(part.repo).load_dataset(part.repo, config, revision=part.revision, split=part.name)


def _generic(part: Part, n: int) -> Iterator[Item]:
    """Images of a set in another form than parquet, through the Hub's loader and its cache."""
    datasets = _datasets(part.repo)
    data = client.attempt(f"data set {part.repo}", _load, part)
    home = Path(datasets.config.HF_CACHE_HOME).resolve()
    for number, row in enumerate(data.cast_column(part.column, datasets.Image(decode=False))):
        if number == n:
            return
        image = row[part.column] or {}
        payload: bytes | Path = image.get("bytes") or b""
        if not payload and image.get("path"):
            path = Path(image["path"]).resolve()
            payload = path if home in path.parents else b""  # nothing outside the cache is read
        yield f"{part.name}[{number}]", payload


def _fetch_again(part: Part, progress: Progress | None) -> None:
    if faults.offline():
        raise faults.HubError(
            f"files of the data set {part.repo} are gone from the cache, and HF_HUB_OFFLINE allows no network",
            f"fetch it once with network: ebm data fetch {part.repo}",
        )
    _download(part, progress)


def _whole(part: Part) -> bool:
    return all(_cached(part, name) for name in part.files)


def _cached(part: Part, name: str) -> Path | None:
    from huggingface_hub import try_to_load_from_cache

    found = try_to_load_from_cache(part.repo, name, revision=part.revision, repo_type="dataset")
    return Path(found) if isinstance(found, str) and Path(found).is_file() else None


def _paths(part: Part) -> list[Path]:
    """The part's files in the Hub's cache; they lie inside it, whatever their names say."""
    found = []
    for name in part.files:
        path = _cached(part, name)
        if path is None:
            raise EBMError(f"{name} of {part.repo} is not in the cache any more", f"ebm data fetch {part.repo}")
        if path.resolve().is_relative_to(path.parents[name.count("/")].parent.parent.resolve()):
            found.append(path)
        else:
            raise EBMError(f"{path} leads out of the Hub's cache", "remove that repository from the cache: hf cache rm")
    return found


def _download(part: Part, progress: Progress | None) -> None:
    """Bring the part's files into the Hub's cache, each whole or not at all; what is there already stays."""
    import inspect
    import shutil

    api = client.api()
    what = f"data set {part.repo}"
    place: dict[str, Any] = {"repo_type": "dataset", "revision": part.revision}

    def told() -> dict[str, int]:
        listed = api.get_paths_info(part.repo, list(part.files), **place)
        return {entry.path: int(getattr(entry, "size", 0)) for entry in listed}

    sizes = client.ask(what, told)
    missing = [name for name in part.files if not _cached(part, name)]
    total, need = sum(sizes.values()), sum(sizes.get(name, 0) for name in missing)
    if not missing:
        return
    log.info(f"downloading {part.repo}, split {part.name}: {need / 1e6:,.1f} MB in {len(missing)} files")
    from huggingface_hub.constants import HF_HUB_CACHE

    place_there = next(p for p in (Path(HF_HUB_CACHE), *Path(HF_HUB_CACHE).parents) if p.exists())
    free = shutil.disk_usage(place_there).free
    if free < need:
        raise EBMError(
            f"{part.repo} needs {need / 1e6:,.0f} MB in {HF_HUB_CACHE}, where {free / 1e6:,.0f} MB are free",
            "make room, or set HF_HOME to a folder on another disk",
        )
    done = total - need

    def count(size: int) -> None:
        nonlocal done
        done += size
        if progress:
            progress(min(done, total), total)

    bar = {"tqdm_class": _counting(count)} if "tqdm_class" in inspect.signature(api.hf_hub_download).parameters else {}
    for name in missing:
        before = done
        client.ask(what, api.hf_hub_download, part.repo, name, **place, **bar)
        count(before + sizes.get(name, 0) - done)


def _counting(report: Callable[[int], None]) -> Any:
    """A bar of the kind that the client fills, which draws nothing and reports bytes."""
    from huggingface_hub.utils import tqdm

    class Counting(tqdm):
        def __init__(self, *arguments: Any, **keywords: Any) -> None:
            super().__init__(*arguments, **{**keywords, "disable": True})

        def update(self, n: float | None = 1) -> None:
            report(int(n or 0))

    return Counting
