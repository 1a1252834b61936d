"""Recipes of public sets: from the Hub once, from the cache after that, or from the archives as published."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from helpers.hub_server import Hub, online
from helpers.public_sets import cifar_archive, flowers_archive, parquet, picture
from helpers.quick import ebm, fails, metrics
from PIL import Image

from ebmcli import recipe as recipes
from ebmcli.data.sets import SETS, public

ROOT = Path(__file__).resolve().parents[2]
SMALL = ("train.updates=20", "train.positives=4", "train.negatives=4", "mcmc.steps=2", "potential.width=4")
CELEBA = "nielsr/CelebA-faces"


def train(name: str, *words: object) -> list[object]:
    """A training of 20 updates by a recipe of ours, cut to seconds in everything but its data."""
    small = [*SMALL, "mcmc.bank_size=8"] if "convergent" in name else SMALL
    recipe = ROOT / "recipes" / f"{name}.toml"
    return ["train", recipe, *(w for s in small for w in ("--set", s)), "--threads", 1, *words]


@pytest.fixture
def hub() -> Iterator[Hub]:
    with Hub(cdn=True) as running:
        files = {f"data/train-0000{i}-of-00002.parquet": parquet(picture(9 * i + k) for k in range(9)) for i in (0, 1)}
        running.put(CELEBA, {**files, "README.md": b"---\nlicense: other\n---\n"}, kind="dataset")
        yield running


def test_celeba_from_the_hub_and_offline_after_that(hub: Hub, tmp_path: Path) -> None:
    """Offline the first time: exit 4 and a hint. Online: fetched, trained. Offline a second time: at once."""
    own = {"EBM_CACHE": str(tmp_path / "ebm")}
    never = online(hub, *train("celeba_shortrun", "--out", "never"), cwd=tmp_path, HF_HUB_OFFLINE="1", **own)
    fails(never, f"the data set {CELEBA} is not in the cache", "ebm data fetch", "--data PATH", code=4)
    assert not (tmp_path / "never").exists()
    assert not hub.log
    ran = online(hub, *train("celeba_shortrun", "--out", "one", "--verbose"), cwd=tmp_path, check=0, **own)
    sha = hub.repos["dataset", CELEBA]["refs"]["main"]
    assert f"downloading {CELEBA}, split train" in ran.stderr
    assert f"{CELEBA} at {sha[:8]}, split train, column image, 18 images: centre cut of 140 px, 64×64" in ran.stderr
    facts = json.loads((tmp_path / "one" / "run.json").read_text())
    assert facts["data_path"] == f"{CELEBA}@{sha}"
    assert len(metrics(tmp_path / "one")) == 20
    asked = len(hub.log)
    hub.put(CELEBA, {"README.md": b"a newer commit, which does not change what was fetched"}, kind="dataset")
    online(hub, *train("celeba_shortrun", "--out", "two", "--quiet"), cwd=tmp_path, check=0, HF_HUB_OFFLINE="1", **own)
    online(hub, "train", "--resume", "one", "--set", "train.updates=21", "--quiet", cwd=tmp_path, check=0, **own)
    assert len(hub.log) == asked
    assert metrics(tmp_path / "one")[:20] == metrics(tmp_path / "two")

    shown = json.loads(
        online(hub, "data", "show", "celeba", "--json", "--out", "c.png", cwd=tmp_path, check=0, **own).stdout
    )
    assert (shown["data"], shown["count"], shown["shape"], shown["revision"]) == (CELEBA, 18, [3, 64, 64], sha)
    listed = json.loads(online(hub, "data", "list", "--json", cwd=tmp_path, check=0, **own).stdout)
    assert [row["where"] for row in listed["sets"] if row["name"] == "celeba"] == [f"fetched at {sha[:8]}"]
    assert len(hub.log) == asked
    online(hub, "data", "clear", "celeba", cwd=tmp_path, check=0, **own)
    told = json.loads(online(hub, "data", "fetch", "celeba", "--json", cwd=tmp_path, check=0, **own).stdout)
    assert told["revision"] == hub.repos["dataset", CELEBA]["refs"]["main"] != sha


def test_cifar10_on_the_archive_as_published(tmp_path: Path) -> None:
    cifar_archive(tmp_path / "cifar-10-binary.tar.gz", n=10)
    words = train("cifar10_shortrun", "--data", "cifar-10-binary.tar.gz", "--out", "run", "--verbose")
    assert "CIFAR-10 records, 50 images" in ebm(*words, cwd=tmp_path, check=0).stderr
    assert len(metrics(tmp_path / "run")) == 20


def test_flowers_on_the_archive_as_published(tmp_path: Path) -> None:
    flowers_archive(tmp_path / "102flowers.tgz")
    words = train("flowers_convergent", "--data", "102flowers.tgz", "--out", "run", "--verbose")
    assert "archive of images, 24 images: 32×32 px, RGB" in ebm(*words, cwd=tmp_path, check=0).stderr
    assert len(metrics(tmp_path / "run")) == 20
    assert sorted(p.name for p in tmp_path.iterdir() if not p.name.startswith(".")) == ["102flowers.tgz", "run"]


@pytest.mark.parametrize(
    ("what", "parts", "code"),
    [
        ("ann/nothing", ("the Hub has no data set ann/nothing", "check the name"), 4),
        (f"{CELEBA}@v9", ("has no such revision",), 4),
        ("ann/words", ("no column of images: it has text", ), 1),
        ("ann/odd", ("no split 'train': it has", ), 1),
    ],
)  # fmt: skip
def test_what_the_hub_has_not(hub: Hub, tmp_path: Path, what: str, parts: tuple[str, ...], code: int) -> None:
    hub.put("ann/words", {"train.csv": b"text\nhello\n"}, kind="dataset")
    hub.put("ann/odd", {"data/validation-00000-of-00001.parquet": parquet([picture(1)])}, kind="dataset")
    ran = online(hub, "data", "fetch", what, "--quiet", cwd=tmp_path, EBM_CACHE=str(tmp_path / "ebm"))
    fails(ran, *parts, code=code)


@pytest.mark.slow
def test_a_half_download_of_data_is_gone_on_with(hub: Hub, tmp_path: Path) -> None:
    hub.fault("GET /_lfs/", half=True)
    own = {"EBM_CACHE": str(tmp_path / "ebm")}
    told = online(hub, "data", "fetch", CELEBA, "--json", cwd=tmp_path, check=0, **own)
    assert json.loads(told.stdout)["count"] == 18
    assert "trying again" in told.stderr


@pytest.mark.slow
def test_pictures_in_folders_on_the_hub(hub: Hub, tmp_path: Path) -> None:
    """A set that is no parquet goes through the Hub's own loader."""
    hub.put("ann/photos", {f"train/{i}.jpg": picture(i, 40, 30) for i in range(5)}, kind="dataset")
    own = {"EBM_CACHE": str(tmp_path / "ebm")}
    words = ("data", "fetch", "ann/photos", "--image-size", 16, "--channels", 3, "--json")
    told = json.loads(online(hub, *words, cwd=tmp_path, check=0, **own).stdout)
    assert (told["count"], told["shape"]) == (5, [3, 16, 16])


