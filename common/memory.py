"""How much memory there is for what is about to be made."""

import os
from pathlib import Path

_AVAILABLE = 'MemAvailable:'
_CGROUP = Path('/sys/fs/cgroup')  # a container's own bounds


def free_memory() -> int:
    """Bytes that this process may take without others being pushed out, of several ranks on this
    machine each its part; of systems that do not tell half of what they have."""
    processes = int(os.environ.get('HOROVOD_LOCAL_SIZE', 1))
    return int(min(_of_machine(), _of_container())) // processes


def _of_machine() -> int:
    told = Path('/proc/meminfo')
    if told.is_file():
        for line in told.read_text().splitlines():
            if line.startswith(_AVAILABLE):
                return 1024 * int(line.split()[1])
    return os.sysconf('SC_PAGE_SIZE') * os.sysconf('SC_PHYS_PAGES') // 2


def _of_container() -> float:
    """What the container's limit leaves; infinity without one."""
    try:
        most = (_CGROUP / 'memory.max').read_text().strip()
        return int(most) - int((_CGROUP / 'memory.current').read_text())
    except (OSError, ValueError):  # no container of version 2, or 'max'
        return float('inf')
