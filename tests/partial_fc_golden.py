"""Three steps of the MXNet original of PartialFC on two ranks, and a rank of ours beside them.

As a program: one rank of a job, which ends with an error where it differs.
"""

import json
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from vargfacenet.common.backend import mx
from vargfacenet.recognition.losses import Logits
from vargfacenet.recognition.losses.cosine import CosineLoss, target_of, with_target
from vargfacenet.recognition.partial_fc import Centres, PartialFC, Settings

GOLDEN = json.loads((Path(__file__).parent / 'data' / 'partial_fc.json').read_text())


@dataclass(frozen=True)
class OriginalMargin(CosineLoss):
    """The original's margin, cos(theta + m2) - m3 past pi as well, where `margin` goes straight on:
    one of the golden's images lies there."""

    s: float
    m1: float
    m2: float
    m3: float

    margin_on_target_alone = True

    def of_cosines(self, cosine, head):
        angle = self.m1 * mx.sym.arccos(target_of(cosine, head)) + self.m2
        return Logits(with_target(cosine, mx.sym.cos(angle) - self.m3, head))


def golden_inputs():
    random = np.random.RandomState(31)
    weights = random.standard_normal((2, 10, 6)).astype(np.float32) * 0.5
    features = random.standard_normal((3, 2, 4, 6)).astype(np.float32)
    labels = random.randint(0, 19, (3, 2, 4))
    assert labels.tolist() == GOLDEN['labels']
    return weights, features, labels


def check_rank(ranks, name):
    """All steps of a case: loss, gradient of the embeddings, centres, momenta."""
    case = GOLDEN['cases'][name]
    weights, features, labels = golden_inputs()
    loss = OriginalMargin(GOLDEN['scale'], *case['margins'])
    centres = Centres(10, 6)
    centres.weights[:] = weights[ranks.rank]
    settings = Settings(19, 6, case['sample_ratio'], mom=0.9, wd=5e-4)
    head = PartialFC(loss, settings, centres, ranks)
    for number, lr in enumerate(GOLDEN['lr_per_step']):
        sampled = case['ranks'][ranks.rank]['sampled']
        rows = np.array(sampled[number]) if sampled else None
        place = number, ranks.rank
        step = head.step(features[place], labels[place], lr, number, rows)
        want = case['ranks'][ranks.rank]['steps'][number]
        loss_of_all = ranks.sum(np.array([step.loss.mean()], np.float32), 'loss') / ranks.size
        np.testing.assert_allclose(loss_of_all, want['loss'], rtol=1e-5)
        np.testing.assert_allclose(step.gradient, want['backbone_out_grad'], atol=2e-4)
        np.testing.assert_allclose(centres.weights, want['weight'], atol=2e-5)
        np.testing.assert_allclose(centres.momenta, want['mom'], atol=2e-5)


if __name__ == '__main__':
    from vargfacenet.recognition.processes import connect

    _ranks = connect()
    for _name in GOLDEN['cases']:
        check_rank(_ranks, _name)
    if _ranks.rank == 0:
        sys.stdout.write(json.dumps({'cases': list(GOLDEN['cases']), 'ranks': _ranks.size}) + '\n')
