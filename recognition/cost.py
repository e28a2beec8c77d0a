"""What a step of training costs on many machines: bytes on the wire, memory, time. Pure functions.

Symbols as in docs/scale.md: R ranks with B images each, N = R B; C classes with k centres of D
values; a rank holds n = ceil(C / R) classes and samples m of them; P parameters of the network.
"""

import math
from dataclasses import dataclass
from typing import NamedTuple, Optional

GATHER, REDUCE = 'gather', 'all-reduce'
_FLOAT, _LABEL = 4, 8  # bytes
# (N, m k) arrays at the peak of a step with PartialFC: the cosines become probabilities and
# gradients in place, but where the loss moves all of them its graph and the way there hold copies:
# curricularface 14 to 16, as MXNet gets round to freeing, arcnegface 13, subcenter_arcface 12
_COSINES, _COSINES_MOVED = 1, 16
_HELD = 4  # arrays of each weight: Module has a copy beside gradient and momentum, for checkpoints
_COSINES_FULL = 2  # of the full head: MXNet keeps another for their gradient


@dataclass(frozen=True)
class Job:
    """What is trained, and on how many ranks."""

    classes: int  # C
    ranks: int  # R
    batch: int  # B
    params: int  # P, without class centres
    embedding_size: int = 512  # D
    centres_per_class: int = 1  # k
    sample_rate: float = 1.0
    dense: bool = False  # --partial-fc-update
    partial_fc: bool = True  # otherwise the full head, in every rank
    centre_bytes: int = 4  # of a stored value
    moves_others: bool = False  # whether the loss moves other classes' cosines too

    @property
    def images(self) -> int:
        return self.ranks * self.batch

    @property
    def rows(self) -> int:
        """Classes that a rank holds."""
        return -(-self.classes // self.ranks) if self.partial_fc else self.classes

    @property
    def sampled(self) -> int:
        """Classes that a rank looks at; of a dense update at least those of the images that fall
        to it, evenly."""
        if not self.partial_fc:
            return self.classes
        sampled = int(self.rows * self.sample_rate)
        return max(sampled, min(self.rows, self.batch)) if self.dense else sampled


class Exchange(NamedTuple):
    """One collective operation of a step."""

    name: str
    kind: str
    given: int  # bytes of the array that a rank gives

    def sent(self, ranks: int) -> int:
        """Bytes that a rank sends, around a ring (Patarasu and Yuan, 2009): of an all-reduce a
        share of 2 (R - 1) / R, of a gather its array R - 1 times."""
        if self.kind == GATHER:
            return self.given * (ranks - 1)
        return self.given * 2 * (ranks - 1) // ranks


def exchanges(job: Job) -> list[Exchange]:
    """The operations of a step, by the names that `sent_bytes` of a run has."""
    images, size = job.images, job.embedding_size
    centres = job.centres_per_class * size
    learnt = job.params + (0 if job.partial_fc else job.classes * centres)
    found = [Exchange('gradients', REDUCE, _FLOAT * (learnt + 1))]  # and whether to stop
    if not job.partial_fc:
        return found
    return [
        *found,
        Exchange('embeddings', GATHER, _FLOAT * job.batch * size),
        Exchange('labels', GATHER, _LABEL * job.batch),
        Exchange('target cosines', REDUCE, _FLOAT * images * (job.centres_per_class + 1)),
        Exchange('largest logits', REDUCE, _FLOAT * images),
        Exchange('softmax sums', REDUCE, _FLOAT * images),
        Exchange('target gradients', REDUCE, _FLOAT * images),
        Exchange('embedding gradients', REDUCE, _FLOAT * images * size),
    ]


def cosine_bytes(job: Job) -> int:
    """Of the cosines that a rank holds at the peak of a step."""
    images, arrays = job.batch, _COSINES_FULL
    if job.partial_fc:
        images, arrays = job.images, _COSINES_MOVED if job.moves_others else _COSINES
    return _FLOAT * arrays * images * job.sampled * job.centres_per_class


def memory(job: Job, activations: int) -> dict[str, int]:
    """Bytes of a rank by part; `activations` are those of one image, forwards.

    The backward pass holds as much again at most.
    """
    centre = job.centres_per_class * job.embedding_size
    held = {
        'network: weights, gradients, momenta': _HELD * _FLOAT * job.params,
        'network: layers of a batch, both ways': 2 * activations * job.batch,
    }
    if job.partial_fc:
        return {
            **held,
            'centres and momenta': 2 * job.centre_bytes * job.rows * centre,
            'cosines': cosine_bytes(job),
            'embeddings and their gradients': 4 * _FLOAT * job.images * job.embedding_size,
        }
    return {
        **held,
        'centres, gradients, momenta': _HELD * _FLOAT * job.classes * centre,
        'cosines': cosine_bytes(job),
    }


class Speeds(NamedTuple):
    """What a rank's machine does in a second."""

    images: Optional[float]  # of the network's training, without the head; None: unknown
    flops: float  # of a float32 matrix product
    memory_bytes: float  # read or written, one after the other
    wire_bytes: float  # sent, while as many are received
    latency: float  # seconds until the first byte is there


def head_flops(job: Job) -> int:
    """Of a rank: cosines, gradients of the embeddings, gradients of the centres."""
    images = job.images if job.partial_fc else job.batch
    return 3 * 2 * images * job.sampled * job.centres_per_class * job.embedding_size


def head_traffic(job: Job) -> int:
    """Bytes of centres and momenta that a rank reads or writes: centres for the cosines; both for
    the update, which writes both; of a dense update those of all its classes."""
    row = job.centre_bytes * job.centres_per_class * job.embedding_size
    if not job.partial_fc:  # three passes of the optimizer over weights, gradients, momenta
        return 7 * row * job.classes
    moved = job.rows if job.dense else job.sampled
    return row * (job.sampled + 4 * moved)


def seconds(job: Job, speeds: Speeds) -> dict[str, Optional[float]]:
    """Seconds of a step by part; they follow each other. None for a part that is not known.

    A ring of R ranks has R - 1 hops a gather, 2 (R - 1) an all-reduce.
    """
    wire: dict[str, float] = {}
    for exchange in exchanges(job) if job.ranks > 1 else ():
        hops = (job.ranks - 1) * (1 if exchange.kind == GATHER else 2)
        part = 'wire: gradients' if exchange.name == 'gradients' else 'wire: head'
        spent = exchange.sent(job.ranks) / speeds.wire_bytes + hops * speeds.latency
        wire[part] = wire.get(part, 0.0) + spent
    return {
        'network': job.batch / speeds.images if speeds.images else None,
        'head: matrix products': head_flops(job) / speeds.flops,
        'head: centres in memory': head_traffic(job) / speeds.memory_bytes,
        **wire,
    }


def largest(parts: dict[str, Optional[float]]) -> str:
    """The part that takes longest of those that are known."""
    return max(parts, key=lambda name: -math.inf if parts[name] is None else parts[name])
