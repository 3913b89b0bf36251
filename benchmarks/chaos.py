"""What faults cost, and that they cost nothing but time: launches of real processes, of which a seed kills some.

    python benchmarks/chaos.py --minutes 10 --seed 0 [--write] [--without "link killed"]

One launch is left in peace. The same command then runs again and again in fresh folders while its processes are killed,
stopped, and its checkpoints torn. A fault is over with the first optimizer step that had not been made before it.
"""

from __future__ import annotations

import argparse
import contextlib
import datetime
import json
import os
import platform
import random
import re
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

os.environ.setdefault("RAY_AUTH_MODE", "disabled")
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import ray
import torch

from benchmarks.results_table import RESULTS, hardware, versions
from mtkd_dist.models import read_state_dict
from mtkd_dist.train.audit import Verdict
from mtkd_dist.train.checkpoints import Checkpoints
from mtkd_dist.train.consumption import latest_attempt, log_path
from mtkd_dist.verify_run import verify
from tests.nets import write_launch

STEPS, CHECKPOINT_EVERY = 2000, 50
PAUSE_SECONDS = (2.0, 6.0)
"""Of peace between two faults."""
RECOVER_SECONDS = 240.0
"""A fault from which nothing recovers in this time fails the benchmark."""


class Launch:
    """The command, its process, and how far the students have written that they are."""

    def __init__(self, config: Path, output: Path, address: str) -> None:
        self.output = output
        flags = ["--num-gpus", "4", "--teacher-gpus", "2", "--student-gpus", "2", "--cluster.address", address]
        self._command = [sys.executable, "-m", "mtkd_dist.launch", "--config", str(config), *flags]
        self._command += ["--output", str(output)]
        self.start()

    def start(self) -> None:
        self.process = subprocess.Popen(self._command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

    @property
    def checkpoints(self) -> Checkpoints | None:
        folders = list((self.output / "distil").glob("checkpoints-*"))
        return Checkpoints(folders[0]) if folders else None

    def attempt(self) -> int:
        checkpoints = self.checkpoints
        return latest_attempt(checkpoints.folder) if checkpoints is not None else 0

    def step(self, later_than: int = 0) -> int:
        """The furthest step that rank 0 of an attempt `later_than` that one has made; -1 before the first."""
        checkpoints = self.checkpoints
        if checkpoints is None:
            return -1
        attempts = range(later_than + 1, self.attempt() + 1)
        return max((_last_step(log_path(checkpoints.folder, attempt, 0)) for attempt in attempts), default=-1)


def _last_step(log: Path) -> int:
    with log.open("rb") as file:
        file.seek(max(0, log.stat().st_size - 4096))
        lines = file.read().split(b"\n")[:-1]
    return int(json.loads(lines[-1]).get("step", -1)) if lines else -1


def children(name: str) -> list[int]:
    """Processes of the Ray class `name`, among those that this benchmark has started."""
    parents, titles = {}, {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError):
                titles[int(entry.name)] = (entry / "cmdline").read_bytes().decode(errors="replace")
                parents[int(entry.name)] = int((entry / "stat").read_text().rpartition(")")[2].split()[1])

    def mine(pid: int) -> bool:
        while pid in parents and pid != os.getpid():
            pid = parents[pid]
        return pid == os.getpid()

    return sorted(pid for pid, title in titles.items() if re.match(rf"ray::{name}\b", title) and mine(pid))


def _signal_one(name: str, random_: random.Random, how: signal.Signals) -> int | None:
    pids = children(name)
    if not pids:
        return None
    pid = random_.choice(pids)
    try:
        os.kill(pid, how)
    except ProcessLookupError:
        return None
    return pid


def teacher_killed(launch: Launch, random_: random.Random) -> bool:
    return _signal_one("TeacherWorker", random_, signal.SIGKILL) is not None


def teacher_hangs(launch: Launch, random_: random.Random) -> bool:
    """For some seconds."""
    pid = _signal_one("TeacherWorker", random_, signal.SIGSTOP)
    if pid is None:
        return False

    def wake() -> None:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGCONT)

    threading.Timer(random_.uniform(3, 8), wake).start()
    return True


