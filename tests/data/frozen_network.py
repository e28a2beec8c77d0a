"""A network whose BatchNorm has running statistics in training as well: a plugin, see
VARGFACENET_PLUGINS."""

from dataclasses import dataclass

from vargfacenet.common.backend import mx
from vargfacenet.symbol import NETWORKS, Family


@dataclass(frozen=True)
class Options:
    emb_size: int = 8


def build(options):
    x = (mx.sym.Variable('data') - 127.5) * 0.0078125
    x = mx.sym.Convolution(x, kernel=(3, 3), stride=(4, 4), num_filter=8, name='conv0')
    x = mx.sym.BatchNorm(x, fix_gamma=False, use_global_stats=True, eps=2e-5, name='bn0')
    x = mx.sym.LeakyReLU(x, act_type='prelu', name='relu0')
    x = mx.sym.Pooling(x, kernel=(7, 7), stride=(7, 7), pool_type='avg', name='pool0')
    return mx.sym.FullyConnected(x, num_hidden=options.emb_size, name='fc1')


NETWORKS.register('frozen')(Family(build, Options()))
