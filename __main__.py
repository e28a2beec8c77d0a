"""The one console script: `vargfacenet COMMAND ...` hands over to the module that does the work."""

import importlib
import sys
from collections.abc import Sequence
from typing import Optional

# command -> (module, what it does); the module's main(argv) returns the exit code
COMMANDS = {
    'info': ('symbol.info', 'table of all networks, or the layers of one'),
    'synth': ('common.synth', 'make a synthetic face data set to train and test on'),
    'align': ('common.align', 'raw photographs -> 112x112 aligned crops'),
    'make-rec': ('common.make_rec', 'folder of identity folders -> train.rec, train.idx, property'),
    'make-bin': ('common.make_bin', 'crops and a pair list -> verification .bin'),
    'train': ('recognition.train', 'train a network from scratch or go on with a checkpoint'),
    'distill': ('recognition.distill', 'train a student from a frozen teacher over generations'),
    'export': (
        'deploy.export',
        'checkpoint -> slim symbol and parameters, no head',
    ),
    'verify': ('eval.verify', '10-fold 1:1 verification of a checkpoint on .bin targets'),
    'identify': ('eval.identify', 'identification among distractors: TPR at FPR, ranks, open set'),
    'ijb': ('eval.ijb', 'IJB-B and IJB-C: 1:1 and 1:N of templates'),
    'megaface': ('eval.megaface', 'MegaFace feature files, noise removal, result summary'),
    'lfr': ('eval.lfr', 'feature file of the LFR challenge, and its FLOPs and size rule'),
    'report': ('eval.report', 'one HTML page from training runs and evaluation results'),
}


def main(argv: Optional[Sequence[str]] = None) -> int:
    """Run one command; returns its exit code. Without a command, lists them."""
    argv = list(sys.argv[1:] if argv is None else argv)
    if argv and argv[0] in COMMANDS:
        module = importlib.import_module(f'{__package__}.{COMMANDS[argv[0]][0]}')
        return module.main(argv[1:])
    if not argv or argv[0] in ('-h', '--help'):
        lines = [f'  {name:<10} {text}' for name, (_, text) in COMMANDS.items()]
        sys.stderr.write(
            'usage: vargfacenet COMMAND [options]   (vargfacenet COMMAND --help)\n\n'
            + '\n'.join(lines)
            + '\n'
        )
        return 0 if argv else 2
    from .common.registry import unknown_name

    sys.stderr.write(f'vargfacenet: {unknown_name("command", argv[0], COMMANDS)}\n')
    return 2


if __name__ == '__main__':
    sys.exit(main())
