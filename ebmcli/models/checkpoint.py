"""Checkpoints that describe themselves: one safetensors file with its settings inside.

The file holds `network.*` (the weights to sample with), for persistent models `bank` (some of its
states, float16), and in a run `last.*` (the weights without averaging, where averaging is on). Its metadata
holds the settings as JSON and the recipe as TOML, and a checksum over all of them.
No pickle is ever read.
"""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any, Literal, NamedTuple

import torch
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from torch import Tensor, nn

from ebmcli._version import __version__
from ebmcli.consent import is_code, unasked
from ebmcli.engine.precision import PRECISIONS
from ebmcli.errors import ConsentError, EBMError
from ebmcli.networks import LARGEST_SIDE, NETWORKS, Shape, build_from, is_points
from ebmcli.potential import Potential
from ebmcli.recipe.agreement import contradictions
from ebmcli.storage.files import write_whole
from ebmcli.storage.reading import mistake, parse_json
from ebmcli.storage.seals import Soundness
from ebmcli.storage.tensors import digest, not_finite, pack, read_tensors

log = logging.getLogger("ebmcli.models.checkpoint")

FILE = "model.safetensors"
BANK_STATES = 256
"""How many of a persistent bank's states travel with a model."""
SCALE_HINT = "give its `energy_scale`, which is 2/EPSILON**2 (Eq. 11; 1 for a model of Eq. 2)"


