"""open_model: any model that embeds, by the text of a --model option, on any engine.

MXNet is imported only where it is the engine.
"""

import functools
import hashlib
import re
from pathlib import Path
from typing import NamedTuple, Optional

import numpy as np

from .. import flops
from ..console import ProgressBar
from ..errors import InputError, RunError
from ..files import PathLike, input_file, sha256
from ..run_files import numbers_of
from .checkpoint import load_embedding
from .contract import Contract, override, read_contract
from .engines import AUTO, ENGINES, PRECISIONS, Engine, choose, open_network
from .export_record import RECORD, read_record, source_digest, weights_name
from .model_name import checkpoint_files, resolve
from .network import Network

SLIM = 'model,0'  # of an export's folder, for MXNet
ONNX = 'model.onnx'  # and for all others


class OpenModel:
    """A model that embeds; made by `open_model`. One object serves one thread at a time.

    Attributes
    ----------
    name : what it was opened by
    engine : what runs it
    weights : file that the weights come from
    record : content of export.json, {} for a model without one
    network : Network of a checkpoint, plain; None of an ONNX file
    contract : what pixels become before the model, of an ONNX file that is not an export of ours;
        None of all others, which take RGB 0..255
    """

    def __init__(
        self,
        name: str,
        engine: Engine,
        weights: Path,
        record: dict,
        network: Optional[Network] = None,
        contract: Optional[Contract] = None,
        changed: bool = False,
    ):
        self.name = name
        self.engine = engine
        self.weights = weights
        self.record = record
        self.network = network
        self.contract = contract
        self.embedding_size = engine.embedding_size
        self.batch_size = engine.batch_size
        self._changed = changed
        self._apart = contract.apart if contract else ()
        self._source = source_digest(record, weights) if record else None

    def __repr__(self) -> str:
        return f'OpenModel({self.name!r}, {self.engine_name!r}, {self.embedding_size} values)'

    @property
    def engine_name(self) -> str:
        """'openvino', 'openvino-bf16', 'onnxruntime', 'mxnet' ..."""
        return self.engine.name

    @property
    def preprocessing(self) -> str:
        """What pixels become, 'mean=0,std=1,colour=rgb' for RGB 0..255."""
        return (self.contract or Contract()).preprocessing

    @functools.cached_property
    def fingerprint(self) -> str:
        """Hex digest of the weights; embeddings of two models do not compare.

        That of a checkpoint's parameter file, the same for all files of its export; of an ONNX file
        otherwise, of the files beside it that hold its weights, and of the preprocessing where
        --input changed it.
        """
        digest = self._source or sha256(self.weights)
        parts = [sha256(self.weights.parent / name) for name in self._apart]
        if self._changed:
            parts.append(self.preprocessing)
        if parts:
            digest = hashlib.sha256(' '.join([digest, *parts]).encode()).hexdigest()
        return digest

    def embed(self, images: np.ndarray, progress: Optional[ProgressBar] = None) -> np.ndarray:
        """Embeddings of aligned crops.

        Parameters
        ----------
        images : (N, 112, 112, 3) uint8, RGB; any N
        progress : advanced by the images of each batch

        Returns
        -------
        (N, D) float32, raw rows: not normalised.

        Raises
        ------
        InputError for another dtype or shape. RunError for an engine that gives others.
        """
        rows = self.engine.embed(images, progress)
        expected = (len(images), self.embedding_size)
        if np.shape(rows) != expected:
            raise RunError(
                f'engine {self.engine_name} gave embeddings of the shape {np.shape(rows)}; '
                f'expected {expected}'
            )
        return rows

    def count(self) -> flops.Count:
        """FLOPs of one image and parameters, as the organisers of the LFR challenge count them."""
        if self.network is not None:
            return flops.count(self.network.symbol)
        if self.record:
            return flops.Count(self.record['flops'], self.record['params'])
        from .onnx_flops import count_onnx

        return count_onnx(self.weights)


class _Place(NamedTuple):
    """Where a model lies: an ONNX file, or a checkpoint PREFIX,EPOCH."""

    path: str
    is_onnx: bool
    weights: Path


