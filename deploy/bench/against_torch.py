"""Our training step against the same in PyTorch, which runs in an environment of its own.

PyTorch is no dependency; `torch_step.py` has the network in it and is run by the Python that
--torch-python names. It starts from our weights, and before anything is timed its embeddings and
its loss must be ours.
"""

import dataclasses
import logging
import os
import shutil
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Callable, NamedTuple, Optional

import numpy as np

from ...common import console
from ...common.backend import mx
from ...common.engine import ops
from ...common.engine.mxnet import Embedder
from ...common.engine.network import Network
from ...common.errors import InputError, RunError
from ...common.names import DATA, IMAGE_SHAPE
from ...common.parallel import cpu_count
from ...recognition.graph import TOTAL_LOSS, training_module
from ...symbol import get_symbol
from ...symbol.options import NETWORKS
from ...symbol.torch_layout import TorchLayout
from . import child, foreign, report, stock
from .measure import Timing, faster, machine, slices_in_turn
from .steps import ARCFACE, OPTIMIZER, config_of, start, update

log = logging.getLogger(__name__)

OPTION, EVERY_FORM = '--torch-python', '--every-form'
NETWORK = 'vargfacenet'  # which torch_step.py has written out
MAX_DIFFERENCE = 1e-5  # of embeddings, to the largest value
MAX_LOSS_DIFFERENCE = 1e-4  # a share; BatchNorm over few images makes rounding larger
_PROGRAM = Path(__file__).with_name('torch_step.py')
_CHECKED_IMAGES = 8
_FLOAT32 = {'channels_last': False, 'bfloat16': False, 'compiled': False}
FORMS = {
    'float32': _FLOAT32,
    'float32 channels_last': {**_FLOAT32, 'channels_last': True},
    'bfloat16 autocast channels_last': {**_FLOAT32, 'channels_last': True, 'bfloat16': True},
    'float32 channels_last compiled': {**_FLOAT32, 'channels_last': True, 'compiled': True},
    'bfloat16 autocast channels_last compiled': dict.fromkeys(_FLOAT32, True),
}
_COMPILED = {  # the form that is compiled of a precision of ours, unless all are measured
    ops.FLOAT32: 'float32 channels_last compiled',
    ops.BFLOAT16: 'bfloat16 autocast channels_last compiled',
}
_SLICE_SECONDS = 1.0
# What a process takes before it can be timed, about: it tells the progress how much is left.
_START_SECONDS, _COMPILE_SECONDS = 5, 110
_BFLOAT16_UNITS = {'avx512_bf16', 'amx_bf16'}
_COMPILERS = (os.environ.get('CXX', ''), 'g++', 'clang++')


class Torch(NamedTuple):
    """Where PyTorch runs, and what it trains."""

    python: str
    options: dict

    def words(self, what: str, **more) -> list[str]:
        return foreign.words(self.python, _PROGRAM, what, {**self.options, **more})

    def worker(self, form: str, batch_size: int) -> child.Program:
        """A process that makes training steps."""
        words = self.words('steps', form=FORMS[form], batch_size=batch_size)
        return child.Program(words, f'PyTorch {form}', stock.environments()[stock.DEFAULT])


def check_python(network: str, options: dict, python: Optional[str]) -> str:
    """The program behind --torch-python; InputError for none, and for another network."""
    if python is None:
        raise InputError(f'--against torch needs {OPTION}: a Python that has PyTorch')
    if network != NETWORK or options.get('act_type', 'prelu') != 'prelu':
        raise InputError(f'--against torch measures {NETWORK} with PReLU; leave --network out')
    modules = ('torch', 'numpy')
    return foreign.check_python(OPTION, python, 'PyTorch', 'torch==2.13.0 numpy', modules)


