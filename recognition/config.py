"""The configuration of a training run: frozen, saved with every checkpoint; `configure` makes it.

Each field says of itself what it is: the command line, the checks, the keys of the preset tables
and what may change on resume come from the fields.
"""

import argparse
import json
from collections.abc import Iterable
from dataclasses import MISSING, asdict, dataclass, fields
from pathlib import Path
from typing import Any

from ..common.console import Parser
from ..common.engine.ops import FLOAT32, PRECISIONS
from ..common.options import NOT_NEGATIVE, SHARE, Rule, defaults_of, integer, option, positive
from ..common.registry import Registry
from ..common.typed import from_values
from ..symbol import list_networks
from . import presets
from .augmentations import AUGMENTATIONS, COMBINATIONS
from .distillation import DISTILLATION_LOSSES, DistillationLoss
from .distillation.angular import FORMS
from .losses import LOSSES
from .partial_fc import DTYPES, UPDATES
from .processes import KVSTORES
from .schedules import SCHEDULES
from .views import MOST_VIEWS

STATISTICS = 'statistics'
FULL, PARTIAL_FC = HEADS = ('full', 'partial-fc')

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
    precision: str = option(
        'of the arrays between operators: float32, or bfloat16 on a CPU that has AVX512_BF16; '
        'sums, weights and all else are float32',
        FLOAT32,
        group=RUN,
        metavar='float32|bfloat16',
        choices=PRECISIONS,
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
