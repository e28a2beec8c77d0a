"""Any model through one door: ours, and ONNX files as others write them."""

import os
import re
import subprocess
import sys

import foreign_onnx as foreign
import numpy as np
import onnx
import pytest
from conftest import ROOT
from pictures import picture
from tiny_network import embed_on_stock_graph, reference_params, tiny_symbol
from vargfacenet.common.data.image import decode_rgb
from vargfacenet.common.engine.checkpoint import save_embedding
from vargfacenet.common.engine.contract import Contract, load_graph, override, read_contract
from vargfacenet.common.engine.network import Network
from vargfacenet.common.engine.open_model import open_model
from vargfacenet.common.engine.to_onnx import inference_model, to_onnx
from vargfacenet.common.errors import InputError, RunError
from vargfacenet.common.files import sha256
from vargfacenet.common.flops import count
from vargfacenet.eval.verification import verify

SHARED = ROOT.parent / 'shared' / 'data'  # real faces and a published model, where they are
ENGINES = ['onnxruntime', 'openvino']
CLOSE = {'rtol': 0, 'atol': 2e-5}
_FINITE = 'a finite number (float32: 0, or in size from 1.2e-38 to 3.4e+38)'


@pytest.fixture(scope='module')
def case():
    """(network, its ONNX model, images, their embeddings on MXNet's stock graph)."""
    random = np.random.RandomState(8)
    images = np.stack([picture(random) for _ in range(11)])
    symbol = tiny_symbol(32)
    network = Network(symbol, *reference_params(symbol))
    return network, inference_model(network), images, embed_on_stock_graph(*network, images)


def opened(model, path, *options, **more):
    onnx.checker.check_model(model)
    onnx.save(model, str(path))
    return open_model(path, *options, batch_size=4, **more)


@pytest.mark.parametrize('engine', ENGINES)
@pytest.mark.parametrize(
    ('changes', 'wanted'),
    [
        ([foreign.renamed], {'name': 'input.1', 'output': '683'}),
        ([foreign.mul_add], {}),
        ([foreign.batch_norm], {}),
        ([foreign.with_norm], {}),
        ([foreign.channels_last], {'layout': 'NHWC'}),
        ([foreign.fixed_batch], {'batch': 1}),
        ([lambda model: foreign.fixed_batch(model, 3)], {'batch': 3}),
        ([foreign.field_normalisation_outside], {'mean': 127.5, 'std': 127.5}),
        (
            [foreign.field_normalisation_outside, foreign.channels_last, foreign.fixed_batch],
            {'mean': 127.5, 'std': 127.5, 'layout': 'NHWC', 'batch': 1},
        ),
    ],
)
def test_what_a_foreign_file_takes_is_found_out(engine, changes, wanted, case, tmp_path):
    _, model, images, expected = case
    for change in changes:
        model = change(model)
    path = tmp_path / 'other.onnx'
    result = opened(model, path, engine)
    assert result.contract == Contract(embedding_size=32)._replace(**wanted)
    assert result.network is None and result.record == {}
    assert result.fingerprint == sha256(path)
    for number in (0, 1, 3, 4, 11):
        np.testing.assert_allclose(result.embed(images[:number]), expected[:number], **CLOSE)
    mirrored = result.embed(images[:, :, ::-1])  # a view
    np.testing.assert_array_equal(mirrored, result.embed(images[:, :, ::-1].copy()))


@pytest.mark.parametrize('engine', ENGINES)
def test_what_the_file_does_not_tell_is_said(engine, case, tmp_path):
    _, model, images, expected = case
    model = foreign.blue_first(foreign.normalisation_outside(model))
    path = tmp_path / 'other.onnx'
    plain = opened(model, path, engine)
    assert plain.preprocessing == 'mean=127.5,std=127.5,colour=rgb'
    assert np.abs(plain.embed(images) - expected).max() > 0.01
    told = open_model(path, engine, preprocessing='mean=127.5,std=128,colour=bgr')
    assert told.preprocessing == 'mean=127.5,std=128,colour=bgr'
    np.testing.assert_allclose(told.embed(images), expected, **CLOSE)
    # embeddings of the two do not compare
    assert told.fingerprint != plain.fingerprint == sha256(path)


