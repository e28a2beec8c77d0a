"""Train a student from a frozen teacher over generations (recursive angular distillation).

Each generation starts from the weights of the one before it; the teacher is the same in every
generation (VarGFaceNet, arXiv:1910.04985, Section 3). The run of generation k lies in NAME-genK.
"""

import argparse
import logging
import os
import shutil
import sys
from dataclasses import replace

from ..common import console
from ..common.backend import parse_devices
from ..common.engine import checkpoint
from ..common.engine.mxnet import Embedder
from ..common.errors import InputError
from ..eval.verification import VerificationResult, verify
from ..symbol import get_symbol
from .config import TrainConfig, add_arguments, resolve
from .graph import embedding_size
from .hooks import load_targets
from .teach import find_store, open_store, teach
from .teacher import check_sizes
from .train import make_synthetic_data, print_results
from .trainer import create_kvstore, first_state, train

log = logging.getLogger(__name__)

STORABLE = ('mirror', 'none')  # augmentations that leave a record at most two embeddings


def build_parser(parser: console.Parser) -> None:
    distill = parser.add_argument_group('distillation')
    distill.add_argument('--teacher', required=True, metavar='PREFIX,EPOCH', help='frozen teacher')
    distill.add_argument(
        '--teacher-store', default='auto', metavar='auto|live|FILE',
        help="auto: the teacher's embeddings from a store beside the .rec, made first where it is "
        'missing and pays; live: run the teacher in every step; or the file of a store',
    )  # fmt: skip
    distill.add_argument('--generations', type=int, default=2, help='how often to distil')
    distill.add_argument('--alpha', type=float, default=7.0, help='weight of L_s in Eq. 7')
    distill.add_argument(
        '--form', choices=('l2', 'cosine'), default='l2', help='L_s: l2 is Eq. 5, cosine is Eq. 4'
    )
    distill.add_argument(
        '--no-classification',
        action='store_true',
        help='train with L_s alone, without a margin loss',
    )
    distill.add_argument(
        '--scratch', metavar='PREFIX,EPOCH', default='',
        help='a student trained without the teacher, shown beside the generations',
    )  # fmt: skip
    add_arguments(parser)


def generation_config(config: TrainConfig, number: int, before: str) -> TrainConfig:
    """Configuration of generation `number` (from 1), which starts from the model `before`."""
    return replace(config, name=f'{config.name}-gen{number}', pretrained=before)


def verify_model(model: str, targets: dict, devices: list) -> dict[str, VerificationResult]:
    """10-fold verification of 'PREFIX,EPOCH' on every loaded target."""
    embedder = Embedder(checkpoint.load_embedding(model), devices)
    return {name: verify(embedder, *target)[0] for name, target in targets.items()}


def choose_store(config: TrainConfig, wanted: str, generations: int, student_size: int) -> str:
    """Path of the store to distil from, made now if it has to be, or '' for the live teacher.

    Raises
    ------
    InputError for a store of another teacher or data set, or asked for with an augmentation that
    gives a record more than two embeddings.
    """
    if wanted == 'live':
        return ''
    if config.augment not in STORABLE:
        if wanted != 'auto':
            raise InputError(
                f'--teacher-store {wanted} with --augment {config.augment}: a store has the '
                f'embeddings of an image and its mirror image only; use --augment mirror'
            )
        log.info('live teacher: --augment %s shows it ever new images', config.augment)
        return ''
    if wanted != 'auto':
        return str(open_store(wanted, config.teacher, config.data_dir).path)
    path = find_store(config.teacher, config.data_dir)
    needed = config.total_steps * config.global_batch_size * generations
    if not path.is_file():
        if needed < 2 * config.num_images:
            log.info(
                'live teacher: this run looks at %d images, a store would take %d',
                needed, 2 * config.num_images,
            )  # fmt: skip
            return ''
        size = 2 * 2 * config.num_images * student_size  # two float16 embeddings an image
        if not os.access(path.parent, os.W_OK) or shutil.disk_usage(path.parent).free < 1.1 * size:
            log.info('live teacher: no store of %.1f GB can be written in %s',
                     size / 1e9, path.parent)  # fmt: skip
            return ''
    return str(teach(config.teacher, config.data_dir)[0])


def run(args: argparse.Namespace) -> dict:
    if args.generations < 1:
        raise InputError(f'--generations {args.generations}: must be at least 1')
    if args.alpha <= 0:
        raise InputError(f'--alpha {args.alpha}: must be above 0')
    make_synthetic_data(args)
    extra = {
        'teacher': args.teacher,
        'teacher_store': '',  # chosen once the data set is known
        'alpha': args.alpha,
        'distill_form': args.form,
        'classification': not args.no_classification,
    }
    config = resolve(args, **extra)
    if config.kvstore.startswith('dist'):
        raise InputError('--kvstore dist_sync trains, it does not distil; use local or device')
    if config.ckpt == 0 and args.generations > 1:
        raise InputError('--ckpt 0 keeps no weights for the next generation to start from')
    kvstore = create_kvstore(config.kvstore)
    if not args.name:
        config = replace(config, name=f'{config.name}-distilled')

    student = get_symbol(config.network, **config.network_options)
    teacher = checkpoint.load_embedding(config.teacher).symbol
    check_sizes(config.teacher, embedding_size(teacher), embedding_size(student))
    targets, devices = load_targets(config), parse_devices(config.devices)
    # what is wrong with the run's folder should not show after hours of teaching
    first_state(generation_config(config, 1, config.pretrained), args.resume, args.overwrite)
    store = choose_store(config, args.teacher_store, args.generations, embedding_size(student))
    config = replace(config, teacher_store=store)
    rows = {'teacher': verify_model(config.teacher, targets, devices)}
    if args.scratch:
        rows['scratch'] = verify_model(args.scratch, targets, devices)
    models = {}
    before = config.pretrained
    for number in range(1, args.generations + 1):
        log.info('generation %d of %d', number, args.generations)
        result = train(
            generation_config(config, number, before), args.resume, args.overwrite, kvstore
        )
        before = result.model
        rows[f'generation {number}'] = result.targets
        models[f'generation {number}'] = before
    print_results(f'{config.name}: {args.generations} generation(s)', rows)
    return {
        'model': before,
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
