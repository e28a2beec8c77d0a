"""export.json: what the folder of an export says of its files."""

from pathlib import Path
from typing import Any

from ..checked_json import read_checked
from ..errors import InputError
from ..files import PathLike, sha256
from ..run_files import state_path
from ..typed import is_number
from .model_name import checkpoint_files, parse_model, resolve

RECORD = 'export.json'


def weights_name(model: str) -> str:
    """Name of the file that a model's weights lie in: an .onnx, or PREFIX,EPOCH's parameters."""
    if model.endswith('.onnx') or ',' not in model:
        return Path(model).name
    return checkpoint_files(model)[1].name


def model_files(model: PathLike) -> list[Path]:
    """The files that the text of a `--model` option stands for, whether they are there or not: no
    result may take their place."""
    text = resolve(str(model))
    path = Path(text)
    if path.is_dir():
        return [path / name for name in (RECORD, *read_record(text).get('files', ()))]
    if path.suffix == '.onnx' or ',' not in text:
        return [path]
    return [*checkpoint_files(text), state_path(*parse_model(text))]


def read_record(model: str) -> dict:
    """The export.json that tells of `model`, a folder or a file beside it; {} if there is none.

    Raises InputError for one that is damaged.
    """
    folder = Path(model) if Path(model).is_dir() else Path(model).parent
    path = folder / RECORD
    if not path.is_file():
        return {}
    record = read_checked(path, 'record of an export')
    # a checkpoint or a foreign .onnx may lie beside an export
    if folder != Path(model) and weights_name(model) not in _dict(_dict(record).get('files')):
        return {}
    if not _is_whole(record):
        raise InputError(f'{path} is no record of an export; export the model anew, elsewhere')
    return record


def _dict(value: Any) -> dict:
    return value if isinstance(value, dict) else {}


def _is_whole(record: Any) -> bool:
    """Whether what commands read of a record is there and of the right type."""
    files, source = (_dict(_dict(record).get(key)) for key in ('files', 'source_sha256'))
    rows = _dict(record).get('verification')
    usual = _dict(record).get('usual_rates', {})
    return (
        bool(files)
        and all(isinstance(_dict(file).get('sha256'), str) for file in files.values())
        and any(name.endswith('.params') for name in source)
        and all(isinstance(digest, str) for digest in source.values())
        and isinstance(usual, dict)
        and {*usual} <= {'far', 'fpir'}
        and all(type(rate) is float and 0 < rate < 1 for rate in usual.values())
        and isinstance(rows, list)
        and all(
            isinstance(_dict(row).get(key), kind)
            for row in rows
            for key, kind in (('file', str), ('engine', str), ('thresholds', dict))
        )
        and all(
            _is_rate(rate) and is_number(cosine)
            for row in rows
            for rate, cosine in row['thresholds'].items()
        )
    )


def _is_rate(text: str) -> bool:
    """Whether a key of `thresholds` is a false-accept rate: with NaN or 0 nothing is decided."""
    try:
        return 0 < float(text) < 1
    except ValueError:
        return False


def source_digest(record: dict, weights: Path) -> str:
    """Digest of the weights an export was made from, the same for all of its files.

    Raises InputError if `weights` is not the file that the record tells of.
    """
    if record['files'].get(weights.name, {}).get('sha256') != sha256(weights):
        raise InputError(
            f'{weights} is not the file that {RECORD} beside it tells of; export the model '
            f'anew, elsewhere'
        )
    return next(
        digest for name, digest in record['source_sha256'].items() if name.endswith('.params')
    )
