"""The configuration of a training run: resolved once, frozen, saved with every checkpoint.

Each field says of itself what it is: the command line, the checks, the keys of the preset tables
and what may change on resume come from the fields.
"""

import argparse
import contextlib
import json
import logging
from collections.abc import Iterable
from dataclasses import MISSING, asdict, dataclass, fields
from pathlib import Path
from typing import Any

from ..common.backend import parse_devices
from ..common.console import Parser
from ..common.data.records import open_records
from ..common.engine.model_name import parse_model
from ..common.errors import InputError
from ..common.options import (
    NOT_NEGATIVE,
    SHARE,
    Rule,
    defaults_of,
    integer,
    option,
    parse,
    positive,
    rules_of,
)
from ..common.registry import Registry, unknown_name
from ..common.typed import from_values
from ..symbol import get_symbol, list_networks, parse_options
from . import presets
from .augmentations import (
    AUGMENTATIONS,
    COMBINATIONS,
    make_augmentations,
    names_of,
    parse_augmentation_options,
)
from .distillation import DISTILLATION_LOSSES, DistillationLoss, make_distillation_loss
from .distillation.angular import FORMS
from .losses import LOSSES, ClassificationLoss, check_additions, make_loss
from .partial_fc import DENSE, DTYPES, UPDATES, check_loss, check_room
from .processes import HOROVOD, KVSTORES
from .schedules import SCHEDULES
from .views import MOST_VIEWS

log = logging.getLogger(__name__)

WARMUP_SHARE = 0.05  # of all steps, when nothing is asked for
STATISTICS = 'statistics'
FULL, PARTIAL_FC = HEADS = ('full', 'partial-fc')

LONGEST_WARMUP_SHARE = 0.1  # of all steps: what a table asks for was meant for a whole run

WHAT, DATA, RUN, WATCH, DISTILL = (
    'what is trained',
    'data',
    'the run',
    'watching and saving',
    'distillation',
)

_FOLDER_NAME = Rule(
    lambda name: Path(name).name == name and name not in ('', '..'),
    'the name of a folder in --models-root, not a path',
)


def _losses() -> str:
    rows = []
    for name, row in presets.loss.items():
        options = {**defaults_of(LOSSES.get(row.loss)), **row.loss_options}
        numbers = ' '.join(f'{key} {value:g}' for key, value in options.items())
        rows.append(f'{name} ({numbers})' if numbers else name)
    return ', '.join([*rows, *(name for name in LOSSES if name not in presets.loss)])


def _recipes() -> str:
    rows = []
    for name, row in presets.recipe.items():
        settings = ', '.join(f'{flag_of(key)} {value}' for key, value in row.items())
        rows.append(f'{name} ({settings})')
    return f'other defaults: {"; ".join(rows)}'


def _default_alphas() -> str:
    alphas = {name: DISTILLATION_LOSSES.get(name).default_alpha for name in DISTILLATION_LOSSES}
    return ', '.join(f'{name} {alpha:g}' for name, alpha in alphas.items())


def _combinations() -> str:
    return '; '.join(f'{name}: {",".join(COMBINATIONS.get(name))}' for name in COMBINATIONS)


def _options_of(registry: Registry) -> str:
    rows = []
    for name in registry:
        texts = [
            f'{field.name} ({field.metadata["help"]}; default {field.default})'
            for field in fields(registry.get(name))
        ]
        rows += [f'{name}: {", ".join(texts)}'] if texts else []
    return '; '.join(rows)


