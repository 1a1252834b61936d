"""Tries mutants: each group of readers in a process of its own, with a limit on memory and on time.

The process writes a line for each reader it is done with and for each failure. If it dies (a signal, the watchdog),
that is a failure of the input it was at, and another process goes on after it.
"""

from __future__ import annotations

import faulthandler
import json
import os
import random
import resource
import subprocess
import sys
import tempfile
import time
import traceback
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple, TextIO

from fuzzing import formats, table
from fuzzing.readers import READERS

SECONDS = float(os.environ.get("FUZZ_SECONDS", "20"))
"""Longest time for one input."""
MEMORY = 2**30
"""Bytes that one input may add to what the process had before."""
RESTARTS = 12
"""Deaths of a group's process after which it is left alone."""
TESTS = Path(__file__).resolve().parents[1]


class Job(NamedTuple):
    """Inputs `begin` to `end` of a reader."""

    reader: str
    begin: int
    end: int


class Failure(NamedTuple):
    """An input that came to neither success nor a known error."""

    reader: str
    number: int
    what: str
    """exception and message, or how the process ended"""
    where: str
    """traceback"""

    @property
    def kind(self) -> str:
        """The same for failures that are likely one fault."""
        ours = [line.strip() for line in self.where.splitlines() if "/ebmcli/" in line]
        return f"{self.what.split(':')[0]} {ours[-1] if ours else ''}"


class Done(NamedTuple):
    """A reader's figures."""

    reader: str
    inputs: int
    taken: int
    """read without an error"""
    seconds: float
    slowest: float
    memory: int
    """bytes at most above what the process had before the reader's first input"""


class Report(NamedTuple):
    """What came of a run."""

    done: list[Done]
    failures: list[Failure]

    def kinds(self) -> dict[str, list[Failure]]:
        """Failures that are likely one fault together."""
        found: dict[str, list[Failure]] = {}
        for failure in self.failures:
            found.setdefault(f"{failure.reader}: {failure.kind}", []).append(failure)
        return found

    def text(self, seed: int) -> str:
        """For people: a line a reader, then each kind of failure with how to see it again."""
        everything = Done(
            "all",
            sum(d.inputs for d in self.done),
            sum(d.taken for d in self.done),
            sum(d.seconds for d in self.done),
            max((d.slowest for d in self.done), default=0.0),
            max((d.memory for d in self.done), default=0),
        )
        lines = [f"{'reader':<20} {'inputs':>7} {'taken':>7} {'s':>7} {'slowest':>8} {'MB':>6}"]
        lines += [
            f"{d.reader:<20} {d.inputs:>7} {d.taken:>7} {d.seconds:>7.1f} {d.slowest:>8.2f} {d.memory / 2**20:>6.0f}"
            for d in (*self.done, everything)
        ]
        for kind, all_of in self.kinds().items():
            first = all_of[0]
            lines += [
                "",
                f"{len(all_of)}× {kind}",
                f"  {first.what[:300]}",
                f"  again: python -m fuzzing '{first.reader}' --seed {seed} --only {first.number}",
                *(f"    {line[:200]}" for line in first.where.splitlines()[-14:]),
            ]
        return "\n".join(lines)


# In the process that reads


def try_all(jobs: list[Job], seed: int, out: TextIO, folder: Path, keep: bool = False) -> None:
    """Try the inputs of all jobs; a line of JSON on `out` for each that begins, fails, and for each job."""
    table.prepare()
    for job in jobs:
        reader = READERS[job.reader]
        samples = reader.samples()
        for files in samples:
            _write(reader, folder, files)
            reader.read(folder / "in")  # valid ones are taken; this also imports whatever it needs
        taken, slowest, began = 0, 0.0, time.perf_counter()
        before = _peak(anew=True)
        for number in range(job.begin, job.end):
            out.write(json.dumps({"at": [job.reader, number]}) + "\n")
            out.flush()
            files = made(reader, samples, seed, number)
            _write(reader, folder, files)
            start = time.perf_counter()
            failure = try_one(reader, folder / "in", number)
            slowest = max(slowest, time.perf_counter() - start)
            taken += failure is None
            if failure:
                out.write(json.dumps({"failure": failure}) + "\n")
        seconds, memory = time.perf_counter() - began, max(0, _peak() - before)
        done = Done(job.reader, job.end - job.begin, taken, seconds, slowest, memory)
        out.write(json.dumps({"done": done}) + "\n")
        out.flush()


def made(reader: Any, samples: list[dict[str, bytes]], seed: int, number: int) -> dict[str, bytes]:
    """The files of one input."""
    r = random.Random(f"{seed} {reader.name} {number}")
    files, other = dict(r.choice(samples)), r.choice(samples)
    names = [n for n in files if any(part in n if part.endswith("/") else n.endswith(part) for part in reader.damaged)]
    for name in r.sample(names, min(len(names), r.choice((1, 1, 1, 1, 2)))):
        files[name] = formats.mutant(r, name, files[name], other.get(name, next(iter(other.values()))))
    if len(names) > 1 and r.random() < 0.05:
        del files[r.choice(names)]
    return reader.seal(files) if reader.seal and r.random() < 0.5 else files


def _write(reader: Any, folder: Path, files: dict[str, bytes]) -> None:
    os.chdir(folder)
    table.write(folder / "in", files)
    os.chdir(folder / "in")


