"""Who is next where only a few can be served at once: clients in turn, and none waits for long."""

import asyncio
from typing import NamedTuple


class Overloaded(Exception):
    """There is no turn in time; the client should come back later."""


class Client(NamedTuple):
    """Whose request it is."""

    address: str = ''
    served: float = 0.0  # when its connection had an answer last, by whatever clock


class _Turn(NamedTuple):
    client: Client
    future: asyncio.Future


class FairQueue:
    """Turns for requests of an event loop.

    An address has as many turns as the others, however many requests it has here; of its requests
    that one is next whose connection has waited longest for an answer. Without this, who has just
    been refused, and waits as it was told, would find all places taken again by those who were
    served. Of a full queue the address with the most requests loses its newest to one with fewer.

    Parameters
    ----------
    servers : requests served at once
    places : requests that may wait
    patience : seconds that a request waits at most
    """

    def __init__(self, servers: int, places: int, patience: float):
        self._free = servers
        self._places = places
        self._patience = patience
        self._waiting: dict[str, list[_Turn]] = {}  # by address, in the order of their turns

    def __len__(self) -> int:
        """How many wait."""
        return sum(map(len, self._waiting.values()))

    async def wait(self, client: Client) -> None:
        """Return when it is the client's turn, which `done` ends.

        Raises Overloaded if the queue is full, or the turn does not come in time.
        """
        if self._free:
            self._free -= 1
            return
        if len(self) >= self._places:
            self._make_room(client.address)
        loop = asyncio.get_running_loop()
        turn = _Turn(client, loop.create_future())
        self._waiting.setdefault(client.address, []).append(turn)
        timer = loop.call_later(self._patience, self._refuse, turn)
        try:
            await turn.future
        except asyncio.CancelledError:
            if turn.future.done() and not turn.future.cancelled() and not turn.future.exception():
                self.done()  # the turn came at the moment in which the client went
            else:
                self._forget(turn)
            raise
        finally:
            timer.cancel()

    def done(self) -> None:
        """A turn has ended: the next client has one."""
        if not self._waiting:
            self._free += 1
            return
        address = next(iter(self._waiting))
        turns = self._waiting.pop(address)
        turn = min(turns, key=lambda other: other.client.served)
        turns.remove(turn)
        if turns:
            self._waiting[address] = turns  # behind the others
        turn.future.set_result(None)

    def _make_room(self, address: str) -> None:
        greediest = max(self._waiting.values(), key=len)
        if len(self._waiting.get(address, ())) + 1 >= len(greediest):
            raise Overloaded
        self._refuse(greediest[-1])

    def _refuse(self, turn: _Turn) -> None:
        if not turn.future.done():
            self._forget(turn)
            turn.future.set_exception(Overloaded())

    def _forget(self, turn: _Turn) -> None:
        turns = self._waiting.get(turn.client.address, [])
        if turn in turns:
            turns.remove(turn)
            if not turns:
                del self._waiting[turn.client.address]
