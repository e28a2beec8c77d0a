"""From the tables, the command line and the data set to the configuration of a run, once."""

import argparse
import contextlib
import logging
import math
from dataclasses import asdict, fields
from typing import Any

from ..common.backend import parse_devices
from ..common.data.records import check_crops, open_records
from ..common.engine.model_name import numbered
from ..common.engine.ops import BFLOAT16, FLOAT32, lacks_bfloat16
from ..common.errors import InputError
from ..common.files import real_path
from ..common.options import defaults_of, parse, rules_of
from ..common.registry import unknown_name
from ..common.typed import is_float32
from ..symbol import get_symbol, list_networks, parse_options
from . import presets
from .augmentations import make_augmentations, names_of, parse_augmentation_options
from .config import FULL, OPTION_WORDS, SETTINGS, STATISTICS, TrainConfig, flag_of
from .distillation import DISTILLATION_LOSSES, make_distillation_loss
from .losses import LOSSES, ClassificationLoss, check_additions, make_loss
from .partial_fc import DENSE, check_loss, check_room
from .processes import HOROVOD

log = logging.getLogger(__name__)

WARMUP_SHARE = 0.05  # of all steps, when nothing is asked for
LONGEST_WARMUP_SHARE = 0.1  # of all steps: what a table asks for was meant for a whole run

_MOST_CLASSES = 1 << 24  # float32, as which labels travel, counts no further

# of these settings a command line may give one
_EITHER = (
    ('resume', 'overwrite'),
    ('epochs', 'steps'),
    ('per_batch_size', 'global_batch_size'),
)


def _chosen(tables, given: dict[str, Any]) -> tuple[dict[str, Any], dict[str, str]]:
    """(settings of default < recipe, table -> the name of its row as people call it)."""
    values = dict(tables.default)
    if given.get('recipe'):
        values.update(presets.entry(tables, 'recipe', given['recipe']))
    return values, {
        table: given.get(table, values[table]) for table in ('dataset', 'network', 'loss')
    }


def _merge(tables, given: dict[str, Any]) -> tuple[dict[str, Any], str]:
    """(default < recipe < dataset < network < loss < command line, options of both merged; the
    loss as people call it)."""
    values, chosen = _chosen(tables, given)
    data_name = values['dataset'] = chosen['dataset']
    values.update(presets.entry(tables, 'dataset', data_name))
    if 'data_dir' in given:
        values.pop('num_classes', None)  # what the row expects of its own folder
        values['val_targets'] = ()
        if 'dataset' not in given:
            data_name = real_path(given['data_dir']).name
    for table, known in (('network', list_networks()), ('loss', LOSSES.names())):
        name = chosen[table]
        values.update({table: name, table + '_options': {}})
        if name in tables[table]:
            values.update(tables[table][name])
        elif name not in known:
            raise unknown_name(table, name, {*tables[table], *known})
    values['name'] = '-'.join([chosen['network'], chosen['loss'], data_name])
    if 'steps' in given:
        values.pop('epochs', None)
    if 'per_batch_size' in given:
        values.pop('global_batch_size', None)
    merged = {'dataset', 'network', 'loss', *OPTION_WORDS}
    values.update({name: value for name, value in given.items() if name not in merged})
    return values, chosen['loss']


def _words(given: dict[str, Any]) -> dict[str, list[str]]:
    """The KEY=VALUE words of the command line; of one that is given twice the last counts, as with
    all other options here."""
    return {
        name: list({word.partition('=')[0]: word for word in given.get(name, [])}.values())
        for name in OPTION_WORDS
    }


