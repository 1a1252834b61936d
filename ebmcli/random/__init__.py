"""Counter-based random numbers, and the streams they belong to."""
