"""Export a checkpoint to files that run everywhere, each checked against MXNet when written.

DIR/model-symbol.json and model-0000.params are the embedding network alone, as InsightFace's tools
and mx.model.load_checkpoint load it; model-folded-* the same with its BatchNorms folded into the
layers before them; model.onnx, and on request model.fp16.onnx and model.int8.onnx, take RGB crops
(N, 3, 112, 112) with values 0..255 and give embeddings (N, D). With --compact it is model-* alone,
its numbers in float16. MODEL_CARD.md tells people what the
model is and how often it errs; export.json says what is what.
"""

import argparse
import contextlib
import functools
import json
import logging
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple, Optional

import numpy as np

from .. import __version__
from ..common import console, flops
from ..common.checked_json import write_checked
from ..common.data.records import open_records
from ..common.engine import checkpoint, parity
from ..common.engine.contract import OUTPUT, Contract
from ..common.engine.engines import by_rank
from ..common.engine.export_record import RECORD, model_files
from ..common.engine.fold import fold_batch_norms, without_dropout
from ..common.engine.model_name import checkpoint_files, numbered
from ..common.engine.mxnet import Embedder, embed_exactly, flatten_before_dense
from ..common.engine.network import Network
from ..common.engine.open_model import open_model
from ..common.errors import InputError, RunError
from ..common.extras import how_to_install, missing, need
from ..common.files import (
    atomic_write,
    exclusive,
    input_file,
    naming,
    output_folder,
    sha256,
    sync_folder,
)
from ..common.names import DATA, IMAGE_SHAPE
from ..common.run_files import state_path
from ..common.vectors import unit_rows
from ..eval.datasets import load_bin
from ..eval.verification import embed_both, verify_rows
from . import quantize
from .decide import DEFAULT_FAR, DEFAULT_FPIR
from .describe import training_of
from .embedder import unit_length
from .group_rates import group_rates, read_groups
from .model_card import CARD, model_card
from .thresholds import FARS, Measured, load_people, measure_pair_set, measure_people

log = logging.getLogger(__name__)

ONNX_PACKAGES = ('onnx', 'onnxruntime', 'openvino')
CHECKPOINT = ('model-symbol.json', 'model-0000.params')
FILES = (
    *CHECKPOINT,
    'model-folded-symbol.json',
    'model-folded-0000.params',
    'model.onnx',
    'model.fp16.onnx',
    'model.int8.onnx',
    CARD,
    RECORD,
)
_CALIBRATE_IMAGES = 256
_CHUNK = 256  # pictures between two moves of a progress bar
_UNFINISHED = '.export.'  # folders that start so
MAX_ACCURACY_LOSS = 0.005 + 1e-9  # of int8; more is worth a warning, rounding is not
_PROBES = max(parity.BATCHES)
_GROUP_FARS = (0.01, 0.001, 0.0001)


def build_parser(parser: console.Parser) -> None:
    parser.add_argument('--model', required=True, metavar='PREFIX,EPOCH', help='the checkpoint')
    parser.add_argument('--out', required=True, metavar='DIR', help='folder for the export')
    parser.add_argument(
        '--calibrate',
        metavar='FACES',
        help='faces: a .bin, or whatever --data-dir of train takes (a .rec, crops in folders, a '
        'source of your own): write model.int8.onnx as well',
    )
    parser.add_argument(
        '--calibrate-images',
        type=int,
        metavar='N',
        help=f'how many of them to use (default: {_CALIBRATE_IMAGES})',
    )
    parser.add_argument(
        '--pairs',
        metavar='BIN',
        help='verification .bin: measure the accuracy of each ONNX file and, from all pairs of its '
        'pictures, store thresholds for decisions in export.json',
    )
    parser.add_argument(
        '--people',
        metavar='DIR',
        help='crops of people in folders of their own, or a .rec: store thresholds from all pairs '
        'of them, which is better than from --pairs, where nobody has a name',
    )
    parser.add_argument(
        '--groups',
        metavar='CSV',
        help='lines PERSON,GROUP of the people of --people: the model card tells the error rates '
        'of each group',
    )
    _add_record_options(parser)
    parser.add_argument(
        '--fp16', action='store_true', help='write model.fp16.onnx as well, for GPUs and phones'
    )
    parser.add_argument(
        '--compact',
        action='store_true',
        help='write model-* alone, its numbers in float16: half as large, and every engine of '
        'vargfacenet runs it (in float32)',
    )
    parser.add_argument(
        '--input-type',
        choices=('float32', 'uint8'),
        default='float32',
        help='what the ONNX files take; the values are 0..255 either way',
    )
    parser.add_argument(
        '--l2-normalize', action='store_true', help='ONNX embeddings have unit length'
    )


