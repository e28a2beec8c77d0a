"""The page from saved results: its numbers, its files, and what headless Chromium makes of it."""

import base64
import csv
import hashlib
import importlib.resources
import json
import re
import time

import cv2
import numpy as np
import pytest
from chromium import browsers
from pair_sets import pair_images, write_bin
from tiny_network import reference_params, tiny_symbol
from vargfacenet import __version__
from vargfacenet.common.engine.checkpoint import save_embedding
from vargfacenet.common.engine.network import Network
from vargfacenet.eval.report.statistics import held_out_correct


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


def test_the_outcome_and_where_it_is_from(report, folder):
    page, files = report
    lead = re.findall(r'<p class="verdict">(.*?)</p>', page)
    assert re.match(r'(teacher|student) decides [\d.]+ % \[', lead[0]) and 'of set' in lead[0]
    assert page.index('class="verdict"') < page.index('<section')
    facts = {row['what']: row for row in read_csv(files / 'made.csv')}
    run = folder / 'teacher'
    digest = hashlib.sha256((run / 'model-0001.params').read_bytes()).hexdigest()
    assert facts['hash of its file (SHA-256)']['teacher'] == digest
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


def test_a_page_does_not_replace_what_it_shows(folder, run_command):
    path = folder / 'teacher' / 'verify.npz'
    before = path.read_bytes()
    code, _, err = run_command('report', folder / 'teacher', '--out', path)
    assert code == 2 and 'verify.npz: expected a name that ends in .html' in err
    assert path.read_bytes() == before


class Shown:
    """The page in a browser."""

    def __init__(self, browser, path):
        self.browser = browser
        browser.get(path.as_uri())

    def run(self, script, *arguments):
        return self.browser.execute_script(script, *arguments)

    def size(self, width, height, media='', scheme='light'):
        self.browser.execute_cdp_cmd(
            'Emulation.setDeviceMetricsOverride',
            {'width': width, 'height': height, 'deviceScaleFactor': 1, 'mobile': width < 500},
        )
        scheme = {'name': 'prefers-color-scheme', 'value': scheme}
        asked = {'media': media, 'features': [scheme]}
        self.browser.execute_cdp_cmd('Emulation.setEmulatedMedia', asked)

    def press(self, key):
        """What has the focus after a key."""
        self.browser.switch_to.active_element.send_keys(key)
        return self.browser.switch_to.active_element


@pytest.fixture(scope='module')
def browser(tmp_path_factory):
    with browsers(tmp_path_factory.mktemp('browser')) as start:
        yield start()


@pytest.fixture
def shown(browser, report, folder):
    browser.get_log('browser')
    yield Shown(browser, folder / 'report.html')
    assert browser.get_log('browser') == []  # nothing refused, nothing broken


def test_in_a_browser(report, shown):
    assert shown.run('return document.querySelectorAll("table").length') == 8
    figures = shown.run('return document.querySelectorAll("figure").length')
    assert figures == report[0].count('<figure') > 30
    broken = shown.run('return [...document.images].filter((i) => !i.naturalWidth).length')
    assert broken == 0


