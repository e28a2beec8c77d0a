"""Efficient PolyFace and QAN++'s quality network against the authors' implementations."""

import json

import cv2
import numpy as np
import pytest
import torch_reference
from conftest import DATA
from tiny_network import embed_on_stock_graph
from vargfacenet.common import flops
from vargfacenet.common.backend import mx
from vargfacenet.common.engine import checkpoint
from vargfacenet.common.engine.torch_file import write_state
from vargfacenet.symbol import NETWORKS, get_symbol, polyface

SMALL = {'blocks_a': 1, 'blocks_b': 1, 'blocks_c': 1}
LAST_NORM = 'fc.bn2.'


def golden(name):
    return json.loads((DATA / f'net_{name}.json').read_text())


def image():
    """(1, 3, 112, 112) float32 RGB 0..255."""
    bgr = np.load(DATA / 'poly_preprocess.npz')['img_bgr_uint8']
    return np.ascontiguousarray(bgr[:, :, ::-1].transpose(2, 0, 1)[None], np.float32)


def layers_of(blocks):
    """The layers of a network with that many units, from those of the one with one each."""
    names = dict(zip(('a10.0.', 'b20.0.', 'c10.0.'), blocks))
    groups = {name: [] for name in names}
    order = []
    for _, kind, path, *rest in golden('polyface_111')['layers']:
        unit = next((name for name in names if path.startswith(name)), None)
        target = order if unit is None else groups[unit]
        if unit is not None and not groups[unit]:
            order.append(unit)
        target.append((kind, path, *rest))
    rows = []
    for item in order:
        if not isinstance(item, str):
            rows.append(item)
            continue
        for index in range(names[item]):
            start = item.replace('.0.', f'.{index}.')
            rows += [(kind, start + path[len(item) :], *rest) for kind, path, *rest in groups[item]]
    return [(number, *row) for number, row in enumerate(rows)]


def run(symbol, name, layers, images, last_norm=False):
    values = torch_reference.state_dict(layers)
    if not last_norm:
        values = {key: value for key, value in values.items() if not key.startswith(LAST_NORM)}
    executor = torch_reference.bind(symbol, NETWORKS.get(name).torch, values, images.shape)
    return executor.forward(is_train=False, data=mx.nd.array(images))[0].asnumpy()


def relative_error(found, expected):
    expected = np.asarray(expected)
    return np.abs(found - expected).max() / np.abs(expected).max()


@pytest.mark.parametrize('size', [235, 112])
def test_the_image_is_resized_as_opencv_does_to_the_bit(size, rng):
    stored = np.load(DATA / 'poly_preprocess.npz')
    pictures = [stored['img_bgr_uint8'], *rng.randint(0, 256, (20, 112, 112, 3), np.uint8)]
    expected = [cv2.resize(bgr[1:, 1:], (size, size)) for bgr in pictures]
    np.testing.assert_array_equal(expected[0], stored[f'resized{size}_uint8_hwc'])
    images = np.stack(pictures)[:, :, :, ::-1].transpose(0, 3, 1, 2).astype(np.float32)
    symbol = polyface.resized_input(size)
    (pixels,) = symbol.bind(mx.cpu(), {'data': mx.nd.array(images)}).forward()
    found = (pixels.asnumpy() + 1.6) * 255 / 3.2
    np.testing.assert_allclose(found, np.stack(expected).transpose(0, 3, 1, 2), rtol=0, atol=1e-4)


def test_the_embedding_equals_the_authors():
    expected = golden('polyface_111')
    found = run(get_symbol('polyface', **SMALL), 'polyface', expected['layers'], image())
    assert relative_error(found[0], expected['feature_nobn']) <= 1e-5


def test_a_mirrored_image(monkeypatch):
    """The authors mirror after the resizing, whose rounding is not symmetric: the map is given."""
    monkeypatch.setattr(polyface, 'resized_input', lambda size: mx.sym.Variable('data'))
    symbol = get_symbol('polyface', **SMALL)
    resized = np.load(DATA / 'poly_preprocess.npz')['resized235_uint8_hwc'].astype(np.float32)
    mirrored = (resized[:, ::-1] * 3.2 / 255 - 1.6).transpose(2, 0, 1)[None]
    expected = golden('polyface_111')
    found = run(symbol, 'polyface', expected['layers'], np.ascontiguousarray(mirrored))
    assert relative_error(found[0], expected['feature_nobn_flip']) <= 1e-5