def _add_record_options(parser: console.Parser) -> None:
    """What export.json and the model card say, and what decisions go by."""
    parser.add_argument(
        '--trained-on',
        default='',
        metavar='TEXT',
        help='what it was trained on, for card and record',
    )
    parser.add_argument('--licence', default='', metavar='TEXT', help='of the weights, likewise')
    parser.add_argument(
        '--usual-far',
        type=float,
        metavar='FAR',
        help='false-accept rate of decisions where nobody chooses one; '
        f'{DEFAULT_FAR:g} without, or the lowest that is stored',
    )
    parser.add_argument(
        '--usual-fpir',
        type=float,
        metavar='FPIR',
        help='share of strangers whom a gallery may name where nobody chooses one; '
        f'{DEFAULT_FPIR:g} without',
    )


class _Source(NamedTuple):
    """What is exported."""

    network: Network
    digests: dict[str, str]  # file name -> SHA-256 of what it was read from
    training: Optional[dict]  # the configuration that made it, where a training run did


class _Export:
    """Writes and checks the files of one export in a folder of its own."""

    def __init__(self, args: argparse.Namespace, source: _Source, folder: Path):
        self._args = args
        self._folder = folder
        self._network = source.network
        self._sources = source.digests
        self.symbol = without_dropout(source.network.symbol)
        self.files: dict[str, dict] = {}
        self.kept_float: list[str] = []  # layers of the int8 file
        self.parities: list[parity.Parity] = []
        self.verification: list[dict] = []
        self._images = parity.probe_images(_PROBES)
        if args.calibrate:
            self._faces = quantize.calibration_images(args.calibrate, args.calibrate_images)
            # a set too small to check on is filled up with faces that we draw
            self._images = np.concatenate([self._faces[-_PROBES:], self._images])[:_PROBES]
        self._expected = Embedder(self._network, batch_size=_PROBES).embed(self._images)
        unit_length(self._expected, args.model)  # without a direction there is nothing to compare
        if self._expected.shape[1] == 1 and (args.calibrate or args.fp16 or args.l2_normalize):
            raise InputError(
                f'{args.model} gives one number a picture, which has no angle to check other '
                'arithmetic by; leave out --calibrate, --fp16 and --l2-normalize'
            )
        self._pairs = load_bin(args.pairs) if args.pairs else None
        self._people = _people(args.people) if args.people else None
        self._groups = _groups(args, self._people[1]) if args.groups else None

    def mxnet(self) -> None:
        """The slim checkpoint and the folded one, or the compact one."""
        slim = self._network._replace(symbol=self.symbol)
        forms = [
            ('model', slim, 'float32'),
            ('model-folded', fold_batch_norms(self._network), 'folded'),
        ]
        if self._args.compact:
            forms = [('model', _half(slim), 'float16')]
        for stem, network, kind in forms:
            prefix = self._folder / stem
            # so that MXNet runs them as they are: MobileFaceNet's second forward crashes without
            network = network.in_mxnet()
            network = network._replace(symbol=flatten_before_dense(network.symbol))
            checkpoint.save_embedding(prefix, 0, network)
            if self._args.compact:
                _without_spaces(checkpoint.symbol_path(prefix))
            embedder = Embedder(checkpoint.load_embedding(f'{prefix},0'), batch_size=_PROBES)
            name = checkpoint.params_path(prefix, 0).name
            self._check(name, {'mxnet': embedder.embed}, kind)
            self.add(checkpoint.symbol_path(prefix).name)
            self.add(name)

    def onnx(self) -> None:
        """The ONNX files that were asked for."""
        from ..common.engine.to_onnx import inference_model  # needs a package of the extra

        options = {
            'input_type': self._args.input_type,
            'l2_normalize': self._args.l2_normalize,
        }
        self._onnx('model.onnx', inference_model(self._network, **options), 'float32')
        if self._args.fp16:
            half = inference_model(self._network, **options, dtype=np.float16)
            path = self._folder / 'model.fp16.onnx'
            atomic_write(path, half.SerializeToString())
            self._reduced(path, 'float16')
        if self._args.calibrate:
            target = self._folder / 'model.int8.onnx'
            log.info('%s: calibrating on %d images', target.name, len(self._faces))
            quantised = quantize.quantize_int8(self._folder / 'model.onnx', target, self._faces)
            if self._reduced(target, 'int8'):
                self.kept_float = list(quantised.kept_float)

    def _reduced(self, path: Path, kind: str) -> bool:
        """Whether a file of less precision is good; one that is too far off is left out, and the
        others stay."""
        good = len(self.parities)
        try:
            self._check(path.name, parity.onnx_engines(path), kind)
        except RunError as error:
            del self.parities[good:]
            path.unlink()
            log.warning('%s is left out: %s', path.name, error)
            return False
        self.add(path.name)
        return True

    def _onnx(self, name: str, model, kind: str) -> None:
        path = self._folder / name
        atomic_write(path, model.SerializeToString())
        self._check(name, parity.onnx_engines(path), kind)
        self.add(name)

    def _check(self, name: str, engines: dict[str, parity.Run], kind: str) -> None:
        for engine, run in engines.items():
            result = parity.compare(name, engine, run, self._images, self._expected)
            if kind == 'float32' and result.difference > parity.MAX_DIFFERENCE:
                exact, rounding = self._exact
                found = parity.compare(name, engine, run, self._images, exact).difference
                result = replace(result, exact_difference=found, rounding=rounding)
            parity.check(result, kind)
            self.parities.append(result)

    @functools.cached_property
    def _exact(self) -> tuple[np.ndarray, float]:
        """(the embeddings in float64, how far from them MXNet is in float32, as they are compared):
        of a network that magnifies rounding."""
        log.info('float32 rounds this network more than others: comparing with float64 ...')
        exact = embed_exactly(self._network, self._images)
        folded = Embedder(fold_batch_norms(self._network), batch_size=_PROBES).embed(self._images)
        form = unit_rows if self._args.l2_normalize else np.asarray
        of_both = [parity.difference(form(rows), form(exact)) for rows in (self._expected, folded)]
        return exact, max(of_both)

    def add(self, name: str) -> None:
        path = self._folder / name
        self.files[name] = {'bytes': path.stat().st_size, 'sha256': sha256(path)}

    def verify(self) -> None:
        """Accuracy of the float32 and int8 files on the pairs, and thresholds for decisions; of a
        compact export those of its checkpoint."""
        measured = (CHECKPOINT[1],) if self._args.compact else ('model.onnx', 'model.int8.onnx')
        for name in measured:
            if name not in self.files:
                continue
            kinds = [kind.name for kind in by_rank(Network if self._args.compact else Contract)]
            # thresholds of a file are the same in all engines but for rounding
            for engine in kinds if self._pairs else kinds[:1]:
                self.verification.append(self._verified(name, engine))
        if not self.verification[0]['thresholds']:
            log.warning(
                'no thresholds are stored: %d pairs of different people tell no false-accept rate, '
                'not even %g',
                self.verification[0]['impostor_pairs'],
                max(FARS),
            )
        if self._pairs:
            self._warn_of_losses()

    def _warn_of_losses(self) -> None:
        by_kind = {(row['file'], row['engine']): row['accuracy'] for row in self.verification}
        for (name, engine), accuracy in by_kind.items():
            loss = by_kind[self.verification[0]['file'], engine] - accuracy
            if loss > MAX_ACCURACY_LOSS:
                log.warning(
                    '%s loses %.2f points of accuracy in %s; calibrate on more or other faces',
                    name,
                    100 * loss,
                    engine,
                )

    def _verified(self, name: str, engine: str) -> dict:
        """A row of the record: one file in one engine."""
        file = f'{self._folder / "model"},0' if name in CHECKPOINT else self._folder / name
        model = open_model(file, engine)
        row = {'file': name, 'engine': engine}
        if self._pairs:
            images, issame = self._pairs
            with console.progress(2 * len(images), f'{name} in {engine}') as bar:
                plain, flipped = embed_both(model, images, bar)
            result, _ = verify_rows(plain, flipped, issame)
            row['pairs'] = len(issame)
            row['accuracy'], row['accuracy_std'] = result.accuracy, result.accuracy_std
        if self._people:
            images, identities = self._people
            plain = _embedded(model, images, f'{name} in {engine}')
            measured = measure_people(unit_length(plain, name), identities)
        else:
            measured = measure_pair_set(images, issame, unit_length(plain, name))
        _say_what_was_joined(measured)
        if self._groups is not None and not self.verification:  # of one file, in one engine
            row['groups'] = _rates_by_group(
                unit_length(plain, name), identities, self._groups, measured
            )
        length = float(np.median(np.linalg.norm(plain, axis=1)))
        source = self._args.people or self._args.pairs
        return {**row, **measured.as_dict(), 'norm': length, 'measured_on': source}

    def record(self) -> dict:
        """What export.json holds."""
        args, count = self._args, flops.count(self.symbol)
        return {
            'source': args.model,
            'source_sha256': self._sources,
            'vargfacenet': __version__,
            'trained_on': args.trained_on,
            'licence': args.licence,
            'input': {
                'name': DATA,
                'type': args.input_type,
                'shape': ['N', *IMAGE_SHAPE],
                'colour': 'RGB',
                'range': [0, 255],
                'alignment': 'ArcFace five points, 112x112',
            },
            'output': {
                'name': OUTPUT,
                'type': 'float32',
                'shape': ['N', self._expected.shape[1]],
                'unit_length': args.l2_normalize,
            },
            'params': count.params,
            'flops': count.flops,
            'files': self.files,
            'int8_kept_float': self.kept_float,
            'parity': [result.as_dict() for result in self.parities],
            'usual_rates': _usual_rates(args),
            'verification': self.verification,
        }


