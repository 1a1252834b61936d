"""Models to the Hub and back, through the command line and the library, against a Hub on the loopback."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from helpers.hub_server import Hub, online
from helpers.quick import ebm, fails, trained
from PIL import Image

from ebmcli.data import remote
from ebmcli.errors import UsageError
from ebmcli.hub import Address, parse
from ebmcli.media import read_metadata
from ebmcli.models import lookup
from ebmcli.models.checkpoint import FILE
from ebmcli.publish.card import FILES


@pytest.fixture
def hub() -> Iterator[Hub]:
    with Hub(cdn=True) as running:
        yield running


@pytest.fixture
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small model with a bank, in a folder of its own; not to be changed."""
    folder = tmp_path_factory.getbasetemp() / "exported" / "tiny"
    if not folder.exists():
        folder.parent.mkdir(exist_ok=True)
        ebm("export", trained(tmp_path_factory), folder, "--quiet", cwd=folder.parent, check=0)
    return folder


def there(model: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in model.iterdir()}


def test_push_delete_pull_sample(
    hub: Hub, model: Path, tmp_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """What comes back gives the same bytes; a second push commits nothing, one of another moment what has changed."""
    run, here = trained(tmp_path_factory), tmp_path / "tiny"
    shutil.copytree(model, here)
    ebm("sample", here, "--steps", 5, "--out", "before.png", "--quiet", cwd=tmp_path, check=0)
    said = online(hub, "push", run, "tester/tiny", "--message", "first", cwd=tmp_path, check=0).stderr
    assert "uploading 7 files" in said
    assert all(f" {len(data):,}  {name}" in said for name, data in hub.files("tester/tiny").items())
    sent = hub.files("tester/tiny")
    assert set(sent) == set(FILES) - {"verdict.json"}
    assert hub.commits("tester/tiny") == 1
    for name, data in sent.items():
        assert str(tmp_path_factory.getbasetemp()).encode() not in data, name
        assert b"hf_test" not in data, name
    shutil.rmtree(here)
    online(hub, "pull", "tester/tiny", "--out", here, cwd=tmp_path, check=0)
    assert (here / FILE).read_bytes() == sent[FILE] == (model / FILE).read_bytes()
    assert {p.name: p.read_bytes() for p in here.iterdir()}.items() <= sent.items()
    ebm("sample", here, "--steps", 5, "--out", "after.png", "--quiet", cwd=tmp_path, check=0)
    assert (tmp_path / "after.png").read_bytes() == (tmp_path / "before.png").read_bytes()

    again = online(hub, "push", run, "tester/tiny", cwd=tmp_path, check=0)
    assert "has this model already: no commit" in again.stderr
    assert hub.commits("tester/tiny") == 1
    online(hub, "push", run / "checkpoints" / "000020", "tester/tiny", "--quiet", cwd=tmp_path, check=0)
    assert hub.commits("tester/tiny") == 2


def test_a_hub_id_is_a_model_everywhere(hub: Hub, model: Path, tmp_path: Path) -> None:
    """sample and inspect take it; the revision is in the picture; without network the cache serves."""
    sha = hub.put("ann/tiny", there(model))
    online(hub, "sample", "ann/tiny", "--steps", 3, "--out", "a.png", cwd=tmp_path, check=0, token=None)
    assert read_metadata(tmp_path / "a.png")["model_from"] == f"ann/tiny@{sha}"
    asked = len(hub.log)
    offline = ("sample", "ann/tiny", "--steps", 3, "--out", "b.png", "--json")
    told = online(hub, *offline, cwd=tmp_path, check=0, HF_HUB_OFFLINE="1")
    assert json.loads(told.stdout)["model_from"] == f"ann/tiny@{sha}"
    assert len(hub.log) == asked
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()
    # A newer commit is taken as soon as there is network again; an old one stays reachable by its name.
    newer = hub.put("ann/tiny", {"README.md": b"changed"})
    facts = json.loads(online(hub, "inspect", "ann/tiny", "--json", cwd=tmp_path, check=0).stdout)
    assert facts["from"] == f"ann/tiny@{newer}"
    facts = json.loads(online(hub, "inspect", f"ann/tiny@{sha}", "--json", cwd=tmp_path, check=0).stdout)
    assert facts["from"] == f"ann/tiny@{sha}"
    gone = online(hub, "sample", "ann/other", cwd=tmp_path, HF_HUB_OFFLINE="1")
    fails(gone, "ann/other is not in the cache", "without HF_HUB_OFFLINE", code=4)


def test_dry_run_branch_and_pull_request(hub: Hub, model: Path, tmp_path: Path) -> None:
    dry = online(hub, "push", model, "tester/tiny", "--dry-run", cwd=tmp_path, check=0)
    assert "would upload 7 files" in dry.stderr
    assert not hub.repos
    online(hub, "push", model, "tester/tiny", "--revision", "trial", "--quiet", cwd=tmp_path, check=0)
    assert set(hub.files("tester/tiny", revision="trial")) == set(FILES) - {"verdict.json"}
    assert not hub.files("tester/tiny")
    told = online(hub, "push", model, "tester/tiny", "--pr", "--json", cwd=tmp_path, check=0)
    assert json.loads(told.stdout)["url"].endswith("/discussions/1")
    assert not hub.files("tester/tiny")
    hidden = online(hub, "push", model, "tester/tiny", "--private", cwd=tmp_path)
    fails(hidden, "public, so it would not hide", "another repository")


def test_private_and_gated(hub: Hub, model: Path, tmp_path: Path) -> None:
    """A private repository is there for those with the token only, and the hint says how to log in."""
    online(hub, "push", model, "tester/mine", "--private", "--quiet", cwd=tmp_path, check=0)
    assert hub.repos["model", "tester/mine"]["private"]
    fails(
        online(hub, "pull", "tester/mine", cwd=tmp_path, token=None),
        "the Hub has no tester/mine, or it is private",
        "hf auth login",
        code=4,
    )
    online(hub, "pull", "tester/mine", cwd=tmp_path, check=0)
    wrong = online(hub, "pull", "tester/mine", "--again", cwd=tmp_path, token="hf_wrong")
    fails(wrong, "does not accept the login", "still valid", code=4)
    assert "hf_wrong" not in wrong.stderr
    hub.put("ann/gated", there(model), gated=True)
    fails(online(hub, "pull", "ann/gated", cwd=tmp_path), "ann/gated is gated", "ask on its page", code=4)


def test_the_list_of_models(hub: Hub, model: Path, tmp_path: Path) -> None:
    hub.put("ann/tiny", there(model), downloads=7)
    hub.put("bob/resnet", {"README.md": b"x"})
    rows = json.loads(online(hub, "models", "--hub", "--json", cwd=tmp_path, check=0).stdout)
    assert [(r["name"], r["regime"], r["downloads"]) for r in rows] == [("ann/tiny", "convergent", 7)]
    assert "no model" in online(hub, "models", "--hub", "face", cwd=tmp_path, check=0).stderr


def test_the_card(model: Path, tmp_path: Path, hub: Hub) -> None:
    """The Hub reads its metadata; both ways of use name the repository; the picture is there and not blank."""
    import yaml

    online(hub, "push", model, "tester/tiny", "--license", "mit", "--quiet", cwd=tmp_path, check=0)
    files = hub.files("tester/tiny")
    text = files["README.md"].decode()
    head = yaml.safe_load(text.split("---\n")[1])
    assert head["library_name"] == "ebmcli"
    assert head["tags"] == ["energy-based-model", "ebmcli", "convergent"]
    assert (head["license"], head["pipeline_tag"]) == ("mit", "unconditional-image-generation")
    for part in ("ebm sample tester/tiny", 'ebmcli.load("tester/tiny")', "## Limits", "## Citation", "not judged yet"):
        assert part in text
    (tmp_path / "s.png").write_bytes(files["samples.png"])
    with Image.open(tmp_path / "s.png") as picture:
        assert np.asarray(picture).std() > 10


def test_paths_of_the_machine_stay_on_it(hub: Hub, tmp_path: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    """A run on somebody's own folder publishes the folder's name only."""
    secret = tmp_path / "home" / "ann" / "holidays"
    secret.mkdir(parents=True)
    for i in range(4):
        Image.fromarray(np.full((16, 16), 60 * i, np.uint8)).save(secret / f"{i}.png")
    small = ("train.updates=1", "train.positives=2", "train.negatives=2", "mcmc.steps=1", "potential.width=2")
    ebm(
        "train", "--data", secret, "--out", "run", "--quiet", *(w for s in small for w in ("--set", s)),
        "--threads", 1, cwd=tmp_path, check=0,
    )  # fmt: skip
    assert str(secret) in (tmp_path / "run" / "recipe.toml").read_text()
    online(hub, "push", "run", "tester/tiny", "--quiet", cwd=tmp_path, check=0)
    for name, data in hub.files("tester/tiny").items():
        assert str(secret.parent).encode() not in data, name
    assert b'source = "holidays"' in hub.files("tester/tiny")["recipe.toml"]


def test_the_library(hub: Hub, model: Path, tmp_path: Path, python) -> None:
    """from_pretrained, save_pretrained and push_to_hub, named as the Hub's mixin names them; nothing is printed."""
    hub.put("ann/tiny", there(model))
    code = f"""
import torch, ebmcli
p = ebmcli.Potential.from_pretrained("ann/tiny", revision="main", cache_dir="elsewhere")
assert p.origin.startswith("ann/tiny@") and p.bank.shape == (32, 1, 16, 16)
assert p.checkpoint.digest == ebmcli.load({str(model)!r}).digest
x, energy = ebmcli.sample(p.checkpoint, count=2, steps=2)
assert torch.equal(x, ebmcli.sample(ebmcli.load({str(model)!r}), count=2, steps=2)[0])
p.save_pretrained("saved")
assert p.push_to_hub("copy", private=True).endswith("tester/copy")
q = ebmcli.Potential.from_pretrained("saved")
assert all(torch.equal(a, b) for a, b in zip(p.parameters(), q.parameters()))
hand = ebmcli.Potential(p.network, p.shape, p.energy_scale)
try:
    hand.save_pretrained("hand")
except ebmcli.EBMError as error:
    assert "ModelConfig" in error.hint
else:
    raise SystemExit("saved without settings")
hand.save_pretrained("hand", config=p.config)
try:
    ebmcli.Potential.from_pretrained("ann/tiny", local_files_only=True)
except ebmcli.EBMError as error:
    assert error.code == 4
else:
    raise SystemExit("found what is not there")
"""
    ran = python("-c", code, env=hub.env(tmp_path / "hf"), cwd=tmp_path, check=0)
    assert ran.stdout + ran.stderr == ""
    assert hub.repos["model", "tester/copy"]["private"]
    assert (tmp_path / "saved" / FILE).is_file()
    assert hub.commits("tester/copy") == 1


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("ann/tiny", Address("ann/tiny")),
        ("ann/tiny@v1.0", Address("ann/tiny", "v1.0")),
        ("ann/tiny@refs/pr/1", Address("ann/tiny", "refs/pr/1")),
        ("  ann/tiny/ ", Address("ann/tiny")),
        ("ann/../tiny", None),
        ("../tiny", None),
        ("ann/tiny@../../x", None),
        ("/ann/tiny", None),
        ("./ann", None),
        ("ann/tiny/deep", None),
        ("recipes/celeba_shortrun.toml", None),
        ("ann\\tiny", None),
        ("ann/ti ny", None),
        ("tiny", None),
        ("C:/models/tiny", None),
        ("datasets/ann/tiny", None),
    ],
)
def test_addresses(text: str, address: Address | None) -> None:
    assert parse(text) == address


