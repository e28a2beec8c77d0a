"""The page from saved results: its numbers, its files, and what headless Chromium makes of it."""

import csv
import hashlib
import json
import re
import shutil
import subprocess
import time

import numpy as np
import pytest
from pair_sets import pair_images, write_bin
from tiny_network import reference_params, tiny_symbol
from vargfacenet import __version__
from vargfacenet.common.engine.checkpoint import save_embedding
from vargfacenet.common.engine.network import Network
from vargfacenet.eval.report.statistics import held_out_correct

CHROMIUM = shutil.which('chromium') or shutil.which('chromium-browser')
FLAGS = (
    '--headless',
    '--no-sandbox',
    '--disable-gpu',
    '--disable-quic',
    '--no-first-run',
    '--disable-background-networking',
    '--disable-component-update',
    '--disable-sync',
    '--enable-logging=stderr',
    '--hide-scrollbars',
)
needs_chromium = pytest.mark.skipif(CHROMIUM is None, reason='needs Chromium')


def unit(rows):
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
    """Runs `teacher` and `student`: a history, a training state, both kinds of results."""
    from vargfacenet.__main__ import main

    root = tmp_path_factory.mktemp('report')
    random = np.random.RandomState(11)
    images, issame = zip(*(pair_images(random) for _ in range(4)))
    write_bin(root / 'set.bin', np.concatenate(images), np.concatenate(issame))
    labels = np.arange(60) // 4
    np.savez(root / 'd.npz', embeddings=unit(random.standard_normal((500, 16))))
    symbol = tiny_symbol()
    for seed, name in enumerate(('teacher', 'student'), 1):
        run = root / name
        run.mkdir()
        save_embedding(run / 'model', 1, Network(symbol, *reference_params(symbol, seed)))
        rows = [
            {
                'step': s,
                'loss': 9 / s,
                'accuracy': s / 99,
                'learning_rate': 0.1 / s,
                'images_per_second': 30.0,
            }
            for s in range(1, 60)
        ]
        rows += [{'step': s, 'set_accuracy': 0.5 + s / 200} for s in (20, 40, 59)]
        (run / 'history.jsonl').write_text(''.join(json.dumps(row) + '\n' for row in rows))
        state = {'config': {'network': f'net-{name}', 'lr': 0.1}, 'state': {'seconds': 75}}
        (run / 'model-0001.json').write_text(json.dumps(state))
        model, target = f'{run / "model"},1', str(root / 'set.bin')
        saved = ['--save', str(run / 'verify.npz')]
        words = ['verify', '--model', model, '--target', target, *saved]
        assert main(words) == 0
        rows = unit(random.standard_normal((15, 16))[labels] + random.standard_normal((60, 16)))
        np.savez(root / 'p.npz', embeddings=rows, labels=labels)
        sets = ['--probes', str(root / 'p.npz'), '--distractors', str(root / 'd.npz')]
        saved = ['--save', str(run / 'identify.npz')]
        words = ['identify', *sets, '--protocol', 'megaface', *saved]
        assert main(words) == 0
    return root


@pytest.fixture(scope='module')
def report(folder):
    """(page, files folder) of both runs."""
    from vargfacenet.__main__ import main

    words = ['report', str(folder / 'teacher'), str(folder / 'student')]
    words += ['--out', str(folder / 'report.html'), '--files', str(folder / 'files')]
    assert main(words) == 0
    return (folder / 'report.html').read_text(), folder / 'files'


def read_csv(path):
    with open(path, newline='') as handle:
        return list(csv.DictReader(handle))


def test_what_the_page_holds(report):
    page, _ = report
    titles = re.findall(r'<h2>(.*?)</h2>', page)
    assert titles == ['Summary', 'Verification: set', 'Identification', 'Training']
    # verification ROC DET errors folds 2 histograms, identification ROC DET curve 2, training 4
    assert page.count('data:image/svg+xml') == 6 + 5 + 4
    assert page.count('data:image/jpeg') == 2 * 2 * 2 * 12  # runs, kinds, faces of a pair, pairs
    for text in (
        'net-teacher',
        'impostor pairs that scored highest',
        'genuine pairs that scored lowest',
        'McNemar p',
        '1:15',
    ):
        assert text in page


def test_the_page_needs_nothing_else(report):
    page, _ = report
    addresses = re.findall(r'(?:src|href|url)\s*[=(]\s*"?([^"\s)>]+)', page)
    assert addresses
    assert all(address.startswith(('data:', '#')) for address in addresses)
    assert '<script' not in page


