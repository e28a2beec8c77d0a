"""Train a student from a frozen teacher over generations (recursive angular distillation).

Each generation starts from the weights of the one before it; the teacher is the same in every
generation (VarGFaceNet, arXiv:1910.04985, Section 3). The run of generation k lies in NAME-genK.
"""

import argparse
import logging
import sys
from dataclasses import replace
from typing import Any, NamedTuple, Optional, Union

from ..common import console
from ..common.backend import parse_devices
from ..common.engine.mxnet import Embedder
from ..common.engine.open_model import OpenModel, open_model
from ..common.errors import InputError
from ..common.files import input_file
from ..eval.verification import VerificationResult, verify
from ..symbol import get_symbol
from .augmentations import make_augmentations
from .config import DATA, DISTILL, RUN, WATCH, WHAT, TrainConfig, add_arguments
from .configure import configure, settings
from .distillation import DISTILLATION_LOSSES
from .graph import embedding_size
from .hooks import load_targets
from .processes import connect, join, leaving_at_once
from .results import print_results
from .run_state import SILENT
from .synthetic import make_if_missing
from .teacher import EmbeddingSource, StoredTeacher, Teacher, check_sizes, open_teacher
from .teacher_file import SUFFIX, TeacherFile
from .teacher_lift import lifted
from .teaching import choose_store, choose_views, store_of_centres
from .trainer import TrainResult, check_free, first_state, start_of, train, views_of

log = logging.getLogger(__name__)


def build_parser(parser: console.Parser) -> None:
    add_arguments(parser, (DISTILL, WHAT, DATA, RUN, WATCH))


def generation_config(config: TrainConfig, number: int, before: str) -> TrainConfig:
    """Configuration of generation `number` (from 1), which starts from the model `before`."""
    return replace(config, name=f'{config.name}-gen{number}', pretrained=before)


def verify_model(
    embedder: Union[Embedder, OpenModel], targets: dict
) -> dict[str, VerificationResult]:
    """10-fold verification on every loaded target."""
    return {name: verify(embedder, *target)[0] for name, target in targets.items()}


class Wanted(NamedTuple):
    """What was asked for beside a configuration."""

    store: str  # --teacher-store
    views: Optional[int]  # --views
    generations: int


def read_settings(args: argparse.Namespace) -> tuple[dict[str, Any], Wanted]:
    """Settings, and what else was asked for; InputError for what is wrong with them alone."""
    values = settings(args, classification=not args.no_classification)
    wanted = Wanted(
        values.pop('teacher_store', 'auto'), values.pop('views', None), values.get('generations', 2)
    )
    if values['kvstore'].startswith('dist'):
        raise InputError(
            '--kvstore dist_sync trains, it does not distil; several processes distil by '
            'recognition/train_multi.sh -np N distill'
        )
    if values['ckpt'] == 0 and wanted.generations > 1:
        raise InputError('--ckpt 0 keeps no weights for the next generation to start from')
    if wanted.store == 'live' and DISTILLATION_LOSSES.get(values['distill']).needs_centres:
        raise InputError(
            f"--teacher-store live with --distill {values['distill']}: the teacher's class centres "
            'are means over all pictures, which a store holds; leave --teacher-store out'
        )
    if wanted.store not in ('auto', 'live'):
        input_file(wanted.store, 'teacher store')
    return values, wanted


def read_config(args: argparse.Namespace, size: int) -> tuple[TrainConfig, Wanted]:
    """The configuration of a run of `size` processes, without views and a generation, and what else
    was asked for."""
    values, wanted = read_settings(args)
    make_if_missing(values)
    config = configure(values, size)
    reason = no_views(config)
    if wanted.views and reason:
        raise InputError(f'--views {wanted.views} with {reason}; leave --views out')
    loss = DISTILLATION_LOSSES.get(config.distill)
    if not config.classification and not args.no_classification:
        log.info('%s takes the place of the classification loss', config.distill)
    if config.skip_corrupt and wanted.store == 'auto' and not loss.needs_centres:
        log.info('live teacher: a store has no place for records that are left out')
        wanted = wanted._replace(store='live')
    if 'name' not in vars(args):
        config = replace(config, name=f'{config.name}-distilled')
    return config, wanted


def no_views(config: TrainConfig) -> str:
    """Why steps ask the teacher for no pictures beside those of the data set and their mirror
    images; '' where they do."""
    if make_augmentations(config.augment, config.augment_options).storable:
        return f'--augment {config.augment}: a store has the mirror images anyway'
    if not DISTILLATION_LOSSES.get(config.distill).needs_embeddings:
        return f'--distill {config.distill}, which asks for the embedding of no picture'
    return ''


def teacher_of(config: TrainConfig) -> Optional[Teacher]:
    """The teacher, or None for a file of embeddings."""
    if config.teacher.endswith(SUFFIX):
        if not no_views(config):
            raise InputError(
                f'--teacher {config.teacher} with --augment {config.augment}: a file has the '
                'embeddings of an image and its mirror image only; use --augment mirror'
            )
        return None
    teacher = open_teacher(config.teacher, config.teacher_input)
    teacher.check_student(_student_size(config), config.teacher_lift)
    return teacher


