"""Models for others: cards, and the way to the Hugging Face Hub."""
