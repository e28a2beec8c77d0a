"""The bench of the engines: all are measured, figures follow from times, the plot is a picture."""

import collections
import json
import re

import cv2
import numpy as np
import pytest
from deploy_models import write_checkpoint
from tiny_network import embed_on_stock_graph, reference_params
from vargfacenet.common.checked_json import read_checked
from vargfacenet.common.engine.checkpoint import load_embedding, save_embedding
from vargfacenet.common.engine.network import Network
from vargfacenet.common.errors import InputError, RunError
from vargfacenet.deploy.bench import candidates, engines, networks, stock, ways
from vargfacenet.deploy.bench.child import Worker
from vargfacenet.deploy.bench.measure import Timing, faster
from vargfacenet.symbol import get_symbol, list_networks


@pytest.fixture(scope='module')
def checkpoint(tmp_path_factory):
    return write_checkpoint(tmp_path_factory.mktemp('model'))


@pytest.fixture(autouse=True)
def short_trials(monkeypatch):
    monkeypatch.setattr(stock, '_TRIAL_SECONDS', 0.02)


@pytest.mark.parametrize('batch_size', [1, 4])
def test_the_original_is_mxnets_own_module(checkpoint, batch_size, rng):
    network = load_embedding(checkpoint)
    images = rng.randint(0, 256, (max(2, batch_size), 112, 112, 3)).astype(np.uint8)
    expected = embed_on_stock_graph(*network, images)[:batch_size]
    run = ways.original(checkpoint, batch_size, flatten=True)
    for _ in range(2):  # MXNet fails in the second pass if in any
        np.testing.assert_allclose(run(images[:batch_size]), expected, atol=1e-5)


def test_the_original_of_mobilefacenet_runs_with_a_flatten(tmp_path):
    """Without one MXNet fails in the second pass on CPUs with AVX-512."""
    symbol = get_symbol('y2', emb_size=32)
    save_embedding(tmp_path / 'y', 0, Network(symbol, *reference_params(symbol)))
    options = {'way': 'original', 'batch_size': 1, 'model': f'{tmp_path / "y"},0'}
    environment = {'OMP_NUM_THREADS': '2'}
    with Worker(ways.embedding_call, environment, **options, flatten=True) as worker:
        assert all(0 < seconds < 60 for seconds in worker(0.1))
    assert sum('Flatten' in name for name in candidates.original_variants(options['model'])) >= 2


def test_the_fastest_variant_is_chosen_and_what_fails_is_not(checkpoint, caplog):
    def variant(way, batch_size):
        options = {'way': way, 'batch_size': batch_size, 'model': checkpoint, 'flatten': True}
        return stock.Variant({}, options)

    caplog.set_level('INFO')
    broken = variant('by hand', 1)
    variants = {'more': variant('original', 64), 'broken': broken, 'one': variant('original', 1)}
    name, worker = stock.fastest(ways.embedding_call, variants)
    with worker:
        assert name == 'one' and len(worker(0.05)) > 1
    assert 'broken fails' in caplog.text
    with pytest.raises(RunError, match='under every one of broken'):
        stock.fastest(ways.embedding_call, {'broken': broken})
    with pytest.raises(InputError, match='nowhere'):
        Worker(ways.embedding_call, way='original', batch_size=1, model='nowhere,1', flatten=True)


def test_every_engine_is_measured(checkpoint, run_command, tmp_path, monkeypatch):
    one = {'one thread': {'OMP_NUM_THREADS': '1'}}  # fewer processes to start
    monkeypatch.setattr(candidates, 'environments', lambda: one)
    options = ['--model', checkpoint, '--batch-size', 4, '--seconds', 0.1]
    options += ['--out', tmp_path / 'b.json']
    code, result, errors = run_command('bench', 'engines', *options)
    assert code == 0, errors
    rows = {row['engine']: row for row in result['engines']}
    names = ('onnxruntime float32', 'onnxruntime int8', 'OpenVINO float32', 'OpenVINO int8')
    assert {candidates.ORIGINAL, candidates.OURS, *names} <= set(rows)
    first = rows[candidates.ORIGINAL]
    assert first['times_original_batch_1'] == {'median': 1, 'low': 1, 'high': 1}
    tried = candidates.original_variants(checkpoint)
    assert first['settings_batch_1'] in tried and first['settings_batch'] in tried
    for row in rows.values():
        assert 0 < row['latency_ms_low'] <= row['latency_ms_median'] <= row['latency_ms_high']
        assert row['images_per_second_low'] <= row['images_per_second']
        assert row['images_per_second'] <= row['images_per_second_high']
        assert row['latency_ms_p95'] > 0
        share = row['images_per_second'] * result['flops'] / (1e9 * row['peak_gflops'])
        assert row['share_of_peak'] == pytest.approx(share)
    assert json.loads((tmp_path / 'b.json').read_text()) == result
    assert cv2.imread(str(tmp_path / 'b.png')).shape[1] > 500


