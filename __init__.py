"""VarGFaceNet on MXNet: the whole life of a light face-recognition network.

Importing this package loads nothing heavy; MXNet comes in with the subpackage that needs it.
"""

import os

__version__ = '0.1.0'

# OpenMP reads these when the first library that uses it is loaded, which can be OpenCV as well as
# MXNet; nothing of the package is imported before this file. MXNet starts a single thread when the
# number is not set. Threads wait for each other by spinning for some microseconds, then by
# sleeping: never to spin costs a third of the training speed on two idle cores, to spin for long
# three quarters on busy ones.
if hasattr(os, 'sched_getaffinity'):
    os.environ.setdefault('OMP_NUM_THREADS', str(len(os.sched_getaffinity(0))))
os.environ.setdefault('GOMP_SPINCOUNT', '10000')