def _read_options(values: dict[str, Any], given: dict[str, Any], loss_name: str) -> None:
    """Put the KEY=VALUE words of the command line over the tables' options, and try them all.

    `loss_name` is what people call the loss: a row of the table, such as arcface of margin.
    """
    words = _words(given)
    options = parse_options(values['network'], words['network_options'])
    values['network_options'] = {**values['network_options'], **options}
    get_symbol(values['network'], **values['network_options'])
    loss = LOSSES.get(values['loss'])
    options = parse('loss', loss_name, words['loss_options'], defaults_of(loss), rules_of(loss))
    values['loss_options'] = {**values['loss_options'], **options}
    loss = make_loss(values['loss'], values['loss_options'])
    _read_distillation(values, words)
    if values.get('freeze', '') not in ('', STATISTICS) and not loss.centres_per_class:
        raise InputError(
            f'--freeze {values["freeze"]}: --loss {values["loss"]} has no class centres to learn '
            'or to keep; choose another loss'
        )
    additions = [values.get(name, 0.0) for name in ('label_smoothing', 'regular_face')]
    if any(additions) and not values.get('classification', True):
        raise InputError(
            '--label-smoothing and --regular-face are parts of the classification loss, and this '
            'run has none; leave them out'
        )
    check_additions(loss, *additions)
    _check_head(values, loss)


def _check_head(values: dict[str, Any], loss: ClassificationLoss) -> None:
    """InputError for what the head of the run has no place for."""
    kinds = {field.name: field.default for field in fields(TrainConfig)}
    of_partial_fc = ('sample_rate', 'partial_fc_update', 'centres_dtype', 'interclass_filter')
    if values.get('head', FULL) == FULL:
        for name in of_partial_fc:
            if values.get(name, kinds[name]) != kinds[name]:
                raise InputError(f'{flag_of(name)} {values[name]}: only with --head partial-fc')
        return
    check_loss(loss, values['loss'])
    without = ('label_smoothing', 'regular_face', 'freeze', 'clip_gradient', 'classification')
    for name in (*without, 'accumulate'):
        if values.get(name, kinds[name]) not in (kinds[name], STATISTICS):
            raise InputError(
                f'--head partial-fc has no place for {flag_of(name)} {values[name]}; leave it out'
                if name != 'classification'
                else '--head partial-fc is a classification loss, and this run has none'
            )


def _read_distillation(values: dict[str, Any], words: dict[str, list]) -> None:
    """The same for the loss of a run with a teacher."""
    if not values.get('teacher'):
        return
    name = values.setdefault('distill', 'angular')
    kind = DISTILLATION_LOSSES.get(name)
    values.setdefault('alpha', kind.default_alpha)
    if kind.classifies:
        values['classification'] = False
    if values.get('form'):
        words['distill_options'] = [*words['distill_options'], f'form={values["form"]}']
    options = parse(
        'distillation', name, words['distill_options'], defaults_of(kind), rules_of(kind)
    )
    options = {**values.get('distill_options', {}), **options}
    values['distill_options'] = asdict(make_distillation_loss(name, options))


def _read_augmentations(values: dict[str, Any], words: list[str]) -> None:
    """Make the augmentations, so that all their options are known; InputError where they do not
    suit the loss."""
    augment = values['augment']
    names = names_of(augment)
    # a table's options are those of its own --augment
    options = {
        key: value
        for key, value in values.get('augment_options', {}).items()
        if key.partition('.')[0] in names
    }
    options.update(parse_augmentation_options(augment, words))
    augmentations = make_augmentations(augment, options)
    values['augment_options'] = augmentations.options
    loss = DISTILLATION_LOSSES.get(values['distill']) if values.get('teacher') else None
    labels = values.get('classification', True) or loss is None or loss.needs_labels
    if augmentations.mixes and labels:
        raise InputError(
            f'--augment {augment} shows two people in one picture, which has no class; it is for '
            '`distill --no-classification` with a loss that needs no labels'
        )