def test_numbers_are_those_of_the_results(report, folder):
    _, files = report
    for row, run in zip(read_csv(files / 'set-summary.csv'), ('teacher', 'student')):
        with np.load(folder / run / 'verify.npz') as saved:
            correct = held_out_correct(
                saved['set/distances'], saved['set/issame'], saved['set/fold_thresholds']
            )
            hardest = saved['set/hardest_accepts']
            different = np.flatnonzero(~saved['set/issame'])
            lowest = saved['set/distances'][different].min()
        value, low, high = (float(row[f'accuracy{part}']) for part in ('', ' low', ' high'))
        assert row['run'] == run
        assert value == pytest.approx(100 * correct.mean(), abs=1e-9)
        assert low < value < high
        assert saved_distance(folder, run, hardest[0]) == lowest
    ranks = json.loads(run_about(folder, 'student'))['megaface']
    assert ranks['distractors'] == [10, 100, 500]
    row = read_csv(files / 'ranks.csv')[1]
    for size, rates in zip(ranks['distractors'], ranks['rank_rates']):
        value, low, high = (float(row[f'{size}{part}']) for part in ('', ' low', ' high'))
        assert value == pytest.approx(100 * rates[0])
        assert low < value < high  # 60 probes leave doubt


def saved_distance(folder, run, pair):
    with np.load(folder / run / 'verify.npz') as saved:
        return saved['set/distances'][pair]


def run_about(folder, run):
    with np.load(folder / run / 'identify.npz') as saved:
        return str(saved['__about__'])


def test_a_run_does_not_differ_from_itself(folder, run_command, tmp_path):
    run = folder / 'teacher' / 'verify.npz'
    code, _, err = run_command(
        'report', f'a={run}', f'b={run}', '--out', tmp_path / 'r.html', '--files', tmp_path / 'f'
    )
    assert code == 0, err
    (row,) = read_csv(tmp_path / 'f' / 'set-differences.csv')
    assert float(row['McNemar p']) == 1
    assert [float(row[f'accuracy{part}']) for part in ('', ' low', ' high')] == [0, 0, 0]


def test_the_first_screen_tells_the_outcome_and_where_it_is_from(report, folder):
    page, files = report
    lead = re.findall(r'<p class="verdict">(.*?)</p>', page)
    assert re.match(r'(teacher|student) decides [\d.]+ % \[', lead[0]) and 'of set' in lead[0]
    assert page.index('class="verdict"') < page.index('<section')
    facts = {row['']: row for row in read_csv(files / 'made.csv')}
    run = folder / 'teacher'
    digest = hashlib.sha256((run / 'model-0001.params').read_bytes()).hexdigest()
    assert facts['hash of the weights (SHA-256)']['teacher'] == digest
    command = facts['command']['teacher']
    assert f'verify --model {run / "model"},1' in command
    assert 'identify --probes' in command and 'report' in facts['command']['this page']
    assert facts['version of vargfacenet']['student'] == __version__
    assert facts['measured, UTC']['teacher'][:10] == time.strftime('%Y-%m-%d', time.gmtime())
    for row in read_csv(files / 'set-thresholds.csv'):
        with np.load(folder / row['run'] / 'verify.npz') as saved:
            cosines, issame = 1 - saved['set/distances'] / 2, saved['set/issame']
        above = cosines > float(row['cosine above']) - 1e-12
        accepted = cosines > float(row['cosine above']) + 1e-12
        assert accepted[~issame].sum() <= float(row['FAR']) * 40 < above[~issame].sum()
        assert int(row['false accepts']) == accepted[~issame].sum()
        assert float(row['FNMR %']) == pytest.approx(100 * (~accepted[issame]).mean())


def test_files_for_papers(report):
    _, files = report
    names = {path.suffix for path in files.iterdir()}
    assert names == {'.svg', '.png', '.pdf', '.csv', '.md', '.tex'}
    for path in files.glob('*.svg'):
        assert b'<svg' in path.read_bytes()
        assert path.with_suffix('.png').read_bytes()[:4] == b'\x89PNG'
        assert path.with_suffix('.pdf').read_bytes()[:5] == b'%PDF-'
    table = (files / 'set-summary.md').read_text().splitlines()
    assert table[0].startswith('| run | accuracy |') and table[1].startswith('| --- | ---: |')


@pytest.mark.parametrize(
    ('words', 'message'),
    [
        (('no-such-run',), 'does not exist'),
        (('{}/empty',), 'no history.jsonl and no results'),
        (('{}/d.npz',), 'is no results file'),
        (('{}/teacher', '{}/teacher'), 'two runs are called teacher'),
    ],
)
def test_wrong_runs(folder, run_command, words, message, tmp_path):
    (folder / 'empty').mkdir(exist_ok=True)
    out = tmp_path / 'r.html'
    code, _, err = run_command('report', *(word.format(folder) for word in words), '--out', out)
    assert code == 2
    assert message in err and len(err.splitlines()) == 1
    assert not out.exists()


