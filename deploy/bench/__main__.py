"""`vargfacenet bench WHAT ...` hands over to the module that measures it."""

import sys
from collections.abc import Sequence
from typing import Optional

from ...common.console import dispatch

# what -> (module, what it measures); the module's main(argv) returns the exit code
BENCHMARKS = {
    'train': ('train', 'the training step against stock operators; batch, width, memory, profile'),
    'head': ('head', 'the margin head against one-hot labels, up to a million classes'),
    'losses': ('losses', 'a step of every loss against one of ArcFace'),
    'distill': ('distill', 'distilling from the teacher store against a live teacher'),
    'engines': ('engines', 'the original network against ours in every engine, batch 1 and 32'),
    'networks': ('networks', 'CPU time of every network in every engine, for `info --table`'),
    'photo': ('photo', 'a photograph to its embedding: decode, detect, align, embed'),
    'search': ('search', "the kernels of identification against this machine's matrix products"),
    'identify': ('identify', 'the whole search of `identify`, of 4.3e11 pairs'),
    'data': ('data', 'the iterator against one thread and an NDArray per image; start-up'),
}


def main(argv: Optional[Sequence[str]] = None) -> int:
    """Run one benchmark; returns its exit code. Without a name, lists them."""
    return dispatch('vargfacenet bench', BENCHMARKS, __package__, argv)


if __name__ == '__main__':
    sys.exit(main())
