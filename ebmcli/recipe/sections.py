"""The sections of a recipe as pydantic models: strict types, no unknown keys, frozen.

The descriptions of the fields are the reference of the format: `ebm recipe schema` prints them.
"""

from __future__ import annotations

import hashlib
import json
from typing import Annotated, Any, Literal, NamedTuple

from pydantic import BaseModel, ConfigDict, Field, model_validator

from ebmcli.recipe import checks

NETWORK_PATTERN = r"^(toy|vanilla|nonlocal|[A-Za-z_][\w.]*:[A-Za-z_][\w.]*)$"
LARGEST_SEED = 2**63 - 1


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)


class About(_Section):
    """What the recipe is called, what it is meant to learn, and whose numbers these are."""

    name: str = Field(
        pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$",
        description="Name of the recipe; that of its file for those in the package.",
        json_schema_extra={"allowed": "letters, digits, '.', '_' and '-', starting with a letter or digit"},
    )
    regime: Literal["convergent", "non-convergent"] = Field(
        description="What learning aims at: an energy whose long-run samples look like data (convergent), "
        "or one whose short-run samples do (non-convergent)."
    )
    source: Literal["paper", "authors-code", "ours"] = Field(
        default="ours",
        description="Whose settings these are; values the source leaves open are named in [provenance].",
    )
    notes: str = Field(default="", description="Remarks for people; the recipe's hash leaves them out.")


class DataSettings(_Section):
    """Positive samples: which images, and what is done to them. Pixel values lie in [-1, 1]."""

    source: str = Field(
        min_length=1,
        description="A data set of the package (mnist-10k), a toy density (gmm, rings), an id on the "
        "Hugging Face Hub (ylecun/mnist, with @revision or without), a short name that ebm data list shows, or a path.",
    )
    split: str = Field(default="train", min_length=1, description="Part of the data set to learn from.")
    image_size: int = Field(ge=1, description="Width and height in pixels after resizing; 1 for the toys.")
    channels: int = Field(ge=1, le=4, description="1 grey, 3 colour; 2 coordinates for the toys.")
    noise_std: float = Field(
        default=0.0,
        ge=0,
        description="ε_data, pixel units: standard deviation of Gaussian noise added to the positives, "
        "drawn anew at each use. Not below mcmc.step_size for convergent learning on images.",
    )
    crop: int | None = Field(
        default=None, ge=1, description="Side in pixels of a centre crop before the resize; none if left out."
    )
    augment: Literal["none", "flip"] = Field(
        default="none", description="flip: each image is mirrored left to right with probability 1/2."
    )


class PotentialSettings(_Section):
    """The energy U(x) = s·F(x; θ): its network F and its scale s."""

    network: str = Field(
        pattern=NETWORK_PATTERN,
        description="toy, vanilla or nonlocal, or package.module:factory for a torch module of your own "
        "with one scalar an image (local recipes only).",
        json_schema_extra={"allowed": '"toy", "vanilla", "nonlocal" or "package.module:factory"'},
    )
    width: int = Field(default=32, ge=1, description="n_f: channels of the first layer.")
    leak: float = Field(default=0.05, ge=0, le=1, description="Slope of every LeakyReLU below zero.")
    space_to_depth: bool = Field(
        default=False,
        description="Fold 2×2 pixels into channels before the first layer: cheaper, coarser (vanilla only).",
    )
    energy_scale: Literal["langevin", "unit"] | Annotated[float, Field(gt=0)] = Field(
        description="s: langevin is 2/ε² with ε = mcmc.step_size (Eq. 11), unit is 1 (Eq. 2), or a number."
    )


class MCMCSettings(_Section):
    """The chains that give the negative samples: x' = x − (ε²/2)·∇U(x)/T + τ·ε·z (Eq. 9)."""

    init: Literal["uniform", "gaussian", "data", "persistent"] = Field(
        description="Where each update's chains start: noise, data images, or a bank of persistent chains."
    )
    bank_init: Literal["uniform", "gaussian", "data"] = Field(
        default="uniform", description="Where the chains of a persistent bank start, and start again."
    )
    init_scale: float = Field(
        default=1.0,
        gt=0,
        description="Of noise starts, pixel units: half width of uniform noise, standard deviation of Gaussian noise.",
    )
    steps: int = Field(ge=1, description="L: Langevin steps for each update of the weights.")
    step_size: float = Field(gt=0, description="ε, pixel units.")
    noise: Literal[0, 1] = Field(default=1, description="τ: 1 with Langevin noise, 0 gradient descent.")
    temperature: float = Field(default=1.0, gt=0, description="T: U is divided by it when sampling.")
    bank_size: int | None = Field(
        default=None, ge=1, description="Chains of a persistent bank; needed with init persistent only."
    )
    rejuvenation: float = Field(
        default=0.0,
        ge=0,
        le=1,
        description="Probability that a chain drawn from the bank starts again from bank_init.",
    )