# Metadata of a field beside help and rule: `group` and `flag` on the command line (no group: it is
# not there), `choices` for a word, `free` where it may differ on resume, since the weights do not
# depend on it, `shares` where it says how the images of a step fall to processes, and may differ
# where they are as many as before.
@dataclass(frozen=True)
class TrainConfig:
    """Everything that determines a run. Steps and epochs count from 0; batch sizes are images."""

    name: str = option(
        'folder of this run under models_root (default NETWORK-LOSS-DATASET)',
        group=RUN,
        rule=_FOLDER_NAME,
    )
    network: str = option(
        lambda: f'{", ".join(list_networks())}, or a row of the network table', group=WHAT
    )
    network_options: dict[str, Any] = option(  # noqa: RUF009  (it makes a field)
        'an option of the network, e.g. multiplier=0.5; may be given several times',
        group=WHAT,
        flag='--network-option',
    )
    loss: str = option(_losses, group=WHAT)
    loss_options: dict[str, Any] = option(  # noqa: RUF009
        lambda: f'an option of the loss, several times if need be. {_options_of(LOSSES)}',
        group=WHAT,
        flag='--loss-option',
    )
    data_dir: str = option(
        'folder with train.rec, its .idx and property, or of identity folders with crops',
        group=DATA,
    )
    val_targets: tuple[str, ...] = option(
        'comma-separated .bin names in the data folder, or paths; "" for none',
        metavar='NAMES',
        group=DATA,
        flag='--target',
        free=True,
    )
    num_classes: int = option('of the data')
    num_images: int = option('of the data')
    models_root: str = option('folder of all runs', group=RUN, free=True)
    pretrained: str = option('weights to start from', group=WHAT, metavar='PREFIX,EPOCH')
    devices: str = option('cpu, or gpu:0,1,...', group=RUN)
    num_devices: int = option('that `devices` names and this machine has')
    kvstore: str = option(
        'local, device, dist_sync (dist_train.sh) or horovod (train_multi.sh)',
        group=RUN,
        choices=KVSTORES,
        shares=True,
    )
    num_workers: int = option('processes of the run', shares=True)
    per_batch_size: int = option(
        'images a step and device', group=RUN, rule=integer(1), shares=True
    )
    total_steps: int = option('of the run')
    lr: float = option('learning rate after warm-up', group=RUN, rule=positive())
    lr_mode: str = option(
        lambda: f'its way down after warm-up: {", ".join(SCHEDULES)}', group=RUN, choices=SCHEDULES
    )
    lr_steps: tuple[int, ...] = option(
        'for --lr-mode step: comma-separated steps', group=RUN, metavar='STEPS'
    )
    lr_factor: float = option('of --lr-mode step at each of its steps', rule=positive())
    warmup_steps: int = option(
        'steps of linear warm-up (default 5 % of all; that of a recipe at most 10 %)',
        group=RUN,
        rule=integer(0),
    )
    wd: float = option('weight decay', group=RUN, rule=NOT_NEGATIVE)
    mom: float = option('SGD momentum', group=RUN, rule=NOT_NEGATIVE)
    seed: int = option(
        'of initial weights, order and mirroring', group=RUN, rule=integer(0, 2**31 - 1)
    )
    augment: str = option(
        lambda: (
            f'what changes crops, one or several after commas: {", ".join(AUGMENTATIONS)}; '
            f"{_combinations()}; mirror is the paper's, mild (which mirrors too) helps small data "
            'sets'
        ),
        group=DATA,
        metavar='NAME,...',
    )
    threads: int = option(
        'decoding threads; 0 is one a CPU', group=DATA, rule=integer(0), free=True
    )
    frequent: int = option('steps between log lines', group=WATCH, rule=integer(1), free=True)
    verbose: int = option(
        'steps between verifications and checkpoints', group=WATCH, rule=integer(1), free=True
    )
    ckpt: int = option(
        'keep 0: nothing, 1: the newest checkpoint, 2: all, 3: the newest and the best',
        group=WATCH,
        rule=integer(0, 3),
        free=True,
    )
    freeze: str = option(
        'what stays as --pretrained has it: backbone (the network; the class centres learn), '
        'centres (the network learns), or statistics (all learns, but BatchNorm takes the running '
        'mean and variance, not those of the batch)',
        '',
        group=WHAT,
        metavar='backbone|centres|statistics',
        choices=('', 'backbone', 'centres', STATISTICS),
    )
    accumulate: int = option(
        'passes of --per-batch-size whose gradients make one step: large batches in little memory',
        1,
        group=RUN,
        metavar='PASSES',
        rule=integer(1),
    )
    clip_gradient: float = option(
        'scale the gradient down to this norm, over all parameters, where it is larger; 0: never',
        0.0,
        group=RUN,
        metavar='NORM',
        rule=NOT_NEGATIVE,
    )
    ema: float = option(
        'verify and save an average of the weights that keeps this share at each step, e.g. '
        '0.999; 0: the weights themselves',
        0.0,
        group=RUN,
        metavar='DECAY',
        rule=SHARE,
    )
    skip_corrupt: int = option(
        'leave out up to N records that cannot be read, and name them; the first one stops the '
        'run otherwise, saved',
        0,
        group=DATA,
        metavar='N',
        rule=integer(0),
        free=True,
    )
    shuffle: str = option(
        'full; blocks for a .rec that is larger than memory; people, with up to four pictures of a '
        'person beside each other, for triplet and ekd',
        'full',
        group=DATA,
        choices=('full', 'blocks', 'people'),
    )
    augment_options: dict[str, Any] = option(  # noqa: RUF009
        lambda: (
            'an option of an augmentation, e.g. jitter.hue=0.1, several times if need be. '
            + _options_of(AUGMENTATIONS)
        ),
        {},
        group=DATA,
        flag='--augment-option',
        metavar='NAME.KEY=VALUE',
    )
    label_smoothing: float = option(
        'share of the label that all classes get evenly, e.g. 0.1; of a loss that is a softmax',
        0.0,
        group=WHAT,
        metavar='SHARE',
        rule=SHARE,
    )
    regular_face: float = option(
        "weight of RegularFace, which pushes a class's centre away from its nearest other one, "
        'e.g. 1',
        0.0,
        group=WHAT,
        metavar='WEIGHT',
        rule=NOT_NEGATIVE,
    )
    head: str = option(
        'full: the loss looks at all classes; partial-fc: at a sample of them in every step '
        '(PartialFC), which saves time and memory',
        FULL,
        group=WHAT,
        metavar='full|partial-fc',
        choices=HEADS,
    )
    sample_rate: float = option(
        'of --head partial-fc: share of the classes that a step looks at, e.g. 0.1',
        1.0,
        group=WHAT,
        metavar='SHARE',
        rule=positive(1.0),
    )
    partial_fc_update: str = option(
        'of --head partial-fc: sparse moves the centres of the sample alone; dense gives momentum '
        'and decay to all',
        UPDATES[0],
        group=WHAT,
        metavar='sparse|dense',
        choices=UPDATES,
    )
    centres_dtype: str = option(
        'of --head partial-fc: how centres and momenta are stored; float16, rounded at random, '
        'takes half the memory',
        DTYPES[0],
        group=WHAT,
        metavar='float32|float16',
        choices=DTYPES,
    )
    interclass_filter: float = option(
        'of --head partial-fc: leave out other classes whose cosine to an image is above this, '
        'for data in which one person has several classes, e.g. 0.4; 1: none',
        1.0,
        group=WHAT,
        metavar='COSINE',
        rule=positive(1.0),
    )
    teacher: str = option(
        'frozen teacher: a checkpoint, an export folder, an .onnx file of anyone, or an .npz with '
        'its embeddings',
        '',
        group=DISTILL,
        metavar='PREFIX,EPOCH|FILE',
        required=True,
    )
    teacher_input: str = option(
        'what pixels become for a foreign .onnx teacher that does not tell, e.g. '
        'mean=127.5,std=128,colour=bgr',
        '',
        group=DISTILL,
        flag='--input',
        metavar='KEY=VALUE,...',
    )
    # not quite without influence on the weights: a store rounds its embeddings to float16
    teacher_store: str = option(
        "auto: the teacher's embeddings from a store beside the .rec, made first where it is "
        'missing and pays; live: run the teacher in every step; or the file of a store',
        '',
        group=DISTILL,
        metavar='auto|live|FILE',
        free=True,
    )
    teacher_lift: bool = option(
        "of a student with more values than its teacher: take the teacher's embeddings to the "
        "student's size by a fixed map that keeps all inner products",
        False,
        group=DISTILL,
    )
    views: int = option(
        'draw pictures from K augmented views of each, and the picture itself, which the teacher '
        'embeds once for all runs; 0 is ever new pictures and a live teacher (default: as many as '
        'a store beside the data has)',
        0,
        group=DISTILL,
        metavar='K',
        rule=integer(0, MOST_VIEWS),
    )
    view_seed: int = option('of the views', 0)
    alpha: float = option(
        lambda: f'weight of L_s in Eq. 7 (default {_default_alphas()})',
        DistillationLoss.default_alpha,
        group=DISTILL,
        rule=positive(),
    )
    distill: str = option(
        lambda: f'the loss L_s: {", ".join(DISTILLATION_LOSSES)}',
        'angular',
        group=DISTILL,
        choices=DISTILLATION_LOSSES,
    )
    distill_options: dict[str, Any] = option(  # noqa: RUF009
        lambda: f'an option of L_s, several times if need be. {_options_of(DISTILLATION_LOSSES)}',
        {},
        group=DISTILL,
        flag='--distill-option',
    )
    classification: bool = option('False: the distillation loss alone', True)
    sync_bn: bool = option(
        "BatchNorm takes the statistics of all processes' images, not those of its own: as one "
        'process with the whole batch, at the price of two messages a layer and step',
        False,
        group=RUN,
    )

    @property
    def run_folder(self) -> Path:
        return Path(self.models_root) / self.name

    @property
    def prefix(self) -> Path:
        """Checkpoint prefix: PREFIX-symbol.json, PREFIX-0001.params, ..."""
        return self.run_folder / 'model'

    @property
    def global_batch_size(self) -> int:
        """Images a step."""
        return self.per_batch_size * self.num_devices * self.num_workers * self.accumulate

    def to_json(self) -> str:
        return json.dumps(asdict(self), indent=1, sort_keys=True)

    @classmethod
    def from_json(cls, text: str) -> 'TrainConfig':
        """Inverse of `to_json`; raises InputError for unknown or missing fields."""
        values = json.loads(text)
        form = values.pop('distill_form', None) if isinstance(values, dict) else None
        if form and values.get('teacher'):  # as runs before the other losses were saved
            values['distill_options'] = {'form': form}
        return from_values(cls, values, 'saved configuration')

    def differences(self, other: 'TrainConfig') -> list[str]:
        """'field: ours, not theirs' for every field that decides the weights; of those that say
        how the images of a step fall to processes, only where they are not as many."""
        ours, theirs = asdict(self), asdict(other)
        free = {'free'}
        if self.global_batch_size == other.global_batch_size:
            free.add('shares')
        return [
            f'{field.name} {ours[field.name]!r}, saved {theirs[field.name]!r}'
            for field in fields(self)
            if ours[field.name] != theirs[field.name] and not free & field.metadata.keys()
        ]


