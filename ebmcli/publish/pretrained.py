"""What the Hub's methods of `ebmcli.Potential` do: a potential becomes a model folder or a repository of the Hub.

The methods themselves, with their arguments explained, stand in `ebmcli.potential`. Reading is strict, nothing is
printed, and no pickle is ever read.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ebmcli.errors import EBMError
from ebmcli.hub import Address, client, parse
from ebmcli.models import lookup
from ebmcli.models.checkpoint import FILE, Checkpoint, ModelConfig
from ebmcli.publish import card
from ebmcli.publish.push import plan, push
from ebmcli.recipe.agreement import contradictions
from ebmcli.storage.tensors import digest

if TYPE_CHECKING:
    from ebmcli.potential import Potential

Settings = ModelConfig | dict[str, Any]
"""Settings of a model, as they are or as their fields by name."""

load = lookup.load


def checkpoint_of(potential: Potential) -> Checkpoint:
    """The potential with its settings, bank and recipe; its digest is that of the file it was read from.

    A potential made by hand has no file, and its digest is that of its weights and its recipe.
    """
    checksum = potential.digest
    if not checksum:
        weights = {f"network.{k}": v for k, v in potential.network.state_dict().items()}
        checksum = digest(weights, "", potential.recipe)
    config = _settings(potential, None)
    return Checkpoint(potential, config, potential.bank, potential.recipe, checksum, potential.origin)


def write(potential: Potential, folder: Path, given: Settings | None, **card_options: Any) -> None:
    """Write the potential as a model folder; files of ours that are there are replaced.

    Args:
        potential: the potential.
        folder: where to; the model is called as it is.
        given: settings in the place of the potential's own.
        card_options: as `ebmcli.publish.card.card`.

    Raises:
        EBMError: there are no settings, they are not those of the potential, or the folder cannot be written.
    """
    settings = _settings(potential, given)
    # Settings that were changed by hand are no longer those of the recipe, which would contradict them.
    recipe = "" if contradictions(settings.model_dump(), potential.recipe) else potential.recipe
    model = Checkpoint(potential, settings, potential.bank, recipe, "", potential.origin)
    card.write(model, folder, folder.resolve().name, trusted=True, **card_options)


def publish(
    potential: Potential,
    repo_id: str,
    given: Settings | None,
    branch: str | None,
    token: str | None,
    private: bool | None,
    card_options: dict[str, Any],
    **push_options: Any,
) -> str:
    """Publish the potential on the Hub; returns the address of its page.

    Args:
        potential: the potential.
        repo_id: `user/repo`; where it is a name alone, the user is the one who is logged in.
        given: settings in the place of the potential's own.
        branch: branch to commit to; main if left out.
        token: of the Hub.
        private: as `ebmcli.publish.push.push`.
        card_options: as `ebmcli.publish.card.card`.
        push_options: message and pull_request, as `ebmcli.publish.push.push`.

    Raises:
        EBMError: as `write`; exit code 4 as `ebmcli.publish.push.push`.
    """
    if "/" not in repo_id:
        repo_id = f"{client.ask('the login', lambda: client.api(token).whoami()['name'])}/{repo_id}"
    address = parse(repo_id)
    if address is None or address.revision:
        raise EBMError(f"{repo_id!r} is no repository: expected user/name", "a branch goes into branch=")
    with tempfile.TemporaryDirectory(prefix="ebm-push-") as temporary:
        folder = Path(temporary) / address.repo.partition("/")[2]
        write(potential, folder, given, **{"address": address.repo, **card_options})
        steps = plan(folder, Address(address.repo, branch), private=private, token=token)
        return push(steps, private=private, branch=branch, token=token, **push_options).url


def _settings(potential: Potential, given: Settings | None) -> ModelConfig:
    chosen = given if given is not None else potential.config
    if chosen is None:
        raise EBMError(
            f"a potential made by hand does not know its settings, which a {FILE} needs",
            "give config=ebmcli.ModelConfig(...)",
        )
    config = chosen if isinstance(chosen, ModelConfig) else ModelConfig.model_validate(chosen)
    if config.shape != potential.shape or config.energy_scale != potential.energy_scale:
        raise EBMError(
            f"the settings are of states {list(config.shape)} and scale {config.energy_scale:g}, "
            f"the potential has {list(potential.shape)} and {potential.energy_scale:g}",
            "make them agree",
        )
    return config
