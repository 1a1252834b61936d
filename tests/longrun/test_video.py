"""Films: what is in the files, memory that does not grow, nothing half written; `ebm chain-video`."""

from __future__ import annotations

import errno
import json
import os
import resource
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import av
import numpy as np
import pytest
import torch
from helpers.quick import Running, ebm, fails, trained
from PIL import Image

from ebmcli.errors import EBMError, UsageError
from ebmcli.evaluation import Walk, WalkSettings
from ebmcli.longrun import begin, film_subjects, films, follow
from ebmcli.media import lettering, read_metadata
from ebmcli.media.film import Sights, Stage, Title
from ebmcli.media.video import FORMATS, save_video
from ebmcli.models import lookup
from ebmcli.random.streams import Purpose, Stream
from ebmcli.sampler import Langevin, run

ENDINGS = sorted(FORMATS)


def moving(n: int, width: int = 64, height: int = 48) -> Iterator[np.ndarray]:
    """A bright square on grey that moves by two pixels every third frame."""
    for i in range(n):
        frame = np.full((height, width, 3), 40, dtype=np.uint8)
        left = 2 * (i // 3)
        frame[10:30, left : left + 16] = (250, 180, 20)
        yield frame


def read(path: Path) -> list[np.ndarray]:
    """The frames of a film as they are shown, one for each 1/fps of 20 a second."""
    if path.suffix == ".mp4":
        with av.open(str(path)) as file:
            return [f.to_ndarray(format="rgb24") for f in file.decode(video=0)]
    frames = []
    with Image.open(path) as image:
        for i in range(image.n_frames):
            image.seek(i)
            shown = np.asarray(image.convert("RGB"))  # a WebP tells a frame's duration once it is decoded
            frames += [shown] * round(float(image.info["duration"]) / 50)
    return frames


@pytest.mark.parametrize("ending", ENDINGS)
def test_frames_come_back(ending: str, tmp_path: Path) -> None:
    """Every frame, at its time, with its colours; repeated frames last; metadata is kept; nothing else is there."""
    path = tmp_path / f"film{ending}"
    film = save_video(path, moving(30), 20, {"made_by": "test", "seed": 3})
    assert (film.frames, film.seconds, film.size) == (30, 1.5, (64, 48))
    back, sent = read(path), list(moving(30))
    assert len(back) == 30
    for got, expected in zip(back, sent, strict=True):
        assert np.abs(got.astype(int) - expected).mean() < (0.5 if ending in (".apng", ".gif") else 4)
    assert read_metadata(path) == {"made_by": "test", "seed": 3}
    assert [p.name for p in tmp_path.iterdir()] == [path.name]


@pytest.mark.parametrize("ending", ENDINGS)
def test_odd_sides_are_padded(ending: str, tmp_path: Path) -> None:
    """63×47 becomes 64×48 by repeating an edge; nothing is rescaled."""
    path = tmp_path / f"film{ending}"
    frames = [np.full((47, 63, 3), v, dtype=np.uint8) for v in (10, 90)]
    frames[0][:, -1] = 200
    assert save_video(path, frames, 20).size == (64, 48)
    first = read(path)[0].astype(int)
    assert first.shape == (48, 64, 3)
    assert abs(first[20, 62].mean() - 200) < 12
    assert abs(first[20, 63].mean() - 200) < 12
    assert abs(first[20, 30].mean() - 10) < 12


def test_an_mp4_plays_in_browsers(tmp_path: Path) -> None:
    """H.264, 4:2:0, limited range, BT.709, its index before its frames."""
    path = tmp_path / "film.mp4"
    save_video(path, moving(10), 29.97)
    content = path.read_bytes()
    assert content.index(b"moov") < content.index(b"mdat")
    with av.open(str(path)) as file:
        stream = file.streams.video[0]
        assert (stream.codec_context.name, stream.codec_context.pix_fmt) == ("h264", "yuv420p")
        assert (stream.codec_context.colorspace, stream.codec_context.color_range) == (1, 1)
        assert float(stream.average_rate) == pytest.approx(29.97, abs=1e-3)
    probe = shutil.which("ffprobe")
    if probe:
        words = [probe, "-v", "error", "-count_frames", "-show_entries", "stream=nb_read_frames", "-of", "csv=p=0"]
        assert subprocess.run([*words, str(path)], capture_output=True, text=True, check=True).stdout.strip() == "10"


@pytest.mark.parametrize("ending", ENDINGS)
def test_a_film_that_fails_leaves_what_was_there(ending: str, tmp_path: Path) -> None:
    """Frames that end in an error, are of two sizes, or are none: the old file stays, no other appears."""

    def breaks() -> Iterator[np.ndarray]:
        yield from moving(5)
        raise EBMError("chains left the finite numbers")

    path = tmp_path / f"film{ending}"
    path.write_bytes(b"old")
    for frames in (breaks(), [np.zeros((48, 64, 3), np.uint8), np.zeros((48, 66, 3), np.uint8)], []):
        with pytest.raises(EBMError):
            save_video(path, frames, 20)
        assert path.read_bytes() == b"old"
        assert os.listdir(tmp_path) == [path.name]


@pytest.mark.parametrize("ending", ENDINGS)
def test_a_full_disk(ending: str, tmp_path: Path) -> None:
    """A limit on the size of files stands in for a full disk: one error, no file."""
    noise = np.random.default_rng(0)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (40_000, before[1]))
    try:
        with pytest.raises(EBMError, match="cannot write"):
            save_video(tmp_path / f"f{ending}", (noise.integers(0, 255, (96, 96, 3), np.uint8) for _ in range(60)), 20)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("ending", ENDINGS)
