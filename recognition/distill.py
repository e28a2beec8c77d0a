"""Train a student from a frozen teacher over generations (recursive angular distillation).

Each generation starts from the weights of the one before it; the teacher is the same in every
generation (VarGFaceNet, arXiv:1910.04985, Section 3). The run of generation k lies in NAME-genK.
"""

import argparse
import logging
import sys
from dataclasses import replace
from typing import Any, Optional, Union

from ..common import console
from ..common.backend import parse_devices
from ..common.engine.mxnet import Embedder
from ..common.engine.open_model import OpenModel, open_model
from ..common.errors import InputError
from ..eval.verification import VerificationResult, verify
from ..symbol import get_symbol
from .augmentations import make_augmentations
from .config import DATA, DISTILL, RUN, WATCH, WHAT, TrainConfig, add_arguments, configure, settings
from .distillation import DISTILLATION_LOSSES
from .graph import embedding_size
from .hooks import load_targets
from .results import print_results
from .synthetic import make_if_missing
from .teacher import EmbeddingSource, StoredTeacher, Teacher, check_sizes, open_teacher
from .teacher_file import SUFFIX, TeacherFile
from .teaching import choose_store, store_of_centres
from .trainer import TrainResult, create_kvstore, first_state, train

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


def read_config(args: argparse.Namespace) -> tuple[TrainConfig, str, int]:
    """(configuration without a generation, --teacher-store, number of generations)."""
    values = settings(args, classification=not args.no_classification)
    wanted, generations = values.pop('teacher_store', 'auto'), values.get('generations', 2)
    make_if_missing(values)
    config = configure(values)
    if config.kvstore.startswith('dist'):
        raise InputError('--kvstore dist_sync trains, it does not distil; use local or device')
    if config.ckpt == 0 and generations > 1:
        raise InputError('--ckpt 0 keeps no weights for the next generation to start from')
    if not config.classification and not args.no_classification:
        log.info('%s takes the place of the classification loss', config.distill)
    if 'name' not in vars(args):
        config = replace(config, name=f'{config.name}-distilled')
    return config, wanted, generations


def open_source(
    config: TrainConfig, wanted: str, generations: int
) -> tuple[TrainConfig, EmbeddingSource, Optional[Teacher]]:
    """The configuration with the store's name, what all generations learn from, and the teacher
    if it is more than a file of embeddings."""
    student_size = embedding_size(get_symbol(config.network, **config.network_options))
    loss = DISTILLATION_LOSSES.get(config.distill)
    # a store serves every step where a step asks for nothing else than it holds
    stored = (
        make_augmentations(config.augment, config.augment_options).storable
        or not loss.needs_embeddings
    )
    if config.teacher.endswith(SUFFIX):
        if not stored:
            raise InputError(
                f'--teacher {config.teacher} with --augment {config.augment}: a file has the '
                'embeddings of an image and its mirror image only; use --augment mirror'
            )
        rows = TeacherFile(config.teacher, config.data_dir)
        check_sizes(config.teacher, rows.embedding_size, student_size)
        return config, StoredTeacher(rows), None
    teacher = open_teacher(config.teacher, config.teacher_input)
    teacher.check_student(student_size)
    devices = parse_devices(config.devices)
    batch_size = config.per_batch_size * len(devices)
    if loss.needs_centres:
        store = store_of_centres(teacher, config.data_dir, wanted, config.distill)
        if not stored:
            return config, teacher.live(devices, batch_size, store), teacher
        return replace(config, teacher_store=str(store.path)), StoredTeacher(store), teacher
    images = config.total_steps * config.global_batch_size * generations
    if config.skip_corrupt and wanted == 'auto':
        log.info('live teacher: a store has no place for records that are left out')
        wanted = 'live'
    store = choose_store(teacher, config.data_dir, config.augment, wanted, images)
    if store:
        return replace(config, teacher_store=str(store.path)), StoredTeacher(store), teacher
    return config, teacher.live(devices, batch_size), teacher


def run(args: argparse.Namespace) -> dict:
    config, wanted, generations = read_config(args)
    kvstore = create_kvstore(config.kvstore)
    targets, devices = load_targets(config), parse_devices(config.devices)
    # what is wrong with the run's folder should not show after hours of teaching
    first_state(generation_config(config, 1, config.pretrained), args.resume, args.overwrite)
    config, source, teacher = open_source(config, wanted, generations)
    rows = {}
    if teacher:
        rows['teacher'] = verify_model(teacher.embedder(devices), targets)
    scratch = vars(args).get('scratch')
    if scratch:
        rows['scratch'] = verify_model(open_model(scratch, checkpoint_engine='mxnet'), targets)
    models: dict[str, str] = {}
    before = config.pretrained
    for number in range(1, generations + 1):
        log.info('generation %d of %d', number, generations)
        result: TrainResult = train(
            generation_config(config, number, before), args.resume, args.overwrite, kvstore, source
        )
        rows[f'generation {number}'] = result.targets
        models[f'generation {number}'] = before = result.model
    return report(config, rows, models)


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


main = console.command('distill', build_parser, run)

if __name__ == '__main__':
    sys.exit(main())
