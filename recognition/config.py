"""The configuration of a training run: resolved once, frozen, saved with every checkpoint."""

import argparse
import contextlib
import json
import math
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from ..common.backend import parse_devices
from ..common.console import Parser
from ..common.data.recordio import RecordFile
from ..common.errors import InputError
from ..common.files import input_file
from ..common.registry import unknown_name
from ..symbol import list_networks
from . import presets
from .schedule import MODES

# What may differ between the run that saved a checkpoint and the one that resumes it: nothing of
# these changes the weights, but that a teacher's store rounds its embeddings to float16. (Another
# number of devices would; it changes per_batch_size's meaning.)
FREE_ON_RESUME = (
    'frequent', 'verbose', 'ckpt', 'threads', 'models_root', 'val_targets', 'teacher_store',
)  # fmt: skip

WARMUP_SHARE = 0.05  # of all steps, when nothing is asked for


@dataclass(frozen=True)
class TrainConfig:
    """Everything that determines a run. Steps and epochs count from 0; batch sizes are images."""

    name: str  # folder of the run under models_root
    network: str
    network_options: dict[str, Any]
    loss: str  # 'softmax' or 'margin'
    loss_options: dict[str, float]  # s, m1, m2, m3 for 'margin'
    data_dir: str  # holds train.rec, train.idx, property
    val_targets: tuple[str, ...]  # names of data_dir/NAME.bin, or paths
    num_classes: int
    num_images: int
    models_root: str
    pretrained: str  # PREFIX,EPOCH to start from, or ''
    devices: str
    num_devices: int  # that `devices` names and this machine has
    kvstore: str
    num_workers: int  # processes of a dist_sync run
    per_batch_size: int  # of one device
    total_steps: int
    lr: float
    lr_mode: str
    lr_steps: tuple[int, ...]  # for lr_mode 'step'
    lr_factor: float
    warmup_steps: int
    wd: float
    mom: float
    seed: int
    augment: str
    threads: int  # decoding threads, 0 = one a CPU
    frequent: int  # steps between log lines
    verbose: int  # steps between verifications and checkpoints
    ckpt: int  # 0 none, 1 newest only, 2 all, 3 newest and best
    shuffle: str = 'full'  # or 'blocks' for a .rec that is larger than memory
    teacher: str = ''  # PREFIX,EPOCH, or '' for training without distillation
    teacher_store: str = ''  # file with the teacher's embeddings, or '' for a live teacher
    alpha: float = 7.0  # weight of the distillation loss (Eq. 7)
    distill_form: str = 'l2'  # 'l2' (Eq. 5) or 'cosine' (Eq. 4)
    classification: bool = True  # False: the distillation loss alone

    @property
    def run_folder(self) -> Path:
        return Path(self.models_root) / self.name

    @property
    def prefix(self) -> Path:
        """Checkpoint prefix: PREFIX-symbol.json, PREFIX-0001.params, ..."""
        return self.run_folder / 'model'

    @property
    def global_batch_size(self) -> int:
        return self.per_batch_size * self.num_devices * self.num_workers

    @property
    def steps_per_epoch(self) -> int:
        return self.num_images // self.global_batch_size

    def to_json(self) -> str:
        return json.dumps(asdict(self), indent=1, sort_keys=True)

    @classmethod
    def from_json(cls, text: str) -> 'TrainConfig':
        """Inverse of `to_json`; raises InputError for unknown or missing fields."""
        values = json.loads(text)
        if not isinstance(values, dict):
            raise InputError(f'saved configuration: expected an object, not {text[:40]}')
        known = {field.name for field in fields(cls)}
        for name in values.keys() - known:
            raise unknown_name('configuration field', name, known)
        try:
            return cls(
                **{
                    name: tuple(value) if isinstance(value, list) else value
                    for name, value in values.items()
                }
            )
        except TypeError as error:
            raise InputError(f'saved configuration: {error}') from None

    def differences(self, other: 'TrainConfig') -> list[str]:
        """'field: ours, not theirs' for every field that decides the weights."""
        ours, theirs = asdict(self), asdict(other)
        return [
            f'{name} {ours[name]!r}, saved {theirs[name]!r}'
            for name in ours
            if ours[name] != theirs[name] and name not in FREE_ON_RESUME
        ]


def key_value(text: str) -> tuple[str, Any]:
    """'multiplier=0.5' -> ('multiplier', 0.5); a value that is no JSON is text."""
    key, separator, value = text.partition('=')
    if not separator or not key:
        raise argparse.ArgumentTypeError(f'{text!r}: expected KEY=VALUE, e.g. multiplier=0.5')
    try:
        return key, json.loads(value.lower() if value in ('True', 'False', 'None') else value)
    except json.JSONDecodeError:
        return key, value