def _without_spaces(path: Path) -> None:
    """A JSON file in as few bytes as it takes."""
    graph = json.loads(path.read_text())  # MXNet knows no \u in a text
    atomic_write(path, json.dumps(graph, separators=(',', ':'), ensure_ascii=False))


def _usual_rates(args: argparse.Namespace) -> dict[str, float]:
    """What --usual-far and --usual-fpir say; InputError for what is no rate."""
    rates = {'far': args.usual_far, 'fpir': args.usual_fpir}
    for name, rate in rates.items():
        if rate is not None and not 0 < rate < 1:
            raise InputError(f'--usual-{name} {rate:g}: expected a share between 0 and 1')
    return {name: rate for name, rate in rates.items() if rate is not None}


def _half(network: Network) -> Network:
    """A network whose numbers are stored in float16."""
    network = network.plain()
    args, aux = (
        {name: value.astype(np.float16) for name, value in part.items()}
        for part in (network.arg_params, network.aux_params)
    )
    return Network(network.symbol, args, aux)


def _people(folder: str) -> tuple[np.ndarray, np.ndarray]:
    images, identities, total = load_people(folder)
    if len(images) < total:
        log.info(
            '%s: thresholds from %d of %d pictures, of %d people',
            folder,
            len(images),
            total,
            len(np.unique(identities)),
        )
    return images, identities