class TrainSettings(_Section):
    """How long to learn, and with how many samples."""

    updates: int = Field(ge=1, description="Updates of the weights; they are numbered from 1.")
    positives: int = Field(default=100, ge=1, description="n: data images in each update.")
    negatives: int = Field(default=100, ge=1, description="m: chains in each update.")
    seed: int = Field(default=0, ge=0, le=LARGEST_SEED, description="Seed of every random number.")
    precision: Literal["float32", "tf32", "bf16"] = Field(
        default="float32",
        description="Of the Langevin steps. tf32 and bf16 are for CUDA devices and non-convergent learning; the "
        "update of the weights is float32 always.",
    )
    ema: float = Field(
        default=0.0, ge=0, lt=1, description="Decay per update of an average of the weights; 0 keeps none."
    )


class Stage(_Section):
    """From one update on, other settings of the optimiser; what is left out stays as it was before."""

    from_update: int = Field(
        ge=2, description="First update (numbered from 1) of the stage; its decay counts from there."
    )
    name: Literal["adam", "sgd"] | None = Field(default=None, description="As in [optimizer].")
    learning_rate: float | None = Field(
        default=None, gt=0, description="As in [optimizer]; needed where the stage changes the optimiser."
    )
    decay: float | None = Field(default=None, gt=0, le=1, description="As in [optimizer].")
    minimum: float | None = Field(default=None, ge=0, description="As in [optimizer].")
    betas: (
        Annotated[
            tuple[Annotated[float, Field(ge=0, lt=1)], Annotated[float, Field(ge=0, lt=1)]],
            Field(strict=False),
        ]
        | None
    ) = Field(default=None, description="As in [optimizer].")
    momentum: float | None = Field(default=None, ge=0, lt=1, description="As in [optimizer].")


class Phase(NamedTuple):
    """One stretch of learning with every value of the optimiser filled in."""

    name: Literal["adam", "sgd"]
    learning_rate: float
    decay: float = 1.0
    minimum: float = 0.0
    betas: tuple[float, float] = (0.9, 0.999)
    momentum: float = 0.0
    from_update: int = 1


class Schedule(NamedTuple):
    """The learning rate of every update."""

    phases: tuple[Phase, ...]
    """In order; the first begins at update 1."""
    warmup: int = 0
    """Updates over which the rate rises linearly from 0."""

    def phase(self, update: int) -> Phase:
        """The phase that makes this update (counted from 1)."""
        begun = [p for p in self.phases if p.from_update <= update]
        return begun[-1] if begun else self.phases[0]

    def rate(self, update: int) -> float:
        """γ (Adam) or γ0 (SGD) of this update."""
        phase = self.phase(update)
        rate = max(phase.learning_rate * phase.decay ** (update - phase.from_update), phase.minimum)
        return rate * min(1.0, update / self.warmup) if self.warmup else rate


class OptimizerSettings(_Section):
    """How the weights move. At update u of a stage the rate is max(minimum, rate·decay^(u − from_update))."""

    name: Literal["adam", "sgd"] = Field(description="Optimiser.")
    learning_rate: float = Field(
        gt=0,
        description="γ of Adam. γ0 of SGD: γ = γ0/s with the energy scale s, which is (ε²/2)·γ0 with "
        "langevin (Eq. 13).",
    )
    betas: Annotated[
        tuple[Annotated[float, Field(ge=0, lt=1)], Annotated[float, Field(ge=0, lt=1)]],
        Field(strict=False),
    ] = Field(default=(0.9, 0.999), description="Decay of Adam's two averages.")
    momentum: float = Field(default=0.0, ge=0, lt=1, description="Momentum of SGD.")
    warmup: int = Field(default=0, ge=0, description="Updates over which the rate rises linearly at the start.")
    decay: float = Field(default=1.0, gt=0, le=1, description="Factor on the rate at each update.")
    minimum: float = Field(default=0.0, ge=0, description="The rate's floor, in the unit of learning_rate; 0 for none.")
    gradient_clip: float = Field(
        default=0.0,
        ge=0,
        description="Largest norm of the weights' gradient, taken on F (without the energy scale); longer "
        "ones are shortened to it; 0 is off.",
    )
    stages: Annotated[tuple[Stage, ...], Field(strict=False)] = Field(
        default=(), description="Later stages, in order, as [[optimizer.stages]] tables."
    )

    def schedule(self) -> Schedule:
        """The settings from update 1 on, then those of each stage, with what a stage leaves out filled in."""
        base = self.model_dump(exclude={"stages"})
        stages = [stage.model_dump() for stage in self.stages]
        phases = (Phase(**{key: p[key] for key in Phase._fields}) for p in checks.fill_stages(base, stages))
        return Schedule(tuple(phases), self.warmup)