def _check(values: dict[str, Any]) -> None:
    """Ranges of what the user gave; InputError for the first that is out."""
    for name in sorted(values.keys() - SETTINGS.keys()):
        raise unknown_name('setting in the tables', name, SETTINGS)
    for name, value in values.items():
        rule, choices = (SETTINGS[name].metadata.get(key) for key in ('rule', 'choices'))
        if rule and not rule.test(value):
            raise InputError(f'{flag_of(name)} {value}: must be {rule.expected}')
        if choices and value not in choices:
            raise unknown_name(flag_of(name), value, choices)
    if values.get('freeze') and not values.get('pretrained'):
        raise InputError(f'--freeze {values["freeze"]} needs --pretrained: what is to be kept')
    keeps_part = values.get('freeze', '') not in ('', STATISTICS)
    if keeps_part and not values.get('classification', True):
        raise InputError(
            f'--freeze {values["freeze"]} is for runs with a classification loss, whose centres '
            'are what it keeps or leaves to learn'
        )
    if values.get('sync_bn') and values.get('freeze', '') in ('backbone', STATISTICS):
        raise InputError(
            f'--sync-bn: with --freeze {values["freeze"]} no BatchNorm takes the statistics of a '
            'batch; leave it out'
        )
    if values.get('lr_steps') and values['lr_mode'] != 'step':
        raise InputError(f'--lr-steps needs --lr-mode step (it is {values["lr_mode"]!r})')
    changes = [values['lr_factor']] * len(values.get('lr_steps') or ())
    last = math.prod(changes, start=float(values['lr']))
    if not is_float32(last):
        raise InputError(
            f'--lr {values["lr"]:g} times lr_factor {values["lr_factor"]:g} at each of '
            f'{len(changes)} --lr-steps is {last:g}, which float32 does not hold; choose others'
        )
    if values['lr_mode'] == 'step' and not values.get('lr_steps'):
        raise InputError("--lr-mode step needs --lr-steps, e.g. '--lr-steps 100000,160000'")


def check_bfloat16(devices: str = 'cpu') -> None:
    """InputError where this machine has no bfloat16 for a run on `devices`."""
    on_gpu = any(device.device_type != 'cpu' for device in parse_devices(devices))
    lacks = f'it is for the CPU, not {devices}' if on_gpu else lacks_bfloat16()
    if lacks:
        raise InputError(f'--precision bfloat16: {lacks}; leave it out to train in float32')


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

    Parameters
    ----------
    args : of a parser that `add_arguments` filled
    extra : fields laid over everything else

    Raises
    ------
    InputError as `resolve`, but for what only the data set can tell.
    """
    given = {name: value for name, value in vars(args).items() if value is not None}
    for one, other in _EITHER:
        if given.get(one) and given.get(other):
            raise InputError(f'{flag_of(one)} and {flag_of(other)}: give one of the two')
    if given.get('batch_may_change') and not given.get('resume'):
        raise InputError('--batch-may-change belongs to --resume')
    tables = presets.load_tables(given.get('config', ''))
    try:
        values, loss_name = _merge(tables, given)
        values.update(extra)
        if isinstance(values.get('lr_steps'), str):
            values['lr_steps'] = parse_steps(values['lr_steps'])
        if isinstance(values.get('val_targets'), str):
            values['val_targets'] = tuple(filter(None, values['val_targets'].split(',')))
        _check(values)
        _read_options(values, given, loss_name)
        values['table_warmup'] = 'warmup_steps' in values and 'warmup_steps' not in given
        _read_augmentations(values, _words(given)['augment_options'])
    except (KeyError, TypeError, AttributeError) as error:
        raise InputError(
            f'{given.get("config") or "presets"}: a table lacks an entry or has one of a wrong '
            f'type: {type(error).__name__}: {error}'
        ) from None
    for name in ('pretrained', 'teacher'):
        if values.get(name):
            values[name] = numbered(str(values[name]))
    values['num_devices'] = len(parse_devices(values['devices']))
    if values.get('precision', FLOAT32) == BFLOAT16:
        check_bfloat16(values['devices'])
    return values


def _data_size(values: dict[str, Any]) -> tuple[int, int]:
    """(classes, images) of the data set; InputError for one that cannot be trained on."""
    with contextlib.closing(open_records(values['data_dir'])) as records:
        num_classes, num_images = records.num_classes, records.num_images
        check_crops(records)
        path = records.source
    expected = values.get('num_classes', num_classes)
    if expected != num_classes:
        raise InputError(
            f'{values["data_dir"]}/property says {num_classes} classes, '
            f'the preset {values["dataset"]!r} expects {expected}'
        )
    distill = values['distill'] if values.get('teacher') else ''
    needs_labels = bool(distill) and DISTILLATION_LOSSES.get(distill).needs_labels
    if values.get('classification', True) or needs_labels:
        if num_classes < 2:
            kind = f'--distill {distill}' if needs_labels else 'a classification loss'
            raise InputError(
                f'{path} holds {("no classes", "one class")[num_classes]}, of which {kind} '
                'learns nothing; it takes at least two people, a folder each (distil with '
                '--no-classification and --distill angular to learn from pictures without names)'
            )
        if num_classes > _MOST_CLASSES:
            raise InputError(
                f'{path} holds {num_classes} classes; a batch tells {_MOST_CLASSES} apart at most, '
                'since its labels are float32'
            )
        if num_classes > num_images:
            raise InputError(
                f'{values["data_dir"]}/property says {num_classes} classes, but {path.name} holds '
                f'{num_images} images; it is the property of another data set'
            )
    return num_classes, num_images


def _check_sample(values: dict[str, Any], num_classes: int, num_workers: int) -> None:
    """InputError where a sample of a rank's classes has no room for those of a step."""
    if values.get('head', FULL) == FULL:
        return
    _check_ranks('--head partial-fc', values, num_workers)
    dense = values.get('partial_fc_update') == DENSE
    images = values['per_batch_size'] * num_workers
    check_room(values.get('sample_rate', 1.0), num_classes, num_workers, images, dense)


