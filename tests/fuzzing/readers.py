"""All readers: importing this fills the table."""

from fuzzing import faulty, hub, images, kept, others, words
from fuzzing.table import READERS

__all__ = ["READERS", "faulty", "hub", "images", "kept", "others", "words"]