def write_start(path: str, network: str, options: dict, classes: int) -> dict:
    """Weights after two steps, when nothing is 0 or 1 any more, and what they give.

    The file holds every parameter by its name in a state_dict, `images` (float32) and `label`.

    Returns
    -------
    dict of `embedding`, as the network is used, and `loss`, as it trains
    """
    embedding = get_symbol(network, **options)
    config = config_of(network, options, _CHECKED_IMAGES, classes)
    module = start(training_module(embedding, config, [mx.cpu()]), _CHECKED_IMAGES)
    random = np.random.RandomState(0)
    images = random.randint(0, 256, (_CHECKED_IMAGES, *IMAGE_SHAPE)).astype(np.uint8)
    label = random.randint(0, classes, _CHECKED_IMAGES)
    batch = mx.io.DataBatch([mx.nd.array(images, dtype='float32')], [mx.nd.array(label)])
    for _ in range(2):
        update(module, batch)
    arg_params, aux_params = module.get_params()
    values = {**arg_params, **aux_params}
    state = {TorchLayout().key(name): array.asnumpy() for name, array in values.items()}
    np.savez(path, images=images.astype(np.float32), label=label.astype(np.int64), **state)
    names = set(embedding.list_arguments()) - {DATA}
    trained = Network(embedding, {name: arg_params[name] for name in names}, aux_params)
    embeddings = Embedder(trained, batch_size=_CHECKED_IMAGES).embed(images.transpose(0, 2, 3, 1))
    module.forward(batch, is_train=True)
    loss = module.get_outputs()[TOTAL_LOSS].asnumpy()
    return {'embedding': embeddings.tolist(), 'loss': float(loss.mean())}


def torch_options(start_file: str, network: str, options: dict, classes: int) -> dict:
    """What `torch_step.py` is told, beside the form and the batch size."""
    defaults = dataclasses.asdict(NETWORKS.get(network).defaults)
    return {
        'start': start_file,
        'network': {**defaults, **options},
        'classes': classes,
        'head': {'s': ARCFACE['s'], 'm2': ARCFACE['m2']},
        'optimizer': {
            'lr': OPTIMIZER['learning_rate'],
            'momentum': OPTIMIZER['momentum'],
            'weight_decay': OPTIMIZER['wd'],
        },
        'threads': cpu_count(),
    }


def check(torch: Torch, expected: dict) -> dict:
    """How far PyTorch's embeddings and loss are from ours; RunError where it is too far."""
    found = child.program(*torch.words('check'), name=str(_PROGRAM))
    ours, theirs = (np.array(side.pop('embedding')) for side in (expected, found))
    difference = float(np.abs(ours - theirs).max() / np.abs(ours).max())
    loss, our_loss = found.pop('loss'), expected['loss']
    of_loss = abs(loss - our_loss) / abs(our_loss)
    log.info('PyTorch %s: embeddings within %.1e, loss %.1e', found['torch'], difference, of_loss)
    if not (difference <= MAX_DIFFERENCE and of_loss <= MAX_LOSS_DIFFERENCE):
        raise RunError(
            f'PyTorch does not train the same network: embeddings differ by {difference:.1e} of '
            f'the largest value, losses are {our_loss} here and {loss} there'
        )
    return {**found, 'embedding_difference': difference, 'loss_difference': of_loss}


def choose_forms(precision: str, every: bool) -> tuple[list[str], dict[str, str]]:
    """The FORMS that are measured, and why the others are not: this machine cannot run them, or,
    unless `every`, they are compiled and of another precision than ours is."""
    missing = {}
    if not _BFLOAT16_UNITS & set(machine().get('vector_units', ())):
        missing['bfloat16'] = 'this CPU has no bfloat16 instructions'
    if not any(map(shutil.which, filter(None, _COMPILERS))):
        missing['compiled'] = 'torch.compile needs a C++ compiler'
    left_out = {
        name: reason
        for name, form in FORMS.items()
        for part, reason in missing.items()
        if form[part]
    }
    runs = [name for name in FORMS if name not in left_out]
    compiled = [name for name in runs if FORMS[name]['compiled']]
    # a CPU without bfloat16 compiles float32, whatever ours is
    wanted = compiled if every or len(compiled) < 2 else [_COMPILED[precision]]
    for name in set(compiled) - set(wanted):
        left_out[name] = f'compiling it takes minutes; {EVERY_FORM} measures it too'
    return [name for name in runs if name not in left_out], left_out


def in_turn(
    torch: Torch, our_worker: child.Worker, form: str, batch: int, seconds: float
) -> tuple[Timing, Timing, str]:
    """PyTorch in a form and at a batch size, and ours, in turn; and our precision."""
    with torch.worker(form, batch) as theirs:
        workers = {'torch': theirs, 'ours': our_worker}
        times = slices_in_turn(workers, seconds, min(_SLICE_SECONDS, seconds))
        return times['torch'], times['ours'], our_worker.about


def _expected_seconds(form: str, seconds: float) -> float:
    return _START_SECONDS + FORMS[form]['compiled'] * _COMPILE_SECONDS + seconds


