"""What a fresh interpreter loads."""

from __future__ import annotations

import subprocess
import sys


def modules_after(code: str) -> set[str]:
    """The top-level modules a fresh interpreter holds after `code`."""
    report = "; import sys; print(*{m.split('.')[0] for m in sys.modules if sys.modules[m]})"
    done = subprocess.run(
        [sys.executable, "-c", code + report], capture_output=True, text=True, check=True
    )
    return set(done.stdout.split())