@dataclass(frozen=True)
class Request:
    """What else a command line or a table may say; it is not saved, but leads to what is."""

    dataset: str = option('a row of the dataset table', '', group=DATA)
    recipe: str = option(_recipes, '', group=RUN)
    config: str = option(
        'Python file with tables of your own, or with losses, networks, ... that register '
        'themselves',
        '',
        group=RUN,
        metavar='FILE',
    )
    resume: bool = option(
        'go on with the newest checkpoint, in as many processes as you like', False, group=RUN
    )
    batch_may_change: bool = option(
        'with --resume: go on although the images a step are not as many as before',
        False,
        group=RUN,
    )
    overwrite: bool = option('replace a finished or started run', False, group=RUN)
    epochs: int = option('passes over the data', 0, group=RUN, rule=integer(1))
    steps: int = option('steps in all, instead of epochs', 0, group=RUN, rule=integer(1))
    global_batch_size: int = option(
        'images a step of all devices and processes, instead of --per-batch-size',
        0,
        group=RUN,
        rule=integer(1),
    )
    generations: int = option('how often to distil', 2, group=DISTILL, rule=integer(1))
    form: str = option(
        'short for --distill-option form=...: l2 is Eq. 5, cosine is Eq. 4',
        '',
        group=DISTILL,
        choices=FORMS,
        metavar='l2|cosine',
    )
    no_classification: bool = option(
        'train with L_s alone, without a margin loss', False, group=DISTILL
    )
    scratch: str = option(
        'a student trained without the teacher, shown beside the generations',
        '',
        group=DISTILL,
        metavar='PREFIX,EPOCH',
    )


