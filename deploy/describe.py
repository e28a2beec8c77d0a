"""What a model's files tell: of a checkpoint, an export folder or an ONNX file; needs no MXNet."""

import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Optional

from ..common import flops
from ..common.engine.checkpoint import load_embedding
from ..common.engine.contract import read_contract
from ..common.engine.default_model import is_default
from ..common.engine.export_record import RECORD, read_record, source_digest, weights_name
from ..common.engine.model_name import checkpoint_files, parse_model, resolve
from ..common.engine.onnx_flops import count_onnx
from ..common.engine.open_model import ONNX, SLIM
from ..common.errors import InputError
from ..common.files import PathLike, input_file, sha256
from ..common.run_files import read_state, state_path

_OF_TRAINING = (
    *('network', 'network_options', 'pretrained', 'loss', 'loss_options'),
    *('data_dir', 'num_classes', 'num_images', 'total_steps', 'lr', 'seed', 'augment'),
)
_OF_DISTILLATION = ('teacher', 'distill', 'alpha')  # of a run with a teacher


def is_model(text: str) -> bool:
    """Whether a word names a model's files rather than a network."""
    return is_default(text) or ',' in text or text.endswith('.onnx') or Path(text).is_dir()


def describe(model: str) -> dict[str, Any]:
    """What is known of a model.

    Parameters
    ----------
    model : PREFIX,EPOCH, an .onnx file, the folder of an export, or 'default'

    Returns
    -------
    dict of `model`, `kind` ('checkpoint', 'ONNX file', 'export'), `files` (name -> bytes), `sha256`
    (of the file with the weights), `written` (its date, UTC), `params`, `flops` (of one picture,
    the LFR organisers' count), `embedding_size`, `input` (what it takes); of a run's checkpoint
    `training` (its configuration) and `step`; of an export `source`, `source_sha256` (of the
    checkpoint's parameters, the same for all files of it), `version`, `trained_on`, `licence` and
    `verification` (accuracy and thresholds, as far as they were measured).

    Raises
    ------
    InputError for files that are missing or damaged.
    """
    if model.endswith('.onnx'):
        return _onnx_file(model)
    model = resolve(model)
    return _export(model) if Path(model).is_dir() else _checkpoint(model)


def _head(model: str, kind: str, files: Iterable[Path], weights: Path) -> dict[str, Any]:
    written = time.gmtime(weights.stat().st_mtime)
    return {
        'model': model,
        'kind': kind,
        'files': {path.name: path.stat().st_size for path in files},
        'sha256': sha256(weights),
        'written': time.strftime('%Y-%m-%dT%H:%M:%SZ', written),
    }


def _checkpoint(model: str) -> dict[str, Any]:
    prefix, epoch = parse_model(model)
    network = load_embedding(f'{prefix},{epoch}')
    files = checkpoint_files(f'{prefix},{epoch}')
    weights = files[1]
    count = flops.count(network.symbol)
    described = {
        **_head(f'{prefix},{epoch}', 'checkpoint', files, weights),
        'params': count.params,
        'flops': count.flops,
        'embedding_size': network.embedding_size,
        'input': 'RGB 0..255, 112x112',
    }
    if state_path(prefix, epoch).is_file():
        known, step = training_of(prefix, epoch)
        described.update(training=known, step=step)
    record = read_record(f'{prefix},{epoch}')
    return {**described, **_of_record(record, weights)} if record else described


def training_of(prefix: PathLike, epoch: int) -> tuple[dict[str, Any], Optional[int]]:
    """(the configuration of the run that wrote a checkpoint, its step), as its state tells them;
    InputError for one that is missing or damaged."""
    config, state = read_state(prefix, epoch)
    keys = (*_OF_TRAINING, *(_OF_DISTILLATION if config.get('teacher') else ()))
    known = {key: config[key] for key in keys if config.get(key) not in (None, '', {})}
    return known, state.get('step')


def _onnx_file(model: str) -> dict[str, Any]:
    path = input_file(model, 'ONNX model')
    record = read_record(model)
    contract = read_contract(path, raw_pixels=bool(record))
    count = count_onnx(path)
    described = {
        **_head(model, 'ONNX file', [path], path),
        'params': count.params,
        'flops': count.flops,
        'embedding_size': contract.embedding_size,
        'input': f'{contract.name} {contract.dtype} {contract.layout} of {contract.batch or "N"}, '
        f'{contract.preprocessing}',
        'output': contract.output,
    }
    return {**described, **_of_record(record, path)} if record else described


def _export(model: str) -> dict[str, Any]:
    folder, record = Path(model), read_record(model)
    if not record:
        raise InputError(
            f'{folder} is no export folder (no {RECORD} in it); expected one, an .onnx file, or a '
            f'checkpoint PREFIX,EPOCH such as {folder / "model"},latest'
        )
    files = [input_file(folder / name, f'file that {RECORD} tells of') for name in record['files']]
    by_name = {path.name: path for path in files}
    weights = by_name.get(ONNX) or by_name.get(weights_name(SLIM), files[0])
    return {
        **_head(model, 'export', files, weights),
        'params': record['params'],
        'flops': record['flops'],
        'embedding_size': record['output']['shape'][1],
        'input': f'{record["input"]["name"]} {record["input"]["type"]} RGB 0..255, 112x112',
        **_of_record(record, weights),
    }


def _of_record(record: dict, weights: Path) -> dict[str, Any]:
    """What export.json knows of the export of which `weights` is a file."""
    rows = [
        {key: row.get(key) for key in ('file', 'engine', 'accuracy', 'thresholds')}
        for row in record['verification']
    ]
    return {
        'source': record.get('source', ''),
        'source_sha256': source_digest(record, weights),
        'version': record.get('vargfacenet', ''),
        'trained_on': record.get('trained_on', ''),
        'licence': record.get('licence', ''),
        'verification': rows,
    }
