"""What a long run's files hold: the settings within bounds, and the states that it goes on from (floor 2)."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal, NamedTuple, NotRequired

from pydantic import ConfigDict, Field
from torch import Tensor
from typing_extensions import TypedDict

from ebmcli import media
from ebmcli.errors import EBMError
from ebmcli.storage.reading import parse_json
from ebmcli.storage.seals import NONE, Finding, Soundness, sum_of_file
from ebmcli.storage.tensors import not_finite
from ebmcli.storage.tensors import read_sealed as read_sealed_tensors


class Settings(TypedDict):
    """`WalkSettings` within bounds, as longrun.json has them."""

    start: str
    steps: Annotated[int, Field(ge=1, le=10**12)]
    step_size: Annotated[float, Field(gt=0, allow_inf_nan=False)]
    against: NotRequired[str | None]
    chains: NotRequired[Annotated[int, Field(ge=1, le=10**6)]]
    others: NotRequired[Annotated[int, Field(ge=0, le=10**6)]]
    kernel: NotRequired[Literal["langevin", "mala", "hmc", "underdamped"]]
    adjust: NotRequired[bool]
    warmup: NotRequired[Annotated[int, Field(ge=0, le=10**9)]]
    n_leapfrog: NotRequired[Annotated[int, Field(ge=1, le=10**6)] | None]
    persistence: NotRequired[Annotated[float, Field(ge=0, lt=1)] | None]
    temperature: NotRequired[Annotated[float, Field(gt=0, allow_inf_nan=False)]]
    seed: NotRequired[Annotated[int, Field(ge=0, lt=1 << 63)]]
    moments: NotRequired[Annotated[int, Field(ge=1, le=10**6)]]
    spacing: NotRequired[Literal["log", "linear"]]
    compared: NotRequired[Annotated[int, Field(ge=2, le=10**7)]]
    data: NotRequired[str | None]


class Facts(TypedDict):
    """longrun.json."""

    __pydantic_config__ = ConfigDict(extra="allow")  # type: ignore[misc]

    model: str
    model_name: str
    model_sha256: str
    updates: Annotated[int, Field(ge=0)]
    settings: Settings
    step_size: Annotated[float, Field(gt=0, allow_inf_nan=False)]
    threads: NotRequired[Annotated[int, Field(ge=1, le=4096)]]
    device: NotRequired[str]
    backend: NotRequired[str]
    features: NotRequired[str | None]
    data_path: NotRequired[str | None]
    energy_scale: NotRequired[Annotated[float, Field(gt=0, allow_inf_nan=False)] | None]
    judged: NotRequired[bool]


class Standing(NamedTuple):
    """A state on the disk that a long run may go on from."""

    step: int
    tensors: dict[str, Tensor]
    metrics: tuple[int, str] | None
    """bytes of the metrics so far and their checksum; None where they were not kept"""
    images: dict[str, str]
    """checksums of the files with images"""
    state: Soundness


def read_standing(path: Path) -> Standing:
    """A state that was kept.

    Raises:
        EBMError: it is damaged, or no state of a long run.
    """
    tensors, said, state = read_sealed_tensors(path)
    broken = not_finite(tensors)
    if broken:
        raise EBMError(f"{path} is damaged: {broken} is not finite")
    try:
        step = int(said["step"])
        begun = {k: tensors[k] for k in ("x", "energy", "grad", "start")}
    except (KeyError, ValueError) as error:
        raise EBMError(f"{path} is no state of a long run", "was it replaced by another file?") from error
    count = len(begun["x"]) if begun["x"].dim() == 4 else -1
    shapes = {"x": begun["x"].shape, "grad": begun["x"].shape, "start": begun["x"].shape, "energy": (count,)}
    wrong = [k for k, shape in shapes.items() if tuple(begun[k].shape) != tuple(shape)]
    if wrong or step < 0 or count < 1:
        raise EBMError(f"{path} is no state of a long run", "was it replaced by another file?")
    size = parse_json(said["metrics"], tuple[int, str], f"the metrics in {path}") if "metrics" in said else None
    images = parse_json(said.get("images", "{}"), dict[str, str], f"the images in {path}")
    return Standing(step, tensors, size, images, state)


def image_finding(path: Path, standing: Standing | None) -> Finding:
    """A file of images, read through and held against what a state says of it."""
    expected = standing.images.get(path.name) if standing is not None else None
    try:
        media.read_images(path)
    except EBMError as error:
        return Finding(path, Soundness.DAMAGED, error.message)
    if expected is None:
        return Finding(path, Soundness.UNVERIFIABLE, NONE)
    if sum_of_file(path) != expected:
        return Finding(path, Soundness.DAMAGED, f"{path} is damaged: its checksum is not that of its content")
    return Finding(path, Soundness.SOUND)
