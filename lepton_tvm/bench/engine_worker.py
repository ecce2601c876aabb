"""The process of one engine: reads one JSON object a line, answers with one.

First line: a `Job`; answer `{"version", "isa", "calls"}` or `{"error"}`. Then `{"run": n}` lines;
answer `{"seconds", "waited"}` (seconds that its threads had no CPU), or `{"profile": n}` lines;
answer `{"seconds", "calls"}`. Ends with its input, or with its parent.
"""

from __future__ import annotations

import ctypes
import json
import os
import signal
import sys

from lepton_tvm.bench.engines import ENGINES, Job, Loaded
from lepton_tvm.measure.pinning import pinned, waited

_PR_SET_PDEATHSIG = 1


def main() -> int:
    """Serve until the input ends."""
    # Engines print on standard output as they like; answers go to a copy, the rest to stderr.
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)
    _end_with_parent()
    job = Job(**json.loads(sys.stdin.readline()))
    # As many CPUs as threads, before the engine looks: some take the first one by themselves. From
    # the last CPU down, since the first one serves most interrupts.
    cpus = sorted(job.cpus, reverse=True)[: job.threads]
    os.sched_setaffinity(0, cpus)
    try:
        loaded = ENGINES[job.engine].load(job)
        loaded.run(1)
    except Exception as e:
        answers.write(json.dumps({"error": f"{type(e).__name__}: {str(e).strip()[-800:]}"}) + "\n")
        return 1
    with pinned(lambda: loaded.run(1), job.threads, cpus):
        told = {"version": loaded.version, "isa": loaded.isa, "calls": loaded.calls}
        answers.write(json.dumps(told) + "\n")
        for line in sys.stdin:
            answers.write(json.dumps(_answer(loaded, json.loads(line))) + "\n")
    return 0


def _answer(loaded: Loaded, question: dict[str, int]) -> dict[str, object]:
    if "profile" in question:
        assert loaded.profile is not None
        seconds, calls = loaded.profile(question["profile"])
        return {"seconds": seconds, "calls": calls}
    before = waited()
    seconds = loaded.run(question["run"])
    return {"seconds": seconds, "waited": waited() - before}


def _end_with_parent() -> None:
    """Have Linux end this process with its parent: a stopped one would not see its input end."""
    prctl = getattr(ctypes.CDLL(None), "prctl", None)
    if prctl is not None:
        prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)


if __name__ == "__main__":
    sys.exit(main())
