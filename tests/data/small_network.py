"""A network that several processes train in a moment: a plugin, see VARGFACENET_PLUGINS.

With CURVES=none their runs end without `curves.png`, whose libraries and drawing take as long as
all the rest.
"""

import os
import sys
from dataclasses import dataclass

from vargfacenet.common.backend import mx
from vargfacenet.symbol import NETWORKS, Family


@dataclass(frozen=True)
class Options:
    emb_size: int = 16
    dropout: float = 0.0


def build(options):
    with mx.name.NameManager():  # the same names however often a process builds it
        x = (mx.sym.Variable('data') - 127.5) * 0.0078125
    x = mx.sym.Convolution(
        x, kernel=(7, 7), stride=(8, 8), num_filter=8, no_bias=True, name='conv0'
    )
    x = mx.sym.BatchNorm(x, fix_gamma=False, eps=2e-5, momentum=0.5, name='bn0')
    x = mx.sym.LeakyReLU(x, act_type='prelu', name='relu0')
    x = mx.sym.Convolution(x, kernel=(1, 1), num_filter=16, no_bias=True, name='conv1')
    x = mx.sym.BatchNorm(x, fix_gamma=False, eps=2e-5, momentum=0.5, name='bn1')
    x = mx.sym.Pooling(x, kernel=(2, 2), stride=(4, 4), pool_type='avg', name='pool1')
    if options.dropout:
        x = mx.sym.Dropout(x, p=options.dropout, name='dropout0')
    x = mx.sym.FullyConnected(x, num_hidden=options.emb_size, name='pre_fc1')
    return mx.sym.BatchNorm(x, fix_gamma=True, eps=2e-5, momentum=0.5, name='fc1')


NETWORKS.register('small')(Family(build, Options()))

hooks = sys.modules.get('vargfacenet.recognition.hooks')  # a launcher has no part of a run
if hooks and os.environ.get('CURVES') == 'none':
    hooks.plot_curves = lambda folder, title: None