def _student_size(config: TrainConfig) -> int:
    return embedding_size(get_symbol(config.network, **config.network_options))


def with_views(config: TrainConfig, wanted: Wanted, teacher: Optional[Teacher]) -> TrainConfig:
    """The configuration with the views that its pictures are drawn from."""
    if teacher is None or no_views(config):
        return config
    augmentations = make_augmentations(config.augment, config.augment_options)
    views = choose_views(teacher, config.data_dir, augmentations, wanted.store, wanted.views)
    if not views:
        log.info(
            'live teacher: --augment %s shows it ever new images; `vargfacenet teach --views K '
            '--augment %s` embeds K of each once, for all runs',
            *(config.augment, config.augment),
        )
        return config
    log.info('pictures are drawn from %d views of each, and itself', views.count)
    return replace(config, views=views.count, view_seed=views.seed)


def open_source(
    config: TrainConfig, wanted: Wanted, teacher: Optional[Teacher]
) -> tuple[TrainConfig, EmbeddingSource]:
    """The configuration with its store, and what all generations learn from."""
    student_size = _student_size(config)
    if teacher is None:
        rows = TeacherFile(config.teacher, config.data_dir)
        check_sizes(config.teacher, rows.embedding_size, student_size, config.teacher_lift)
        return config, lifted(StoredTeacher(rows), rows.embedding_size, student_size)
    config, source = _source_of(config, wanted, teacher)
    return config, lifted(source, teacher.embedding_size, student_size)


def _source_of(
    config: TrainConfig, wanted: Wanted, teacher: Teacher
) -> tuple[TrainConfig, EmbeddingSource]:
    fresh = not config.views and not no_views(config)  # pictures that no store has
    store = None
    if DISTILLATION_LOSSES.get(config.distill).needs_centres and not config.views:
        store = store_of_centres(teacher, config.data_dir, wanted.store)
    elif not fresh:
        images = config.total_steps * config.global_batch_size * wanted.generations
        views = views_of(config)
        store = choose_store(teacher, config.data_dir, views, wanted.store, images)
    if store and not fresh:
        return replace(config, teacher_store=str(store.path)), StoredTeacher(store)
    devices = parse_devices(config.devices)
    return config, teacher.live(devices, config.per_batch_size * len(devices), store)


def run(args: argparse.Namespace) -> Optional[dict]:
    ranks = connect()
    if ranks.rank:
        console.set_up_logging(logging.WARNING)  # a run is shown once
    with leaving_at_once('vargfacenet distill', ranks.size > 1):
        config, wanted = ranks.in_turn(lambda: read_config(args, ranks.size), 'configuration')
        processes = join(config.kvstore, ranks)
        source, rows = None, {}
        if processes.is_first:
            config, source, rows = open_all(args, config, wanted)
        # how the others read the teacher's embeddings is what the first one has found
        config = TrainConfig.from_json(ranks.told(config.to_json, 'configuration'))
        models: dict[str, str] = {}
        before = config.pretrained
        for number in range(1, wanted.generations + 1):
            log.info('generation %d of %d', number, wanted.generations)
            current = generation_config(config, number, before)
            result: TrainResult = train(current, start_of(args), processes, source)
            rows[f'generation {number}'] = result.targets
            before = ranks.told(lambda model=result.model: model, 'model')
            models[f'generation {number}'] = before
        return report(config, rows, models) if processes.is_first else None


def open_all(
    args: argparse.Namespace, config: TrainConfig, wanted: Wanted
) -> tuple[TrainConfig, EmbeddingSource, dict[str, dict]]:
    """The configuration with its views and store, what to learn from, and the verification of
    teacher and scratch."""
    targets, devices, start = load_targets(config), parse_devices(config.devices), start_of(args)
    # what is wrong should show before the teacher is read, and not after hours of teaching
    check_free(generation_config(config, 1, config.pretrained), start)
    named = vars(args).get('scratch')
    scratch = open_model(named, checkpoint_engine='mxnet') if named else None
    teacher = teacher_of(config)
    config = with_views(config, wanted, teacher)
    first_state(generation_config(config, 1, config.pretrained), start, SILENT)
    config, source = open_source(config, wanted, teacher)
    rows = {}
    if teacher:
        rows['teacher'] = verify_model(teacher.embedder(devices), targets)
    if scratch:
        rows['scratch'] = verify_model(scratch, targets)
    return config, source, rows


def report(config: TrainConfig, rows: dict[str, dict], models: dict[str, str]) -> dict[str, Any]:
    """Print what the generations gave; returns it as the command's result."""
    print_results(f'{config.name}: {len(models)} generation(s)', rows)
    return {
        'model': list(models.values())[-1],
        'models': models,
        'teacher_store': config.teacher_store,
        'targets': {
            row: {name: result.summary() for name, result in results.items()}
            for row, results in rows.items()
        },
    }


main = console.command('distill', build_parser, run, read_settings)

if __name__ == '__main__':
    sys.exit(main())
