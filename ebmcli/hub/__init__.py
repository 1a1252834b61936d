"""The Hugging Face Hub: models pulled from it and pushed to it, and what can go wrong on the way.

Importing this package imports neither huggingface_hub nor torch.
"""

from ebmcli.hub.address import Address, parse
from ebmcli.hub.client import Fetched

__all__ = ["Address", "Fetched", "parse"]
