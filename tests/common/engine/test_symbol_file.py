"""Symbols read without MXNet: the same graph and shapes as MXNet's, and nothing that harms it."""

import json

import pytest
from tiny_network import tiny_symbol
from vargfacenet.common import limits
from vargfacenet.common.backend import mx, mxnet_symbol
from vargfacenet.common.engine.operators import OPERATORS
from vargfacenet.common.engine.ops import accelerate
from vargfacenet.common.engine.symbol_file import read_symbol
from vargfacenet.common.errors import InputError
from vargfacenet.common.names import IMAGE_SHAPE
from vargfacenet.symbol import get_symbol, list_networks

BATCH = (1, *IMAGE_SHAPE)


@pytest.fixture
def read(tmp_path):
    path = tmp_path / 'model-symbol.json'

    def read(content):
        path.write_text(content if isinstance(content, str) else json.dumps(content))
        return read_symbol(path)

    return read


def agrees(ours, theirs):
    """Names, shapes of all values and the JSON, against MXNet's own."""
    arguments, outputs, states = theirs.infer_shape(data=BATCH)
    shapes = dict(zip(theirs.list_arguments(), arguments))
    shapes.update(zip(theirs.list_auxiliary_states(), states))
    del shapes['data']
    assert ours.list_arguments() == theirs.list_arguments()
    assert ours.list_auxiliary_states() == theirs.list_auxiliary_states()
    assert ours.shapes == shapes
    assert outputs == [(1, ours.embedding_size)]
    _, inner, _ = theirs.get_internals().infer_shape(data=BATCH)
    assert [shape for layer in ours.layers for shape in layer.shapes] == inner
    assert mx.sym.load_json(ours.tojson()).tojson() == theirs.tojson()


@pytest.mark.parametrize('name', list_networks())
def test_every_network_reads_as_in_mxnet(read, name):
    symbol = get_symbol(name)
    agrees(read(symbol.tojson()), symbol)


def test_what_follows_the_embedding_is_left_out(read):
    embedding = tiny_symbol()
    weight = mx.sym.Variable('fc7_weight')
    fc7 = mx.sym.FullyConnected(embedding, weight, no_bias=True, num_hidden=10, name='fc7')
    loss = mx.sym.SoftmaxOutput(fc7, mx.sym.Variable('softmax_label'), name='softmax')
    agrees(read(mx.sym.Group([loss, mx.sym.BlockGrad(embedding)]).tojson()), embedding)


def old_form(symbol, version, drop_auxiliary=False):
    """The JSON that an older MXNet would have written of the tiny network."""
    graph = json.loads(symbol.tojson())
    for node in graph['nodes']:
        attrs = node.pop('attrs', {})
        if version < 10000:
            attrs.pop('__init__', None)
            node['param' if node['op'] != 'null' else 'attr'] = attrs
            node['backward_source_id'] = -1
        else:
            node['attr'] = attrs
        if drop_auxiliary and node['op'] == 'BatchNorm':
            node['inputs'] = node['inputs'][:3]
        node['inputs'] = [entry[: 2 if drop_auxiliary else 3] for entry in node['inputs']]
    if version >= 900:
        graph['attrs'] = {'mxnet_version': ['int', version]}
    else:
        del graph['attrs']
    if drop_auxiliary:
        graph['heads'] = [head[:2] for head in graph['heads']]
    return graph


@pytest.mark.parametrize(('version', 'drop_auxiliary'), [(10000, False), (800, True)])
def test_older_forms_are_brought_to_todays_as_mxnet_does(read, version, drop_auxiliary):
    graph = old_form(tiny_symbol(), version, drop_auxiliary)
    theirs = mx.sym.load_json(json.dumps(graph))
    ours = read(graph)
    assert ours.list_arguments() == theirs.list_arguments() == tiny_symbol().list_arguments()
    assert ours.list_auxiliary_states() == tiny_symbol().list_auxiliary_states()
    arguments, *_ = theirs.infer_shape(data=BATCH)
    known = dict(zip(theirs.list_arguments(), arguments))
    assert all(ours.shapes[name] == shape for name, shape in known.items() if name != 'data')


def test_hints_for_training_of_old_files(read):
    graph = json.loads(tiny_symbol().tojson())
    convolution = next(node for node in graph['nodes'] if node['op'] == 'Convolution')
    convolution['attrs'].update(lr_mult='2', weight_lr_mult='3', ctx_group='dev1')
    attributes = mx.sym.load_json(read(graph).tojson()).attr_dict()['conv0']
    assert attributes['__lr_mult__'] == '2' and attributes['__ctx_group__'] == 'dev1'
    assert 'weight_lr_mult' not in attributes