def _groups(args: argparse.Namespace, identities: np.ndarray) -> np.ndarray:
    """(N,) the group of each picture of --people."""
    records = open_records(args.people)
    names = records.class_names
    records.close()
    if not names:
        raise InputError(f'--groups: nothing tells the names of the people in {args.people}')
    return np.array(read_groups(args.groups, names))[identities]


def _rates_by_group(
    embeddings: np.ndarray, identities: np.ndarray, groups: np.ndarray, measured: Measured
) -> dict[str, list[dict]]:
    """FAR over all people as text -> rates of each group at its threshold."""
    return {
        f'{far:g}': [
            rates.as_dict() for rates in group_rates(embeddings, identities, groups, threshold)
        ]
        for far, threshold in measured.thresholds().items()
        if far in _GROUP_FARS
    }


def _read(model: str) -> _Source:
    """A checkpoint; InputError where its files become others meanwhile, so that the record would
    tell of weights that are not exported."""
    before, digests = _states(model), {}
    network = checkpoint.load_embedding(model)
    training = _training(model)
    with contextlib.suppress(FileNotFoundError):
        digests = {path.name: sha256(path) for path in checkpoint_files(model)}
    if _states(model) != before:
        raise InputError(f'{model} was replaced while it was read; export it when it stays')
    return _Source(network, digests, training)