def test_a_network_that_undoes_a_normalisation_takes_a_normalised_one(case):
    """x * 127.5 + 127.5 at the start is no normalisation, though there are a Mul and an Add."""
    _, model, _, _ = case

    def undo(data, out):
        make = onnx.helper.make_node
        return [make('Mul', [data, 'half'], ['a']), make('Add', ['a', 'half'], [out])]

    contract = read_contract(
        foreign.replace_start(model, undo, [('half', 127.5)]).SerializeToString()
    )
    assert (contract.mean, contract.std) == (127.5, 127.5)


def test_uint8_files_take_pixels_as_they_are(case):
    network, _, _, _ = case
    model = foreign.renamed(inference_model(network, input_type='uint8')).SerializeToString()
    contract = read_contract(model)
    assert (contract.dtype, contract.mean, contract.std) == ('uint8', 0, 1)
    with pytest.raises(InputError, match='takes uint8 pixels as they are'):
        override(contract, 'mean=127.5')
    assert override(contract, 'colour=bgr').colour == 'bgr'


@pytest.mark.parametrize(
    ('text', 'told'),
    [
        ('mean', "model option 'mean': expected OPTION=VALUE"),
        ('std=0', 'std must be a number above 0 (float32: 1.2e-38 to 3.4e+38), not 0'),
        ('std=-1', 'std must be a number above 0 (float32: 1.2e-38 to 3.4e+38), not -1'),
        ('mean=nan', f'mean must be {_FINITE}, not nan'),
        ('mean=grey', f"mean must be {_FINITE}, not 'grey'"),
        ('mean=1,mean=2', 'mean is given twice'),
        ('colour=grey', 'colour must be one of rgb, bgr'),
        ('gamma=2', "unknown --input option 'gamma'; known: colour, mean, std"),
        ('mean=1;std=2', 'mean must be a finite number'),
    ],
)
def test_wrong_input_options(text, told):
    with pytest.raises(InputError, match=re.escape(told)):
        override(Contract(), text)


@pytest.mark.parametrize(
    ('change', 'told'),
    [
        (lambda model: foreign.of_size(model, 160), r'data float32 \[N, 3, 160, 160\]'),
        (lambda model: foreign.of_size(model, 96), r'data float32 \[N, 3, 96, 96\]'),
    ],
)
def test_files_for_other_pictures_are_refused(change, told, case, tmp_path):
    with pytest.raises(InputError, match=f'other.onnx has another contract .{told}.*112'):
        opened(change(case[1]), tmp_path / 'other.onnx')


def without_output(graph):
    """The node that reads the picture, without what it gives."""
    node = next(node for node in graph.node if graph.input[0].name in node.input)
    del node.output[:]


def without_type(graph):
    graph.input[0].type.tensor_type.elem_type = 0


def constants_of_no_value(graph):
    graph.node.insert(0, onnx.helper.make_node('Constant', [], ['nothing']))


def constants_that_do_not_fit(graph):
    """Factors of two and of three numbers, and a summand of fewer bytes than it says."""
    name = graph.input[0].name
    for length in (2, 3):
        values = np.full(length, 2, np.float32)
        graph.initializer.append(onnx.numpy_helper.from_array(values, f'c{length}'))
    graph.initializer.append(onnx.numpy_helper.from_array(np.ones(3, np.float32), 'cut'))
    graph.initializer[-1].raw_data = b'123'
    for node in graph.node:
        for index, source in enumerate(node.input):
            if source == name:
                node.input[index] = 'm3'
    chain = [('Mul', name, 'c2', 'm1'), ('Mul', 'm1', 'c3', 'm2'), ('Add', 'm2', 'cut', 'm3')]
    for at, (op, first, second, output) in enumerate(chain):
        graph.node.insert(at, onnx.helper.make_node(op, [first, second], [output]))


