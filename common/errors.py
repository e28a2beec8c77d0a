"""The two errors that commands turn into one line for the user.

A message says what was wrong, what was given and what to do. Anything else that is raised is a
fault of ours and keeps its traceback.
"""


class InputError(ValueError):
    """Wrong usage or bad input: files, options, checkpoints. A command exits with 2."""


class RunError(RuntimeError):
    """A run that started well and cannot go on: non-finite loss, full disk. Exit code 1."""
