"""export.json: what the folder of an export says of its files."""

import json
from pathlib import Path

from ..errors import InputError
from ..files import sha256
from .model_name import params_path, parse_model

RECORD = 'export.json'


def weights_name(model: str) -> str:
    """Name of the file that a model's weights lie in: an .onnx, or PREFIX,EPOCH's parameters."""
    if model.endswith('.onnx') or ',' not in model:
        return Path(model).name
    prefix, epoch = parse_model(model)
    return params_path(prefix, epoch).name


def read_record(model: str) -> dict:
    """The export.json that tells of `model`, a folder or a file beside it; {} if there is none.

    Raises InputError for one that is damaged.
    """
    folder = Path(model) if Path(model).is_dir() else Path(model).parent
    path = folder / RECORD
    if not path.is_file():
        return {}
    try:
        record = json.loads(path.read_text())
        files = {**record['files']}
        # a checkpoint or a foreign .onnx may lie beside an export
        if folder != Path(model) and weights_name(model) not in files:
            return {}
        whole = all({'sha256'} <= file.keys() for file in files.values())
        whole &= any(name.endswith('.params') for name, _ in record['source_sha256'].items())
        for row in record['verification']:
            whole &= {'file', 'engine'} < row.keys() and isinstance(row['thresholds'], dict)
    except (ValueError, KeyError, TypeError, AttributeError):
        whole = False
    if not whole:
        raise InputError(f'{path} is no record of an export; export the model anew, elsewhere')
    return record


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