@pytest.mark.parametrize(
    'damage', [without_output, without_type, constants_of_no_value, constants_that_do_not_fit]
)
def test_a_damaged_graph_is_one_line(damage, tmp_path):
    """The first two were found by tests/fuzz.sh in 20,000 files."""
    symbol = tiny_symbol(8)
    model = to_onnx(Network(symbol, *reference_params(symbol)))
    damage(model.graph)
    path = tmp_path / 'other.onnx'
    path.write_bytes(model.SerializeToString())
    with pytest.raises(InputError, match=r'other\.onnx'):
        open_model(str(path), 'onnxruntime')


@pytest.mark.parametrize('name', ['strides', 'dilations', 'kernel_shape', 'group'])
@pytest.mark.parametrize('inside', [False, True])
def test_what_native_code_would_divide_by_is_refused(name, inside, tmp_path):
    """Found by tests/fuzz.sh: a stride of 0 ended the process by SIGFPE in onnxruntime."""
    symbol = tiny_symbol(8)
    model = to_onnx(Network(symbol, *reference_params(symbol)))
    node = next(node for node in model.graph.node if node.op_type == 'Conv')
    attribute = next(each for each in node.attribute if each.name == name)
    if attribute.ints:
        attribute.ints[-1] = 0
    else:
        attribute.i = 0
    if inside:
        branch = onnx.helper.make_graph([node], 'branch', [], [])
        node.CopyFrom(onnx.helper.make_node('If', ['x'], ['y'], then_branch=branch))
    onnx.save(model, tmp_path / 'model.onnx')
    for engine in ENGINES:
        with pytest.raises(InputError, match=rf'Conv .*: {name} below 1'):
            open_model(str(tmp_path / 'model.onnx'), engine)


@pytest.mark.parametrize('given', ['by default', 'by the call', 'by a call within'])
def test_a_function_takes_no_stride_of_zero_either(given, tmp_path):
    """Under another name; onnxruntime ended by SIGFPE."""
    make = onnx.helper.make_node
    conv = make('Conv', ['x', 'w'], ['y'], kernel_shape=[3, 3])
    ints = onnx.AttributeProto.INTS
    conv.attribute.add(name='strides', ref_attr_name='steps', type=ints)
    opsets = [onnx.helper.make_opsetid('', 17), onnx.helper.make_opsetid('x', 1)]
    function = onnx.helper.make_function('x', 'F', ['x', 'w'], ['y'], [conv], opsets)
    call = make('F', ['data', 'w'], ['y'], domain='x')
    functions = [function]
    if given == 'by default':
        function.attribute_proto.append(onnx.helper.make_attribute('steps', [0, 0]))
    elif given == 'by the call':
        function.attribute.append('steps')
        call = make('F', ['data', 'w'], ['y'], domain='x', steps=[0, 0])
    else:
        function.attribute.append('steps')
        inner = make('F', ['x', 'w'], ['y'], domain='x')
        inner.attribute.add(name='steps', ref_attr_name='pace', type=ints)
        functions.append(onnx.helper.make_function('x', 'G', ['x', 'w'], ['y'], [inner], opsets))
        functions[1].attribute.append('pace')
        call = make('G', ['data', 'w'], ['y'], domain='x', pace=[0, 0])
    last = make('ReduceMean', ['y'], ['embedding'], axes=[2, 3], keepdims=0)
    ends = [('data', ['N', 3, 112, 112]), ('embedding', ['N', 8])]
    ends = [[onnx.helper.make_tensor_value_info(name, 1, shape)] for name, shape in ends]
    weights = onnx.numpy_helper.from_array(np.ones((8, 3, 3, 3), np.float32), 'w')
    graph = onnx.helper.make_graph([call, last], 'g', *ends, [weights])
    kinds = {'opset_imports': opsets, 'functions': functions, 'ir_version': 8}
    model = onnx.helper.make_model(graph, **kinds).SerializeToString()
    with pytest.raises(InputError, match=r'(function|[FG]) .*(steps|pace) below 1'):
        read_contract(model)
    sound = model.replace(b'steps@\0@\0', b'steps@\1@\1').replace(b'pace@\0@\0', b'pace@\1@\1')
    assert sound != model
    assert load_graph(sound).graph.node[0].op_type == call.op_type