def student_rank_killed(launch: Launch, random_: random.Random) -> bool:
    return _signal_one("RayTrainWorker", random_, signal.SIGKILL) is not None


def link_killed(launch: Launch, random_: random.Random) -> bool:
    return _signal_one("Link", random_, signal.SIGKILL) is not None


def launch_killed(launch: Launch, random_: random.Random) -> bool:
    """And the same command again."""
    launch.process.kill()
    launch.process.wait()
    launch.start()
    return True


def checkpoint_torn(launch: Launch, random_: random.Random) -> bool:
    """The newest one, found by the same command after its process was killed."""
    launch.process.kill()
    launch.process.wait()
    checkpoints = launch.checkpoints
    steps = checkpoints.steps() if checkpoints is not None else []
    if checkpoints is not None and steps:
        newest = checkpoints.path(steps[-1])
        os.truncate(newest, int(random_.random() * newest.stat().st_size))
    launch.start()
    return bool(steps)


Fault = Callable[[Launch, random.Random], bool]
FAULTS: dict[str, Fault] = {
    fault.__name__.replace("_", " "): fault
    for fault in (teacher_killed, teacher_hangs, student_rank_killed, link_killed, launch_killed, checkpoint_torn)
}
"""Each does its harm and returns True, or returns False where there was nothing to harm."""
NEW_ATTEMPT = (student_rank_killed, launch_killed, checkpoint_torn)
"""After these the students start again."""


@dataclass
class Outcome:
    seconds: dict[str, list[float]] = field(default_factory=dict)
    """Fault -> time until each was over."""
    gave_up: int = 0
    """Launches that ended with an error, after which the same command was given again."""
    verdicts: list[Verdict] = field(default_factory=list)
    bit_equal: int = 0

    def markdown(self, minutes: float, seed: int, without: list[str]) -> str:
        installed = ", ".join(f"{name} {version}" for name, version in versions().items())
        words = f"--minutes {minutes:g} --seed {seed}" + "".join(f' --without "{name}"' for name in without)
        lines = [
            "# chaos",
            "",
            f"`python benchmarks/chaos.py {words}`, {hardware()}, Python {platform.python_version()}, {installed}, "
            f"{datetime.date.today().isoformat()}.",
            "",
            f"Launches of {STEPS} steps on one cluster, 2 teacher workers and 2 student ranks, a checkpoint every "
            f"{CHECKPOINT_EVERY} steps. Seconds from the fault to the first optimizer step that had not been made "
            "before it.",
            "",
            "| fault | count | median s | p95 s | largest s |",
            "| --- | --- | --- | --- | --- |",
        ]
        rows = [(name, self.seconds.get(name, [])) for name in FAULTS if name not in without]
        for name, seconds in [*rows, ("all together", [s for _, all_ in rows for s in all_])]:
            figures = [f"{value:.1f}" for value in _figures(seconds)] if seconds else ["–"] * 3
            lines.append("| " + " | ".join([name, str(len(seconds)), *figures]) + " |")
        runs = len(self.verdicts)
        counts = ("attempts", "samples", "lost", "repeated", "wrong", "recomputed")
        total = {name: sum(getattr(verdict, name) for verdict in self.verdicts) for name in counts}
        lines += [
            "",
            f"{runs} runs with {total['attempts']} attempts in all; final weights bit-equal to the undisturbed run: "
            f"{self.bit_equal} of {runs}. `mtkd verify-run`: {total['samples']} samples, {total['lost']} lost, "
            f"{total['repeated']} repeated, {total['wrong']} with other pixels than planned; {total['recomputed']} "
            f"recomputed. Launches that ended with an error and were given again: {self.gave_up}.",
        ]
        return "\n".join(lines) + "\n"


def _figures(seconds: list[float]) -> tuple[float, float, float]:
    ordered = sorted(seconds)
    return statistics.median(ordered), ordered[int(0.95 * (len(ordered) - 1) + 0.5)], ordered[-1]


def dealt(names: list[str], random_: random.Random) -> Iterator[str]:
    """In an order of chance, and each as often as the others: left to chance alone, one kind may never come."""
    while True:
        yield from random_.sample(names, len(names))