# what a row of a table, or the command line, may set
SETTINGS = {field.name: field for table in (TrainConfig, Request) for field in fields(table)}
# of which a command line may give one
_EITHER = (
    ('resume', 'overwrite'),
    ('epochs', 'steps'),
    ('per_batch_size', 'global_batch_size'),
)
# fields that the command line gives as KEY=VALUE words
OPTION_WORDS = ('network_options', 'loss_options', 'distill_options', 'augment_options')


def flag_of(name: str) -> str:
    """The option of the command line that sets a field."""
    return SETTINGS[name].metadata.get('flag') or '--' + name.replace('_', '-')


def add_arguments(parser: Parser, groups: Iterable[str] = (WHAT, DATA, RUN, WATCH)) -> None:
    """The options of `train` and, with the group DISTILL, of `distill`; names are InsightFace's
    where it has one. What is not given is not in the namespace, but for flags."""
    for title in groups:
        group = parser.add_argument_group(title)
        for name, field in SETTINGS.items():
            if field.metadata.get('group') == title:
                group.add_argument(flag_of(name), dest=name, **_argument(field))


def _argument(field) -> dict[str, Any]:
    """What argparse should know of a field."""
    about = field.metadata['help']
    about = about() if callable(about) else about
    metavar = {'metavar': field.metadata['metavar']} if 'metavar' in field.metadata else {}
    if field.type is bool:
        return {'action': 'store_true', 'help': about}
    defaults = {**presets.dataset[presets.default.dataset], **presets.default}
    default = defaults.get(field.name, field.default)
    if isinstance(default, list):
        default = ','.join(default)
    told = '(default ' in about  # by a help that says it better
    if isinstance(default, (str, int, float)) and (default or field.name == 'seed') and not told:
        about = f'{about} (default {default})'
    about = about.replace('%', '%%')
    if field.name in OPTION_WORDS:
        given = {
            'action': 'append',
            'default': argparse.SUPPRESS,
            'metavar': 'KEY=VALUE',
            **metavar,
        }
        return {**given, 'help': about}
    return {
        'type': field.type if field.type in (int, float) else str,
        'default': argparse.SUPPRESS,
        'required': field.metadata.get('required', False),
        'help': about,
        **metavar,
    }


