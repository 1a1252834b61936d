"""The energy U(x; θ) = energy_scale · F(x; θ), and the one door to its gradient."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, Self

import torch
from torch import Tensor, nn

from ebmcli.engine.choose import Backend, choose
from ebmcli.networks import Shape

if TYPE_CHECKING:
    from ebmcli.models.checkpoint import Checkpoint, ModelConfig


class EnergyAndGrad(NamedTuple):
    """Energies U [n] and their gradients ∂U/∂x [n c h w]."""

    energy: Tensor
    grad: Tensor


class Potential(nn.Module):
    """An energy-based model p(x) ∝ exp(−U(x)/T) (Eq. 1) with U = energy_scale · F.

    Low energy means likely, everywhere in this package. The energy needs torch and numpy only. The methods that read
    a potential from a model, write it and publish it (`from_pretrained`, `save_pretrained`, `push_to_hub`,
    `checkpoint`) import `ebmcli.publish.pretrained` when they are called, which does their work; their names and
    keywords are those that the Hub's mixin for models has.

    Args:
        network: F, one scalar an image: [n c h w] -> [n].
        shape: (channels, height, width) of one state.
        energy_scale: 2/ε² with the step size of *training* (Eq. 11), 1 (Eq. 2), or any positive
            number. It belongs to the model: a long run with another step size keeps it.
        temperature: T, by which kernels divide U unless told otherwise.
        backend: how gradients are computed: `auto`, or a name of `ebmcli.engine.choose.BACKENDS`.
        precision: of `energy` and `energy_and_grad`: float32, or on a CUDA device tf32 or bf16, which are faster and
            good enough for short chains only; kernels with a Metropolis test refuse them.

    Attributes:
        config: settings of the model that it was read from; None for a potential made by hand.
        bank: states of the model's persistent chains [k c h w], or None.
        recipe: what the model was learned with, as TOML; may be empty.
        digest: checksum of the model's file, 64 hexadecimal digits; empty for a potential made by hand.
        origin: `user/repo@commit` of a model of the Hub; empty for others.
    """

    config: ModelConfig | None = None
    bank: Tensor | None = None
    recipe: str = ""
    digest: str = ""
    origin: str = ""

    def __init__(
        self,
        network: nn.Module,
        shape: Shape,
        energy_scale: float = 1.0,
        temperature: float = 1.0,
        backend: str = "auto",
        precision: str = "float32",
    ) -> None:
        super().__init__()
        self.network = network
        self.shape = shape
        self.energy_scale = energy_scale
        self.temperature = temperature
        self.requested_backend = backend
        self.precision = precision
        self._backend: Backend | None = None

    def __getstate__(self) -> dict[str, Any]:
        # A copy chooses its own backend: this one reads the weights of the network it was made for.
        return {**self.__dict__, "_backend": None}

    @property
    def device(self) -> torch.device:
        """Where the weights are, and so where chains run; the CPU for an energy without weights."""
        return next(self.parameters(), torch.empty(0)).device

    @property
    def backend(self) -> Backend:
        """What computes the gradients; chosen, and checked against plain autograd, at first use."""
        if self._backend is None or self._backend.device != self.device:
            self._backend = choose(self.network, self.shape, self.device, self.requested_backend, self.precision)
        return self._backend

    def forward(self, x: Tensor) -> Tensor:
        """U(x) [n] of x [n c h w], differentiable in x and in the weights."""
        return self.energy_scale * self.network(x).flatten()

    def energy(self, x: Tensor) -> Tensor:
        """U(x) [n] of x [n c h w], without a graph; in fixed blocks, as `energy_and_grad`."""
        return self.energy_scale * self.backend.energy(x)

    def energy_and_grad(self, x: Tensor) -> EnergyAndGrad:
        """U(x) [n] and ∂U/∂x [n c h w] of x [n c h w]: every sampler gets its gradient here.

        Chains are computed in blocks of one fixed size, so that a chain's numbers do not depend
        on how many others are in the batch.
        """
        value, grad = self.backend.energy_and_grad(x)
        return EnergyAndGrad(self.energy_scale * value, self.energy_scale * grad)

    # From a model, and to one

    @classmethod
    def from_pretrained(
        cls,
        pretrained_model_name_or_path: str | Path,
        *,
        force_download: bool = False,
        token: str | bool | None = None,
        cache_dir: str | Path | None = None,
        local_files_only: bool = False,
        revision: str | None = None,
        **model_kwargs: Any,
    ) -> Self:
        """The potential of a folder, a file, a run, a bundled name, or `user/repo` on the Hub.

        Args:
            pretrained_model_name_or_path: where the model is; `user/repo@revision` works too.
            force_download: download the file even where the cache has it.
            token: token of the Hub; left out, the saved login or HF_TOKEN.
            cache_dir: folder in the place of the Hub's own cache.
            local_files_only: use no network.
            revision: branch, tag or commit on the Hub.
            model_kwargs: as `ebmcli.load`: device, backend, precision, energy_scale, weights, trusted.

        Raises:
            EBMError: as `ebmcli.load`.
        """
        from ebmcli.publish import pretrained

        fetching = {"force": force_download, "token": token, "cache_dir": cache_dir, "local_only": local_files_only}
        name = str(pretrained_model_name_or_path)
        return cls.of(pretrained.load(name, {**fetching, "revision": revision}, **model_kwargs))

    @classmethod
    def of(cls, checkpoint: Checkpoint) -> Self:
        """The potential of a checkpoint, with its settings, bank and recipe; it shares the checkpoint's weights."""
        p = checkpoint.potential
        made = cls(p.network, p.shape, p.energy_scale, p.temperature, p.requested_backend, p.precision)
        made.config, made.bank, made.recipe = checkpoint.config, checkpoint.bank, checkpoint.recipe
        made.digest, made.origin = checkpoint.digest, checkpoint.origin
        return made.train(p.training)

    @property
    def checkpoint(self) -> Checkpoint:
        """The same as `ebmcli.load` gives it: `ebmcli.sample(potential.checkpoint, count=64)`.

        Raises:
            EBMError: the potential was made by hand, and knows no settings.
        """
        from ebmcli.publish import pretrained

        return pretrained.checkpoint_of(self)

    def save_pretrained(
        self,
        save_directory: str | Path,
        *,
        config: ModelConfig | dict[str, Any] | None = None,
        repo_id: str | None = None,
        push_to_hub: bool = False,
        model_card_kwargs: dict[str, Any] | None = None,
        **push_to_hub_kwargs: Any,
    ) -> str | None:
        """Write a model folder: weights, settings, recipe, card, picture. Files of those names are replaced.

        Args:
            save_directory: the folder; it is made where it is missing.
            config: settings (`ebmcli.ModelConfig`), which a potential made by hand needs.
            repo_id: repository for `push_to_hub`; left out, the folder's name.
            push_to_hub: publish the model too.
            model_card_kwargs: `licence` of the weights, and `address` where others get the model.
            push_to_hub_kwargs: as the method `push_to_hub`.

        Returns:
            the repository's page with `push_to_hub`, else None.

        Raises:
            EBMError: there are no settings, or the folder cannot be written.
        """
        from ebmcli.publish import pretrained

        folder = Path(save_directory)
        pretrained.write(self, folder, config, **(model_card_kwargs or {}))
        if push_to_hub:
            return self.push_to_hub(repo_id or folder.resolve().name, config=config, **push_to_hub_kwargs)
        return None

    def push_to_hub(
        self,
        repo_id: str,
        *,
        config: ModelConfig | dict[str, Any] | None = None,
        commit_message: str = "Push model using ebmcli.",
        private: bool | None = None,
        token: str | None = None,
        branch: str | None = None,
        create_pr: bool | None = None,
        model_card_kwargs: dict[str, Any] | None = None,
    ) -> str:
        """Publish it on the Hub, in one commit of what has changed; returns the address of its page.

        Args:
            repo_id: `user/repo`; where it is a name alone, the user is the one who is logged in.
            config: settings, as for `save_pretrained`.
            commit_message: message of the commit.
            private: make a new repository private.
            token: token of the Hub; left out, the saved login or HF_TOKEN.
            branch: branch to commit to; left out, main.
            create_pr: open a pull request instead of committing.
            model_card_kwargs: `licence` of the weights.

        Raises:
            EBMError: exit code 4, as `ebmcli.publish.push.push`.
        """
        from ebmcli.publish import pretrained

        return pretrained.publish(
            self,
            repo_id,
            config,
            branch,
            token,
            private,
            model_card_kwargs or {},
            message=commit_message,
            pull_request=bool(create_pr),
        )