def disturb(
    launch: Launch,
    faults: dict[str, Fault],
    deal: Iterator[str],
    random_: random.Random,
    until: float,
    outcome: Outcome,
) -> None:
    """Harm a launch again and again until it is done, in spite of all; from `until` on it is left in peace."""
    next_fault = time.monotonic() + random_.uniform(*PAUSE_SECONDS)
    while (status := launch.process.poll()) != 0:
        if status is not None:
            outcome.gave_up += 1
            print(f"  gave up at step {launch.step()}; the same command again", flush=True)
            launch.start()
        if launch.step() >= 0 and next_fault < time.monotonic() < until:
            name = next(deal)
            # Students of a killed launch go on for a moment, with steps that do not count.
            attempt = launch.attempt() if faults[name] in NEW_ATTEMPT else 0
            before, began = launch.step(), time.monotonic()
            if faults[name](launch, random_) and (seconds := _recovered(launch, before, attempt, began)) is not None:
                outcome.seconds.setdefault(name, []).append(seconds)
                print(f"  step {before}: {name}, over after {seconds:.1f} s", flush=True)
            next_fault = time.monotonic() + random_.uniform(*PAUSE_SECONDS)
        time.sleep(0.05)


def _recovered(launch: Launch, before: int, attempt: int, began: float) -> float | None:
    """Seconds until a later attempt makes a step later than `before`; None where the launch ended first."""
    while launch.step(attempt) <= before:
        if launch.process.poll() is not None:
            return None
        if time.monotonic() - began > RECOVER_SECONDS:
            raise RuntimeError(f"nothing has moved since step {before} for {RECOVER_SECONDS:g} s: {launch.output}")
        time.sleep(0.01)
    return time.monotonic() - began


def run(folder: Path, minutes: float, seed: int, without: list[str]) -> Outcome:
    random_, outcome = random.Random(seed), Outcome()
    faults = {name: fault for name, fault in FAULTS.items() if name not in without}
    config = write_launch(folder, photos=6, steps=STEPS, batch_size=8, checkpoint_every=CHECKPOINT_EVERY)
    address = ray.get_runtime_context().gcs_address
    began = time.monotonic()
    peaceful = Launch(config, folder / "undisturbed", address)
    if peaceful.process.wait() != 0:
        raise RuntimeError(f"the undisturbed launch failed; see {peaceful.output / 'launch.log'}")
    print(f"undisturbed: {time.monotonic() - began:.0f} s", flush=True)
    until = time.monotonic() + 60 * minutes
    deal = dealt(list(faults), random_)
    while time.monotonic() < until:
        launch = Launch(config, folder / f"run-{len(outcome.verdicts)}", address)
        disturb(launch, faults, deal, random_, until, outcome)
        (finding,) = verify(launch.output)
        if finding.verdict is None:
            raise RuntimeError(str(finding))
        outcome.verdicts.append(finding.verdict)
        equal = _equal(launch.output, peaceful.output)
        outcome.bit_equal += equal
        print(f"{launch.output.name}: bit-equal {equal}; {finding}", flush=True)
    return outcome


def _equal(output: Path, other: Path) -> bool:
    """Whether the students of both runs are the same to the last bit."""
    ours, theirs = (read_state_dict(folder / "student.safetensors") for folder in (output, other))
    return ours.keys() == theirs.keys() and all(torch.equal(tensor, theirs[name]) for name, tensor in ours.items())


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=10.0, help="no fault after this; what runs is let finish")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--write", action="store_true", help="put the result into benchmarks/results/chaos.md")
    parser.add_argument("--without", action="append", default=[], choices=list(FAULTS), help="leave out a fault")
    words = parser.parse_args()
    ray.init(address="local", num_cpus=8, num_gpus=4, include_dashboard=False, log_to_driver=False)
    with tempfile.TemporaryDirectory(prefix="chaos-") as folder:
        outcome = run(Path(folder), words.minutes, words.seed, words.without)
    ray.shutdown()
    text = outcome.markdown(words.minutes, words.seed, words.without)
    print(text)
    if words.write:
        (RESULTS / "chaos.md").write_text(text)
    fine = outcome.bit_equal == len(outcome.verdicts) and all(verdict.fine for verdict in outcome.verdicts)
    return 0 if fine else 1


if __name__ == "__main__":
    sys.exit(main())