def test_every_network_in_every_engine(run_command, tmp_path):
    """A run goes on with what its file lacks; `info --table` reads it."""
    out = tmp_path / 'n.json'
    words = ('bench', 'networks', '--batch-size', 2, '--seconds', 0.1, '--out', out)
    code, first, errors = run_command(*words, '--network', 'qan_quality')
    assert code == 0, errors
    (rows,) = first['networks'].values()
    assert {row['precision'] for row in rows} >= {'float32', 'int8'}
    assert candidates.ORIGINAL not in {row['engine'] for row in rows}
    assert [row['ms'] for row in rows] == sorted(row['ms'] for row in rows)
    for row in rows:
        assert 0 < row['ms_low'] <= row['ms'] <= row['ms_high']
    assert read_checked(out, 'results') == first != json.loads(out.read_text())
    known = dict.fromkeys(list_networks(), rows)
    out.write_text(json.dumps({**first, 'networks': known}))
    assert run_command(*words)[1]['networks'] == known  # nothing is measured
    code, result, _ = run_command('info', '--table', '--results', out)
    assert code == 0 and result['networks']['qan_quality']['measured']['ms'] == rows[0]['ms']
    assert run_command(*words[:2], '--batch-size', 3, '--out', out)[0] == 2
    assert run_command(*words, '--network', 'y3')[0] == 2
    (tmp_path / 'other.json').write_text('{}')
    assert run_command(*words[:2], '--out', tmp_path / 'other.json')[0] == 2


def test_figures_of_a_network_are_those_of_the_clock(monkeypatch):
    """On a clock of our own: rounds of 2, 3 and 9 ms an image, and 1 ms a call."""
    now, calls = [0.0], collections.Counter()

    def embedding_call(batch_size, **options):
        def call():
            slowness = (2, 9, 3)[calls[batch_size, str(options)]]
            calls[batch_size, str(options)] += 1
            now[0] += (1 + batch_size * slowness) / 1000

        return call

    monkeypatch.setattr(networks, 'embedding_call', embedding_call)
    monkeypatch.setattr(networks.time, 'process_time', lambda: now[0])
    monkeypatch.setattr(networks.os, 'sched_setaffinity', lambda *_: None)
    rows = networks.cpu_times('qan_quality', 4, seconds=1e-9)['rows']  # one call a round
    assert len(rows) >= 4
    for row in rows:
        assert (row['ms_low'], row['ms'], row['ms_high']) == (3, 4, 10)
        assert row['images_per_second'] == round(4 / 0.013, 3)


@pytest.mark.parametrize(
    ('flags', 'message'),
    [
        (['--network', 'y3'], "unknown network 'y3'"),
        (['--network', 'y1', '--network-option', 'depth=3'], 'depth'),
        (['--model', 'm,0', '--network', 'y1'], 'not allowed with'),
        (['--model', 'm,0', '--network-option', 'width=1'], 'a checkpoint has its own'),
    ],
)
def test_which_network(flags, message, run_command):
    code, _, errors = run_command('bench', 'engines', *flags)
    assert code == 2 and message in errors


@pytest.mark.parametrize('flags', [['--batch-size', '1'], ['--seconds', '0'], ['--out', 'x.txt']])
def test_wrong_options(flags, run_command):
    assert run_command('bench', 'engines', *flags)[0] == 2


def test_the_picture_does_not_contradict_itself():
    """A slow round among fast ones: 79.9 and 5.76 ms were labelled 2.6 times."""
    random = np.random.RandomState(2)
    for _ in range(200):
        slow, fast = (Timing(tuple(random.lognormal(0, 1, 5) / divisor)) for divisor in (1, 5))
        ratio = vars(faster(slow, fast))
        rows = [
            {
                'engine': name,
                'latency_ms_median': 1e3 * timing.median,
                'images_per_second': 1 / timing.median,
                'times_original_batch_1': ratio,
                'times_original_batch': ratio,
            }
            for name, timing in ((candidates.ORIGINAL, slow), ('ours', fast))
        ]
        bars = rows[0]['latency_ms_median'] / rows[1]['latency_ms_median']
        for panel in (engines.LATENCY, engines.THROUGHPUT):
            factor, low, high = map(
                float,
                re.fullmatch(
                    r'(\S+) \((\S+)-(\S+)\)', engines.times(rows[1], rows, panel)
                ).groups(),
            )
            assert factor == pytest.approx(bars, rel=5e-3)
            assert low * 0.995 <= factor <= high * 1.005
