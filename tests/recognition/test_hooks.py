"""Signals ask a run to stop; they do not end it in the middle of a step."""

import os
import signal

import pytest
from vargfacenet.common.console import report_error
from vargfacenet.common.history import HISTORY, read_history
from vargfacenet.recognition.hooks import History, stop_signals
from vargfacenet.recognition.run_state import TrainState


@pytest.mark.parametrize('number', [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_the_first_signal_asks_and_the_second_interrupts(number, default_signals):
    before = signal.getsignal(number)
    with stop_signals() as stop:
        assert not stop
        os.kill(os.getpid(), number)
        assert stop.number == number
        with pytest.raises(KeyboardInterrupt) as interrupted:
            os.kill(os.getpid(), number)
    assert report_error('train', interrupted.value) == 128 + number
    assert signal.getsignal(number) == before


def test_a_hangup_that_is_ignored_stays_so():
    """nohup ignores it before the command starts."""
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with stop_signals() as stop:
            os.kill(os.getpid(), signal.SIGHUP)
            assert not stop
    finally:
        signal.signal(signal.SIGHUP, before)


def test_a_full_disk_costs_no_run_and_no_row(tmp_path, caplog):
    history = History(tmp_path, TrainState())
    history.add(1, {'loss': 3.5})
    path = tmp_path / HISTORY
    written = path.rename(tmp_path / 'written')
    path.symlink_to('/dev/full')
    history.add(2, {'loss': 2.5})
    history.add(3, {'loss': 1.5})
    assert [record.message.count('No space left') for record in caplog.records] == [1]
    path.unlink()
    written.rename(path)
    history.add(4, {'loss': 0.5})
    history.close()
    rows = [{'step': step, 'loss': 4.5 - step} for step in (1, 2, 3, 4)]
    assert read_history(tmp_path) == rows