def small_file(path, nodes, last, **values):
    """A model of three mean colours times a matrix; `nodes` come first and make `last` of data."""
    make = onnx.helper.make_node
    values['W'] = np.ones((3, 8), np.float32)
    nodes = [
        *(make(op, inputs, [output], **attributes) for op, inputs, output, attributes in nodes),
        make('ReduceMean', [last], ['means'], axes=[2, 3], keepdims=0),
        make('MatMul', ['means', 'W'], ['embedding']),
    ]
    ends = [('data', ['N', 3, 112, 112]), ('embedding', ['N', 8])]
    ends = [[onnx.helper.make_tensor_value_info(name, 1, shape)] for name, shape in ends]
    known = [onnx.numpy_helper.from_array(value, name) for name, value in values.items()]
    graph = onnx.helper.make_graph(nodes, 'small', *ends, known)
    opset = [onnx.helper.make_opsetid('', 11)]
    onnx.save(onnx.helper.make_model(graph, opset_imports=opset, ir_version=8), path)


@pytest.mark.parametrize('engine', ENGINES)
@pytest.mark.parametrize(
    ('nodes', 'shape'),
    [
        ([('Tile', ['data', 'n'], 'x', {})], [1, 1, 400, 400]),  # 24 GB of 500 bytes
        (
            [('ConstantOfShape', ['n'], 'big', {}), ('Add', ['data', 'big'], 'x', {})],
            [1, 3, 112, 20_000_000],
        ),
    ],
)
def test_a_layer_of_gigabytes_is_refused(engine, nodes, shape, tmp_path):
    small_file(tmp_path / 'model.onnx', nodes, 'x', n=np.array(shape, np.int64))
    with pytest.raises(InputError, match=r'is of shape \[1, .*, which is too large'):
        open_model(str(tmp_path / 'model.onnx'), engine)


def _branch(name):
    one = onnx.helper.make_node('Identity', ['data'], [name])
    made = onnx.helper.make_tensor_value_info(name, 1, ['N', 3, 112, 112])
    return onnx.helper.make_graph([one], name, [], [made])


# a number that the brightest pixel tells, as a shape that ends in it
_COUNTED = [
    ('ReduceMax', ['data'], 'brightest', {'keepdims': 0}),
    ('Cast', ['brightest'], 'number', {'to': onnx.TensorProto.INT64}),
    ('Unsqueeze', ['number'], 'ending', {'axes': [0]}),
    ('Concat', ['start', 'ending'], 'shape', {'axis': 0}),
]


@pytest.mark.parametrize('engine', ENGINES)
@pytest.mark.parametrize(
    ('nodes', 'told'),
    [
        ([*_COUNTED, ('Reshape', ['data', 'shape'], 'x', {})], 'the shape of x'),
        ([*_COUNTED, ('Expand', ['data', 'shape'], 'x', {})], 'the shape of x'),
        ([('If', ['yes'], 'x', {'then_branch': _branch('a'), 'else_branch': _branch('b')})], 'If'),
        ([('Relu', ['data'], 'x', {}), ('Foo', ['x'], 'y', {})], 'the shape of y .Foo.'),
        ([('Add', ['data', 'wide'], 'x', {})], 'too large'),
    ],
)
def test_a_file_whose_layers_have_no_bounds_is_refused(engine, nodes, told, tmp_path):
    values = {'start': np.array([-1, 3, 112 * 112], np.int64), 'yes': np.array(True)}
    values['wide'] = np.zeros((900, 1, 1, 112), np.float32)
    small_file(tmp_path / 'model.onnx', nodes, 'x', **values)
    with pytest.raises(InputError, match=f'model.onnx does not load .*{told}'):
        open_model(str(tmp_path / 'model.onnx'), engine)