X = mx.sym.Variable('data')
SMALL = mx.sym.Pooling(X, kernel=(16, 16), stride=(16, 16), pool_type='avg')  # (1, 3, 7, 7)
TALL = mx.sym.Convolution(SMALL, kernel=(1, 1), num_filter=12, name='tall')  # (1, 12, 7, 7)


def var(name, *shape):
    return mx.sym.Variable(name, shape=shape)


def unary(*names):
    return {name: [getattr(mx.sym, name)(TALL)] for name in names}


def scalars(*names):
    return {name: [getattr(mx.sym._internal, name)(TALL, scalar=3.0)] for name in names}


def binary(*names):
    made = {}
    for name in names:
        make = getattr(mx.sym, name, None) or getattr(mx.sym._internal, name)
        made[name] = [make(TALL, TALL + 1.0), make(TALL, mx.sym.Variable('same'))]
    return made


CASES = {
    'Convolution': [
        mx.sym.Convolution(X, kernel=(3, 5), stride=(2, 3), pad=(1, 0), num_filter=8),
        mx.sym.Convolution(X, kernel=(3, 3), dilate=(1, 2), num_filter=8),
        mx.sym.Convolution(TALL, kernel=(7, 7), num_filter=24, num_group=12, no_bias=True),
        mx.sym.Convolution(
            mx.sym.reshape(TALL, shape=(0, 0, -1)), kernel=(3,), stride=(2,), num_filter=4
        ),
    ],
    'FullyConnected': [
        mx.sym.FullyConnected(TALL, num_hidden=5),
        mx.sym.FullyConnected(TALL, num_hidden=5, flatten=False, no_bias=True),
    ],
    'BatchNorm': [
        mx.sym.BatchNorm(TALL, eps=1e-3),
        mx.sym.BatchNorm(TALL, axis=-1, use_global_stats=True),
        mx.sym.BatchNorm(TALL, output_mean_var=True)[1],
    ],
    'LeakyReLU': [
        mx.sym.LeakyReLU(TALL, act_type='prelu'),
        mx.sym.LeakyReLU(TALL, mx.sym.Variable('one', shape=(1,)), act_type='prelu'),
        *(mx.sym.LeakyReLU(TALL, act_type=kind) for kind in ('leaky', 'elu', 'selu', 'gelu')),
    ],
    'Activation': [mx.sym.Activation(TALL, act_type='softsign')],
    'Pooling': [
        mx.sym.Pooling(X, kernel=(3, 3), stride=(2, 2), pad=(1, 1), pool_type='max'),
        mx.sym.Pooling(X, kernel=(3, 3), stride=(2, 2), pool_type='avg', pooling_convention='full'),
        mx.sym.Pooling(TALL, global_pool=True, kernel=(1, 1), pool_type='avg'),
    ],
    'Dropout': [mx.sym.Dropout(TALL, p=0.4)],
    'L2Normalization': [mx.sym.L2Normalization(TALL, mode='channel')],
    'clip': [mx.sym.clip(TALL, -1, 1)],
    'Cast': [mx.sym.Cast(TALL, dtype='float32')],
    'cast': [mx.sym.cast(TALL, dtype='float32')],
    'Concat': [mx.sym.Concat(TALL, SMALL), mx.sym.Concat(TALL, TALL, dim=-1)],
    'concat': [mx.sym.concat(TALL, SMALL, dim=1)],
    'add_n': [mx.sym.add_n(TALL, TALL, TALL)],
    'ElementWiseSum': [mx.sym.ElementWiseSum(TALL, TALL)],
    'SliceChannel': [
        mx.sym.SliceChannel(TALL, num_outputs=4)[3],
        mx.sym.SliceChannel(TALL, num_outputs=7, axis=2, squeeze_axis=True)[1],
    ],
    'split': [mx.sym.split(TALL, num_outputs=3, axis=1)[0]],
    'Reshape': [
        mx.sym.Reshape(TALL, shape=shape)
        for shape in ((0, -1), (-1, 12, 49), (0, -4, 3, 4, -2), (-3, -2), (0, -3, 0))
    ],
    'reshape': [mx.sym.reshape(TALL, shape=(0, -4, -1, 2, 0, 0)), TALL.reshape((588,))],
    'transpose': [mx.sym.transpose(TALL, axes=(0, 2, 3, 1)), mx.sym.transpose(TALL)],
    'SwapAxis': [mx.sym.SwapAxis(TALL, dim1=1, dim2=3)],
    'swapaxes': [mx.sym.swapaxes(TALL, dim1=1, dim2=2)],
    'expand_dims': [mx.sym.expand_dims(TALL, axis=2), mx.sym.expand_dims(TALL, axis=-1)],
    'slice_axis': [
        mx.sym.slice_axis(TALL, axis=1, begin=2, end=-3),
        mx.sym.slice_axis(TALL, axis=-1, begin=-4, end=None),
    ],
    '_arange': [
        mx.sym.take(TALL, mx.sym.arange(start=begin, stop=end, step=step))
        for begin, end, step in ((0, 3, 1), (2, -1, -1), (-1, 2, 0.4))
    ],
    'take': [
        mx.sym.take(TALL, mx.sym.arange(3), axis=1, mode='wrap'),
        mx.sym.take(TALL, mx.sym.reshape(mx.sym.arange(6), shape=(2, 3)), axis=-1),
    ],
    'softmax': [mx.sym.softmax(TALL, axis=1, temperature=2.0)],
    'log_softmax': [mx.sym.log_softmax(TALL)],
    **{
        name: [
            getattr(mx.sym, name)(TALL, axis=(2, 3)),
            getattr(mx.sym, name)(TALL, axis=1, keepdims=True),
            getattr(mx.sym, name)(TALL, axis=(0, 1), exclude=True),
            getattr(mx.sym, name)(TALL),
        ]
        for name in ('mean', 'sum', 'max', 'min', 'sum_axis', 'max_axis', 'min_axis')
    },
    **unary(
        'relu',
        'sigmoid',
        'tanh',
        'exp',
        'sqrt',
        'square',
        'abs',
        'negative',
        'identity',
        'BlockGrad',
        'stop_gradient',
        'softsign',
        'erf',
        'log',
        'floor',
        'Flatten',
        'flatten',
    ),
    '_copy': [mx.sym._internal._copy(TALL)],
    **scalars(*(name for name in OPERATORS if name.lower().endswith('scalar'))),
    **binary(
        *(
            name
            for name in OPERATORS
            if 'elemwise' in name
            or name[1:].lower() in ('plus', 'add', 'minus', 'sub', 'mul', 'div')
        )
    ),
    **{
        name: [
            getattr(mx.sym, name)(TALL, var('scale', 1, 12, 1, 1)),
            getattr(mx.sym, name)(mx.sym.mean(TALL, axis=1, keepdims=True), TALL),
        ]
        for name in OPERATORS
        if name.startswith('broadcast_')
    },
}


