"""Learning: Algorithm 1, its optimisers and guard, and the run folder around it."""