def _check_ranks(what: str, values: dict[str, Any], num_workers: int) -> None:
    """InputError where the processes of a run have no way to each other but a parameter server, or
    a process has several devices."""
    if values['num_devices'] > 1 or (num_workers > 1 and values['kvstore'] != HOROVOD):
        raise InputError(
            f'{what} takes one device a process, and several processes by '
            'recognition/train_multi.sh alone'
        )


def configure(values: dict[str, Any], num_workers: int = 1) -> TrainConfig:
    """Settings and their data set -> one frozen configuration; see `resolve`."""
    values = dict(values)
    num_classes, num_images = _data_size(values)
    devices = values['num_devices'] * num_workers
    passes = devices * values.get('accumulate', 1)
    if 'global_batch_size' in values:
        values['per_batch_size'], rest = divmod(values['global_batch_size'], passes)
        if (rest and not values.get('batch_may_change')) or not values['per_batch_size']:
            raise InputError(
                f'{values["global_batch_size"]} images a step do not fall into {passes} equal '
                f'parts (devices x workers x --accumulate); give a --per-batch-size'
            )
        if rest:  # no warning, which every rank would show
            log.info(
                '%d images a step do not fall into %d equal parts: a step has %d',
                *(values['global_batch_size'], passes, passes * values['per_batch_size']),
            )
    step_images = values['per_batch_size'] * passes
    if num_images < step_images:
        raise InputError(
            f'{values["data_dir"]} holds {num_images} images, fewer than one step of '
            f'{step_images}; choose a smaller --per-batch-size'
        )
    _check_sample(values, num_classes, num_workers)
    if values.get('sync_bn'):
        _check_ranks('--sync-bn', values, num_workers)
    total = values.get('steps') or values['epochs'] * (num_images // step_images)
    if values.get('table_warmup'):
        longest = int(LONGEST_WARMUP_SHARE * total)
        values['warmup_steps'] = min(values['warmup_steps'], longest)
    elif values.get('warmup_steps', 0) >= total:
        raise InputError(
            f'--warmup-steps {values["warmup_steps"]}: must be below the {total} steps of the run'
        )
    missing = {
        'warmup_steps': int(WARMUP_SHARE * total),
        'pretrained': '',
        'lr_steps': (),
        'threads': 0,
    }
    values = {
        **missing,
        **values,
        'num_classes': num_classes,
        'num_images': num_images,
        'num_workers': num_workers,
        'total_steps': total,
        'val_targets': tuple(values['val_targets']),
    }
    names = {field.name for field in fields(TrainConfig)}
    return TrainConfig(**{name: value for name, value in values.items() if name in names})


def resolve(args: argparse.Namespace, num_workers: int = 1, **extra: Any) -> TrainConfig:
    """Tables, data set and command line -> one frozen configuration.

    Parameters
    ----------
    args : of a parser that `add_arguments` filled
    num_workers : processes of the run
    extra : fields laid over everything else (distillation's)

    Raises
    ------
    InputError for unknown names, values out of range, a data set that is missing or disagrees.
    """
    return configure(settings(args, **extra), num_workers)
