"""The command line of the fuzzing: see the package's docstring."""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import tempfile
from pathlib import Path

from fuzzing import run
from fuzzing.readers import READERS

parser = argparse.ArgumentParser(prog="python -m fuzzing", description="Damaged inputs for the package's readers.")
parser.add_argument("readers", nargs="*", help=f"of {', '.join(READERS)}; all by default")
parser.add_argument("--count", type=int, default=2000, help="inputs in all")
parser.add_argument("--seed", type=int, default=0)
parser.add_argument("--only", type=int, help="this one input of one reader, with its traceback")
parser.add_argument("--keep", type=Path, help="with --only: where its files are kept")
parser.add_argument("--jobs", type=Path, help=argparse.SUPPRESS)
parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
asked = parser.parse_args()
if asked.jobs:
    jobs = [run.Job(*job) for job in json.loads(asked.jobs.read_text())]
    with open(asked.folder / "out", "w") as out:
        run.try_all(jobs, asked.seed, out, asked.folder)
    sys.exit()
names = asked.readers or [name for name, reader in READERS.items() if reader.share]
if unknown := set(names) - set(READERS):
    parser.error(f"no readers {sorted(unknown)}; there are {', '.join(READERS)}")
if asked.only is None:
    jobs = run.shares(names, asked.count)
else:
    jobs = [run.Job(name, asked.only, asked.only + 1) for name in names]
    if asked.keep:
        with tempfile.TemporaryDirectory() as place:
            reader = READERS[names[0]]
            files = run.made(reader, reader.samples(), asked.seed, asked.only)
            shutil.rmtree(asked.keep, ignore_errors=True)
            for name, data in files.items():
                path = asked.keep / name
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(data)
report = run.run(jobs, asked.seed)
print(report.text(asked.seed))
sys.exit(bool(report.failures))
