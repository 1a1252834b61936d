"""Damaged inputs for every reader of the package: `mutate` makes them, `readers` names who reads, `run` tries them.

    python -m fuzzing recipe checkpoint --count 500 --seed 3        500 inputs for each of two readers
    python -m fuzzing recipe --seed 3 --only 17 --keep /tmp/a       one input again, its files kept, with the traceback

Run it with `tests` and the repository's root in PYTHONPATH. Input n of a reader depends on the seed, the reader's
name and n alone.
"""