def test_with_the_last_batch_norm():
    expected = golden('polyface_111')
    symbol = get_symbol('polyface', feature_nobn=False, **SMALL)
    found = run(symbol, 'polyface', expected['layers'], image(), last_norm=True)
    assert relative_error(found[0], expected['feature']) <= 1e-5
    nodes = {node['name']: node for node in json.loads(symbol.tojson())['nodes']}
    assert nodes['fc1']['attrs']['fix_gamma'] == 'True'
    assert symbol.attr_dict()['fc1_beta']['__lr_mult__'] == '0.0'


@pytest.mark.slow
@pytest.mark.parametrize(
    ('name', 'file', 'blocks'),
    [
        ('polyface', 'polyface_deeper', (23, 38, 23)),
        ('polyface_deep', 'polyface_deep_qan', (20, 30, 20)),
    ],
)
def test_the_full_networks_equal_the_authors(name, file, blocks):
    found = run(get_symbol(name), name, layers_of(blocks), image())
    assert relative_error(found[0], golden(file)['feature_nobn']) <= 1e-5


def test_the_quality_equals_the_authors():
    expected = golden('qan_quality')
    found = run(get_symbol('qan_quality'), 'qan_quality', expected['layers'], image())
    assert found.shape == (1, 1)
    assert relative_error(found[0], expected['quality']) <= 1e-5


@pytest.mark.parametrize(
    ('name', 'params', 'count'),
    [
        ('polyface', 119_927_552, 28_103_954_320),
        ('polyface_deep', 104_096_800, 23_914_998_752),
        ('qan_quality', 122_569, None),
    ],
)
def test_counts(name, params, count):
    found = flops.count(get_symbol(name))
    assert found.params == params
    if count:
        assert found.flops == count
    else:  # 39,651,632 multiply-adds; of n products n - 1 additions
        assert 0.99 < found.flops / (2 * 39_651_632) < 1


def test_stochastic_depth_drops_whole_units_for_the_whole_batch(rng):
    """c is 0.3 in four of five training steps, 0 in the fifth, and 0.24 in inference."""
    options = NETWORKS.get('polyface').defaults
    data = mx.sym.Variable('data')
    unit = polyface._unit(data, 'unit', polyface.A_CHANNELS, polyface.A, options).get_internals()
    symbol = mx.sym.Group([unit['unit_stem_1_output'], unit['unit_scale_output']])
    shape = (2, polyface.A_CHANNELS, 5, 5)
    executor = symbol.simple_bind(mx.cpu(), grad_req='write', data=shape)
    for name, array in executor.arg_dict.items():
        array[:] = 1 if name.endswith('gamma') else 0.1 * rng.randn(*array.shape)
    factors = []
    mx.random.seed(3)
    for _ in range(40):
        main, scaled = (output.asnumpy() for output in executor.forward(is_train=True))
        factor = np.dot(scaled.ravel(), main.ravel()) / np.dot(main.ravel(), main.ravel())
        np.testing.assert_allclose(scaled, factor * main, atol=1e-5)
        factors.append(round(float(factor), 4))
    assert set(factors) == {0.0, 0.3}
    assert 0 < factors.count(0.0) <= 18  # of 40 at 0.2: more happens once in ten thousand
    main, scaled = (output.asnumpy() for output in executor.forward(is_train=False))
    np.testing.assert_allclose(scaled, 0.24 * main, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize(
    ('name', 'file', 'result', 'options'),
    [
        ('polyface', 'polyface_111', 'feature_nobn', SMALL),
        ('qan_quality', 'qan_quality', 'quality', {}),
    ],
)
def test_a_file_of_the_authors(name, file, result, options, run_command, tmp_path):
    """Their training files: a state_dict in a dictionary, keys behind `module.base.`."""
    expected = golden(file)
    values = torch_reference.state_dict(expected['layers'])
    state = {f'module.base.{key}': value.astype(np.float32) for key, value in values.items()}
    write_state(tmp_path / 'x.pth', state)
    words = [f'--option={key}={value}' for key, value in options.items()]
    arguments = ('--network', name, *words, '--out', tmp_path / 'model')
    code, converted, errors = run_command('convert', tmp_path / 'x.pth', *arguments)
    assert code == 0, errors
    network = checkpoint.load_embedding(converted['model'])
    found = embed_on_stock_graph(*network, image().transpose(0, 2, 3, 1))
    assert relative_error(found[0], expected[result]) <= 1e-5