class ModelConfig(BaseModel):
    """What a set of weights needs to be sampled rightly."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    format: Literal[1] = 1
    name: str = Field(description="of the recipe")
    network: str = Field(description="toy, vanilla, nonlocal or package.module:factory")
    arguments: dict[str, Any] = Field(default_factory=dict, description="of the network")
    image_size: int = Field(ge=1, le=LARGEST_SIDE, description="px; 1 for 2-D toys")
    channels: int = Field(ge=1, le=LARGEST_SIDE)
    value_range: tuple[float, float] = (-1.0, 1.0)
    sign: Literal["low energy is likely"] = "low energy is likely"
    energy_scale: float = Field(gt=0, description="U = energy_scale · F")
    temperature: float = Field(default=1.0, gt=0)
    step_size: float = Field(gt=0, description="ε of training, pixel units")
    noise: float = Field(ge=0, description="τ of training")
    steps: int = Field(ge=1, description="L of training")
    init: str = Field(description="of training's chains")
    init_scale: float = Field(default=1.0, gt=0)
    data_noise: float = Field(default=0.0, ge=0, description="ε_data of training, pixel units")
    regime: Literal["convergent", "non-convergent"]
    updates: int = Field(ge=0)
    weights: Literal["average", "last"] = "last"
    verdict: str | None = Field(default=None, description="None: not judged yet")
    data: str = ""
    data_identity: str = ""
    crop: int | None = Field(default=None, description="px, centre of the data's images before the resize")
    recipe_hash: str = ""
    versions: dict[str, str] = Field(default_factory=dict)

    @property
    def shape(self) -> Shape:
        """(channels, height, width)."""
        return (self.channels, self.image_size, self.image_size)

    @property
    def is_points(self) -> bool:
        """Whether the model is of points, as the 2-D toys are, and not of images."""
        return is_points(self.shape)

    @property
    def noise_init(self) -> str:
        """The noise that chains of this model start from when asked to start from noise."""
        return self.init if self.init in ("uniform", "gaussian") else "uniform"


class Checkpoint(NamedTuple):
    """A model in memory."""

    potential: Potential
    config: ModelConfig
    bank: Tensor | None
    """float32 [k c h w] in pixel units, for persistent models"""
    recipe: str
    """TOML"""
    digest: str
    """checksum, 64 hexadecimal digits"""
    origin: str = ""
    """`user/repo@commit` of a model from the Hub; empty for files"""


def versions() -> dict[str, str]:
    """What made a file."""
    return {"ebmcli": __version__, "torch": torch.__version__}


def save(
    path: Path,
    weights: dict[str, Tensor],
    config: ModelConfig,
    *,
    bank: Tensor | None = None,
    recipe: str = "",
    last: dict[str, Tensor] | None = None,
) -> str:
    """Write one checkpoint file, whole or not at all; returns its checksum.

    Args:
        path: of the file.
        weights: the network's state dict, to sample with.
        bank: [k c h w]; the first `BANK_STATES` are kept, as float16.
        last: the network's state dict without averaging.
    """
    tensors = {f"network.{k}": v for k, v in weights.items()}
    tensors |= {f"last.{k}": v for k, v in (last or {}).items()}
    if bank is not None:
        tensors["bank"] = bank[:BANK_STATES].to(torch.float16)
    text = json.dumps(config.model_dump(mode="json"), sort_keys=True)
    checksum = digest(tensors, text, recipe)
    metadata = {"format": "pt", "ebm": text, "recipe": recipe, "sha256": checksum}
    write_whole(path, pack(tensors, metadata))
    return checksum


def load(
    path: Path,
    *,
    device: torch.device | str = "cpu",
    backend: str = "auto",
    precision: str = "float32",
    energy_scale: float | None = None,
    weights: str = "default",
    trusted: bool = False,
) -> Checkpoint:
    """Read a checkpoint file, strictly.

    Args:
        path: of the file.
        precision: as `Potential`'s.
        energy_scale: overrides the file's, or stands in where it has none.
        weights: `default` (what the file was made to be sampled with) or `last`.
        trusted: allow `network = "package.module:factory"` to import code.

    Raises:
        EBMError: the file is missing, empty, truncated, altered, a pickle, of another kind, holds weights that
            are not finite, lacks its energy scale, or its weights do not fit its network; less than float32 for a
            convergent model.
    """
    tensors, metadata, checksum, soundness = _verified(path)
    config = _config(path, metadata, energy_scale)
    recipe = metadata.get("recipe", "")
    if soundness is Soundness.UNVERIFIABLE:
        log.warning(f"{path} has no checksum: nothing tells whether it is as it was written")
    _check_claims(path, config, recipe, trusted, energy_scale is not None)
    _check_bank(path, config, tuple(tensors["bank"].shape) if "bank" in tensors else None)
    prefix = "network."
    if weights == "last" and config.weights == "average":
        prefix = "last."
        if not any(k.startswith(prefix) for k in tensors):
            raise EBMError(f"{path} holds the averaged weights only", "leave out `weights`")
        config = config.model_copy(update={"weights": "last"})
    state = {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}
    shapes = {k: tuple(v.shape) for k, v in state.items()}
    if config.network in NETWORKS:  # without memory first: the settings may name a network beyond all bounds
        with torch.device("meta"):
            _check_fit(path, config, _build(path, config, trusted), shapes)
    network = _build(path, config, trusted)
    _check_fit(path, config, network, shapes)
    network.load_state_dict(state, strict=True)
    network.to(device)
    if precision in PRECISIONS[1:] and config.regime == "convergent":
        raise EBMError(
            f"{config.name} was learned to be a density, which {precision} would blur by many nats",
            "sample it in float32",
        )
    potential = Potential(network, config.shape, config.energy_scale, config.temperature, backend, precision)
    bank = tensors["bank"].float() if "bank" in tensors else None
    potential.config, potential.bank, potential.recipe, potential.digest = config, bank, recipe, checksum
    return Checkpoint(potential.eval(), config, bank, recipe, checksum)


def check_file(path: Path) -> Soundness:
    """Read a checkpoint file through, as `load` does, but for a network that is others' code, which is not run.

    Raises:
        EBMError: as `load`.
    """
    tensors, metadata, _, state = _verified(path)
    config = _config(path, metadata, None)
    shapes = {k: tuple(v.shape) for k, v in tensors.items()}
    _check_bank(path, config, shapes.get("bank"))
    if config.network in NETWORKS:
        own = {k.removeprefix("network."): v for k, v in shapes.items() if k.startswith("network.")}
        with torch.device("meta"):
            _check_fit(path, config, _build(path, config, False), own)
    return state


def _verified(path: Path) -> tuple[dict[str, Tensor], dict[str, str], str, Soundness]:
    """Tensors, metadata and checksum of a file that holds finite numbers, and whose own checksum, if any, is right."""
    tensors, metadata = read_tensors(path)
    checksum = digest(tensors, metadata.get("ebm", ""), metadata.get("recipe", ""))
    if metadata.get("sha256", checksum) != checksum:
        raise EBMError(
            f"{path} is damaged: its checksum is not that of its content",
            "get the file again, or another one",
        )
    broken = not_finite(tensors)
    if broken:
        raise EBMError(f"{path}: {broken} is not finite, expected finite floating point", "get the file again")
    return tensors, metadata, checksum, Soundness.SOUND if "sha256" in metadata else Soundness.UNVERIFIABLE


def examine(
    where: str, metadata: dict[str, str], shapes: dict[str, tuple[int, ...]], trusted: bool = False
) -> ModelConfig:
    """The settings of a file of which only the header is known; no weights are read and no memory is taken.

    Args:
        where: names the file in messages.
        metadata: of the safetensors header.
        shapes: of the tensors, by their names in the file.
        trusted: as `load`.

    Raises:
        EBMError: as `load`, for what the header shows.
    """
    config = _config(where, metadata, None)
    _check_claims(where, config, metadata.get("recipe", ""), trusted)
    _check_bank(where, config, shapes.get("bank"))
    if not is_code(config.network):  # which may not build without memory
        state = {k.removeprefix("network."): v for k, v in shapes.items() if k.startswith("network.")}
        with torch.device("meta"):
            _check_fit(where, config, _build(where, config, False), state)
    return config


def settings_of(path: Path) -> ModelConfig:
    """The settings of a checkpoint file; its network is not built, and no code is imported.

    Raises:
        EBMError: as `load`, for what file and settings show.
    """
    return _config(path, read_tensors(path)[1], None)


def checksum_of(path: Path, energy_scale: float | None = None, trusted: bool = False) -> str:
    """The checksum of a checkpoint file's content, as `load` gives it, before its network is built.

    Args:
        path: of the file.
        energy_scale: as `load`.
        trusted: as `load`; no code is imported here in any case.

    Raises:
        ConsentError: the file names code as its network, and is not `trusted`.
        EBMError: as `load`, for what file and settings show.
    """
    tensors, metadata = read_tensors(path)
    recipe = metadata.get("recipe", "")
    _check_claims(path, _config(path, metadata, energy_scale), recipe, trusted, energy_scale is not None)
    return digest(tensors, metadata.get("ebm", ""), recipe)


def _config(path: Path | str, metadata: dict[str, str], energy_scale: float | None) -> ModelConfig:
    if "ebm" not in metadata:
        raise EBMError(
            f"{path} does not describe itself: its metadata has no settings of an energy-based model",
            "expected a checkpoint written by ebm",
        )
    try:
        raw = parse_json(metadata["ebm"], dict[str, Any], f"the settings in {path}")
        if energy_scale is not None:
            raw["energy_scale"] = energy_scale
        if raw.get("energy_scale") is None:
            raise EBMError(
                f"{path} does not say its energy scale, without which it cannot be sampled rightly",
                SCALE_HINT,
            )
        return ModelConfig.model_validate(raw)
    except ValidationError as error:
        raise EBMError(
            f"{path} has settings that make no sense: {mistake(error)}", "was it written by a newer version of ebm?"
        ) from error
    except (ValueError, AttributeError, TypeError, RecursionError) as error:
        raise EBMError(f"{path} has unreadable settings", "get the file again") from error


def _check_claims(path: Path | str, config: ModelConfig, recipe: str, trusted: bool, scale_given: bool = False) -> None:
    """What settings and recipe say, before anything is built from it: no code unasked, and both the same.

    Args:
        path: names the file in messages.
        config: the settings.
        recipe: TOML.
        trusted: as `load`.
        scale_given: whether the energy scale is the user's, not the file's.
    """
    if is_code(config.network) and not trusted:
        raise ConsentError(f"the network of {path} cannot be built: {unasked(config.network)}")
    settings = config.model_dump(exclude={"energy_scale"} if scale_given else None)
    for found in contradictions(settings, recipe)[:1]:
        raise EBMError(f"{path} contradicts itself: {found.line()}", "get the file again, or another one")


def _build(path: Path | str, config: ModelConfig, trusted: bool) -> nn.Module:
    try:
        return build_from(config.network, config.shape, config.arguments, trusted=trusted)
    except EBMError as error:
        error.message = f"the network of {path} cannot be built: {error.message}"
        error.args = (error.message,)
        raise
    except (RuntimeError, ValueError, OverflowError) as error:  # a negative width, a size beyond all memory
        what = str(error).splitlines()[0]
        raise EBMError(f"the network of {path} cannot be built: {what}", "get the file again") from error


def _check_bank(path: Path | str, config: ModelConfig, shape: tuple[int, ...] | None) -> None:
    if shape is not None and (len(shape) != 4 or shape[1:] != config.shape or not shape[0]):
        raise EBMError(
            f"the bank in {path} is {list(shape)}, expected states of {list(config.shape)}", "get the file again"
        )


def _check_fit(path: Path | str, config: ModelConfig, network: nn.Module, received: dict[str, tuple[int, ...]]) -> None:
    expected = {k: tuple(v.shape) for k, v in network.state_dict().items()}
    missing = sorted(expected.keys() - received.keys())
    unknown = sorted(received.keys() - expected.keys())
    wrong = [
        f"{k} is {list(received[k])}, expected {list(expected[k])}"
        for k in sorted(expected.keys() & received.keys())
        if received[k] != expected[k]
    ]
    problems = [
        f"{label} {', '.join(keys[:3])}{' …' if len(keys) > 3 else ''}"
        for label, keys in (("without", missing), ("with unknown", unknown), ("", wrong))
        if keys
    ]
    if problems:
        arguments = ", ".join(f"{k} {v}" for k, v in config.arguments.items())
        raise EBMError(
            f"the weights in {path} do not fit network {config.network} ({arguments}): {'; '.join(problems)}",
            f"networks are {', '.join(NETWORKS)}",
        )
