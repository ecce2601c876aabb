"""The process of one engine: reads one JSON object a line, answers with one.

First line: a `Job`; answer `{"version", "isa"}` or `{"error"}`. Then `{"run": n}` lines; answer
`{"seconds"}`. Ends with its input.
"""

from __future__ import annotations

import json
import os
import sys

from lepton_tvm.bench.engines import ENGINES, Job


def main() -> int:
    """Serve until the input ends."""
    # Engines print on standard output as they like; answers go to a copy, the rest to stderr.
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)
    job = Job(**json.loads(sys.stdin.readline()))
    # The compiler may have pinned the parent, and with it this process, to one core.
    os.sched_setaffinity(0, job.cpus)
    try:
        loaded = ENGINES[job.engine].load(job)
        loaded.run(1)
    except Exception as e:
        answers.write(json.dumps({"error": f"{type(e).__name__}: {str(e).strip()[-800:]}"}) + "\n")
        return 1
    answers.write(json.dumps({"version": loaded.version, "isa": loaded.isa}) + "\n")
    for line in sys.stdin:
        seconds = loaded.run(int(json.loads(line)["run"]))
        answers.write(json.dumps({"seconds": seconds}) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