@pytest.mark.parametrize('names', [('teacher',), ('teacher', 'student')])
def test_the_first_screen(names, browser, folder, report, run_command, tmp_path):
    """At 1280 x 800: what was measured by what, the verdict and the thresholds, nothing cut."""
    from selenium.webdriver.common.keys import Keys

    out = folder / 'report.html'  # of both
    if len(names) == 1:
        out = tmp_path / 'r.html'
        assert run_command('report', folder / names[0], '--out', out)[0] == 0
    shown = Shown(browser, out)
    shown.size(1280, 800)
    for name, line in zip(names, browser.find_elements('css selector', '.origins summary')):
        digest = hashlib.sha256((folder / name / 'model-0001.params').read_bytes()).hexdigest()
        parts = (
            *(f'{name}/model,1', f'SHA-256 {digest[:12]}…', f'vargfacenet {__version__}'),
            *(time.strftime('%Y-%m-%d', time.gmtime()), 'seed 0 (bootstrap)'),
            *('verify …', 'identify …'),
        )
        assert line.text.split(' · ')[0] == f'{name} {parts[0]}'
        assert set(line.text[len(name) + 1 :].split(' · ')) == set(parts)
    first = 'h1, .origins summary, .verdict, #s0 .table:first-of-type, #s0 td'
    boxes = shown.run(
        'return [...document.querySelectorAll(arguments[0])].map((node) => {'
        '  const { left, right, bottom } = node.getBoundingClientRect();'
        '  return [node.closest("table")?.parentNode.getAttribute("aria-label") ?? node.className'
        '    + node.tagName, left, right, bottom] })',
        first,
    )
    seen = [box for box in boxes if not box[0].startswith('What was measured')]
    assert sum(box[0].startswith('Thresholds') for box in seen) >= 3 * len(names)
    assert all(0 <= left < right <= 1280 and bottom <= 800 for _, left, right, bottom in seen)
    line.send_keys(Keys.ENTER)  # unfolds
    whole = browser.find_element('css selector', '.origins details[open] dl').text
    assert digest in whole and f'verify --model {folder / names[-1] / "model"},1' in whole


@pytest.mark.parametrize(('width', 'media'), [(1280, ''), (768, ''), (390, ''), (718, 'print')])
def test_nothing_is_cut_off(shown, width, media):
    """On a desktop, a tablet, a phone, and on paper (A4)."""
    shown.size(width, 900, media)
    assert shown.run('return innerWidth') == width
    assert shown.run('return document.documentElement.scrollWidth') <= width
    wide = shown.run(
        'return [...document.querySelectorAll(".table")]'
        '.filter((table) => table.scrollWidth > table.clientWidth).length'
    )
    assert wide == 0 or (width > 640 and not media)  # on wider screens tables scroll
    hidden = shown.run('return getComputedStyle(document.querySelector("nav")).display === "none"')
    assert hidden is (media == 'print')


def test_prints(shown, report):
    """On white paper whatever the screen is, with every face."""
    shown.size(718, 900, 'print', 'dark')
    ground = shown.run('return getComputedStyle(document.body).backgroundColor')
    assert ground == 'rgb(255, 255, 255)'
    content = base64.b64decode(shown.browser.execute_cdp_cmd('Page.printToPDF', {})['data'])
    assert content[:5] == b'%PDF-' and content.count(b'/Type /Page\n') >= 2
    faces = set(re.findall('data:image/jpeg;base64,([^"]+)', report[0]))
    assert content.count(b'/DCTDecode') >= len(faces) > 12


def test_by_keyboard_alone(shown):
    """Tab, Enter and the arrow keys reach the sections and scroll the tables; no script helps."""
    from selenium.webdriver.common.keys import Keys

    shown.size(700, 600)
    skip = shown.press(Keys.TAB)
    assert skip.text == 'Skip to the results' and skip.rect['x'] >= 0
    assert [shown.press(Keys.TAB).tag_name for _ in range(2)] == ['summary'] * 2
    links = [shown.press(Keys.TAB) for _ in range(4)]
    assert (links[0].text, links[3].text) == ('Summary', 'Training')
    outline = shown.run('return getComputedStyle(arguments[0]).outlineStyle', links[3])
    assert outline == 'solid'  # who uses keys sees where they are
    shown.press(Keys.ENTER)
    section = shown.browser.find_element('css selector', 'section:target h2')
    assert section.text == 'Training' and section.location_once_scrolled_into_view['y'] < 400
    table = shown.press(Keys.TAB)
    assert (table.get_attribute('role'), table.get_attribute('aria-label')) == ('region', 'Runs')
    shown.run('document.querySelector("#s1 .table").focus()')
    wide = shown.browser.switch_to.active_element
    assert shown.run('return arguments[0].scrollWidth', wide) > wide.rect['width']
    for _ in range(5):
        wide.send_keys(Keys.ARROW_RIGHT)
    time.sleep(0.5)  # it glides
    assert shown.run('return arguments[0].scrollLeft', wide) > 0


