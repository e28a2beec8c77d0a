"""How much memory there is for what is about to be made."""

import os
from pathlib import Path

_MACHINE = Path('/proc/meminfo')
_CONTAINER = Path('/sys/fs/cgroup')  # its own bounds, of version 2


def free_memory() -> int:
    """Bytes that this process may take without others being pushed out, of several ranks on this
    machine each its part; of systems that do not tell half of what they have."""
    processes = int(os.environ.get('HOROVOD_LOCAL_SIZE', 1))
    return int(min(_of_machine(), _of_container())) // processes


def _of_machine() -> int:
    if _MACHINE.is_file():
        return 1024 * int(_fields(_MACHINE)['MemAvailable:'])
    return os.sysconf('SC_PAGE_SIZE') * os.sysconf('SC_PHYS_PAGES') // 2


def _of_container() -> float:
    """What the container's limit leaves, files that are kept in memory counted as free; infinity
    without a limit."""
    try:
        most = int((_CONTAINER / 'memory.max').read_text())
        used = int((_CONTAINER / 'memory.current').read_text())
        kept = _fields(_CONTAINER / 'memory.stat')
    except (OSError, ValueError):  # no container, or 'max'
        return float('inf')
    return most - used + int(kept['active_file']) + int(kept['inactive_file'])


def _fields(path: Path) -> dict[str, str]:
    """'NAME VALUE ...' a line."""
    return dict(line.split()[:2] for line in path.read_text().splitlines())
