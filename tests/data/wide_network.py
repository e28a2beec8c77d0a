"""A network of a few layers, among them VarGFaceNet's kinds, whose width is an option: a plugin,
see VARGFACENET_PLUGINS."""

from dataclasses import dataclass

from vargfacenet.common.backend import mx
from vargfacenet.symbol import NETWORKS, Family


@dataclass(frozen=True)
class Options:
    multiplier: float = 1.0
    emb_size: int = 16


def layer(x, name, channels, **options):
    x = mx.sym.Convolution(x, num_filter=channels, no_bias=True, name=name, **options)
    x = mx.sym.BatchNorm(x, fix_gamma=False, eps=2e-5, name=f'{name}_bn')
    return mx.sym.LeakyReLU(x, act_type='prelu', name=f'{name}_act')


def build(options):
    channels = int(32 * options.multiplier)
    with mx.name.NameManager():  # the same names however often a process builds it
        x = (mx.sym.Variable('data') - 127.5) * 0.0078125
    x = layer(x, 'conv0', channels, kernel=(7, 7), stride=(8, 8), pad=(3, 3))
    x = layer(x, 'conv1', channels, kernel=(3, 3), pad=(1, 1), num_group=channels // 8)
    x = layer(x, 'conv2', channels, kernel=(1, 1))
    x = mx.sym.Pooling(x, kernel=(7, 7), stride=(7, 7), pool_type='avg', name='pool')
    x = mx.sym.FullyConnected(x, num_hidden=options.emb_size, name='pre_fc1')
    return mx.sym.BatchNorm(x, fix_gamma=True, eps=2e-5, name='fc1')


NETWORKS.register('wide')(Family(build, Options()))