@pytest.mark.parametrize('engine', ENGINES)
def test_int8_weights_are_no_layer(engine, tmp_path):
    """As numbers those of ResNet-18's last layer have 51 MB, which no layer gives for a picture."""
    nodes = [
        ('AveragePool', ['data'], 'small', {'kernel_shape': [14, 14], 'strides': [14, 14]}),
        ('Reshape', ['small', 'flat'], 'x', {}),
        ('DequantizeLinear', ['weight', 'scale'], 'wide', {}),
        ('Gemm', ['x', 'wide'], 'y', {}),
        ('Reshape', ['y', 'maps'], 'z', {}),
    ]
    values = {
        'flat': np.array([-1, 192], np.int64),
        'weight': np.ones((192, 3 * 64 * 512), np.int8),
        'scale': np.array(0.5, np.float32),
        'maps': np.array([-1, 3, 64, 512], np.int64),
    }
    small_file(tmp_path / 'model.onnx', nodes, 'z', **values)
    white = np.full((1, 112, 112, 3), 255, np.uint8)  # 1, as such a file takes it
    found = open_model(str(tmp_path / 'model.onnx'), engine).embed(white)
    np.testing.assert_allclose(found, np.full((1, 8), 3 * 192 * 0.5), rtol=1e-6)


def test_what_a_file_says_of_its_layers_is_not_believed(tmp_path):
    """24 GB that are announced as a picture."""
    path = tmp_path / 'model.onnx'
    n = np.array([1, 1, 400, 400], np.int64)
    small_file(path, [('Tile', ['data', 'n'], 'x', {})], 'x', n=n)
    model = onnx.load(str(path))
    said = onnx.helper.make_tensor_value_info('x', 1, ['N', 3, 112, 112])
    model.graph.value_info.append(said)
    onnx.save(model, path)
    with pytest.raises(InputError, match=r'x is of shape .*, which is too large'):
        open_model(str(path), 'onnxruntime')


@pytest.mark.parametrize('engine', ENGINES)
def test_a_file_that_fails_in_the_middle_is_one_line(engine, tmp_path):
    """All pictures of a batch become one, which the graph tells of one picture alone."""
    nodes = [('Reshape', ['data', 'shape'], 'x', {})]
    small_file(tmp_path / 'model.onnx', nodes, 'x', shape=np.array([1, 3, 112, -1], np.int64))
    model = open_model(str(tmp_path / 'model.onnx'), engine)
    white = np.full((3, 112, 112, 3), 255, np.uint8)
    assert model.embed(white[:1]).shape == (1, 8)
    with pytest.raises(RunError, match=r'model\.onnx does not run: its output is \(1, 8\), not'):
        model.embed(white)