def _row(form: str, batches: tuple[int, int], theirs: Timing, ours: Timing, precision: str) -> dict:
    return {
        'form': form,
        'batches': dict(zip(('torch', 'ours'), batches)),
        'torch': theirs.summary(batches[0]),
        'ours': {**ours.summary(batches[1]), 'precision': precision},
        'ratio': vars(faster(theirs, ours, *batches)),
    }


def measure(
    torch_python: str,
    step: dict,
    ours: Callable[[int], child.Worker],
    batches: list[int],
    seconds: float,
    precision: str = ops.FLOAT32,
    every: bool = False,
) -> dict:
    """All forms at all batch sizes, each against ours in turn, and then the best of both, measured
    again unless it was one of these.

    Parameters
    ----------
    torch_python : as `check_python` gives it
    step : network, options, classes
    ours : batch size -> child.Worker that makes our training steps
    seconds : for each pair, at least
    precision : of ours
    every : see `choose_forms`
    """
    forms, left_out = choose_forms(precision, every)
    rows = []
    parts = {form: round(_expected_seconds(form, seconds)) for form in forms}
    with TemporaryDirectory() as folder:
        path = str(Path(folder) / 'start.npz')
        expected = child.run(write_start, path=path, **step)
        torch = Torch(torch_python, torch_options(path, **step))
        checked = check(torch, expected)
        total = len(batches) * sum(parts.values())
        with console.progress(total, 'against PyTorch', unit='parts') as bar:
            for batch in batches:
                with ours(batch) as our_worker:
                    for form in forms:
                        bar.advance(0, f'batch {batch}, {form}')
                        rows += _measured(torch, our_worker, form, batch, seconds, left_out)
                        bar.advance(parts[form], f'batch {batch}, {form}')
        for form, reason in left_out.items():
            log.warning('%s is left out: %s', form, reason)
        if not rows:
            raise RunError(f'PyTorch trains in none of its forms: {"; ".join(left_out.values())}')
        best = _best(rows, torch, ours, seconds)
    result = {'machine': machine(), **step, 'check': checked, 'rows': rows, 'best': best}
    return {**result, 'left_out': left_out}


def _measured(
    torch: Torch,
    our_worker: child.Worker,
    form: str,
    batch: int,
    seconds: float,
    left_out: dict[str, str],
) -> list[dict]:
    """The row of a form, or none where it does not train, of which `left_out` gets the reason;
    RunError where our process ends."""
    if form in left_out:
        return []
    try:
        measured = in_turn(torch, our_worker, form, batch, seconds)
    except RunError as error:
        if our_worker.has_ended:  # which is no fault of PyTorch's
            raise
        left_out[form] = str(error)
        return []
    return [_row(form, (batch, batch), *measured)]


def _best(rows: list[dict], torch: Torch, ours: Callable, seconds: float) -> dict:
    """PyTorch at its best form and batch size against ours at our best."""
    top, our_top = (
        max(rows, key=lambda row: row[side]['per_second']) for side in ('torch', 'ours')
    )
    form, batches = top['form'], (top['batches']['torch'], our_top['batches']['ours'])
    if batches[0] == batches[1]:
        return top
    with ours(batches[1]) as our_worker:
        measured = in_turn(torch, our_worker, form, batches[0], seconds)
    return _row(form, batches, *measured)


def show(result: dict) -> None:
    console.table(
        f'training step against PyTorch {result["check"]["torch"]}, the same network and weights',
        ('batch', 'PyTorch', 'PyTorch images/s', 'ours images/s', 'times as fast'),
        [
            (
                f'{title}{row["batches"]["torch"]}, {row["batches"]["ours"]}',
                row['form'],
                f'{row["torch"]["per_second"]:.1f}',
                f'{row["ours"]["per_second"]:.1f}',
                report.shown(row['ratio']),
            )
            for title, row in (
                *(('', row) for row in result['rows']),
                ('best of each: ', result['best']),
            )
        ],
    )


def panels(result: dict) -> list:
    """Speed over batch, for the picture."""
    lines: dict[str, tuple[list, list]] = {}
    for row in result['rows']:
        for name, side in ((f'PyTorch {row["form"]}', 'torch'), ('ours', 'ours')):
            if side == 'ours' and row['form'] != result['rows'][0]['form']:
                continue
            x, y = lines.setdefault(name, ([], []))
            x.append(row['batches'][side])
            y.append(row[side]['per_second'])
    return [('speed by batch', 'batch', 'images/s', lines)]