@pytest.mark.parametrize('op', sorted(OPERATORS))
def test_shapes_of_every_operator_are_mxnets(read, op):
    assert CASES[op]
    for symbol in CASES[op]:
        row = mx.sym.Flatten(mx.sym.expand_dims(symbol, axis=0))  # of whatever it gives
        whole = mx.sym.FullyConnected(row, num_hidden=4, name='fc1')
        text = whole.tojson()
        for alias in OPERATORS:  # MXNet writes one name of several
            if OPERATORS[alias] is OPERATORS[op]:
                text = text.replace(f'"op": "{alias}"', f'"op": "{op}"')
        agrees(read(text), mx.sym.load_json(text))


def graph_of_tiny():
    return json.loads(tiny_symbol().tojson())


def changed(op, **attrs):
    graph = graph_of_tiny()
    node = next(node for node in graph['nodes'] if node['op'] == op)
    node['attrs'] = {**node.get('attrs', {}), **attrs}
    return graph


def replaced(**fields):
    graph = graph_of_tiny()
    node = next(node for node in graph['nodes'] if node['op'] == 'LeakyReLU')
    node.update(fields)
    return graph


@pytest.mark.parametrize(
    ('graph', 'message'),
    [
        ('', 'Expecting value'),
        ('[' * 100_000, 'recursion'),
        ([], 'no list of nodes'),
        ({'nodes': {}}, 'no list of nodes'),
        ({'nodes': [3]}, 'node 0 is no object'),
        ({'nodes': [{}]}, 'lacks its operator'),
        ({'nodes': []}, "no output 'fc1_output'"),
        *(
            (replaced(op=op, attrs={'info': '0x41414141'}), f'{op}, which can run any code')
            for op in ('_Native', '_NDArray', 'Custom', '_CustomFunction', '_CachedOp', '_foreach')
        ),
        (replaced(subgraphs=[{}]), 'can run any code'),
        (replaced(op='khatri_rao'), 'no operator that an embedding network'),
        (replaced(op='_backward_broadcast_mul'), 'no operator'),
        (replaced(inputs=[]), 'has 0 inputs; expected 2'),
        (replaced(inputs=[[11, 0, 0], [10, 0, 0]]), 'does not come before it'),  # itself: a cycle
        (replaced(inputs=[[-1, 0, 0], [10, 0, 0]]), 'does not come before it'),
        (replaced(inputs=[[9, 5, 0], [10, 0, 0]]), "output 5 of 'bn0'"),
        (replaced(inputs=[[9, 0, 0], 'x']), 'impossible input'),
        (replaced(inputs=[[9, 0, 0], [True, 0, 0]]), 'impossible input'),
        (replaced(name='conv0'), "called 'conv0'"),
        (replaced(name='a\nb'), 'impossible name'),
        (replaced(attrs={'act_type': 3}), 'no texts'),
        (replaced(attrs={'act_type': 'rrelu'}), "impossible act_type 'rrelu'"),
        (replaced(op='_arange', inputs=[], attrs={'start': '0', 'stop': '9', 'step': '0'}), 'by 0'),
        (replaced(op='_arange', inputs=[], attrs={'start': '0', 'stop': '1e30'}), r'to 1e\+30 by'),
        (replaced(op='take', attrs={'mode': 'raise'}), "impossible mode 'raise'"),
        (changed('Convolution', num_group='0'), "impossible num_group '0'"),
        (changed('Convolution', num_group='5'), '5 groups for 3 channels'),
        (changed('Convolution', num_filter='-4'), 'impossible num_filter'),
        (changed('Convolution', num_filter='9' * 5000), 'impossible num_filter'),
        (changed('Convolution', num_filter='16000000'), 'too large'),
        (changed('Convolution', kernel='(0, 3)'), 'impossible kernel'),
        (changed('Convolution', kernel='(3, 3, 3)'), 'has kernel'),
        (changed('Convolution', kernel='(113, 113)'), 'kernel of 113 for 112 values'),
        (changed('Convolution', kernel='__import__("os")'), 'impossible kernel'),
        (changed('Convolution', stride='(0, 0)'), 'impossible stride'),
        (changed('Convolution', pad='(4000, 4000)'), 'too large'),
        (changed('Convolution', ham='1'), "attribute 'ham'"),
        (changed('BatchNorm', eps='nan'), 'impossible eps'),
        (changed('BatchNorm', axis='7'), 'axis 7 for 4 axes'),
        (changed('Pooling', pad='(9, 9)'), 'pad'),
        (changed('FullyConnected', num_hidden='0'), 'impossible num_hidden'),
        (changed('FullyConnected', num_hidden='1_0'), "impossible num_hidden '1_0'"),
        (changed('FullyConnected', num_hidden='\u0661'), 'impossible num_hidden'),
        (changed('BatchNorm', eps='1e-\u0665'), 'impossible eps'),
        (changed('Convolution', kernel='(3, 0x3)'), 'impossible kernel'),
    ],
)
def test_what_would_harm_mxnet_is_refused_by_name(read, graph, message):
    with pytest.raises(InputError, match='no symbol that MXNet reads: .*' + message):
        read(graph)