def add_arguments(parser: Parser) -> None:
    """The options of `train` and `distill`; names are InsightFace's where it has one."""
    what = parser.add_argument_group('what is trained')
    what.add_argument('--network', help='a name of `vargfacenet info` or of the network table')
    what.add_argument(
        '--network-option', type=key_value, action='append', default=[], metavar='KEY=VALUE',
        help='an option of the network, e.g. multiplier=0.5; may be given several times',
    )  # fmt: skip
    what.add_argument('--loss', help='softmax, nsoftmax, arcface, cosface or combined')
    what.add_argument(
        '--loss-option', type=key_value, action='append', default=[], metavar='KEY=VALUE',
        help='s (scale), m1, m2 or m3 of a margin loss; may be given several times',
    )  # fmt: skip
    what.add_argument('--pretrained', metavar='PREFIX,EPOCH', help='weights to start from')
    data = parser.add_argument_group('data')
    data.add_argument('--dataset', help='a row of the dataset table')
    data.add_argument('--data-dir', help='folder with train.rec, train.idx and property')
    data.add_argument(
        '--target', help='comma-separated .bin names in the data folder, or paths; "" for none'
    )
    data.add_argument('--augment', help='mirror (the paper), mild (small data sets) or none')
    data.add_argument('--shuffle', help='full, or blocks for a .rec that is larger than memory')
    data.add_argument('--threads', type=int, help='decoding threads; 0 is one a CPU')
    run = parser.add_argument_group('the run')
    run.add_argument('--recipe', help='a row of the recipe table, e.g. paper')
    run.add_argument('--config', metavar='FILE', help='Python file with tables of your own')
    run.add_argument('--models-root', help='folder of all runs')
    run.add_argument('--name', help='folder of this run (default NETWORK-LOSS-DATASET)')
    run.add_argument('--resume', action='store_true', help='go on with the newest checkpoint')
    run.add_argument('--overwrite', action='store_true', help='replace a finished or started run')
    run.add_argument('--devices', help='cpu, or gpu:0,1,...')
    run.add_argument('--kvstore', help='local, device or dist_sync')
    run.add_argument('--per-batch-size', type=int, help='images a step and device')
    length = run.add_mutually_exclusive_group()
    length.add_argument('--epochs', type=int, help='passes over the data')
    length.add_argument('--steps', type=int, help='steps in all, instead of epochs')
    run.add_argument('--lr', type=float, help='learning rate after warm-up')
    run.add_argument('--lr-mode', help=', '.join(MODES))
    run.add_argument('--lr-steps', help='for --lr-mode step: comma-separated steps')
    run.add_argument('--warmup-steps', type=int, help='steps of linear warm-up (default 5 %%)')
    run.add_argument('--wd', type=float, help='weight decay')
    run.add_argument('--mom', type=float, help='SGD momentum')
    run.add_argument('--seed', type=int, help='of initial weights, order and mirroring')
    watch = parser.add_argument_group('watching and saving')
    watch.add_argument('--frequent', type=int, help='steps between log lines')
    watch.add_argument('--verbose', type=int, help='steps between verifications and checkpoints')
    watch.add_argument(
        '--ckpt', type=int, choices=(0, 1, 2, 3),
        help='keep 0: nothing, 1: the newest checkpoint, 2: all, 3: the newest and the best',
    )  # fmt: skip


def _merge(tables, args: argparse.Namespace) -> dict[str, Any]:
    """default < recipe < dataset < network < loss < command line, options dicts merged."""
    given = {name: value for name, value in vars(args).items() if value is not None and value != []}
    values = dict(tables.default)
    if args.recipe:
        values.update(presets.entry(tables, 'recipe', args.recipe))
    chosen = {table: given.get(table, values[table]) for table in ('dataset', 'network', 'loss')}
    values['dataset'] = chosen['dataset']
    values.update(presets.entry(tables, 'dataset', chosen['dataset']))
    values['network'] = chosen['network']
    values['network_options'] = {}
    if chosen['network'] in tables.network:
        values.update(tables.network[chosen['network']])
    elif chosen['network'] not in list_networks():
        raise unknown_name('network', chosen['network'], {*tables.network, *list_networks()})
    values.update(presets.entry(tables, 'loss', chosen['loss']))
    data_name = chosen['dataset']
    if 'data_dir' in given and 'dataset' not in given:
        data_name = Path(given['data_dir']).resolve().name
    values['name'] = '-'.join([chosen['network'], chosen['loss'], data_name])
    for name in ('network', 'dataset', 'loss'):
        given.pop(name, None)
    for option in ('network_option', 'loss_option'):
        values[option + 's'] = {**values[option + 's'], **dict(given.pop(option, []))}
    if 'steps' in given:
        values.pop('epochs', None)
    if 'data_dir' in given:
        values.pop('num_classes', None)  # what the row expects of its own folder
        if 'target' not in given:
            values['val_targets'] = ()
    if 'target' in given:
        values['val_targets'] = tuple(filter(None, given.pop('target').split(',')))
    values.update(given)
    return values


# what a row of a table, or the command line, may set
TABLE_KEYS = frozenset(
    {field.name for field in fields(TrainConfig)}
    | {'dataset', 'epochs', 'steps', 'global_batch_size', 'config', 'recipe'}
    | {'resume', 'overwrite', 'generations', 'form', 'no_classification', 'scratch'}
)


