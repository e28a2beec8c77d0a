"""Processes that look at pictures for the web service, and the queue before them."""

import asyncio
import contextlib
import json
import logging
from collections.abc import Sequence
from typing import NamedTuple, Optional

from ..common.child import LENGTH, ctrl_c_held_off, frame, how_it_ended, module_words
from ..common.errors import InputError
from . import picture_worker
from .faces import LARGEST, Face
from .fair_queue import Client, FairQueue, Overloaded

log = logging.getLogger(__name__)

PLACES = 128  # requests that may wait
PATIENCE_SECONDS = 0.75  # for which they do: with the work of one picture less than 2 s
JOB_SECONDS = 30.0  # the largest picture takes a few
START_SECONDS = 300.0  # a checkpoint that MXNet opens on a busy machine
AGAIN_SECONDS, MOST_SECONDS = 5.0, 60.0  # between starts that fail: at first, and in the end
MEND_SECONDS = 2.0  # between looks at processes that have nothing to do
_ANSWER_BYTES = 64 << 20


class BadPicture(Exception):
    """A picture of a job at which nothing can be found; `kind` is one of `picture_worker`."""

    def __init__(self, message: str, kind: str, index: int):
        super().__init__(message)
        self.kind = kind
        self.index = index


class WorkerLost(Exception):
    """The process that looked at a picture has ended, or has been ended."""


class Seen(NamedTuple):
    """What a picture shows."""

    width: int
    height: int
    boxes: list[list[float]]  # of all faces, largest first: x, y, width, height
    scores: list[float]
    faces: list[Face]  # those that were asked for


class Worker:
    """One process; see `picture_worker`. Serves one job at a time."""

    def __init__(self, options: dict):
        self._options = options
        self.starts = True  # whether it did so the last time
        self._process: Optional[asyncio.subprocess.Process] = None

    @property
    def alive(self) -> bool:
        return self._process is not None and self._process.returncode is None

    @property
    def pid(self) -> Optional[int]:
        return self._process.pid if self.alive else None

    async def start(self) -> None:
        """Return when the model is open; InputError says why it is not."""
        try:
            with ctrl_c_held_off():
                self._process = await asyncio.create_subprocess_exec(
                    *module_words(picture_worker.__name__),
                    stdin=asyncio.subprocess.PIPE,
                    stdout=asyncio.subprocess.PIPE,
                )
            answer = await self._ask(self._options, (), START_SECONDS)
        except (WorkerLost, OSError) as error:  # OSError: there is no room for a process
            answer = {'error': f'a process for pictures does not start: {error}'}
        self.starts = 'error' not in answer
        if not self.starts:
            raise InputError(answer['error'])

    async def look(self, pictures: Sequence[bytes], which: Sequence[slice]) -> list[dict]:
        """Results of `picture_worker.look`; WorkerLost if there are none."""
        job = {'which': [(each.start, each.stop) for each in which]}
        return (await self._ask(job, tuple(pictures), JOB_SECONDS))['results']

    async def stop(self) -> None:
        if self.alive:
            with contextlib.suppress(ProcessLookupError):
                self._process.kill()
            await self._process.wait()

    async def _ask(self, content: dict, pictures: tuple[bytes, ...], seconds: float) -> dict:
        try:
            return await asyncio.wait_for(self._converse(content, pictures), seconds)
        except asyncio.TimeoutError:
            await self.stop()
            raise WorkerLost(f'it took more than {seconds:.0f} s') from None
        except (OSError, EOFError, ValueError, KeyError):  # it has died, or speaks nonsense
            with contextlib.suppress(ProcessLookupError):
                self._process.kill()
            code = await self._process.wait()
            raise WorkerLost(how_it_ended(code)) from None

    async def _converse(self, content: dict, pictures: tuple[bytes, ...]) -> dict:
        self._process.stdin.writelines(frame(content, pictures))
        await self._process.stdin.drain()
        start = await self._process.stdout.readexactly(LENGTH.size)
        (length,) = LENGTH.unpack(start)
        if length > _ANSWER_BYTES:
            raise ValueError(f'an answer of {length} bytes')
        return json.loads(await self._process.stdout.readexactly(length))