def test_an_engine_that_is_let_go_leaves_nothing(case, tmp_path):
    """Found by tests/fuzz: a queue's callback held the queue, so that no model was ever freed;
    freed from one of its own threads it ended the process."""
    program = (
        'import gc, os, sys\n'
        'import numpy as np\n'
        'from vargfacenet.common.engine.open_model import open_model\n'
        'images = np.zeros((20, 112, 112, 3), np.uint8)\n'
        'for turn in range(12):\n'
        '    open_model(sys.argv[1], "openvino", batch_size=4).embed(images)\n'
        '    gc.collect()\n'
        '    if turn in (3, 11):\n'
        '        print(len(os.listdir("/proc/self/task")))\n'
    )
    onnx.save(case[1], str(tmp_path / 'model.onnx'))
    words = [sys.executable, '-c', program, str(tmp_path / 'model.onnx')]
    done = subprocess.run(words, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    early, late = map(int, done.stdout.split())
    assert late <= early + 2


def test_devices_that_are_not_there(case, tmp_path):
    path = tmp_path / 'other.onnx'
    for engine in ENGINES:
        opened(case[1], path, engine, device='cpu')
        with pytest.raises(InputError, match=r"--device 'abacus': .* has cpu.* here") as told:
            open_model(path, engine, device='abacus')
        (other,) = set(ENGINES) - {engine}  # one of which was perhaps meant
        assert f'--engine {other}: cpu' in str(told.value)
    with pytest.raises(InputError, match="expected 'cpu' or 'gpu"):
        open_model(_checkpoint(case, tmp_path), 'mxnet', device='abacus')


def _checkpoint(case, folder):
    save_embedding(folder / 'model', 1, case[0])
    return f'{folder}/model,1'


@pytest.mark.parametrize('engine', ['mxnet', *ENGINES])
def test_a_checkpoint_runs_on_every_engine(engine, case, tmp_path):
    _, _, images, expected = case
    result = open_model(_checkpoint(case, tmp_path), engine)
    assert result.engine_name == engine and result.embedding_size == 32
    np.testing.assert_allclose(result.embed(images), expected, **CLOSE)
    assert result.network.symbol.list_outputs() == ['fc1_output']
    assert result.fingerprint == sha256(tmp_path / 'model-0001.params')
    assert result.count() == count(case[0].symbol)
    with pytest.raises(InputError, match='--input is for ONNX files'):
        open_model(result.name, engine, preprocessing='mean=0')


def test_flops_of_an_onnx_file_are_those_of_the_symbol(case, tmp_path):
    """As it is, the file has the symbol's layers; folded, some have a bias more."""
    network, folded, _, _ = case
    assert opened(to_onnx(network), tmp_path / 'a.onnx').count() == count(network.symbol)
    more = opened(folded, tmp_path / 'b.onnx').count()
    # conv0's BatchNorm (16 channels of 28x28) became a bias
    assert more.flops - count(network.symbol).flops == 16 * 28 * 28


# --- a published model on real faces


@pytest.fixture(scope='module')
def faces(tmp_path_factory):
    """(images, issame) of 50 same and 50 different pairs of LFW's DevTest list."""
    if not (SHARED / 'y1_ms1m').is_dir() or not (SHARED / 'lfw_112.tar').is_file():
        pytest.skip('no published model here')
    lines = (SHARED / 'lfw' / 'pairsDevTest.txt').read_text().splitlines()[1:]
    names, issame = [], []
    for words in (line.split() for line in lines[:50] + lines[500:550]):
        first, second = (words[0], words[0]) if len(words) == 3 else (words[0], words[2])
        issame.append(len(words) == 3)
        for person, number in ((first, words[1]), (second, words[-1])):
            names.append(f'lfw_112/{person}/{person}_{int(number):04d}.jpg')
    folder = tmp_path_factory.mktemp('faces')
    # Python's tarfile takes two seconds to find these among 13,233; tar finds each but once
    wanted = sorted({*names})
    subprocess.run(['tar', '-xf', SHARED / 'lfw_112.tar', '-C', folder, *wanted], check=True)
    images = [decode_rgb((folder / name).read_bytes()) for name in names]
    return np.stack(images), np.array(issame)


@pytest.fixture(scope='module')
def published(faces):
    """(ONNX model, LFW row in MXNet) of the published MobileFaceNet."""
    model = open_model(f'{SHARED}/y1_ms1m/model,0', 'mxnet')
    return inference_model(model.network), _row(model, faces)


def _row(model, faces):
    result, xnorm = verify(model, *faces)
    return [result.accuracy, result.accuracy_std, result.val, result.val_std, result.far, xnorm]


@pytest.mark.parametrize(
    ('engine', 'changes', 'preprocessing'),
    [
        ('onnxruntime', [foreign.renamed], ''),
        ('openvino', [foreign.renamed, foreign.normalisation_outside], 'std=128'),
        ('openvino', [foreign.field_normalisation_outside, foreign.fixed_batch], ''),
        ('openvino', [foreign.channels_last], ''),
    ],
)
def test_a_published_model_resaved(engine, changes, preprocessing, published, faces, tmp_path):
    model, expected = published
    for change in changes:
        model = change(model)
    result = opened(model, tmp_path / 'other.onnx', engine, preprocessing=preprocessing)
    np.testing.assert_allclose(_row(result, faces), expected, rtol=0, atol=1e-4)


def test_an_engine_of_other_shapes_is_named(monkeypatch, case, tmp_path):
    model = opened(case[1], tmp_path / 'mine.onnx', 'onnxruntime')
    monkeypatch.setattr(model.engine, 'embed', lambda images, progress: np.zeros((3, 5)))
    with pytest.raises(RunError, match=rf'engine {model.engine_name} gave .* \(3, 5\); expected'):
        model.embed(np.zeros((2, 112, 112, 3), np.uint8))


@pytest.mark.parametrize('engine', ENGINES)
def test_weights_may_lie_beside_a_model_and_nowhere_else(case, engine, tmp_path):
    """A file of weights that the model names is read by the engine, whatever it is."""
    _, model, images, expected = case
    folder = tmp_path / 'model'
    folder.mkdir()
    path = folder / 'm.onnx'
    apart = {'save_as_external_data': True, 'location': 'weights', 'size_threshold': 100}
    onnx.save(foreign.copied(model), str(path), **apart)
    assert (folder / 'weights').stat().st_size > path.stat().st_size
    before = open_model(path, engine)
    np.testing.assert_allclose(before.embed(images), expected, **CLOSE)
    fingerprints = [before.fingerprint]
    weights = (folder / 'weights').read_bytes()
    (folder / 'weights').write_bytes(weights[:-4] + b'\0\0\0\0')  # another model, of the same graph
    for told in ('', 'mean=1'):
        fingerprints.append(open_model(path, engine, preprocessing=told).fingerprint)
    assert len(set(fingerprints)) == 3
    (folder / 'weights').rename(tmp_path / 'weights')
    os.mkfifo(folder / 'pipe')
    (folder / 'zero').symlink_to('/dev/zero')
    written = path.read_bytes()
    places = ('weights', '../weights', str(tmp_path / 'weights'), '/etc/passwd', 'pipe', 'zero', '')
    for place in places:
        changed = onnx.load_model_from_string(written)
        for tensor in changed.graph.initializer:
            for entry in tensor.external_data:
                if entry.key == 'location':
                    entry.value = place
        path.write_bytes(changed.SerializeToString())
        with pytest.raises(InputError, match='where its weights are to be, is no file beside it'):
            open_model(path, engine)
    for change in _APART:
        changed = foreign.copied(model)
        change(changed, _elsewhere())
        path.write_bytes(changed.SerializeToString())
        for given in (path, changed.SerializeToString()):
            with pytest.raises(InputError, match=r'is no file beside it|it has sparse weights'):
                read_contract(given)
        with pytest.raises(InputError, match=r'is no file beside it|it has sparse weights'):
            open_model(path, engine)


def _elsewhere():
    """A tensor of four numbers whose file is the user's."""
    tensor = onnx.TensorProto(name='w', data_type=onnx.TensorProto.FLOAT, dims=[4])
    tensor.data_location = onnx.TensorProto.EXTERNAL
    tensor.external_data.add(key='location', value='/etc/passwd')
    return tensor


def _sparse(values):
    indices = onnx.numpy_helper.from_array(np.arange(4), 'indices')
    return onnx.SparseTensorProto(values=values, indices=indices, dims=[1, 4])


def _node(**attributes):
    return onnx.helper.make_node('Constant', [], ['w'], **attributes)


def _branch(tensor):
    return onnx.helper.make_graph([_node()], 'branch', [], [], [tensor])


def _default(value):
    """The default of an attribute of a function."""
    return onnx.helper.make_attribute('weights', value)


_APART = [
    lambda model, tensor: model.graph.node.append(_node(value=tensor)),
    lambda model, tensor: model.graph.node.append(_node(values=[tensor])),
    lambda model, tensor: model.graph.node.append(_node(then_branch=_branch(tensor))),
    lambda model, tensor: model.graph.node.append(_node(branches=[_branch(tensor)])),
    lambda model, tensor: model.functions.add(name='f').node.append(_node(value=tensor)),
    lambda model, tensor: model.functions.add(name='f').attribute_proto.append(_default(tensor)),
    lambda model, tensor: model.functions.add().attribute_proto.append(_default(_branch(tensor))),
    lambda model, tensor: model.functions.add().attribute_proto.append(_default(_sparse(tensor))),
    lambda model, tensor: model.training_info.add().algorithm.initializer.append(tensor),
    lambda model, tensor: model.training_info.add().initialization.node.append(_node(value=tensor)),
    lambda model, tensor: model.graph.sparse_initializer.append(_sparse(tensor)),
    lambda model, tensor: model.graph.node.append(_node(sparse_value=_sparse(tensor))),
    lambda model, tensor: model.graph.node.append(_node(sparse_values=[_sparse(tensor)])),
]  # where a model may hold a tensor, besides its initializers
