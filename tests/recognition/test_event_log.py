"""The TensorBoard log: TensorBoard's own framing, and no failure of it that reaches the run."""

import builtins
import io
import struct

import pytest
from mxboard.proto import event_pb2
from mxboard.record_writer import masked_crc32c
from vargfacenet.recognition import event_log
from vargfacenet.recognition.event_log import EventLog


def events_of(path):
    """Events of a file, by the format's definition: length, checksum, content, checksum."""
    content, events = path.read_bytes(), []
    while content:
        (length,) = struct.unpack('<Q', content[:8])
        assert struct.unpack('<I', content[8:12]) == (masked_crc32c(content[:8]),)
        body = content[12 : 12 + length]
        assert struct.unpack('<I', content[12 + length : 16 + length]) == (masked_crc32c(body),)
        events.append(event_pb2.Event.FromString(body))
        content = content[16 + length :]
    return events


def test_values_come_back(tmp_path):
    events = EventLog(tmp_path / 'mxboard')
    events.add(4, {'loss': 3.5, 'accuracy': 0.25})
    (path,) = (tmp_path / 'mxboard').glob('events.out.tfevents.*')
    head, row = events_of(path)  # on the disk at once: a killed run keeps what it logged
    assert head.file_version == 'brain.Event:2'
    assert row.step == 4
    assert {v.tag: v.simple_value for v in row.summary.value} == {'loss': 3.5, 'accuracy': 0.25}
    events.close()
    events.close()


class Full(io.RawIOBase):
    """A file on a disk that takes `room` writes more."""

    room = 1

    def write(self, content):
        if not self.room:
            raise OSError(28, 'No space left on device')
        self.room -= 1
        return len(content)


def test_a_full_disk_costs_the_log_alone(tmp_path, monkeypatch):
    monkeypatch.setattr(event_log, 'open', lambda *_, **__: Full(), raising=False)
    events = EventLog(tmp_path)
    for step in range(1000):
        events.add(step, {'loss': 1.0})
    events.close()
    assert events._file is None


@pytest.mark.parametrize('failing', ['folder', 'import'])
def test_no_log_at_all(tmp_path, monkeypatch, failing):
    if failing == 'folder':
        (tmp_path / 'mxboard').write_text('in the way')
    else:
        whole = builtins.__import__

        def broken(name, *args, **kwargs):
            if name.startswith('mxboard'):
                raise ImportError(name)
            return whole(name, *args, **kwargs)

        monkeypatch.setattr(builtins, '__import__', broken)
    events = EventLog(tmp_path / 'mxboard')
    events.add(1, {'loss': 1.0})
    events.close()