def chromium(folder, tmp_path, *flags):
    """(stdout, console messages) of the page in headless Chromium with a new profile."""
    done = subprocess.run(
        [
            CHROMIUM,
            *FLAGS,
            f'--user-data-dir={tmp_path / "profile"}',
            *flags,
            (folder / 'report.html').as_uri(),
        ],
        capture_output=True,
        text=True,
        timeout=120,
    )
    return done.stdout, [line for line in done.stderr.splitlines() if ':CONSOLE' in line]


@needs_chromium
def test_in_a_browser(report, folder, tmp_path):
    dom, messages = chromium(folder, tmp_path, '--dump-dom')
    assert messages == []
    assert dom.count('<figure') == report[0].count('<figure') > 30
    assert dom.count('<table') == 8


@needs_chromium
@pytest.mark.parametrize('width', [1280, 768, 390])
def test_nothing_is_cut_off(report, tmp_path, width):
    """In a frame as wide as a desktop, a tablet, a phone; the page tells how much room it needs."""
    probe = (
        '<script>onload = () => parent.postMessage([document.documentElement.scrollWidth, '
        'innerWidth, [...document.images].filter(i => !i.naturalWidth).length].join(" "), "*")'
        '</script></body>'
    )
    (tmp_path / 'page.html').write_text(report[0].replace('</body>', probe))
    (tmp_path / 'report.html').write_text(
        f'<script>onmessage = event => {{ document.title = event.data }}</script>'
        f'<iframe src="page.html" style="width: {width}px; height: 900px; border: 0"></iframe>'
    )
    dom, messages = chromium(tmp_path, tmp_path, '--dump-dom', '--virtual-time-budget=10000')
    needed, window, broken = map(int, re.search(r'<title>(.*?)</title>', dom)[1].split())
    assert messages == []
    assert (window, broken) == (width, 0)
    assert needed <= width


@needs_chromium
def test_prints(report, folder, tmp_path):
    chromium(folder, tmp_path, f'--print-to-pdf={tmp_path / "r.pdf"}')
    content = (tmp_path / 'r.pdf').read_bytes()
    assert content[:5] == b'%PDF-' and content.count(b'/Type /Page\n') >= 2


@needs_chromium
def test_by_keyboard_alone(report, folder, tmp_path):
    """Tab, Enter and the arrow keys reach the sections and scroll the tables; no script helps."""
    selenium = pytest.importorskip('selenium.webdriver')
    driver_path = shutil.which('chromedriver')
    if not driver_path:
        pytest.skip('needs chromedriver')
    from selenium.webdriver.chrome.service import Service
    from selenium.webdriver.common.keys import Keys

    options = selenium.ChromeOptions()
    options.binary_location = CHROMIUM
    for flag in (*FLAGS, f'--user-data-dir={tmp_path / "profile"}', '--window-size=700,600'):
        options.add_argument(flag)
    driver = selenium.Chrome(options=options, service=Service(driver_path))
    try:
        driver.get((folder / 'report.html').as_uri())

        def press(key):
            driver.switch_to.active_element.send_keys(key)
            return driver.switch_to.active_element

        skip = press(Keys.TAB)
        assert skip.text == 'Skip to the results' and skip.rect['x'] >= 0
        links = [press(Keys.TAB) for _ in range(4)]
        assert (links[0].text, links[3].text) == ('Summary', 'Training')
        outline = driver.execute_script(
            'return getComputedStyle(arguments[0]).outlineStyle', links[3]
        )
        assert outline == 'solid'  # who uses keys sees where they are
        press(Keys.ENTER)
        section = driver.find_element('css selector', 'section:target h2')
        assert section.text == 'Training' and section.location_once_scrolled_into_view['y'] < 400
        table = press(Keys.TAB)
        assert (table.get_attribute('role'), table.get_attribute('aria-label')) == (
            'region',
            'Runs',
        )
        driver.execute_script('document.querySelector("#s1 .table").focus()')
        wide = driver.switch_to.active_element
        assert driver.execute_script('return arguments[0].scrollWidth', wide) > wide.rect['width']
        for _ in range(5):
            wide.send_keys(Keys.ARROW_RIGHT)
        time.sleep(0.5)  # it glides
        assert driver.execute_script('return arguments[0].scrollLeft', wide) > 0
    finally:
        driver.quit()