def grounds(shown):
    """(lightness of the page, of each figure's ground, of its text), 0..1: the median and the
    farthest from it, as the browser draws them."""
    figures = shown.browser.find_elements('css selector', '.figures img')
    drawn = [cv2.imdecode(np.frombuffer(one.screenshot_as_png, np.uint8), 0) for one in figures]
    page = cv2.imdecode(np.frombuffer(shown.browser.get_screenshot_as_png(), np.uint8), 0)
    middles = [np.median(picture) / 255 for picture in drawn]
    ink = [
        (picture.max() if middle < 0.5 else picture.min()) / 255
        for picture, middle in zip(drawn, middles)
    ]
    return np.median(page) / 255, np.array(middles), np.array(ink)


@pytest.mark.parametrize('scheme', ['light', 'dark'])
def test_figures_are_as_light_or_dark_as_the_page(scheme, shown):
    shown.size(1280, 900, scheme=scheme)
    page, middles, ink = grounds(shown)
    assert len(middles) == 6 + 5 + 4
    if scheme == 'dark':
        assert page < 0.2 and (middles < 0.2).all() and (ink > 0.8).all()
    else:
        assert page > 0.8 and (middles > 0.8).all() and (ink < 0.3).all()


@pytest.mark.parametrize('scheme', ['light', 'dark'])
@pytest.mark.parametrize('width', [1280, 390])
def test_axe_finds_no_violation(width, scheme, shown):
    package = pytest.importorskip('axe_core_python')
    shown.size(width, 900, scheme=scheme)
    path = importlib.resources.files(package).joinpath('axe.min.js')
    shown.run(path.read_text(encoding='utf-8'))
    found = shown.browser.execute_async_script(
        'const done = arguments[0]; axe.run().then((found) => done(found.violations.map('
        '  (one) => `${one.id}: ${one.nodes.map((node) => node.html).join(" ")}`)))'
    )
    assert found == []


def test_an_open_set(run_command, tmp_path):
    """TPIR at FPIR with intervals, rank-1, and the sentence, against counts by hand."""
    rows = np.eye(8, dtype=np.float32)
    gallery, nobody = rows[:3], rows[4:]
    probes = np.concatenate([gallery, gallery[:1] + 2 * gallery[1:2], nobody + 0.4 * rows[0]])
    names = np.array(['Ada', 'Bea', 'Cid', 'Ada', 'W', 'X', 'Y', 'Z'])
    np.savez(tmp_path / 'gallery.npz', embeddings=gallery, labels=names[:3])
    np.savez(tmp_path / 'probes.npz', embeddings=unit(probes), labels=names)
    words = ['identify', '--protocol', 'open-set', '--fpir', '0.25', '0.5', '--ranks', '2']
    for name in ('probes', 'gallery'):
        words += [f'--{name}', str(tmp_path / f'{name}.npz')]
    code, result, _ = run_command(*words, '--save', str(tmp_path / 'one.npz'))
    # Ada's second picture is more like Bea: three of four mated probes are found, whatever the FPIR
    assert code == 0 and result['open_set']['tpir'] == {'0.25': 0.75, '0.5': 0.75}
    words = ['report', str(tmp_path / 'one.npz'), '--out', str(tmp_path / 'r.html')]
    code, result, _ = run_command(*words, '--files', str(tmp_path / 'files'))
    assert code == 0
    assert result['verdict'] == ['one names 75.00 % of the people it knows at FPIR 0.25.']
    (row,) = read_csv(tmp_path / 'files' / 'open-set.csv')
    assert (row['run'], row['mated probes'], row['non-mated probes']) == ('one', '4', '4')
    for name in ('TPIR @ FPIR 0.25', 'TPIR @ FPIR 0.5', 'rank-1'):
        assert float(row[name]) == 75
        # exact, of 3 in 4: wider than what a bootstrap of three people can be
        assert float(row[f'{name} low']) <= 19.5 and float(row[f'{name} high']) >= 99.3
    assert 'Open set: TPIR at FPIR' in (tmp_path / 'r.html').read_text()