def _check(values: dict[str, Any]) -> None:
    """Ranges of what the user gave; InputError for the first that is out."""
    for name in ('per_batch_size', 'epochs', 'steps', 'frequent', 'verbose', 'lr'):
        if name in values and not values[name] > 0:
            raise InputError(f'--{name.replace("_", "-")} {values[name]}: must be above 0')
    for name in ('wd', 'mom', 'warmup_steps', 'threads', 'seed'):
        if values.get(name, 0) < 0:
            raise InputError(f'--{name.replace("_", "-")} {values[name]}: must not be negative')
    for name, known in (
        ('lr_mode', MODES),
        ('augment', ('none', 'mirror', 'mild')),
        ('shuffle', ('full', 'blocks')),
        ('kvstore', ('local', 'device', 'dist_sync')),
    ):
        if values[name] not in known:
            raise unknown_name(name.replace('_', '-'), values[name], known)
    for name in ('lr', 'wd', 'mom', 'alpha'):
        if not math.isfinite(values.get(name, 0)):
            raise InputError(f'--{name} {values[name]}: must be a finite number')
    if values['seed'] >= 2**31:
        raise InputError(f'--seed {values["seed"]}: must be below 2**31')
    for name in sorted(values.keys() - TABLE_KEYS):
        raise unknown_name('setting in the tables', name, TABLE_KEYS)
    if values.get('lr_steps') and values['lr_mode'] != 'step':
        raise InputError(f'--lr-steps needs --lr-mode step (it is {values["lr_mode"]!r})')
    if values['lr_mode'] == 'step' and not values.get('lr_steps'):
        raise InputError("--lr-mode step needs --lr-steps, e.g. '--lr-steps 100000,160000'")


def parse_steps(text: str) -> tuple[int, ...]:
    """'100000,160000' -> (100000, 160000); raises InputError for anything else."""
    try:
        steps = tuple(int(step) for step in text.split(','))
    except ValueError:
        raise InputError(f'--lr-steps {text!r}: expected steps like 100000,160000') from None
    if list(steps) != sorted(set(steps)) or steps[0] <= 0:
        raise InputError(f'--lr-steps {text!r}: must be positive and ascending')
    return steps


def settings(args: argparse.Namespace, **extra: Any) -> dict[str, Any]:
    """Tables and command line as checked values, before any data set is looked at.

    Raises
    ------
    InputError as `resolve`, but for what only the data set can tell.
    """
    tables = presets.load_tables(args.config or '')
    try:
        values = _merge(tables, args)
        values.update(extra)
        if isinstance(values.get('lr_steps'), str):
            values['lr_steps'] = parse_steps(values['lr_steps'])
        _check(values)
    except (KeyError, TypeError, AttributeError) as error:
        raise InputError(
            f'{args.config or "presets"}: a table lacks an entry or has one of a wrong type: '
            f'{type(error).__name__}: {error}'
        ) from None
    return values


def resolve(args: argparse.Namespace, num_workers: int = 1, **extra: Any) -> TrainConfig:
    """Tables, data set and command line -> one frozen configuration.

    Parameters
    ----------
    args : of a parser that `add_arguments` filled
    num_workers : processes of a dist_sync run
    extra : fields laid over everything else (distillation's)

    Raises
    ------
    InputError for unknown names, values out of range, a data set that is missing or disagrees.
    """
    values = settings(args, **extra)
    path = input_file(Path(values['data_dir']) / 'train.rec', 'training data')
    with contextlib.closing(RecordFile(path)) as record:
        num_classes, num_images = record.num_classes, record.num_images
    expected = values.pop('num_classes', num_classes)
    if expected != num_classes:
        raise InputError(
            f'{values["data_dir"]}/property says {num_classes} classes, '
            f'the preset {values["dataset"]!r} expects {expected}'
        )
    num_devices = len(parse_devices(values['devices']))
    if 'global_batch_size' in values and 'per_batch_size' not in _given(args):
        values['per_batch_size'] = values['global_batch_size'] // (num_devices * num_workers)
    step_images = values['per_batch_size'] * num_devices * num_workers
    if num_images < step_images:
        raise InputError(
            f'{values["data_dir"]}/train.rec holds {num_images} images, fewer than one step of '
            f'{step_images}; choose a smaller --per-batch-size'
        )
    total = values.get('steps') or values['epochs'] * (num_images // step_images)
    values.update(
        num_classes=num_classes,
        num_images=num_images,
        num_devices=num_devices,
        num_workers=num_workers,
        total_steps=total,
    )
    values.setdefault('warmup_steps', int(WARMUP_SHARE * total))
    values.setdefault('pretrained', '')
    values.setdefault('lr_steps', ())
    values.setdefault('threads', 0)
    values['val_targets'] = tuple(values['val_targets'])
    names = {field.name for field in fields(TrainConfig)}
    return TrainConfig(**{name: value for name, value in values.items() if name in names})


def _given(args: argparse.Namespace) -> set[str]:
    return {name for name, value in vars(args).items() if value is not None}