def try_one(reader: Any, folder: Path, number: int) -> Failure | bool | None:
    """Read one input under the limits; None for success, False for a known error."""
    from ebmcli.errors import EBMError

    limits = resource.getrlimit(resource.RLIMIT_AS)
    faulthandler.dump_traceback_later(SECONDS, exit=True)
    resource.setrlimit(resource.RLIMIT_AS, (_size() + MEMORY, limits[1]))
    table.interrupt_after(reader.patience)
    try:
        if reader.read(folder) is False:
            return False
    except EBMError:
        return False
    except BaseException as error:
        resource.setrlimit(resource.RLIMIT_AS, limits)
        table.interrupt_after(0)
        what = f"{type(error).__name__}: {str(error)[:4000]}"
        return Failure(reader.name, number, what, traceback.format_exc())
    finally:
        table.interrupt_after(0)
        resource.setrlimit(resource.RLIMIT_AS, limits)
        faulthandler.cancel_dump_traceback_later()
    return None


def _size() -> int:
    """Bytes of address space."""
    return int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()


def _peak(anew: bool = False) -> int:
    """Bytes in memory at most so far; `anew` counts from now on."""
    if anew:
        Path("/proc/self/clear_refs").write_text("5")
    status = Path("/proc/self/status").read_text()
    return int(status.partition("VmHWM:")[2].split()[0]) * 1024


# In the process that asks


def shares(names: list[str], count: int) -> list[Job]:
    """`count` inputs in all, by the readers' shares."""
    whole = sum(READERS[name].share for name in names)
    return [Job(name, 0, max(1, round(count * READERS[name].share / whole))) for name in names]


def run(jobs: list[Job], seed: int, environment: dict[str, str] | None = None) -> Report:
    """Try all inputs of `jobs`, each group of readers in processes of its own, two at once."""
    report = Report([], [])
    groups: dict[str, list[Job]] = {}
    for job in jobs:
        groups.setdefault(READERS[job.reader].group, []).append(job)
    with ThreadPoolExecutor(2) as pool:
        list(pool.map(lambda group: _run_to_end(group, groups[group], seed, environment or {}, report), groups))
    order = [job.reader for job in jobs]
    report.done.sort(key=lambda done: order.index(done.reader))
    return report


def _run_to_end(group: str, jobs: list[Job], seed: int, environment: dict[str, str], report: Report) -> None:
    for _ in range(RESTARTS):
        jobs = _run_group(group, jobs, seed, environment, report)
        if not jobs:
            return
    report.failures.append(Failure(jobs[0].reader, jobs[0].begin, f"the process died {RESTARTS} times", ""))


def _run_group(group: str, jobs: list[Job], seed: int, environment: dict[str, str], report: Report) -> list[Job]:
    """One process; what is left after its death."""
    with tempfile.TemporaryDirectory(prefix="fuzz-") as name:
        folder = Path(name)
        (folder / "jobs.json").write_text(json.dumps(jobs))
        words = ["--jobs", str(folder / "jobs.json"), "--seed", str(seed), "--folder", name]
        with open(folder / "err", "wb") as err:
            ended = subprocess.run(
                [sys.executable, "-X", "faulthandler", "-m", "fuzzing", *words],
                env={**os.environ, **_environment(folder), **environment},
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=err,
                check=False,
            )
        said = (folder / "err").read_text(errors="replace")
        events = (
            [json.loads(line) for line in (folder / "out").read_text().splitlines()]
            if (folder / "out").exists()
            else []
        )
    at: list[Any] | None = None
    finished = 0
    for event in events:
        at = event.get("at", at)
        if "failure" in event:
            report.failures.append(Failure(*event["failure"])) if event["failure"] else None
        if "done" in event:
            report.done.append(Done(*event["done"]))
            finished += 1
    if ended.returncode == 0:
        return []
    last = said.strip()[-6000:]
    own_fault = ended.returncode > 0 and "Timeout" not in said
    if own_fault or at is None or finished == len(jobs) or jobs[finished].reader != at[0]:
        raise RuntimeError(f"the readers {[j.reader for j in jobs[finished:]][:1]} of {group} cannot be tried:\n{last}")
    job = jobs[finished]
    how = "took too long" if "Timeout" in said else f"the process ended with {ended.returncode}"
    report.failures.append(Failure(job.reader, at[1], how, last))
    report.done.append(Done(job.reader, at[1] - job.begin + 1, 0, 0.0, 0.0, 0))
    return [job._replace(begin=at[1] + 1), *jobs[finished + 1 :]]


def _environment(folder: Path) -> dict[str, str]:
    """No network, no user's folders, one thread, few arenas (each reserves address space that nothing uses)."""
    return {
        "PYTHONPATH": os.pathsep.join((str(TESTS), str(TESTS.parent))),
        "EBM_CACHE": str(folder / "cache"),
        "HOME": str(folder),
        "HF_HOME": str(folder / "hf"),
        "HF_HUB_OFFLINE": "1",
        "EBM_NATIVE": "0",
        "OMP_NUM_THREADS": "1",
        "MALLOC_ARENA_MAX": "2",
        "COLUMNS": "100",
        "TMPDIR": str(folder),
    }
