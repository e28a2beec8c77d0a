"""The one console script: `vargfacenet COMMAND ...` hands over to the module that does the work."""

import atexit
import gc
import sys
from collections.abc import Sequence
from typing import Optional

# command -> (module, what it does); the module's main(argv) returns the exit code
COMMANDS = {
    'info': ('deploy.info', 'table of all networks, the layers of one, or what a model is'),
    'synth': ('common.synth.__main__', 'make a synthetic face data set to train and test on'),
    'align': ('common.data.align', 'raw photographs -> 112x112 aligned crops'),
    'make-rec': (
        'common.data.make_rec',
        'folder of people -> train.rec, train.idx, property',
    ),
    'make-bin': ('common.data.make_bin', 'crops and a pair list -> verification .bin'),
    'make-pairs': ('common.data.make_pairs', 'folder of people -> all their pairs, for verify'),
    'make-videos': ('common.data.make_videos', 'crops -> videos of frames, degraded by a recipe'),
    'train': ('recognition.train', 'train a network from scratch or go on with a checkpoint'),
    'teach': ('recognition.teach', "a data set's embeddings by the teacher, once for all students"),
    'distill': ('recognition.distill', 'train a student from a frozen teacher over generations'),
    'fit': ('recognition.fit', 'a hand-made descriptor as a model, from labelled crops, untrained'),
    'plan': ('recognition.plan', 'bytes, memory and time of training on many machines, on paper'),
    'study': ('recognition.study.__main__', 'an experiment from a file: runs, compares, claims'),
    'quality': ('recognition.quality', 'train what weights the frames of videos, by sets of them'),
    'convert': ('symbol.convert', 'PyTorch .pth files to checkpoints, and back'),
    'export': (
        'deploy.export',
        'checkpoint -> slim symbol and parameters, ONNX, int8; each file checked',
    ),
    'embed': ('deploy.embed', 'pictures -> embeddings in an .npz'),
    'compare': ('deploy.compare', 'two photographs -> their cosine and a decision'),
    'gallery': ('deploy.gallery_command', 'enrol, identify and remove people in a gallery on disk'),
    'serve': ('deploy.serve', 'web page and JSON API: compare, enrol, identify'),
    'bench': ('deploy.bench.__main__', 'measure speed and memory here, A and B in turn'),
    'verify': ('eval.verify', '10-fold 1:1 verification of a checkpoint on .bin targets'),
    'verify-videos': ('eval.verify_videos', 'verification of videos: poolings side by side'),
    'identify': ('eval.identify', 'identification among distractors: TPR at FPR, ranks, open set'),
    'ijb': ('eval.ijb', 'IJB-B and IJB-C: 1:1 and 1:N of templates'),
    'megaface': ('eval.megaface', 'MegaFace feature files, noise removal, result summary'),
    'lfr': ('eval.lfr', 'feature file of the LFR challenge, and its FLOPs and size rule'),
    'clean': ('eval.clean', 'duplicates, people twice, wrong labels: a list to look through'),
    'check': ('deploy.check', 'damaged pictures, checkpoints, exports, galleries of a folder'),
    'report': ('eval.report.__main__', 'one HTML page from training runs and evaluation results'),
}


def main(argv: Optional[Sequence[str]] = None) -> int:
    """Run one command; returns its exit code. Without a command, lists them."""
    from . import __version__
    from .common.console import dispatch

    # While the process ends, the last collections of garbage would look at all objects of all
    # libraries and free what the system frees anyway: with MXNet they take 0.12 s.
    atexit.register(gc.freeze)
    return dispatch('vargfacenet', COMMANDS, __package__, argv, __version__)


if __name__ == '__main__':
    sys.exit(main())