def test_memory_does_not_grow(ending: str, tmp_path: Path) -> None:
    """From frame 300 to frame 1,500 of pictures of 60 kB, of which all would be 70 MB: under 8 MB."""
    page = os.sysconf("SC_PAGE_SIZE")
    held: list[int] = []

    def frames() -> Iterator[np.ndarray]:
        for i in range(1500):
            if i in (300, 1499):
                held.append(int(Path("/proc/self/statm").read_text().split()[1]) * page)
            frame = np.full((128, 160, 3), 30, dtype=np.uint8)
            frame[20:40, (i % 60) * 2 : (i % 60) * 2 + 20] = i % 200
            yield frame

    save_video(tmp_path / f"f{ending}", frames(), 25)
    assert held[1] - held[0] < 8 * 2**20


def test_a_gif_has_its_greatest_speed(tmp_path: Path) -> None:
    """Hundredths of a second are its unit, and browsers show what is below two of them slowly."""
    with pytest.raises(UsageError):
        save_video(tmp_path / "f.gif", moving(3), 60)


# Steps and frames


@pytest.mark.parametrize("pace", films.PACES)
def test_a_pace_and_its_inverse(pace: str) -> None:
    """From 0 to the last step, never backwards; the time of a step is when it is shown."""
    steps = films.schedule(1000, 101, pace)
    assert steps[0] == 0
    assert steps[-1] == 1000
    assert steps == sorted(steps)
    for u in np.linspace(0, 1, 11):
        share = films.PACES[pace].steps(u, 1000)
        assert films.PACES[pace].time(share, 1000) == pytest.approx(u, abs=1e-9)
    middle = {"linear": (500, 500), "log": (25, 40), "ease": (500, 500)}[pace]
    assert middle[0] <= steps[50] <= middle[1]
    assert films.schedule(10, 30, pace, (0, 8))[-9:] == [10] * 9
    assert films.schedule(0, 4, pace) == [0] * 4
    assert films.schedule(7, 1, pace) == [7]


def test_scenes_are_the_chains_themselves() -> None:
    """Two kernels from one start on one noise: each is what `run` gives, wherever the scenes lie."""
    model = lookup.load("mnist-shortrun")
    kernels = [Langevin(model.potential, 0.01), Langevin(model.potential, 0.005)]
    x = torch.rand(3, 1, 28, 28) * 2 - 1
    seen = list(films.scenes(kernels, x, 5, [0, 0, 1, 4, 4, 9]))
    assert [s.step for s in seen] == [0, 0, 1, 4, 4, 9]
    for i, kernel in enumerate(kernels):
        path = run(kernel, kernel.init(x, Stream(5, Purpose.MCMC)), 9)
        assert torch.equal(seen[-1].panels[i].x, path.state.x)
        assert torch.equal(seen[3].panels[i].energy, path.energy[4])


# What frames show


@pytest.mark.parametrize("size", [(1280, 720), (720, 1280), (800, 450), (320, 240), (200, 200)])
@pytest.mark.parametrize("models_", [1, 2])
def test_frames_of_any_size(size: tuple[int, int], models_: int) -> None:
    """Images, a counter and a curve on every size; the curve grows with time and the rest of the frame stays."""
    titles = [Title("a model with a very long name " * 3, "ε 0.01, from noise, seed 0", (0.0, 1.0))] * models_
    stage = Stage(size, titles, 1000)
    rng = np.random.default_rng(0)
    pictures = []
    for step in (0, 500, 1000):
        sights = [Sights(rng.uniform(-1, 1, (9, 1, 8, 8)), rng.normal(size=9) - step, 0.5)] * models_
        pictures.append(np.asarray(stage.frame(step / 1000, step, sights)).astype(int))
    assert all(p.shape == (size[1], size[0], 3) for p in pictures)
    assert (pictures[0] != pictures[2]).any()
    orange = [(np.abs(p - (255, 180, 84)).sum(-1) < 60).sum() for p in pictures]
    assert orange[2] > orange[0] or models_ == 2  # the second curve lies on the first


