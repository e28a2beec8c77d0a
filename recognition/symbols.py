"""Pieces of training graphs that several losses share."""

import contextlib
import io
import re
from collections.abc import Mapping

from ..common.backend import mx
from ..common.errors import InputError

_OF_THE_LIBRARY = re.compile(r'^MXNetError: |\[\d\d:\d\d:\d\d\] \S+: ')  # class, time and place


def unit_length(vectors: 'mx.sym.Symbol', name: str) -> 'mx.sym.Symbol':
    """Rows of (N, D) divided by their L2 norm; a zero row stays zero."""
    return mx.sym.L2Normalization(vectors, mode='instance', name=name)


def length_of(vectors: 'mx.sym.Symbol') -> 'mx.sym.Symbol':
    """(N,): L2 norms of the rows of (N, D), with a gradient at 0 too (`unit_length`'s addend)."""
    return mx.sym.sqrt(mx.sym.sum(mx.sym.square(vectors), axis=1) + 1e-10)


def for_every_image(loss: 'mx.sym.Symbol', batch_size: int) -> 'mx.sym.Symbol':
    """A loss of the batch as a whole, (1,), as that of every image, (N,)."""
    return mx.sym.broadcast_to(loss, shape=(batch_size,))


def cross_entropy(
    logits: 'mx.sym.Symbol', label: 'mx.sym.Symbol', smoothing: float = 0.0
) -> 'mx.sym.Symbol':
    """Cross entropy of softmax(logits) and the label, (N, C) and (N,) -> (N,).

    With label smoothing (arXiv:1512.00567, Section 7) the label is (1 - smoothing) one-hot plus
    smoothing / C for every class, the target's included; logits are taken as they are, with a
    margin where a loss has one.
    """
    log_probability = mx.sym.log_softmax(logits, axis=1)
    loss = -mx.sym.pick(log_probability, label, axis=1)
    if not smoothing:
        return loss
    return (1 - smoothing) * loss - smoothing * mx.sym.mean(log_probability, axis=1)


def inferred_shapes(
    symbol: 'mx.sym.Symbol', inputs: Mapping[str, tuple[int, ...]], what: str
) -> list[tuple[int, ...]]:
    """The shapes of a symbol's outputs, of which a length of 0 or less is not known.

    Parameters
    ----------
    inputs : shapes of variables; those that the symbol has not are no matter
    what : what the symbol is of; begins the error

    Raises
    ------
    InputError where its operators do not fit together, with the operator and the shapes.
    """
    known = {name: inputs[name] for name in symbol.list_arguments() if name in inputs}
    try:
        with contextlib.redirect_stdout(io.StringIO()):  # where MXNet says that there is an error
            return symbol.infer_shape_partial(**known)[1]
    except mx.MXNetError as error:
        line = _OF_THE_LIBRARY.sub('', str(error).splitlines()[0])
        raise InputError(f'{what}: {line}') from None


def check_shape(what: str, shape: tuple[int, ...], expected: tuple[int, ...], meaning: str) -> None:
    """InputError where `what` has another shape than the `expected` one, as far as it is known;
    `meaning` ends the message."""
    if shape and min(shape) > 0 and shape != expected:
        raise InputError(f'{what} the shape {shape}; expected {expected}, {meaning}')
