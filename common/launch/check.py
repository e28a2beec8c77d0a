"""Looks at the options of a command before the launcher starts ranks: `check COMMAND WORDS`.

A process of its own, since the launcher, which forks, should not have the command's libraries in
it. The log stays silent: the ranks say the same again.
"""

import logging
import sys

from .. import console


def main(command: str, words: list[str]) -> int:
    """Exit code: 0 where nothing is wrong that can be told without data."""
    return console.with_errors_told(
        f'vargfacenet {command}', lambda: console.main_of(command).check(words)
    )


if __name__ == '__main__':
    logging.disable(logging.CRITICAL)
    sys.exit(main(sys.argv[1], sys.argv[2:]))