def test_a_variable_says_nothing_that_mxnet_would_act_on(read):
    for attrs, message in (
        ({'__init__': '["load", {"param": "/etc/passwd"}]'}, 'unknown initializer'),
        ({'__dtype__': '99'}, 'impossible type'),
        ({'__storage_type__': '2'}, 'sparse'),
        ({'__shape__': '(1, 2, 3)'}, 'expected'),
    ):
        graph = graph_of_tiny()
        node = next(node for node in graph['nodes'] if node['name'] == 'conv0_weight')
        node['attrs'] = attrs
        with pytest.raises(InputError, match=message):
            read(graph)


def test_names_that_mxnet_cannot_take_apart_and_texts_that_it_can(read):
    """Found by fuzzing: `attr_dict` failed on a $ in the name of an attribute, and a graph that was
    rewritten on a letter that JSON may write as a number."""
    for change in ({'name': 'a$b'}, {'attrs': {'num_hi$den': '8'}}):
        graph = graph_of_tiny()
        graph['nodes'][1].update(change)
        with pytest.raises(InputError, match=r'impossible name'):
            read(graph)
    graph = graph_of_tiny()
    node = next(node for node in graph['nodes'] if node['name'] == 'conv0_weight')
    node['attrs'] = {'Größe': 'ж²'}
    symbol = read(graph)
    theirs = mxnet_symbol(symbol.graph())
    assert theirs.attr_dict()['conv0_weight'] == {'Größe': 'ж²'}
    fast = accelerate(theirs, {'data': (1, 3, 112, 112)})
    assert fast.attr_dict()['conv0_weight']['Größe'] == 'ж²'


def test_a_network_too_large_for_any_memory(read, monkeypatch):
    monkeypatch.setattr(limits, 'NETWORK_BYTES', 1 << 20)
    with pytest.raises(InputError, match='at most 1048576 is accepted'):
        read(get_symbol('y1').tojson())
