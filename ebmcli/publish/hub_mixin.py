"""`Potential` with a home: from a folder or the Hub, and back, under the names the Hub's mixin has."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any, Self

from ebmcli import potential
from ebmcli.errors import EBMError
from ebmcli.models.checkpoint import FILE, Checkpoint, ModelConfig, load
from ebmcli.networks import Shape
from ebmcli.recipe.agreement import contradictions
from ebmcli.storage.paths import typed_path
from ebmcli.storage.tensors import digest


class Potential(potential.Potential):
    """An energy-based model p(x) ∝ exp(−U(x)/T) with U = energy_scale · F, which can be loaded, saved and published.

    As `ebmcli.potential.Potential`, whose arguments it takes. The methods are named and keyworded as those of the
    Hub's mixin for models; loading is strict, nothing is printed, no pickle and no code is ever read.

    Attributes:
        config: the settings it is sampled with; None for one that was made by hand.
        bank: states of its persistent chains [k c h w], or None.
        recipe: what it was learned with, TOML; may be empty.
        origin: `user/repo@commit` on the Hub, or empty.
    """

    config: ModelConfig | None = None
    bank: Any = None
    recipe: str = ""
    origin: str = ""

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
        """The model of a folder, a file, a run, a bundled name, or `user/repo` on the Hub.

        Args:
            pretrained_model_name_or_path: where; `user/repo@revision` works too.
            force_download: fetch even what the cache has.
            token: of the Hub; the saved login or HF_TOKEN if left out.
            cache_dir: instead of the Hub's cache.
            local_files_only: no network.
            revision: branch, tag or commit.
            model_kwargs: as `ebmcli.models.checkpoint.load`: device, backend, energy_scale, weights, trusted.

        Raises:
            EBMError: as `ebmcli.models.lookup.look_up` and `ebmcli.models.checkpoint.load`.
        """
        from ebmcli.hub import parse
        from ebmcli.models import lookup
        from ebmcli.models.pull import fetch

        name = str(pretrained_model_name_or_path)
        address = None if name in lookup.bundled() or typed_path(name).exists() else parse(name)
        if address is None:
            path, origin = lookup.look_up(name)
        else:
            if revision is not None:
                address = address._replace(revision=revision)
            fetched = fetch(
                address,
                token=token,
                cache_dir=cache_dir,
                force=force_download,
                local_only=local_files_only,
                trusted=bool(model_kwargs.get("trusted")),
            )
            path, origin = fetched.path, str(fetched)
        return cls.of(load(path, **model_kwargs)._replace(origin=origin))

    @classmethod
    def of(cls, checkpoint: Checkpoint) -> Self:
        """The potential of a checkpoint (`ebmcli.load`), with its settings, bank and recipe."""
        p, c = checkpoint.potential, checkpoint.config
        shape: Shape = c.shape
        made = cls(p.network, shape, p.energy_scale, p.temperature, p.requested_backend)
        made.config, made.bank, made.recipe, made.origin = c, checkpoint.bank, checkpoint.recipe, checkpoint.origin
        return made.eval()

    @property
    def checkpoint(self) -> Checkpoint:
        """The same as `ebmcli.sample` takes it: `ebmcli.sample(model.checkpoint, count=64)`."""
        config = self._config(None)
        weights = {f"network.{k}": v for k, v in self.network.state_dict().items()}
        return Checkpoint(self, config, self.bank, self.recipe, digest(weights, "", self.recipe), self.origin)

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
        """Write a folder: weights, settings, recipe, card, picture. Files of that name are replaced.

        Args:
            save_directory: the folder; made where it is missing.
            config: settings (`ebmcli.ModelConfig`), needed for a potential made by hand.
            repo_id: for `push_to_hub`; the folder's name if left out.
            push_to_hub: publish it too.
            model_card_kwargs: `licence`, and `address` where others get it.
            push_to_hub_kwargs: as `push_to_hub`.

        Returns:
            the repository's page with `push_to_hub`, else None.

        Raises:
            EBMError: no settings, or the folder cannot be written.
        """
        from ebmcli.publish.card import write

        folder = Path(save_directory)
        settings = self._config(config)
        # Settings that were changed by hand are no longer those of the recipe, which would contradict them.
        recipe = "" if contradictions(settings.model_dump(), self.recipe) else self.recipe
        model = Checkpoint(self, settings, self.bank, recipe, "", self.origin)
        write(model, folder, folder.resolve().name, trusted=True, **(model_card_kwargs or {}))
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
            repo_id: `user/repo`; of a name alone, the user is the one logged in.
            config: as `save_pretrained`.
            commit_message: of the commit.
            private: make the repository private.
            token: of the Hub; the saved login or HF_TOKEN if left out.
            branch: commit to this branch.
            create_pr: open a pull request instead.
            model_card_kwargs: `licence`.

        Raises:
            EBMError: exit code 4, as `ebmcli.publish.push.push`.
        """
        from ebmcli.hub import Address, client, parse
        from ebmcli.publish.push import plan, push

        if "/" not in repo_id:
            repo_id = f"{client.ask('the login', lambda: client.api(token).whoami()['name'])}/{repo_id}"
        address = parse(repo_id)
        if address is None or address.revision:
            raise EBMError(f"{repo_id!r} is no repository: expected user/name", "a branch goes into branch=")
        with tempfile.TemporaryDirectory(prefix="ebm-push-") as temporary:
            folder = Path(temporary) / address.repo.partition("/")[2]
            options = {"address": address.repo, **(model_card_kwargs or {})}
            self.save_pretrained(folder, config=config, model_card_kwargs=options)
            steps = plan(folder, Address(address.repo, branch), private=private, token=token)
            done = push(
                steps,
                private=private,
                branch=branch,
                message=commit_message,
                pull_request=bool(create_pr),
                token=token,
            )
        return done.url

    def _config(self, given: ModelConfig | dict[str, Any] | None) -> ModelConfig:
        chosen = given if given is not None else self.config
        if chosen is None:
            raise EBMError(
                f"a potential made by hand does not know its settings, which a {FILE} needs",
                "give config=ebmcli.ModelConfig(...)",
            )
        config = chosen if isinstance(chosen, ModelConfig) else ModelConfig.model_validate(chosen)
        if config.shape != self.shape or config.energy_scale != self.energy_scale:
            raise EBMError(
                f"the settings are of states {list(config.shape)} and scale {config.energy_scale:g}, "
                f"the potential has {list(self.shape)} and {self.energy_scale:g}",
                "make them agree",
            )
        return config
