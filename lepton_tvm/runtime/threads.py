"""Running a call with exactly the asked number of threads.

TVM keeps one worker pool per calling thread, sized when that thread first runs something, and the
pool cannot grow. So the pool is sized on first use, and a later call that needs more workers than
the pool of its thread has is handed to a thread of its own.
"""

from __future__ import annotations

import ctypes
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from lepton_tvm.runtime.library import global_function, runtime_library

__all__ = ["run_with_threads"]

_T = TypeVar("_T")
_DEFAULT_MODE = 0  # neither "big cores" nor "little cores": leave placement to the system
_SET_MAX_CONCURRENCY = "_ZN3tvm7runtime9threading17SetMaxConcurrencyEi"  # SetMaxConcurrency(int)
_seen = threading.local()
_helpers: dict[int, ThreadPoolExecutor] = {}
_helpers_lock = threading.Lock()


def run_with_threads(threads: int, function: Callable[[], _T]) -> _T:
    """Call `function` where TVM's pool uses exactly `threads` threads, the caller's included."""
    if _pool_is(threads):
        return function()
    with _helpers_lock:
        helper = _helpers.get(threads)
        if helper is None:
            helper = ThreadPoolExecutor(1, thread_name_prefix=f"lepton_tvm_{threads}")
            _helpers[threads] = helper
    return helper.submit(_inside_helper, threads, function).result()


def _inside_helper(threads: int, function: Callable[[], _T]) -> _T:
    # A core-limited machine may refuse the full number; running with fewer is still correct.
    _pool_is(threads)
    return function()


def _pool_is(threads: int) -> bool:
    """Make this thread's pool use `threads` threads; False where the pool is too small."""
    count = global_function("runtime.NumThreads")
    if not getattr(_seen, "yes", False):
        _set_max_concurrency(threads)
        count()  # makes the pool now, of that size
        _seen.yes = True
    if count() != threads:
        global_function("runtime.config_threadpool")(_DEFAULT_MODE, threads)
    # A parallel loop asks this thread's limit, not the pool, whether it may use more than the
    # calling thread, and configuring the pool resets the limit.
    _set_max_concurrency(threads)
    return bool(count() == threads)


def _set_max_concurrency(threads: int) -> None:
    function = getattr(runtime_library(), _SET_MAX_CONCURRENCY, None)
    if function is None:
        return
    function.argtypes = [ctypes.c_int]
    function.restype = None
    function(threads)
