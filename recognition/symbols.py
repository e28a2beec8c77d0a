"""Pieces of training graphs that several losses share."""

from ..common.backend import mx


def unit_length(vectors: 'mx.sym.Symbol', name: str) -> 'mx.sym.Symbol':
    """Rows of (N, D) divided by their L2 norm; a zero row stays zero."""
    return mx.sym.L2Normalization(vectors, mode='instance', name=name)


def cross_entropy(logits: 'mx.sym.Symbol', label: 'mx.sym.Symbol') -> 'mx.sym.Symbol':
    """-log softmax(logits)[label], (N, C) and (N,) -> (N,)."""
    return -mx.sym.pick(mx.sym.log_softmax(logits, axis=1), label, axis=1)