def open_model(
    model: PathLike,
    engine: str = AUTO,
    precision: str = PRECISIONS[0],
    device: str = 'cpu',
    batch_size: int = 32,
    preprocessing: str = '',
    checkpoint_engine: str = AUTO,
) -> OpenModel:
    """Open a model that embeds.

    Parameters
    ----------
    model : a checkpoint PREFIX,EPOCH, the folder of an export, an .onnx file, ours or another's, or
        'default', the model that comes with the project
    engine : 'mxnet', 'onnxruntime', 'openvino', or 'auto': the fastest that is installed and runs
        this kind of model
    precision : of the arithmetic, 'float32' or 'bfloat16' (OpenVINO's)
    device : 'cpu', or what the engine calls another: 'gpu:0,1' (MXNet), 'cuda' or 'cuda:1'
        (onnxruntime), 'GPU' (OpenVINO)
    batch_size : images at once, at most; memory grows with it
    preprocessing : 'mean=127.5,std=128,colour=bgr', or a part of it, of a foreign ONNX file whose
        first layers do not tell: pixels of 0..255 go in as (value - mean) / std
    checkpoint_engine : what 'auto' is for a checkpoint where it is installed

    Raises
    ------
    InputError for files that are missing, damaged, or take no 112x112 pictures, and for an engine,
    precision or device that is not there or cannot run this kind of file.
    """
    if batch_size < 1:
        raise InputError(f'batch size {batch_size}: expected at least 1')
    model = str(model)
    choose(engine, precision)  # what is wrong with the options comes before the files
    path = resolve(model)
    record = read_record(path)
    place = _place(path, engine)
    if not place.is_onnx:
        if preprocessing:
            raise InputError(f'--input is for ONNX files of others; {model} is a checkpoint')
        wanted = checkpoint_engine != AUTO and ENGINES.get(checkpoint_engine).available()
        if engine == AUTO and wanted:
            engine = checkpoint_engine
        return _open_checkpoint(model, place, record, (engine, precision, device, batch_size))
    kind = choose(engine, precision, Contract)
    if kind.reads is not Contract:
        raise InputError(
            f'{model}: {kind.title} runs no ONNX files; give the export folder or take another '
            f'engine'
        )
    input_file(place.weights, 'ONNX model')
    contract = read_contract(place.weights, raw_pixels=bool(record))
    chosen = override(contract, preprocessing)
    if record and preprocessing:
        raise InputError(f'--input is for ONNX files of others; {RECORD} tells of {model}')
    opened = kind(place.weights, chosen, precision, device, batch_size)
    foreign = None if record else chosen
    return OpenModel(
        model, opened, place.weights, record, contract=foreign, changed=chosen != contract
    )


def _open_checkpoint(model: str, place: _Place, record: dict, options: tuple) -> OpenModel:
    engine, precision, device, batch_size = options
    kind = choose(engine, precision)
    network = load_embedding(place.path)
    opened = open_network(kind, network, precision, device, batch_size)
    return OpenModel(model, opened, place.weights, record, network)


def _place(model: str, engine: str) -> _Place:
    path = Path(model)
    if path.is_dir():
        return _inside(path, engine)
    if path.suffix == '.onnx':
        return _Place(model, True, path)
    if path.is_file():
        raise InputError(
            f'model {model} is a file that ends in no .onnx; expected the folder of an export, an '
            f'.onnx file, or a checkpoint PREFIX,EPOCH{_checkpoint_of(path)}'
        )
    if ',' not in model:
        raise InputError(
            f'model {model}: no such export folder; expected one, an .onnx file, or a checkpoint '
            f'PREFIX,EPOCH{_checkpoint_there(path)}'
        )
    return _Place(model, False, checkpoint_files(model)[1])


def _checkpoint_of(path: Path) -> str:
    """The end of a message: the checkpoint of which a file is a part, if it is of one."""
    part = re.fullmatch(r'(.+)-(?:symbol\.json|\d{4,}\.(?:params|json))', str(path))
    return _checkpoint_there(Path(part[1])) if part else ''


def _checkpoint_there(prefix: Path) -> str:
    """The end of a message: the newest checkpoint of `prefix`, if there is one."""
    numbers = numbers_of(prefix, 'params')
    return f'; did you mean {prefix},{max(numbers)}?' if numbers else ''


def _inside(folder: Path, engine: str) -> _Place:
    """Which file of an export's folder an engine takes: the ONNX file if it reads such a one and
    there is one, else the checkpoint."""
    onnx, slim = folder / ONNX, folder / weights_name(SLIM)
    reads_onnx = choose(engine).reads is not Network
    if reads_onnx and onnx.is_file():
        return _Place(str(onnx), True, onnx)
    if not slim.is_file():
        example = _checkpoint_there(folder / 'model') or f' such as {folder}/model,9'
        raise InputError(
            f'model {folder} has no {(onnx if reads_onnx else slim).name} and is no export folder; '
            f'expected one, an .onnx file, or a checkpoint PREFIX,EPOCH{example}'
        )
    return _Place(str(folder / SLIM), False, slim)
