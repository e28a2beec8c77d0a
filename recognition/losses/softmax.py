"""Plain softmax: a fully connected layer with bias."""

from dataclasses import dataclass

from ...common.backend import mx
from ...common.names import CLASSIFIER_BIAS, CLASSIFIER_PREFIX
from .loss import LOSSES, ClassificationLoss, Head


@LOSSES.register('softmax')
@dataclass(frozen=True)
class Softmax(ClassificationLoss):
    """Logits W x + b of embeddings as they are."""

    def logits(self, head: Head) -> 'mx.sym.Symbol':
        return mx.sym.FullyConnected(
            head.embedding,
            weight=head.weight(),
            bias=mx.sym.Variable(CLASSIFIER_BIAS, shape=(head.num_classes,)),
            num_hidden=head.num_classes,
            name=CLASSIFIER_PREFIX,
        )