@pytest.mark.parametrize("entry", SETS, ids=lambda entry: entry.name)
def test_the_table_of_public_sets(entry) -> None:
    assert public(entry.name) is public(entry.repo) is entry
    assert "train" in entry.splits
    assert entry.channels in (1, 3)
    for name in recipes.names():
        settings = recipes.load(name).data
        if settings.source == entry.repo:
            assert (settings.channels, settings.crop) == (entry.channels, entry.crop), name


def test_every_public_recipe_names_a_set_of_the_table() -> None:
    sources = {recipes.load(name).data.source for name in recipes.names()}
    assert {source for source in sources if "/" in source} <= {entry.repo for entry in SETS}


def test_published_numbers_of_the_new_recipes() -> None:
    """Method, section by section: flowers of the paper and of the released code, CIFAR-10 of both."""
    paper, released = recipes.load("flowers_convergent"), recipes.load("flowers_convergent_release")
    chain = (paper.mcmc.step_size, paper.mcmc.noise, paper.mcmc.steps, paper.mcmc.bank_size)
    assert chain == (0.015, 1, 500, 10_000)
    assert (paper.optimizer.name, paper.optimizer.learning_rate, paper.optimizer.momentum) == ("sgd", 0.0005, 0)
    assert (released.mcmc.step_size, released.data.noise_std, released.train.updates) == (0.0075, 0.015, 200_000)
    rate = released.optimizer
    assert (rate.learning_rate, rate.minimum, rate.decay) == (0.1, 0.0005, 0.99995)
    assert {paper.potential.network, released.potential.network} == {"nonlocal"}
    short, noisy = recipes.load("cifar10_shortrun"), recipes.load("cifar10_shortrun_release")
    assert (short.mcmc.step_size, short.mcmc.noise, short.mcmc.steps, short.mcmc.init) == (1, 0, 100, "uniform")
    assert (noisy.mcmc.step_size, noisy.mcmc.noise, noisy.mcmc.steps) == (0.01, 1, 150)
    assert short.optimizer.learning_rate == noisy.optimizer.learning_rate == 0.0001


# --- one's own pictures


def photographs(folder: Path, n: int, grey: bool = False) -> Path:
    folder.mkdir()
    for i in range(n):
        (folder / f"IMG_{i:04d}.jpg").write_bytes(picture(i, 90 + i % 40, 70))
        if grey:
            with Image.open(folder / f"IMG_{i:04d}.jpg") as image:
                image.convert("L").save(folder / f"IMG_{i:04d}.jpg")
    return folder


