"""`python -m tests.zoo`: fetch every model, and say where it lies or why it cannot be had."""

from __future__ import annotations

from tests.zoo import ZOO, Unavailable, obtain

for name in ZOO:
    try:
        print(f"{name}: {obtain(name)}")
    except Unavailable as reason:
        print(f"{name}: not available: {reason}")
