"""Processes that another one has started, as Linux tells of them."""

import contextlib
import os
import re
import signal
from pathlib import Path


def children(pid=None):
    """Numbers of the processes that a process, by default this one, has started."""
    pid = pid or os.getpid()
    found = []
    for task in Path(f'/proc/{pid}/task').iterdir():
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):  # a thread may end
            found += map(int, (task / 'children').read_text().split())
    return found


def blocks_ctrl_c(pid):
    blocked = re.search(r'SigBlk:\s+(\w+)', Path(f'/proc/{pid}/status').read_text())[1]
    return bool(int(blocked, 16) >> (signal.SIGINT - 1) & 1)
