"""Memory that is free, as Linux and a container tell it."""

import pytest
from vargfacenet.common import memory


@pytest.fixture
def told(tmp_path, monkeypatch):
    """Files of a machine with 8 million kB available; none of a container yet."""
    machine = tmp_path / 'meminfo'
    machine.write_text('MemTotal:       16000000 kB\nMemAvailable:    8000000 kB\nHugePages: 0\n')
    monkeypatch.setattr(memory, '_MACHINE', machine)
    monkeypatch.setattr(memory, '_CONTAINER', tmp_path)
    monkeypatch.delenv('HOROVOD_LOCAL_SIZE', raising=False)
    return tmp_path


def test_ranks_of_a_machine_share_what_is_available(told, monkeypatch):
    assert memory.free_memory() == 8_000_000 * 1024
    monkeypatch.setenv('HOROVOD_LOCAL_SIZE', '4')
    assert memory.free_memory() == 2_000_000 * 1024


def test_a_container_has_its_own_bound_and_files_in_memory_make_way(told):
    (told / 'memory.current').write_text('900000\n')
    (told / 'memory.stat').write_text('anon 300000\nactive_file 200000\ninactive_file 400000\n')
    (told / 'memory.max').write_text('1000000\n')
    assert memory.free_memory() == 700_000
    (told / 'memory.max').write_text('max\n')
    assert memory.free_memory() == 8_000_000 * 1024


def test_without_either_it_is_half_of_the_machine(tmp_path, monkeypatch):
    monkeypatch.setattr(memory, '_MACHINE', tmp_path / 'no')
    monkeypatch.setattr(memory, '_CONTAINER', tmp_path / 'no')
    monkeypatch.delenv('HOROVOD_LOCAL_SIZE', raising=False)
    assert 1 << 28 < memory.free_memory() < 1 << 50
