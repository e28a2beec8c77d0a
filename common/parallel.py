"""CPUs, and ordered work on several threads with a bounded number of results waiting."""

import os
import platform
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from pathlib import Path
from typing import Callable, Optional, TypeVar

Item = TypeVar('Item')
Result = TypeVar('Result')

_WAITING_PER_THREAD = 16


def cpu_count() -> int:
    """CPUs this process may run on (affinity, not the machine's total)."""
    return len(os.sched_getaffinity(0)) if hasattr(os, 'sched_getaffinity') else os.cpu_count()


def cpu_fields() -> dict[str, str]:
    """What Linux tells of the first CPU, such as 'model name' and 'flags'; {} elsewhere."""
    told = Path('/proc/cpuinfo')
    if not told.is_file():
        return {}
    pairs = (line.partition(':') for line in told.read_text().split('\n\n')[0].splitlines())
    return {key.strip(): value.strip() for key, _, value in pairs}


def cpu_name() -> str:
    """Of the CPU, for figures that depend on it; its architecture where nothing tells more."""
    return cpu_fields().get('model name', platform.machine())


def batches(items: Iterable[Item], size: int) -> Iterator[list[Item]]:
    """Lists of `size` items, the last one perhaps shorter."""
    items = iter(items)
    while batch := list(islice(items, size)):
        yield batch


def ordered_map(
    function: Callable[[Item], Result],
    items: Iterable[Item],
    threads: Optional[int] = None,
    waiting_per_thread: int = _WAITING_PER_THREAD,
) -> Iterator[Result]:
    """`map(function, items)` on `threads` threads (default: one per CPU), results in order.

    Unlike `Executor.map`, `items` is consumed only `waiting_per_thread` a thread ahead of the
    results, so that neither has to fit into memory. The first exception ends the iteration; waiting
    work is dropped.
    """
    threads = threads or cpu_count()
    items = iter(items)
    pool = ThreadPoolExecutor(threads)
    try:
        waiting = deque(
            pool.submit(function, item) for item in islice(items, waiting_per_thread * threads)
        )
        while waiting:
            result = waiting.popleft().result()
            waiting.extend(pool.submit(function, item) for item in islice(items, 1))
            yield result
    finally:
        pool.shutdown(wait=True, cancel_futures=True)
