"""How a program that another Python runs answers `child.Program`.

The programs of this folder that such a Python runs import this file alone of ours: it needs
nothing that Python does not have.
"""

import json
import os
import sys
import time


def open_answers():
    """A stream on standard output; what else is printed from now on goes to standard error, since
    whatever libraries print must not get between the answers."""
    answers = os.fdopen(os.dup(1), 'w')
    os.dup2(2, 1)
    return answers


def answer_with_times(call, answers):
    """The other side of `child.Program`: a line of seconds in, the seconds of each call out. The
    first call, before all, does not count."""
    call()
    answers.write('[]\n')
    answers.flush()
    for line in sys.stdin:
        seconds, spent = [], 0.0
        while not seconds or spent < float(line):
            started = time.perf_counter()
            call()
            seconds.append(time.perf_counter() - started)
            spent += seconds[-1]
        answers.write(json.dumps(seconds) + '\n')
        answers.flush()
