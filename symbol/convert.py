"""Convert PyTorch files of parameters to checkpoints of this project, and back.

Nothing in a file is run, and PyTorch is not needed.
"""

import argparse
import logging
import sys
from pathlib import Path
from typing import Any

from ..common import console
from ..common.engine import checkpoint
from ..common.engine.torch_file import read_states, write_state
from ..common.errors import InputError
from ..common.files import free_to_write, output_folder
from . import list_networks, parse_options
from .torch_params import from_torch, to_torch

_PYTORCH = ('.pth', '.pt', '.pth.tar')

log = logging.getLogger(__name__)


def to_checkpoint(
    source: str, network: str, words: list[str], prefix: str, overwrite: bool
) -> dict[str, Any]:
    """Write PREFIX,0 from a PyTorch file.

    Raises InputError for a file that is damaged or holds another network, and as `check_free`.
    """
    options = parse_options(network, words)
    result = from_torch(network, read_states(source), options, source)
    checkpoint.save_alone(prefix, result, overwrite)
    params = sum(array.size for array in result.arg_params.values())
    log.info('%s: %s parameters of %s are in %s,0', source, f'{params:,}', network, prefix)
    return {'model': f'{prefix},0', 'network': network, 'source': source, 'params': params}


def to_pytorch(model: str, target: str) -> dict[str, Any]:
    """Write a checkpoint's parameters as a state_dict.

    Raises InputError for a checkpoint that is missing or damaged.
    """
    network, state = to_torch(checkpoint.load_embedding(model).in_mxnet())
    output_folder(Path(target).parent)
    write_state(target, state)
    whose = f'the keys of {network}' if network else 'keys of our own'
    log.info('%s: %d tensors under %s are in %s', model, len(state), whose, target)
    return {'file': target, 'network': network, 'source': model, 'tensors': len(state)}


def build_parser(parser: console.Parser) -> None:
    parser.add_argument('source', help='a .pth or .pth.tar file, or PREFIX,EPOCH with --to')
    parser.add_argument(
        '--network', metavar='NAME', help='whose parameters the file holds, e.g. mixfacenet_s'
    )
    parser.add_argument(
        '--option',
        action='append',
        default=[],
        metavar='OPTION=VALUE',
        help='an option of the network that the shapes do not tell (repeatable)',
    )
    target = parser.add_mutually_exclusive_group(required=True)
    target.add_argument('--out', metavar='PREFIX', help='write PREFIX,0')
    target.add_argument('--to', metavar='FILE.pth', help='write a state_dict that torch.load reads')
    parser.add_argument('--overwrite', action='store_true', help='replace the files that are there')


def run(arguments: argparse.Namespace) -> dict[str, Any]:
    """What was written, with the number of parameters or tensors."""
    if arguments.to and not arguments.to.endswith(_PYTORCH):
        raise InputError(
            f'--to {arguments.to}: expected a name that ends in {" or ".join(_PYTORCH)}; '
            f'vargfacenet export writes ONNX'
        )
    if arguments.to:
        free_to_write(arguments.to, arguments.overwrite)
        if arguments.network or arguments.option:
            raise InputError('--network and --option belong to --out; a checkpoint has its symbol')
        return to_pytorch(arguments.source, arguments.to)
    checkpoint.check_free(arguments.out, arguments.overwrite)
    if not arguments.network:
        raise InputError(
            f'--out needs --network, the network of the file: {", ".join(list_networks())}'
        )
    return to_checkpoint(
        *(arguments.source, arguments.network, arguments.option),
        *(arguments.out, arguments.overwrite),
    )


main = console.command('convert', build_parser, run)

if __name__ == '__main__':
    sys.exit(main())