def _states(model: str) -> list[Optional[tuple[int, int, int]]]:
    """(inode, size, time of change) of each file of a checkpoint and of the state of its training,
    None of one that is not there."""
    states: list[Optional[tuple[int, int, int]]] = []
    for path in model_files(model):
        states.append(None)
        with contextlib.suppress(OSError):
            status = path.stat()
            states[-1] = (status.st_ino, status.st_size, status.st_mtime_ns)
    return states


def _training(model: str) -> Optional[dict]:
    """The configuration that made a checkpoint, where a training run did."""
    prefix, epoch = checkpoint.parse_model(model)
    return training_of(prefix, epoch)[0] if state_path(prefix, epoch).is_file() else None


def _embedded(model, images: np.ndarray, text: str) -> np.ndarray:
    rows = []
    with console.progress(len(images), text) as bar:
        for start in range(0, len(images), _CHUNK):
            rows.append(model.embed(images[start : start + _CHUNK]))
            bar.advance(len(rows[-1]))
    return np.concatenate(rows)


def _say_what_was_joined(measured: Measured) -> None:
    if measured.joined:
        log.info(
            'the pair set names nobody: %d people were joined with others since pictures of theirs '
            'have a cosine above %.3f; all other pairs without a mark count as of different people',
            measured.joined,
            measured.level,
        )


def _check_targets(out: Path, model: str) -> None:
    """Refuse to replace a checkpoint: training writes its files under the names of ours."""
    try:
        files = json.loads((out / RECORD).read_text())['files']
        exported = {name: files[name]['sha256'] for name in CHECKPOINT}
    except (OSError, ValueError, KeyError, TypeError):
        exported = {}
    sources = {path.resolve() for path in checkpoint_files(model)}
    kept = [
        path.name
        for path in (out / name for name in CHECKPOINT)
        if path.exists() and (path.resolve() in sources or sha256(path) != exported.get(path.name))
    ]
    if kept:
        raise InputError(
            f'--out {out} holds {" and ".join(kept)}, which may be a checkpoint, since no '
            f'{RECORD} there tells of it, and is not replaced; take another folder'
        )


@contextmanager
def _folder_for(out: Path) -> Iterator[Path]:
    """A folder whose files move to `out` when all of them are good; else nothing is left."""
    existed = out.exists()
    out = output_folder(out)
    with exclusive(out), contextlib.ExitStack() as stack:
        for left in out.glob(f'{_UNFINISHED}*'):  # by a kill: nobody else writes here now
            shutil.rmtree(left)
        temporary = stack.enter_context(tempfile.TemporaryDirectory(dir=out, prefix=_UNFINISHED))
        try:
            yield Path(temporary)
        except BaseException:
            if not existed:
                shutil.rmtree(out)
            raise
        written = {path.name for path in Path(temporary).iterdir()}
        # the record goes first and comes last: with it, all files are those it names
        for name in (RECORD, *FILES):
            if name == RECORD or name not in written:
                (out / name).unlink(missing_ok=True)
        for name in FILES:
            if name in written:
                os.replace(Path(temporary) / name, out / name)
        sync_folder(out)


def _wants_onnx(args: argparse.Namespace) -> bool:
    """Whether ONNX files are written; without the packages only if nobody asked for them."""
    if args.compact:
        return False
    absent = [package for package in ONNX_PACKAGES if missing(package)]
    asked = args.calibrate, args.fp16, args.l2_normalize, args.pairs, args.people
    if absent and any(asked):
        need(absent[0], 'deploy')
    if absent:
        log.warning(
            'no ONNX file is written, which takes %s; %s',
            ', '.join(absent),
            how_to_install('deploy'),
        )
    return not absent


