"""The authors' `.pth` files to checkpoints of ours, and back.

A `.pth` holds weights only. Which network they are of, its width, channels and image size are read off the names and
shapes; the energy scale and the settings of training are not in it and come from a recipe or from the caller.
"""

from __future__ import annotations

import io
import re
import shutil
from pathlib import Path
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor

from ebmcli.errors import EBMError, UsageError
from ebmcli.models.checkpoint import FILE, Checkpoint, ModelConfig, save, versions
from ebmcli.networks import Shape, build, halvings, is_points
from ebmcli.recipe import Recipe
from ebmcli.storage.files import write_whole, writing

USUAL_SIZES = (28, 32, 64, 16, 128, 256)
"""Image sizes, px, of which the first that fits is taken where the weights fit several."""
LARGEST_IMAGE = 512
"""Largest image, px, that weights are tried for."""
Sign = Literal["energy", "logp"]


class Recognised(NamedTuple):
    """What a state dict turned out to be."""

    network: str
    shape: Shape
    arguments: dict[str, Any]
    weights: dict[str, Tensor]


def recognise(state: dict[str, Tensor], *, leak: float = 0.05, size: int | None = None) -> Recognised:
    """The network that a state dict belongs to, by names (`f.*`; `convs.*` and `fc.*`) and shapes.

    Args:
        state: of `ebmcli.models.state_dicts.read`.
        leak: slope of LeakyReLU, which weights do not tell.
        size: of the images, px, where the weights fit several.

    Raises:
        EBMError: these are the weights of another network, or of another size.
    """
    try:
        name, shape, width, more = _outline(state, size)
    except (KeyError, IndexError, ValueError, ZeroDivisionError):
        some = ", ".join(f"{k} {list(v.shape)}" for k, v in list(state.items())[:3])
        raise EBMError(
            f"these are not the weights of a network that is known here: {some}{' …' if len(state) > 3 else ''}",
            "known are toy and vanilla (f.0, f.2, …) and nonlocal (convs.0, …, fc.0, fc.2)",
        ) from None
    arguments = {"width": width, "leak": leak, **more}
    if name == "toy":
        state = {k: v[:, :, None, None] if v.dim() == 2 else v for k, v in state.items()}
    with torch.device("meta"):
        expected = build(name, shape, **arguments).state_dict()
    wrong = [k for k in sorted(expected.keys() | state.keys()) if _shape(expected, k) != _shape(state, k)]
    if wrong:
        first = wrong[0]
        raise EBMError(
            f"these look like weights of network {name} of width {width}, but {len(wrong)} do not fit, such as "
            f"{first}: {_shape(state, first) or 'missing'}, expected {_shape(expected, first) or 'none'}",
            "is this another version of the network?",
        )
    return Recognised(name, shape, arguments, state)


def _shape(state: dict[str, Tensor], name: str) -> list[int] | None:
    return list(state[name].shape) if name in state else None


