"""Models as files: checkpoints, where they are found, what is sampled from them."""
