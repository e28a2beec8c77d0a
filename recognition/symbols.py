"""Pieces of training graphs that several losses share."""

from ..common.backend import mx


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