@pytest.mark.parametrize(
    ("url", "revision"),
    [
        ("https://huggingface.co/ann/tiny", None),
        (" https://huggingface.co/ann/tiny/ ", None),
        ("HTTP://WWW.HuggingFace.co:443/ann/tiny.git", None),
        ("https:/huggingface.co/ann/tiny?library=ebmcli#usage", None),
        ("https://ann:secret@huggingface.co/ann/tiny/discussions/3", None),
        ("https://huggingface.co/ann/tiny/tree/main", "main"),
        ("https://huggingface.co/ann/tiny/tree/refs%2Fpr%2F1", "refs/pr/1"),
        ("https://huggingface.co/ann/tiny/blob/refs/pr/1/README.md", "refs/pr/1"),
        ("https://huggingface.co/ann/tiny/resolve/v1/model.safetensors?download=true", "v1"),
        ("https://huggingface.co/api/models/ann/tiny", None),
        ("https://hub.example:8080/mirror/ann/tiny/tree/v1", "v1"),
        ("huggingface.co/ann/tiny", None),
        ("hf.co/ann/tiny/tree/v1", "v1"),
        ("git@hf.co:ann/tiny", None),
        ("hf://ann/tiny", None),
        ("hf://models/ann/tiny@v1/model.safetensors", "v1"),
    ],
)
def test_urls_of_models(url: str, revision: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    """What browsers, git and hf write for a repository; for data each has a hint."""
    monkeypatch.setenv("HF_ENDPOINT", "https://hub.example:8080/mirror/")
    assert parse(url) == Address("ann/tiny", revision)
    with pytest.raises(UsageError, match="a model of the Hub, and data is wanted") as caught:
        parse(url, "dataset")
    assert "ebm sample ann/tiny" in caught.value.hint


@pytest.mark.parametrize(
    "url",
    [
        "https://huggingface.co/datasets/ann/tiny",
        "huggingface.co/datasets/ann/tiny/viewer/default/train",
        "https://huggingface.co/datasets/ann/tiny/blob/main/data/train-0.parquet",
        "hf://datasets/ann/tiny@main/data/*.parquet",
        "git@hf.co:datasets/ann/tiny",
    ],
)
def test_urls_of_data(url: str) -> None:
    address = remote.address_of(url)
    assert address is not None
    assert address.repo == "ann/tiny"
    with pytest.raises(UsageError, match="a data set of the Hub, and a model is wanted") as caught:
        lookup.look_up(url)
    assert "ebm data show ann/tiny" in caught.value.hint


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("http://example.com/x.safetensors?token=secret", "download it"),
        ("https://ann:secret@example.com/ann/tiny", "download it"),
        ("https://huggingface.co.example.com/ann/tiny", "download it"),
        ("https://huggingface.co@example.com/ann/tiny", "download it"),
        ("http://[::1/x", "download it"),
        ("s3://bucket/x", "download it"),
        ("file:///tmp/my%20model.safetensors", "give /tmp/my model.safetensors"),
        ("https://huggingface.co/spaces/ann/tiny", "user/name"),
        ("https://huggingface.co/ann", "user/name"),
        ("https://huggingface.co/ann/tiny/tree/..%2F..", "user/name"),
        ("hf://", "user/name"),
        ("https://huggingface.co/ann/tiny/blob/main/other.safetensors", "give ann/tiny@main"),
    ],
)
def test_other_urls_are_refused(url: str, said: str) -> None:
    """As a model, as data and as a target; nothing secret in them is repeated."""
    with pytest.raises(UsageError) as caught:
        lookup.look_up(url)
    assert said in caught.value.hint
    assert "secret" not in caught.value.message + caught.value.hint


def test_files_are_named_after_the_repository() -> None:
    assert lookup.label("https://huggingface.co/ann/tiny/tree/refs%2Fpr%2F1") == "tiny@refs-pr-1"
    assert lookup.label("ann/tiny") == "tiny"