def test_a_folder_of_200_photographs(tmp_path: Path) -> None:
    """As a new user would: no recipe; it is chosen, shown, kept; hours and memory are said; a grid comes."""
    photographs(tmp_path / "my-pictures", 200)
    small = ("train.updates=2", "train.negatives=8", "train.positives=8", "mcmc.steps=2", "potential.width=4")
    words = ("train", "--data", "./my-pictures", "--out", "run", "--save-recipe", "mine.toml", "--threads", 1)
    said = ebm(*words, *(w for s in small for w in ("--set", s)), cwd=tmp_path, check=0).stderr
    assert "Chosen by ebm train --data for 200 pictures" in said
    assert "hours (4 updates timed); memory" in said
    assert "next: ebm sample run" in said
    with Image.open(tmp_path / "run" / "samples" / "000002.png") as grid:
        assert np.asarray(grid).std() > 5
    kept = recipes.load(tmp_path / "mine.toml")
    assert (kept.data.image_size, kept.data.channels, kept.data.augment) == (32, 3, "flip")
    assert Path(kept.data.source) == tmp_path / "my-pictures"
    again = ("train", "mine.toml", "--out", "again", "--quiet", "--threads", 1)
    ebm(*again, cwd=tmp_path, check=0)
    assert metrics(tmp_path / "again") == metrics(tmp_path / "run")
    fails(ebm(*words, cwd=tmp_path), "mine.toml is there already")
    ebm("train", "--resume", "run", "--set", "train.updates=3", "--quiet", cwd=tmp_path, check=0)


def test_what_is_chosen_follows_pictures_and_machine() -> None:
    from ebmcli.recipe.suggest import suggest

    def chosen(images: int = 200, side: int = 200, colour: bool = True, gpu: bool = False) -> recipes.Recipe:
        return suggest("/x/y", "y", images, side, colour, gpu)

    assert chosen().mcmc.bank_size < chosen(images=50_000).mcmc.bank_size
    assert chosen().train.updates < chosen(images=50_000).train.updates
    assert chosen(side=28, colour=False).data.image_size == 28
    assert (chosen(colour=False).data.channels, chosen(colour=False).data.augment) == (1, "none")
    assert chosen(images=50_000, gpu=True).data.image_size == 64
    assert chosen(images=3).train.positives == 8
    assert chosen(side=8).data.image_size == 16
    for recipe in (chosen(), chosen(images=10**6, gpu=True), chosen(images=1, side=1, colour=False)):
        assert recipes.loads(recipe.dumps()) == recipe
        assert recipe.data.noise_std >= recipe.mcmc.step_size


def test_grey_photographs_are_seen_as_grey(tmp_path: Path) -> None:
    from ebmcli.data.survey import survey

    assert survey(str(photographs(tmp_path / "grey", 4, grey=True))) == (4, 70, False, None)
    assert survey(str(photographs(tmp_path / "colour", 4))) == (4, 70, True, None)
    assert survey("mnist-10k").colour is False


# --- the figures of a set, and its place in the cache


def test_show_prints_and_draws(tmp_path: Path) -> None:
    own = {"EBM_CACHE": str(tmp_path / "ebm")}
    ran = ebm("data", "show", "emoji-1k", "--noise", 0.03, cwd=tmp_path, check=0, **own)
    for part in ("1,000 of 32×32×3", "R, from uniform noise", "local sd, narrowest", "ε suggested, noise 0.03"):
        assert part in ran.stdout
    with Image.open(tmp_path / "emoji-1k.png") as grid:
        assert grid.size[0] > 400
    told = json.loads(ebm("data", "show", "emoji-1k", "--json", cwd=tmp_path, check=0, **own).stdout)
    assert told["suggested"][2]["step_size"] == pytest.approx(0.015, abs=1e-4)
    (tmp_path / "mine.png").write_bytes(b"not ours")
    fails(ebm("data", "show", "emoji-1k", "--out", "mine.png", cwd=tmp_path, **own), "not written by ebm", "--force")
    fails(ebm("data", "show", "nowhere", cwd=tmp_path, **own), "no data at nowhere")


def test_list_and_clear(tmp_path: Path) -> None:
    own = {"EBM_CACHE": str(tmp_path / "ebm")}
    ebm("data", "fetch", "emoji-1k", "--quiet", cwd=tmp_path, check=0, **own)
    ebm("data", "fetch", "fashion-1k", "--image-size", 14, "--quiet", cwd=tmp_path, check=0, **own)
    listed = json.loads(ebm("data", "list", "--json", cwd=tmp_path, check=0, **own).stdout)
    assert {(d["name"], tuple(d["shape"])) for d in listed["decoded"]} == {
        ("emoji-1k", (1000, 3, 32, 32)),
        ("fashion-1k", (1000, 1, 14, 14)),
    }
    ebm("data", "clear", "emoji-1k", "--dry-run", cwd=tmp_path, check=0, **own)
    assert len(list((tmp_path / "ebm" / "data").glob("*.npy"))) == 2
    ebm("data", "clear", "emoji-1k", "--quiet", cwd=tmp_path, check=0, **own)
    assert len(list((tmp_path / "ebm" / "data").glob("*.npy"))) == 1
    fails(ebm("data", "clear", "emoji-1k", cwd=tmp_path, **own), "nothing of 'emoji-1k'", "there is: fashion-1k")
    fails(ebm("data", "clear", cwd=tmp_path, **own), "give a NAME, or --all", code=2)
    ebm("data", "clear", "--all", "--quiet", cwd=tmp_path, check=0, **own)
    assert not list((tmp_path / "ebm" / "data").iterdir())