def _show(args: argparse.Namespace, record: dict) -> None:
    rows = []
    for name, file in record['files'].items():
        checks = [row for row in record['parity'] if row['file'] == name]
        rows.append(
            (
                name,
                f'{file["bytes"] / 1e6:.2f}',
                ', '.join(row['engine'] for row in checks),
                f'{max(row["difference"] for row in checks):.1e}' if checks else '',
                f'{min(row["min_cosine"] for row in checks):.6f}' if checks else '',
                f'{min(row["mean_cosine"] for row in checks):.6f}' if checks else '',
            )
        )
    console.table(
        f'{args.model} -> {args.out}: {record["params"]:,} parameters, '
        f'{record["flops"] / 1e6:.1f} MFLOPs; against MXNet at batch 1, 7 and 32',
        ('file', 'MB', 'checked in', 'difference', 'min cosine', 'mean cosine'),
        rows,
    )
    if record['verification']:
        _show_verification(record['verification'])


def _show_verification(rows: list[dict]) -> None:
    first = rows[0]
    if 'accuracy' in first:
        console.table(
            f'{first["pairs"]} pairs, 10 folds',
            ('file', 'engine', 'accuracy'),
            [
                (row['file'], row['engine'], f'{row["accuracy"]:.5f} +- {row["accuracy_std"]:.5f}')
                for row in rows
            ],
        )
    files = {row['file']: row for row in reversed(rows)}  # the first engine of each
    console.table(
        f'thresholds from {first["impostor_pairs"]:,} pairs of different people and '
        f'{first["genuine_pairs"]:,} of the same: {first["pictures"]:,} pictures of '
        f'{first["people"]:,} people in {first["measured_on"]}',
        ('file', 'false-accept rate', 'cosine', '95 %', 'true accepts'),
        [
            (
                name,
                far,
                f'{threshold:.4f}',
                '{:.4f} .. {:.4f}'.format(*row['intervals'][far]),
                f'{row["true_accepts"][far]:.5f}' if row['true_accepts'] else '',
            )
            for name, row in sorted(files.items(), reverse=True)
            for far, threshold in row['thresholds'].items()
        ],
    )


def _check(args: argparse.Namespace) -> None:
    """What is wrong with the options, before anything is read; puts in defaults."""
    if not args.calibrate:
        console.refuse_options(args, ['calibrate_images'], 'only with --calibrate')
    if args.calibrate_images is None:
        args.calibrate_images = _CALIBRATE_IMAGES
    if args.calibrate_images < 1:
        raise InputError(f'--calibrate-images {args.calibrate_images}: expected at least 1')
    if args.pairs:
        input_file(args.pairs, 'pair set')
    if args.groups and not args.people:
        raise InputError('--groups tells of the people of --people; give both')
    if args.people and not Path(args.people).exists():
        raise InputError(f'folder of people {args.people} does not exist')
    _usual_rates(args)
    uint8 = args.input_type != 'float32'
    if args.compact and (args.calibrate or args.fp16 or args.l2_normalize or uint8):
        raise InputError(
            '--compact writes no ONNX file; leave out --calibrate, --fp16, --l2-normalize and '
            '--input-type'
        )


def run(args: argparse.Namespace) -> dict:
    _check(args)
    args.model = numbered(args.model)
    source = _read(args.model)  # what is wrong comes before a folder is made
    with_onnx = _wants_onnx(args)
    out = Path(args.out)
    _check_targets(out, args.model)
    with naming(out), _folder_for(out) as folder:
        export = _Export(args, source, folder)
        export.mxnet()
        if with_onnx:
            export.onnx()
        if args.pairs or args.people:
            export.verify()
        record = export.record()
        card = model_card(
            record, source.training, args.trained_on, args.licence, console.command_line()
        )
        atomic_write(folder / CARD, card)
        export.add(CARD)
        write_checked(folder / RECORD, record)
    _show(args, record)
    if with_onnx and not args.calibrate:
        log.info('model.int8.onnx is written with --calibrate FACES (a .bin or a training set)')
    if (with_onnx or args.compact) and not record['verification']:
        log.info('thresholds for decisions are stored with --people DIR or --pairs BIN')
    slim = checkpoint.params_path('model', 0).name
    return {
        'model': f'{out / "model"},0',
        'out': str(out),
        'sha256': {name: file['sha256'] for name, file in record['files'].items()},
        'bytes': record['files'][slim]['bytes'],
        **record,
    }


main = console.command('export', build_parser, run)

if __name__ == '__main__':
    sys.exit(main())
