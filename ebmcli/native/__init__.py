"""The compiled CPU kernel: its build, its threads, and what it computes."""
