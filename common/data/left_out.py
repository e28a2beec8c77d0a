"""Records of a training set that cannot be read, and are left out where somebody allowed it."""

import logging
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Optional

from ..checked_json import CRC32, is_whole, write_checked
from ..errors import InputError
from ..files import read_json

log = logging.getLogger(__name__)


def not_allowed(reason: str, allowed: Optional[int]) -> InputError:
    """What is raised for a record that cannot be read, which `reason` says, and may not be left
    out; it names the option where there is one, see `LeftOut`."""
    if allowed is None:
        return InputError(reason)
    return InputError(f'{reason}; --skip-corrupt N leaves up to N such records out')


class LeftOut:
    """Counts and names what is left out, from any number of threads.

    Parameters
    ----------
    allowed : records that may be left out in all; None: no option of the command allows any
    path : JSON that keeps position -> reason, so that a resumed job counts on; None keeps nothing
    anew : what the file holds is of another job; `begin` removes it

    Attributes
    ----------
    reasons : position -> why it cannot be read

    Raises
    ------
    InputError for a file of another form.
    """

    def __init__(self, allowed: Optional[int], path: Optional[Path] = None, anew: bool = False):
        self.allowed = allowed
        self.reasons: dict[int, str] = {}
        self._path = path
        self._lock = threading.Lock()
        self._anew = anew
        if path and path.is_file() and not anew:
            self.reasons = _read(path)

    def begin(self) -> None:
        """Remove the file of another job, once it is sure that this one goes on."""
        if self._path and self._anew:
            self._path.unlink(missing_ok=True)

    def add(self, bad: Mapping[int, str]) -> None:
        """Leave records out; raises `not_allowed` of the first that is one too many."""
        with self._lock:
            new = {position: bad[position] for position in bad if position not in self.reasons}
            for position, reason in new.items():
                if len(self.reasons) >= (self.allowed or 0):
                    others = f' (after {self.allowed} others that were left out)'
                    raise not_allowed(reason + (others if self.allowed else ''), self.allowed)
                self.reasons[position] = reason
                count = len(self.reasons)
                log.warning('left out, %d of at most %d: %s', count, self.allowed, reason)
            if new and self._path:
                self._write()

    def _write(self) -> None:
        try:
            # in the order of the set, whichever thread came to a record first
            write_checked(self._path, dict(sorted(self.reasons.items())))
        except OSError as error:  # of a full disk: the job goes on, and may count anew
            log.warning('%s: cannot be written (%s)', self._path, error.strerror)


def _read(path: Path) -> dict[int, str]:
    content = read_json(path, 'list of records that were left out')
    try:
        if not is_whole(content):  # a line may have been taken out, to try that record again
            log.warning('%s was changed or damaged after it was written', path)
        content.pop(CRC32, None)
        return {int(position): str(reason) for position, reason in content.items()}
    except (AttributeError, TypeError, ValueError):
        raise InputError(f'{path} is no list of records that were left out; remove it') from None
