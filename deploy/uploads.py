"""Bodies of requests that are in memory: how much they may take together."""

from typing import Callable


class Uploads:
    """Counts the bytes of all bodies; the largest unfinished one has to go if they are too many.

    Who sends slowly, or stops, holds what was sent and nothing else; a small request always finds
    its place.
    """

    def __init__(self, limit: int):
        self._limit = limit
        self._sizes: dict[object, int] = {}
        self._refusals: dict[object, Callable[[], None]] = {}  # of unfinished ones

    @property
    def total(self) -> int:
        """Bytes in memory."""
        return sum(self._sizes.values())

    def begin(self, upload: object, refuse: Callable[[], None]) -> None:
        """An upload starts; `refuse` is called if its bytes have to go."""
        self._sizes[upload] = 0
        self._refusals[upload] = refuse

    def add(self, upload: object, size: int) -> None:
        """Some more bytes of an upload have come."""
        self._sizes[upload] += size
        while self._refusals and self.total > self._limit:
            largest = max(self._refusals, key=lambda other: self._sizes[other])
            refuse = self._refusals[largest]
            self.end(largest)
            refuse()

    def complete(self, upload: object) -> None:
        """All bytes of an upload have come: it will be answered."""
        self._refusals.pop(upload, None)

    def end(self, upload: object) -> None:
        """The bytes of an upload are no longer in memory."""
        self._sizes.pop(upload, None)
        self._refusals.pop(upload, None)
