"""The options of every command that opens a model."""

import argparse
import logging
from typing import Optional

from ..console import Parser
from . import default_model
from .engines import AUTO, ENGINES, PRECISIONS
from .model_name import DEFAULT
from .open_model import OpenModel, open_model

log = logging.getLogger(__name__)

METAVAR = 'MODEL'
HELP = 'checkpoint PREFIX,EPOCH, folder of an export, or an .onnx file, ours or of others'


def add_options(parser: Parser, required: bool = True, **model: str) -> None:
    """Add --model, --engine, --precision, --device and --input.

    `model` changes how the first of them is added, as in `action='append'`.
    """
    parser.add_argument('--model', required=required, metavar=METAVAR, **{'help': HELP, **model})
    _add_engine_options(parser)


def add_options_or_default(parser: Parser) -> None:
    """The same for commands that take the project's own model where none is named."""
    parser.add_argument(
        '--model',
        default=DEFAULT,
        metavar=METAVAR,
        help=f"{HELP}; without it '{DEFAULT}', the one that comes with the project, "
        'for trying out: it has learned from drawn faces alone',
    )
    _add_engine_options(parser)


def _add_engine_options(parser: Parser) -> None:
    parser.add_argument(
        '--engine',
        '--backend',
        choices=(AUTO, *ENGINES.names()),
        default=AUTO,
        help='what runs it; auto: the fastest that is installed',
    )
    parser.add_argument(
        '--precision',
        choices=PRECISIONS,
        default=PRECISIONS[0],
        help="bfloat16: OpenVINO's, faster where the CPU has it",
    )
    parser.add_argument(
        '--device',
        '--devices',
        default='cpu',
        help="'cpu'; MXNet: gpu:0,1,...; onnxruntime: cuda, cuda:1, ...; OpenVINO: GPU, NPU, ...",
    )
    parser.add_argument(
        '--input',
        default='',
        metavar='mean=M,std=S,colour=rgb|bgr',
        help='what an .onnx file of others takes, where its first layers do not tell',
    )


def open_from(
    args: argparse.Namespace,
    batch_size: int = 32,
    checkpoint_engine: str = AUTO,
    model: Optional[str] = None,
) -> OpenModel:
    """Open the model of `add_options`; `model` is one of several.

    Protocols give `checkpoint_engine` 'mxnet': the figures of a checkpoint are then those of
    training, whatever else is installed.
    """
    opened = open_model(
        args.model if model is None else model,
        args.engine,
        args.precision,
        args.device,
        batch_size,
        args.input,
        checkpoint_engine,
    )
    if default_model.is_default(opened.name):
        log.info(default_model.introduction())
    if opened.contract:
        how = f'pixels as {opened.preprocessing}'
        log.info('model %s, engine %s, %s', opened.name, opened.engine_name, how)
    elif opened.engine_name != checkpoint_engine:
        log.info('model %s, engine %s', opened.name, opened.engine_name)
    return opened
