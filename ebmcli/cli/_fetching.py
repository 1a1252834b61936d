"""Data sets of the Hub, downloaded with a bar before they are decoded."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ebmcli.cli._output import Output

if TYPE_CHECKING:
    from ebmcli.data.remote import Part


def fetch(source: str, split: str, output: Output, again: bool = False) -> Part | None:
    """Download what `source` means on the Hub, where that was not done; None for anything that is not there.

    Raises:
        EBMError: as `ebmcli.data.remote.fetch`.
    """
    from ebmcli.data import remote
    from ebmcli.data.chosen import chosen

    address = remote.address_of(source)
    if address is None:
        return None
    _, column, config = chosen(source)
    known = None if again else remote.known(address, split, config)
    if known is not None:  # files that are gone from the Hub's cache are needed for another size only
        return known
    with output.progress("downloading", unit="MB", every=30.0) as bar:

        def report(done: int, total: int) -> None:
            bar.resize(total // 10**6 or None)
            bar.update(done=done // 10**6)

        return remote.fetch(address, split, report, again, column, config)
