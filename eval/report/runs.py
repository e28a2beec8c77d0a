"""What is reported on: training runs and results on disk, read and checked."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Optional

from ...common.errors import InputError
from ...common.files import state_of
from ...common.history import HISTORY, read_history
from ...common.run_files import checkpoint_numbers, read_state, state_path
from ...common.typed import is_number
from ..results import IDENTIFICATION, Results, load_results

log = logging.getLogger(__name__)


@dataclass
class Run:
    """What is known of one model."""

    name: str
    history: list[dict] = field(default_factory=list)
    config: dict = field(default_factory=dict)
    seconds: float = 0.0  # of training
    targets: dict[str, dict] = field(default_factory=dict)  # verification: target -> arrays
    all_pairs: dict[str, dict] = field(default_factory=dict)  # set of people -> its rates
    identification: Optional[Results] = None
    made: list[dict] = field(default_factory=list)  # of each results file: model, date, command ...


def _training_state(folder: Path) -> dict:
    """Configuration and state that the newest checkpoint of a run was saved with, or {}."""
    numbers = checkpoint_numbers(folder / 'model')
    if not numbers:
        return {}
    config, state = read_state(folder / 'model', numbers[-1])
    if not is_number(state.get('seconds', 0)):
        path = state_path(folder / 'model', numbers[-1])
        raise InputError(f'{path} is no state of a training run; remove it')
    return {'config': config, 'state': state}


def _within(arrays: dict) -> bool:
    """Whether the numbers of pairs and people in a target's arrays are of those that it has."""
    counts = {'hardest_accepts': 'issame', 'hardest_rejects': 'issame', 'identities': 'names'}
    for numbers, counted in counts.items():
        if numbers in arrays and counted in arrays:
            places = arrays[numbers]
            if (
                places.dtype.kind not in 'iu'
                or not ((places >= 0) & (places < arrays[counted].size)).all()
            ):
                return False
    return True


def _add_results(run: Run, path: Path) -> None:
    results = load_results(path)
    keys = ('model', 'sha256', 'engine', 'date', 'version', 'command')
    run.made.append({key: str(results.about[key]) for key in keys if results.about.get(key)})
    if results.kind == IDENTIFICATION:
        run.identification = results
        return
    targets, all_pairs = (results.about.get(key, {}) for key in ('targets', 'all_pairs'))
    if not isinstance(targets, dict) or not isinstance(all_pairs, dict):
        raise InputError(f'{path} is damaged: it does not say what was verified')
    run.all_pairs.update(all_pairs)
    for name in targets:
        prefix = f'{name}/'
        arrays = {
            key[len(prefix) :]: array
            for key, array in results.arrays.items()
            if key.startswith(prefix)
        }
        if 'issame' not in arrays or not _within(arrays):
            raise InputError(f'{path} is damaged: the pairs of {name[:40]}')
        run.targets[name] = arrays


def read_run(text: str) -> Run:
    """A RUN argument; InputError if there is nothing to report in it."""
    name, _, rest = text.rpartition('=')
    path = Path(text) if Path(text).exists() else Path(rest)
    name = name if path != Path(text) else ''
    if path.is_dir():
        run = Run(name or path.resolve().name, read_history(path))
        state = _training_state(path)
        if state:
            run.config = state['config']
            run.seconds = float(state['state'].get('seconds', 0))
        for results in sorted(path.glob('*.npz')):
            try:
                _add_results(run, results)
            except InputError as error:  # embeddings, or the state of a run under way
                log.info('left out: %s', error)
        if not (run.history or run.targets or run.all_pairs or run.identification):
            raise InputError(f'run {path}: no {HISTORY} and no results (.npz) in it')
        return run
    if not path.is_file():
        state = state_of(path)
        raise InputError(f'run {text} {state}; expected a folder of a run or a results .npz')
    run = Run(name or path.stem)
    _add_results(run, path)
    return run


def read_runs(texts: Sequence[str]) -> list[Run]:
    """All RUN arguments; InputError for two of one name."""
    runs = [read_run(text) for text in texts]
    names = [run.name for run in runs]
    double = next((name for name in names if names.count(name) > 1), None)
    if double is not None:
        raise InputError(f'two runs are called {double}; name one, e.g. other={texts[-1]}')
    return runs
