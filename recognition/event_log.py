"""The TensorBoard log of a run, which may fail and never stops the run.

mxboard writes in a thread of its own; when that dies (of a full disk), its queue fills and the run
waits for ever. Here its records are written where the values arise, and the first that cannot be
is the last that is tried.
"""

import contextlib
import logging
import socket
import struct
import time
from collections.abc import Iterator
from pathlib import Path

from ..common.quick_mxnet import quick_import

log = logging.getLogger(__name__)


class EventLog:
    """`FOLDER/events.out.tfevents.TIME.HOST`; without a file where there can be none."""

    def __init__(self, folder: Path):
        self._file = None
        self._folder = folder
        with self._guard():
            with quick_import('mxboard'):
                from mxboard.proto import event_pb2
                from mxboard.record_writer import masked_crc32c

            self._event, self._checksum = event_pb2.Event, masked_crc32c
            folder.mkdir(exist_ok=True)
            name = f'events.out.tfevents.{int(time.time())}.{socket.gethostname()}'
            # unbuffered: a row is on its way to the disk when it is written, or fails there
            self._file = open(folder / name, 'wb', buffering=0)  # noqa: SIM115
            self._write(self._event(wall_time=time.time(), file_version='brain.Event:2'))

    def add(self, step: int, values: dict[str, float]) -> None:
        """One point on the curve of every name."""
        with self._guard():
            if self._file:
                event = self._event(wall_time=time.time(), step=step)
                for name, value in values.items():
                    event.summary.value.add(tag=name, simple_value=value)
                self._write(event)

    def close(self) -> None:
        if self._file:
            self._file.close()
            self._file = None

    def _write(self, event) -> None:
        content = event.SerializeToString()
        head = struct.pack('<Q', len(content))
        record = b''.join(
            (
                head,
                struct.pack('<I', self._checksum(head)),
                content,
                struct.pack('<I', self._checksum(content)),
            )
        )
        if self._file.write(record) != len(record):
            raise OSError('no space is left')

    @contextlib.contextmanager
    def _guard(self) -> Iterator[None]:
        """Ends the log, not the run, at any error: of the disk, of mxboard, of protobuf."""
        try:
            yield
        except Exception as error:
            log.warning('%s: no more TensorBoard log (%s); the run goes on', self._folder, error)
            self.close()
