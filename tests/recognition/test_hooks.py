"""Signals ask a run to stop; they do not end it in the middle of a step."""

import json
import os
import signal

import cv2
import pytest
from vargfacenet.common.console import report_error
from vargfacenet.common.history import HISTORY, read_history
from vargfacenet.recognition.curves import curves_of, plot_curves
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


def test_a_curve_has_the_rows_that_hold_its_value(tmp_path):
    """A run that goes on with another loss logs more than it did; a verification is a row too."""
    row = {'loss': 2.0, 'accuracy': 0.25, 'learning_rate': 0.1}
    rows = [{'step': 1, **row}, {'step': 2, **row, 'class_loss': 1.5}, {'step': 2, 'a_accuracy': 1}]
    curves = curves_of(rows)
    assert [line.label for line in curves.losses] == ['loss', 'class loss']
    assert curves.losses[1] == ('class loss', [2], [1.5], '')
    assert curves.accuracies == [('training', [1, 2], [25, 25], ''), ('a', [2], [100], 'o')]
    (tmp_path / 'history.jsonl').write_text('\n'.join(map(json.dumps, rows)))
    assert cv2.imread(str(plot_curves(tmp_path, 'a run'))).shape[:2] == (420, 1440)