def bare(**values: Any) -> TrainConfig:
    """A configuration of a run that is never started: presets, and nothing of data or machine
    beside the given `values`."""
    empty = {
        field.name: getattr(field.type, '__origin__', field.type)()
        for field in fields(TrainConfig)
        if field.default is MISSING
    }
    names = {field.name for field in fields(TrainConfig)}
    known = {name: value for name, value in presets.default.items() if name in names}
    return TrainConfig(**{**empty, **known, **values})


def _merge(tables, given: dict[str, Any]) -> dict[str, Any]:
    """default < recipe < dataset < network < loss < command line, options of both merged."""
    values = dict(tables.default)
    if given.get('recipe'):
        values.update(presets.entry(tables, 'recipe', given['recipe']))
    chosen = {table: given.get(table, values[table]) for table in ('dataset', 'network', 'loss')}
    data_name = values['dataset'] = chosen['dataset']
    values.update(presets.entry(tables, 'dataset', data_name))
    if 'data_dir' in given:
        values.pop('num_classes', None)  # what the row expects of its own folder
        values['val_targets'] = ()
        if 'dataset' not in given:
            data_name = Path(given['data_dir']).resolve().name
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
    return values


def _words(given: dict[str, Any]) -> dict[str, list[str]]:
    """The KEY=VALUE words of the command line; of one that is given twice the last counts, as with
    all other options here."""
    return {
        name: list({word.partition('=')[0]: word for word in given.get(name, [])}.values())
        for name in OPTION_WORDS
    }


def _read_options(values: dict[str, Any], given: dict[str, Any]) -> None:
    """Put the KEY=VALUE words of the command line over the tables' options, and try them all."""
    words = _words(given)
    options = parse_options(values['network'], words['network_options'])
    values['network_options'] = {**values['network_options'], **options}
    get_symbol(values['network'], **values['network_options'])
    loss = LOSSES.get(values['loss'])
    options = parse(
        'loss', values['loss'], words['loss_options'], defaults_of(loss), rules_of(loss)
    )
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
                raise InputError(f'{flag_of(name)} {values[name]}: is for --head partial-fc')
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
        values = {**_merge(tables, given), **extra}
        if isinstance(values.get('lr_steps'), str):
            values['lr_steps'] = parse_steps(values['lr_steps'])
        if isinstance(values.get('val_targets'), str):
            values['val_targets'] = tuple(filter(None, values['val_targets'].split(',')))
        _check(values)
        _read_options(values, given)
        values['table_warmup'] = 'warmup_steps' in values and 'warmup_steps' not in given
        _read_augmentations(values, _words(given)['augment_options'])
    except (KeyError, TypeError, AttributeError) as error:
        raise InputError(
            f'{given.get("config") or "presets"}: a table lacks an entry or has one of a wrong '
            f'type: {type(error).__name__}: {error}'
        ) from None
    for name in ('pretrained', 'teacher'):  # what `latest` is now, not at another time
        if str(values.get(name, '')).endswith((',latest', ',best')):
            values[name] = '{},{}'.format(*parse_model(values[name]))
    values['num_devices'] = len(parse_devices(values['devices']))
    return values


def _data_size(values: dict[str, Any]) -> tuple[int, int]:
    """(classes, images) of the data set; InputError for one that cannot be trained on."""
    with contextlib.closing(open_records(values['data_dir'])) as records:
        num_classes, num_images = records.num_classes, records.num_images
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
    if values['num_devices'] > 1 or (num_workers > 1 and values['kvstore'] != HOROVOD):
        raise InputError(
            '--head partial-fc takes one device a process, and several processes by '
            'recognition/train_multi.sh alone'
        )
    dense = values.get('partial_fc_update') == DENSE
    images = values['per_batch_size'] * num_workers
    check_room(values.get('sample_rate', 1.0), num_classes, num_workers, images, dense)


def _check_sync(values: dict[str, Any], num_workers: int) -> None:
    """InputError where BatchNorms of one run have no way to each other."""
    if not values.get('sync_bn'):
        return
    if values['num_devices'] > 1 or (num_workers > 1 and values['kvstore'] != HOROVOD):
        raise InputError(
            '--sync-bn takes one device a process, and several processes by '
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
    _check_sync(values, num_workers)
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