class GuardSettings(_Section):
    """What happens when learning is about to explode: it goes back to earlier weights and on at a lower rate."""

    retries: int = Field(
        default=5, ge=0, description="Failures after which learning ends; 0 ends it at the first value out of bounds."
    )
    every: int = Field(default=50, ge=1, description="Updates between two states to go back to; two are kept.")
    factor: float = Field(
        default=20.0,
        gt=1,
        description="r, |d| or the largest pixel at so many times its running average is an explosion, and r at so "
        "many times what its path needs (R/L, and τ·ε·√D to balance the noise).",
    )
    slowdown: float = Field(
        default=0.5, gt=0, le=1, description="Factor on the learning rate for each failure, while the cooldown lasts."
    )
    cooldown: int = Field(
        default=200,
        ge=0,
        description="Updates with a lowered rate; ten times as many without a failure clear the count of failures.",
    )


class LongrunSettings(_Section):
    """Long chains (always with noise, τ = 1) of the model being learned: the test of convergent learning."""

    init: Literal["data", "uniform", "gaussian", "persistent"] = Field(
        default="data", description="Where the long chains start."
    )
    steps: int = Field(default=10_000, ge=1, description="Langevin steps of a long run.")
    adjust: Literal["none", "mh"] = Field(
        default="none", description="mh: each step is a Metropolis–Hastings proposal."
    )
    step_size: float | None = Field(
        default=None, gt=0, description="ε of the long run, pixel units; mcmc.step_size if left out."
    )
    every: int = Field(default=0, ge=0, description="Updates from one long run to the next; 0 for none.")


class LogSettings(_Section):
    """What is written while learning, and how often."""

    metrics_every: int = Field(default=1, ge=1, description="Updates from one line of metrics to the next.")
    samples_every: int = Field(default=500, ge=0, description="Updates between sample grids; 0 for none.")
    checkpoint_every: int = Field(default=1000, ge=0, description="Updates between checkpoints; 0 for none.")
    checkpoint_minutes: float = Field(
        default=10.0, ge=0, description="A checkpoint also after this many minutes without one; 0 is off."
    )
    keep_last: int = Field(default=3, ge=1, description="How many of the numbered checkpoints are kept.")


class Recipe(_Section):
    """Every setting of one training."""

    schema_version: Literal[1] = Field(alias="schema", description="Version of this format.")
    recipe: About
    data: DataSettings
    potential: PotentialSettings
    mcmc: MCMCSettings
    train: TrainSettings
    optimizer: OptimizerSettings
    guard: GuardSettings = Field(default_factory=GuardSettings)
    longrun: LongrunSettings = Field(default_factory=LongrunSettings)
    log: LogSettings = Field(default_factory=LogSettings)
    provenance: dict[str, str] = Field(
        default_factory=dict,
        description="Where values come from, and where paper and released code differ: key = text.",
    )

    @model_validator(mode="after")
    def _consistent(self) -> Recipe:
        found = checks.find_all(checks.flatten(self.resolved()))
        if found:
            raise ValueError("; ".join(mistake.line() for mistake in found))
        return self

    def energy_scale_value(self) -> float:
        """s of U = s·F as a number: 2/ε² (langevin, Eq. 11), 1 (unit, Eq. 2), or as given."""
        scale = self.potential.energy_scale
        if scale == "langevin":
            return 2.0 / self.mcmc.step_size**2
        return 1.0 if scale == "unit" else float(scale)

    @property
    def shape(self) -> tuple[int, int, int]:
        """(channels, height, width) of one state."""
        return (self.data.channels, self.data.image_size, self.data.image_size)

    def network_arguments(self) -> dict[str, Any]:
        """Arguments of the network, beside the shape."""
        arguments: dict[str, Any] = {"width": self.potential.width, "leak": self.potential.leak}
        return arguments | ({"space_to_depth": True} if self.potential.space_to_depth else {})

    def resolved(self) -> dict[str, Any]:
        """Every value, defaults too, as plain Python objects under the keys of the file."""
        return self.model_dump(by_alias=True)

    def dumps(self) -> str:
        """TOML with every value spelled out; `loads` of it gives an equal recipe."""
        import tomlkit

        document = tomlkit.document()
        document.add(tomlkit.comment(f"{self.recipe.name}, every value spelled out; settings {self.hash()}"))
        for key, value in self.model_dump(mode="json", by_alias=True, exclude_none=True).items():
            if isinstance(value, dict) and value.get("stages") == []:
                del value["stages"]
            document.add(key, tomlkit.item(value))
        return tomlkit.dumps(document)

    def hash(self) -> str:
        """Twelve hexadecimal digits that name the settings; notes and provenance do not count."""
        values = self.model_dump(mode="json", by_alias=True, exclude={"provenance": True, "recipe": {"notes"}})
        canonical = json.dumps(values, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
        return hashlib.sha256(canonical.encode()).hexdigest()[:12]

    @classmethod
    def json_schema(cls) -> dict[str, Any]:
        """JSON Schema of a recipe file, for editors and as the reference of the format."""
        schema = cls.model_json_schema(by_alias=True)
        return {"$schema": "https://json-schema.org/draft/2020-12/schema", **schema}