class PicturePool:
    """Finds the faces of pictures, for several clients at once.

    Parameters
    ----------
    options : those of `common/engine/options` and `faces` as a dict
    fingerprint : of the model; a process that finds another one under that name, since the file was
        replaced, does not start: its embeddings would be compared with those of this one
    workers : processes, each with the model open
    """

    def __init__(self, options: dict, fingerprint: str, workers: int):
        first = {**options, 'fingerprint': fingerprint}
        self._workers = [Worker(first) for _ in range(workers)]
        self._idle: list[Worker] = []
        self._queue = FairQueue(workers, PLACES, PATIENCE_SECONDS)
        self._tasks: set[asyncio.Task] = set()

    @property
    def waiting(self) -> int:
        """Requests in the queue."""
        return len(self._queue)

    @property
    def pids(self) -> list[int]:
        """Of the processes that live."""
        return [worker.pid for worker in self._workers if worker.alive]

    async def start(self) -> None:
        """Return when all processes are ready; InputError says why one is not."""
        try:
            await asyncio.gather(*(worker.start() for worker in self._workers))
        except BaseException:
            await self.close()
            raise
        self._idle = list(self._workers)
        self._keep(self._mend())

    async def look(
        self, pictures: Sequence[bytes], client: Client, which: Sequence[slice] = ()
    ) -> list[Seen]:
        """What picture files show.

        Parameters
        ----------
        pictures : of one request
        client : whose request it is
        which : of each picture the faces to embed and judge, among those with the largest first;
            by default the largest

        Raises
        ------
        Overloaded if there is no turn in time, BadPicture, WorkerLost.
        """
        which = which or [LARGEST] * len(pictures)
        try:
            await self._queue.wait(client)
        except Overloaded:
            if not any(worker.starts for worker in self._workers):  # to come again would not help
                raise WorkerLost('no process for pictures starts') from None
            raise
        # who goes away now does not stop the process, which would have to be started anew
        results = await asyncio.shield(self._keep(self._serve(pictures, which)))
        for index, result in enumerate(results):
            if 'error' in result:
                raise BadPicture(result['error'], result['kind'], index)
        return [
            Seen(
                **{**result, 'faces': [picture_worker.face_from(face) for face in result['faces']]}
            )
            for result in results
        ]

    async def close(self) -> None:
        """End the processes."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await asyncio.gather(*(worker.stop() for worker in self._workers))

    async def _serve(self, pictures: Sequence[bytes], which: Sequence[slice]) -> list[dict]:
        worker = next((worker for worker in self._idle if worker.alive), self._idle[0])
        self._idle.remove(worker)
        try:
            if not worker.alive:
                await worker.start()
            return await worker.look(pictures, which)
        except WorkerLost as error:
            log.error('looking at a picture: %s; another is started', error)
            raise
        except InputError as error:
            raise WorkerLost(str(error)) from None
        finally:
            self._keep(self._give_back(worker))

    async def _mend(self) -> None:
        """Start processes anew that have died while they had nothing to do."""
        while True:
            await asyncio.sleep(MEND_SECONDS)
            if all(worker.alive for worker in self._idle):
                continue
            with contextlib.suppress(Overloaded):
                await self._queue.wait(Client())
                worker = min(self._idle, key=lambda worker: worker.alive)
                self._idle.remove(worker)
                await self._give_back(worker)

    async def _give_back(self, worker: Worker) -> None:
        """Let the worker serve the next, once it lives."""
        pause = AGAIN_SECONDS
        while not worker.alive:
            try:
                await worker.start()
            except InputError as error:
                log.error('%s; next try in %.0f s', error, pause)
                await worker.stop()
                await asyncio.sleep(pause)
                pause = min(2 * pause, MOST_SECONDS)
        self._idle.append(worker)
        self._queue.done()

    def _keep(self, work) -> asyncio.Task:
        """A task that is not forgotten before it has ended."""
        task = asyncio.ensure_future(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task