def test_energies_that_are_not_numbers_or_unknown() -> None:
    """No band without data; a flat energy and infinite ones draw too."""
    stage = Stage((320, 240), [Title("m", "", None)], 10)
    for step, energy in enumerate([[1.0, 1.0], [float("inf"), 0.0], [2.0, -3.0]]):
        stage.frame(step / 10, step, [Sights(np.zeros((2, 1, 4, 4)), energy)])


def test_points_are_drawn_too() -> None:
    """2-D states are a picture of where they are."""
    stage = Stage((320, 240), [Title("m", "", None)], 10)
    points = np.random.default_rng(0).normal(size=(500, 2, 1, 1)) * 0.3
    frame = np.asarray(stage.frame(0.0, 0, [Sights(points, np.zeros(500))]))
    assert frame.std() > 5


def test_figures_stand_still() -> None:
    """All figures are of one width, and a text that is too wide is cut."""
    assert lettering.width("1,111", 30) == lettering.width("8,088", 30)
    assert lettering.width(lettering.shorten("a long name of a model", 30, 100), 30) <= 100
    assert lettering.shorten("short", 30, 1000) == "short"


# The command


def test_chain_video(tmp_path: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    """The same bytes twice; a mp4 and a GIF; the JSON says what is in it; what it is can be asked."""
    shutil.copytree(trained(tmp_path_factory, "tiny_noise"), tmp_path / "tiny")
    words = ("chain-video", "tiny", "--steps", 20, "--seconds", 0.5, "--size", "320x240", "--count", 4)
    result = json.loads(ebm(*words, "--json", cwd=tmp_path, check=0).stdout)
    assert (result["frames"], result["width"], result["height"]) == (15, 320, 240)
    film = tmp_path / "tiny-chains.mp4"
    first = film.read_bytes()
    assert len(first) == result["bytes"]
    assert len(read(film)) == 15
    ebm(*words, cwd=tmp_path, check=0)
    assert film.read_bytes() == first
    made = read_metadata(film)
    assert made["settings"]["steps"] == 20
    assert str(tmp_path) not in json.dumps(made)
    assert "settings.steps" in ebm("inspect", film, cwd=tmp_path, check=0).stdout
    ebm(*words, "--out", "a.gif", "--kernel", "mala", "--step-size", 0.001, "--from", "data", cwd=tmp_path, check=0)
    assert len(Image.open(tmp_path / "a.gif").convert("RGB").getcolors(10**6) or []) > 4


def test_two_models_side_by_side(tmp_path: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    """Twice the same model is twice the same film, side by side; another size is refused."""
    for name in ("tiny", "tiny_noise"):
        shutil.copytree(trained(tmp_path_factory, name), tmp_path / name)
    words = ("--steps", 5, "--seconds", 0.2, "--size", "640x360", "--count", 4)
    ebm("chain-video", "tiny_noise", "tiny", *words, "--from", "noise", "--pace", "ease", cwd=tmp_path, check=0)
    assert (tmp_path / "tiny_noise-vs-tiny-chains.mp4").is_file()
    fails(ebm("chain-video", "tiny", "mnist-shortrun", *words, cwd=tmp_path), "16×16×1", "28×28×1")


def test_a_long_run_is_filmed_from_its_folder(tmp_path: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    """Its own images and energies, no chain is run; half written it is filmed as far as it goes."""
    shutil.copytree(trained(tmp_path_factory, "tiny_noise"), tmp_path / "tiny")
    model = lookup.load(tmp_path / "tiny")
    walk = Walk(model, WalkSettings.of(model, steps=30, chains=6, step_size=0.01, against="none", moments=4), None)
    folder = begin(tmp_path / "long", str(tmp_path / "tiny"), walk)
    list(follow(walk, folder))
    folder.write_result({"measured": {"energy_data": {"value": -5.0}, "energy_data_sd": 2.0}})
    film = ("chain-video", "long", "--seconds", 0.5, "--size", "320x240", "--count", 4)
    result = json.loads(ebm(*film, "--json", cwd=tmp_path, check=0).stdout)
    assert result["frames"] == 15
    kept = film_subjects.read_kept(tmp_path / "long")
    assert (kept.steps, kept.trained) == (30, 3)
    records = {r.step: r for r in kept.run.records()}
    seen = list(film_subjects.kept_scenes(kept, [0, 3, 30], 4, lambda step: None))
    assert [s.panels[0].energy.tolist() for s in seen] == [
        pytest.approx(records[step].energy[:4]) for step in (0, 3, 30)
    ]
    with np.load(tmp_path / "long" / "images" / "000030.npz") as opened:
        assert (seen[-1].panels[0].x.numpy() == opened["images"][:4]).all()
    assert kept.title.data == (-5.0, 2.0)

    fails(ebm(*film, "--steps", 10, cwd=tmp_path), "--steps is for a model", code=2)
    fails(ebm("chain-video", "long", "tiny", cwd=tmp_path), "alone", code=2)
    (tmp_path / "long" / "result.json").unlink()
    with open(tmp_path / "long" / "metrics.jsonl", "a") as file:
        file.write('{"step": 31, "ener')
    ebm(*film, cwd=tmp_path, check=0)
    (tmp_path / "long" / "images" / "000030.npz").write_bytes(b"PK half")
    fails(ebm(*film, cwd=tmp_path), "000030.npz")
    shutil.rmtree(tmp_path / "long" / "images")
    fails(ebm(*film, cwd=tmp_path), "no images yet")
    (tmp_path / "long" / "longrun.json").write_text("{")
    fails(ebm(*film, cwd=tmp_path), "longrun.json")


def test_bad_input(tmp_path: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    """One line each, the right exit code, nothing written, nothing lost."""
    shutil.copytree(trained(tmp_path_factory, "tiny_noise"), tmp_path / "tiny")
    short = ("--steps", 2, "--seconds", 0.2)
    for words, part, code in [
        (("nobody",), "nobody", 1),
        (("tiny", "nowhere/model"), "nowhere", 4),
        (("tiny", "--out", "film.avi"), ".mp4", 2),
        (("tiny", "--out", "film"), ".mp4", 2),
        (("tiny", "--pace", "fast"), "linear", 2),
        (("tiny", "--size", "big"), "1280x720", 2),
        (("tiny", "--size", "20x20"), "200", 2),
        (("tiny", "--kernel", "gibbs"), "langevin", 2),
        (("tiny", "--kernel", "mala", "--noise", 0), "--noise 0", 2),
        (("tiny", "--from", "bank"), "bank", 1),
        (("tiny", "--from", "nothing.png"), "nothing.png", 1),
        (("tiny", "--out", "tiny"), "", 2),
        (("tiny", "--out", "f.gif", "--fps", 60), "50", 2),
    ]:
        fails(ebm("chain-video", *words, *short, cwd=tmp_path), part, code=code)
    (tmp_path / "mine.mp4").write_bytes(b"a film of mine")
    fails(ebm("chain-video", "tiny", *short, "--out", "mine.mp4", cwd=tmp_path), "--force")
    assert (tmp_path / "mine.mp4").read_bytes() == b"a film of mine"
    fails(ebm("chain-video", "tiny", *short, "--out", "mine.mp4/f.mp4", cwd=tmp_path), "mine.mp4")
    fails(ebm("chain-video", "tiny", *short, "--step-size", 1e30, cwd=tmp_path), "finite", code=3)
    assert sorted(p.name for p in tmp_path.iterdir() if p.name != ".streams") == ["mine.mp4", "tiny"]


@pytest.mark.skipif(not Path("/proc").is_dir(), reason="needs /proc")
def test_a_place_that_cannot_be_written(tmp_path: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    """/proc takes no files, from root either."""
    shutil.copytree(trained(tmp_path_factory, "tiny_noise"), tmp_path / "tiny")
    words = ("chain-video", "tiny", "--steps", 2, "--seconds", 0.2, "--out", "/proc/film.mp4")
    fails(ebm(*words, cwd=tmp_path), "/proc/film.mp4")


def test_ctrl_c_leaves_nothing(tmp_path: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    """Interrupted half-way: exit 130, no file, no temporary one."""
    shutil.copytree(trained(tmp_path_factory, "tiny_noise"), tmp_path / "tiny")
    words = ("chain-video", "tiny", "--steps", 10**5, "--seconds", 100, "--pace", "linear", "--out", "f.gif")
    running = Running(words, tmp_path, {})
    try:
        running.until(lambda: any(p.name.startswith(".f.gif") for p in tmp_path.iterdir()))
        running.signal(2)
        assert running.end().code == 130
    finally:
        running.signal(9)
    assert [p.name for p in tmp_path.iterdir() if p.name != ".streams"] == ["tiny"]


def test_errors_of_the_system_are_ours(tmp_path: Path) -> None:
    """ENOSPC says that the disk is full."""
    from ebmcli.storage.files import replacing

    with pytest.raises(EBMError) as caught, replacing(tmp_path / "f.mp4"):
        raise OSError(errno.ENOSPC, "No space left on device")
    assert "No space left" in caught.value.message
    assert "make room" in caught.value.hint