def _outline(state: dict[str, Tensor], size: int | None) -> tuple[str, Shape, int, dict[str, Any]]:
    """Name, shape of an image, width and further arguments; anything but EBMError means: not known."""
    if "convs.0.weight" in state:
        width, channels = state["convs.0.weight"].shape[:2]
        stages = sum(bool(re.fullmatch(r"convs\.\d+\.theta\.weight", k)) for k in state)
        area = state["fc.0.weight"].shape[1] / (width * 2**stages)
        return "nonlocal", _image(channels, stages + 1, round(area**0.5), size), width, {}
    layers = sorted(int(m[1]) for k in state if (m := re.fullmatch(r"f\.(\d+)\.weight", k)))
    first, last = state[f"f.{layers[0]}.weight"], state[f"f.{layers[-1]}.weight"]
    width, channels = first.shape[:2]
    if first.shape[2:] in ((), (1, 1)):
        return "toy", (channels, 1, 1), width, {}
    fold = 2 if layers[0] == 1 else 1  # pixels folded into channels
    shape = _image(channels // fold**2, len(layers) - 2, last.shape[2], size, fold)
    return "vanilla", shape, width, {"space_to_depth": True} if fold == 2 else {}


def _image(channels: int, halved: int, left: int, size: int | None, fold: int = 1) -> Shape:
    """Shape of an image whose map, after folding, is halved so many times, down to `left` px."""
    maps = {s: halvings(s // fold) for s in range(8, LARGEST_IMAGE + 1, fold)}
    fits = [s for s, widths in maps.items() if len(widths) == halved + 1 and widths[-1] == left]
    if size is not None and size not in fits and fits:
        raise EBMError(f"these weights are not of images of {size} px", f"they fit {fits[0]} to {fits[-1]} px")
    side = size or next((s for s in USUAL_SIZES if s in fits), fits[0])
    return (channels, side, side)


class Conversion(NamedTuple):
    """Weights of others with all that a model of ours needs besides."""

    found: Recognised
    config: ModelConfig
    recipe: str
    """TOML; empty without a recipe"""


def with_recipe(
    state: dict[str, Tensor], recipe: Recipe, *, energy_scale: float | None = None, size: int | None = None
) -> Conversion:
    """Weights with the settings of a recipe; as `recognise` and `settings_of_recipe`."""
    found = recognise(state, leak=recipe.potential.leak, size=size or recipe.data.image_size)
    return Conversion(found, settings_of_recipe(found, recipe, energy_scale), recipe.dumps())


def by_hand(
    state: dict[str, Tensor], *, leak: float, size: int | None, regime: str | None, **settings: Any
) -> Conversion:
    """Weights with settings given one by one, as `recognise` and `settings_by_hand`; left out, the network's regime."""
    found = recognise(state, leak=leak, size=size)
    own = "convergent" if found.network == "nonlocal" else "non-convergent"
    return Conversion(found, settings_by_hand(found, regime=regime or own, **settings), "")


def settings_of_recipe(found: Recognised, recipe: Recipe, energy_scale: float | None) -> ModelConfig:
    """What a recipe says of the weights that were found.

    Raises:
        EBMError: they are of another network or size than the recipe's.
    """
    r = recipe
    side = 1 if is_points(found.shape) else r.data.image_size
    theirs = (r.potential.network, r.potential.width, (found.shape[0] if side == 1 else r.data.channels, side, side))
    ours = (found.network, found.arguments["width"], found.shape)
    if theirs != ours:
        words = [f"{n} of width {w}, {s[1]}×{s[2]}×{s[0]}" for n, w, s in (ours, theirs)]
        raise EBMError(f"these weights are {words[0]}, recipe {r.recipe.name} is {words[1]}", "give another `recipe`")
    return ModelConfig(
        name=r.recipe.name,
        network=found.network,
        arguments=r.network_arguments(),
        image_size=found.shape[1],
        channels=found.shape[0],
        energy_scale=r.energy_scale_value() if energy_scale is None else energy_scale,
        temperature=r.mcmc.temperature,
        step_size=r.mcmc.step_size,
        noise=r.mcmc.noise,
        steps=r.mcmc.steps,
        init=r.mcmc.init,
        init_scale=r.mcmc.init_scale,
        data_noise=r.data.noise_std,
        regime=r.recipe.regime,
        updates=0,
        data=_without_path(r.data.source),
        crop=r.data.crop,
        recipe_hash=r.hash(),
        versions=versions(),
    )


def _without_path(source: str) -> str:
    """A recipe's data as a model names it: of a path the last name only, as of one that was learned here."""
    is_path = source.startswith(("/", "~", ".", "\\")) or ":" in source
    return Path(source.replace("\\", "/")).name if is_path else source


def settings_by_hand(
    found: Recognised, *, step_size: float | None, energy_scale: float | None, steps: int, noise: float, regime: str
) -> ModelConfig:
    """Settings from a step size ε or an energy scale s, each giving the other by s = 2/ε² (Eq. 11).

    Raises:
        UsageError: neither is given.
    """
    if step_size is None and energy_scale is None:
        raise UsageError(
            "weights do not tell the energy scale, without which they cannot be sampled rightly",
            "give the `recipe`, the `step_size` ε of training (the scale is then 2/ε², Eq. 11), or the `energy_scale`",
        )
    scale = 2 / step_size**2 if energy_scale is None and step_size is not None else energy_scale
    assert scale is not None
    return ModelConfig(
        name="converted",
        network=found.network,
        arguments=found.arguments,
        image_size=found.shape[1],
        channels=found.shape[0],
        energy_scale=scale,
        step_size=(2 / scale) ** 0.5 if step_size is None else step_size,
        noise=noise,
        steps=steps,
        init="gaussian" if found.network == "toy" else "uniform",
        regime="convergent" if regime == "convergent" else "non-convergent",
        updates=0,
        versions=versions(),
    )


def signed(found: Recognised, sign: Sign) -> Recognised:
    """The weights with low outputs likely: as they are, or for `logp` with the last layer negated, which negates F."""
    if sign == "energy":
        return found
    prefix = "fc" if found.network == "nonlocal" else "f"
    last = max(int(m[1]) for k in found.weights if (m := re.fullmatch(rf"{prefix}\.(\d+)\.weight", k)))
    ends = (f"{prefix}.{last}.weight", f"{prefix}.{last}.bias")
    return found._replace(weights={k: -v if k in ends else v for k, v in found.weights.items()})


def write_folder(found: Recognised, config: ModelConfig, folder: Path, recipe: str = "") -> str:
    """Write weights and settings as a folder, whole or not at all; returns the checksum.

    Raises:
        EBMError: the folder exists and is not empty, or cannot be written.
    """
    if folder.exists() and not (folder.is_dir() and not any(folder.iterdir())):
        raise EBMError(f"{folder} exists and is not empty", "choose another `out`")
    made = not folder.exists()
    config = config.model_copy(update={"name": folder.resolve().name})
    try:
        with writing(folder):
            folder.mkdir(parents=True, exist_ok=True)
        if recipe:
            write_whole(folder / "recipe.toml", recipe)
        write_whole(folder / "config.json", config.model_dump_json(indent=2) + "\n")
        return save(folder / FILE, found.weights, config, recipe=recipe)
    except EBMError:
        if made:
            shutil.rmtree(folder, ignore_errors=True)
        raise


def write_pth(model: Checkpoint, path: Path) -> None:
    """Write a model's weights as a state dict that the authors' code loads.

    Raises:
        EBMError: it cannot be written.
    """
    memory = io.BytesIO()
    state = {k: v.detach().cpu().clone() for k, v in model.potential.network.state_dict().items()}
    torch.save(state, memory)
    write_whole(path, memory.getvalue())
