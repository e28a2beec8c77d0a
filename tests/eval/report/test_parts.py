"""Names, groups, figures and files of a report, from arrays made here: no model is run."""

import contextlib
import csv
import io
import json
import re
import zlib

import numpy as np
import pytest
from matplotlib.colors import to_hex
from vargfacenet.common.errors import InputError
from vargfacenet.eval.report import figures
from vargfacenet.eval.report.__main__ import build_report, read_runs
from vargfacenet.eval.report.groups import (
    ACROSS,
    Labels,
    group_table,
    pair_groups,
    read_labels,
    worst_ratio,
)
from vargfacenet.eval.report.page import (
    Cell,
    FigureItem,
    Section,
    TableItem,
    csv_table,
    latex,
    page,
    write_files,
)
from vargfacenet.eval.report.statistics import exact_interval
from vargfacenet.eval.report.verification import quantile_table
from vargfacenet.eval.results import VERIFICATION, save_results
from vargfacenet.eval.verification import evaluate

PEOPLE = 40
WILD = ('=1+1', '教師', '学生', r'$\badcommand{x}$', 'a b', 'A-b', '50% & more_#{}~^')


def verified(random, noise=0.35, failed=(0, 0)):
    """Arrays as `verify --save --pair-list` writes them, of 400 pairs of drawn embeddings."""
    people = random.standard_normal((PEOPLE, 24))
    identities = random.randint(0, PEOPLE, (400, 2))
    identities[::2, 1] = identities[::2, 0]
    issame = identities[:, 0] == identities[:, 1]
    rows = people[identities.ravel()] + noise * random.standard_normal((800, 24)) * 3
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    result = evaluate(rows, issame)
    arrays = {
        'distances': result.distances,
        'issame': issame,
        'fold_accuracies': result.fold_accuracies,
        'fold_thresholds': result.fold_thresholds,
        'identities': identities,
        'identities_named': np.array(True),
        'names': np.array([f'person {number:02d}' for number in range(PEOPLE)]),
        'failed': np.array(failed),
        'pairs_digest': np.array('one'),
    }
    for kind, sign, pairs in (('accepts', 1, ~issame), ('rejects', -1, issame)):
        order = np.argsort(sign * result.distances + np.where(pairs, 0, np.inf))[:3]
        arrays.update({f'hardest_{kind}': order})
        arrays[f'images_{kind}'] = np.zeros((3, 2, 8, 8, 3), np.uint8)
    return arrays


def save(path, arrays, name='set'):
    about = {'model': 'm', 'targets': {name: {}}}
    save_results(path, VERIFICATION, about, {f'{name}/{key}': a for key, a in arrays.items()})
    return path


@pytest.fixture(scope='module')
def target():
    return verified(np.random.RandomState(5))


@pytest.fixture(scope='module')
def wild(tmp_path_factory):
    """A report of runs with names of every kind, and its files."""
    root = tmp_path_factory.mktemp('wild')
    random = np.random.RandomState(3)
    words = [f'{name}={save(root / f"{n}.npz", verified(random))}' for n, name in enumerate(WILD)]
    report = build_report(read_runs(words))
    out = root / 'files'
    out.mkdir()
    return report, write_files(out, report.sections)


def tables(report):
    return [i for s in report.sections for i in s.items if isinstance(i, TableItem)]


def drawn_figures(report):
    return [item for s in report.sections for item in s.items if isinstance(item, FigureItem)]


def test_names_of_any_script_have_files_of_their_own(wild):
    report, files = wild
    assert len({str(path).casefold() for path in files}) == len(files)
    items = sum(len([i for i in s.items if hasattr(i, 'name')]) for s in report.sections)
    assert len(files) == 3 * items and all(path.stat().st_size for path in files)
    assert sum('scores' in path.name and path.suffix == '.svg' for path in files) == len(WILD)
    shown = next(p for p in files if p.name == 'set-scores-教師.svg').read_text()
    assert '教師' in shown  # as text, for the reader's fonts


def test_no_name_becomes_a_formula_or_markup(wild):
    _, files = wild
    for path in (path for path in files if path.suffix == '.csv'):
        for row in csv.reader(path.open(newline='')):
            assert not any(cell[:1] in ('=', '@', '+') for cell in row), path
            # a hyphen starts numbers alone
            assert all(float(cell) < 0 for cell in row if cell.startswith('-'))
    text = next(path for path in files if path.name == 'set-summary.tex').read_text()
    assert r'50\% \& more\_\#\{\}\textasciitilde{}\textasciicircum{}' in text
    assert r'\$\textbackslash{}badcommand\{x\}\$' in text and r'\badcommand' not in text


def test_every_cell_of_a_csv_is_one_value(wild):
    report, _ = wild
    for table in tables(report):
        if table.name in ('made', 'training'):
            continue  # of text
        header, *rows = csv.reader(io.StringIO(csv_table(table)))
        assert len(set(header)) == len(header)
        for row in rows:
            assert len(row) == len(header)
            for column, cell in zip(header, row):
                if column not in ('run', 'pairs'):
                    float(cell)


def test_every_row_of_a_latex_table_has_its_columns(wild):
    report, _ = wild
    for table in tables(report):
        text = re.sub(r'\\[&%$#_{}]', '', latex(table))  # what is escaped is text
        columns = re.search(r'begin\{tabular\}\{(\w+)\}', text)[1]
        *lines, rest = text.split('\\toprule')[1].split('\\\\')
        assert rest.split() == ['\\bottomrule', '\\end{tabular}']
        assert len(lines) == 1 + len(table.rows) and len(columns) == len(table.columns)
        assert all(line.count('&') == len(columns) - 1 for line in lines)


def test_no_two_regions_of_a_page_have_one_name():
    """Whoever hears the page goes from region to region by these."""
    table = TableItem('t', 'Differences', ('run', 'rate'), [('a', 1)])
    other = TableItem('o', 'Once', ('run', 'rate'), [('a', 1)])
    text = page('T', 'line', [Section('One', items=[table]), Section('Two', items=[table, other])])
    found = re.findall('role="region" aria-label="(.*?)"', text)
    assert found == ['One: Differences', 'Two: Differences', 'Once']
    two = [Section(title, items=[table, table, other]) for title in ('One', 'One', 'Two')]
    found = re.findall('role="region" aria-label="(.*?)"', page('T', 'line', two))
    assert found[:2] == ['One: Differences', 'One: Differences (2)']
    assert len(found) == len(set(found)) == 9


def test_a_bracket_that_starts_a_row_is_no_option_to_latex():
    rows = [('a', Cell('1 [0, 2]', (1.0, 0.0, 2.0), ('', 'low', 'high'))), ('b', '[x')]
    text = latex(TableItem('t', 'title', ('run', 'rate'), rows))
    body = text.split('\\midrule')[1].split('\\bottomrule')[0].strip().splitlines()
    assert body == ['a & 1 [0, 2] \\\\', 'b & {[x} \\\\']
    assert '\\begin{tabular}{lr}' in text


def test_quantiles_of_the_scores(target):
    """Against their definition: what lies at a share of the way through the sorted cosines."""
    columns, *rows = csv.reader(io.StringIO(csv_table(quantile_table('set', {'r': target}))))
    assert [row[:2] for row in rows] == [['r', 'genuine'], ['r', 'impostor']]
    for (_, kind, *numbers), wanted in zip(rows, (True, False)):
        pairs = zip(target['distances'], target['issame'])
        cosines = sorted(1 - distance / 2 for distance, same in pairs if same == wanted)
        for name, number in zip(columns[2:], numbers):
            ends = {'lowest': 0, 'highest': 1}
            share = ends[name] if name in ends else float(name.split()[0]) / 100
            place = share * (len(cosines) - 1)
            below, part = cosines[int(place)], place % 1
            above = cosines[min(int(place) + 1, len(cosines) - 1)]
            assert float(number) == pytest.approx(below + part * (above - below)), (kind, name)


def strings_in(pdf):
    """The text that the page of a PDF draws, from its decompressed streams."""
    streams = re.findall(rb'stream\r?\n(.*?)\r?\nendstream', pdf, re.DOTALL)
    drawn = b''
    for stream in streams:
        with contextlib.suppress(zlib.error):
            drawn += zlib.decompress(stream)
    shown = re.findall(rb'\[(.*?)\]\s*TJ|(\(.*?\))\s*Tj', drawn, re.DOTALL)
    texts = (b''.join(re.findall(rb'\((.*?)\)', b''.join(each))) for each in shown)
    return [text.replace(b'\0', b'').decode('latin-1') for text in texts]  # 1 or 2 bytes a letter


def test_pdf_figures_are_for_printing(target):
    """Of the figure's size, with its words as text in a font that publishers take (no Type 3)."""
    fpr = np.array([0, 0.001, 0.01, 0.1, 1])
    figure = figures.roc_curve('ROC of a set', {'run': (fpr, fpr**0.2, None)})
    pdf = figures.drawn(figure, 'pdf')
    box = re.search(rb'/MediaBox \[ 0 0 ([\d.]+) ([\d.]+) \]', pdf)
    assert [float(side) for side in box.groups()] == pytest.approx(72 * figure.get_size_inches())
    assert b'/FontFile2' in pdf and b'/Type3' not in pdf
    words = strings_in(pdf)
    (axes,) = figure.axes
    assert {axes.get_title(loc='left'), axes.get_xlabel(), 'run'} <= set(words)


def test_a_run_has_one_colour_in_every_figure(wild):
    report, _ = wild
    looks = figures.looks_of(WILD)
    assert len(set(looks.values())) == len(WILD)
    for run, look in looks.items():
        label = figures.plain(run)
        seen = 0
        for item in drawn_figures(report):
            (axes,) = item.figure.axes
            lines = [li for li in axes.lines if li.get_label().split(',')[0] == label]
            assert all(to_hex(line.get_color()) == look.colour for line in lines), item.name
            seen += len(lines)
            if axes.get_title(loc='left') == f'Scores: {label}':
                filled = {to_hex(p.get_facecolor()) for p in axes.patches if p.get_fill()}
                assert filled == {look.colour, figures.GREY}
                seen += 1
        assert seen >= 4, run  # ROC, DET, errors, its histogram


def test_28_runs_look_different():
    assert len(set(figures.looks_of(map(str, range(28))).values())) == 28


def test_the_axis_of_a_roc_follows_the_data(target):
    fpr = np.array([0, 0, 0.001, 0.01, 0.1, 1])
    good = (fpr, np.array([0, 0.985, 0.99, 0.995, 0.998, 1]), None)
    bad = (fpr, np.array([0, 0.2, 0.3, 0.5, 0.8, 1]), None)
    for curves, lowest in (({'good': good}, 0.985), ({'good': good, 'bad': bad}, 0.2)):
        (axes,) = figures.roc_curve('t', curves).axes
        bottom, top = axes.get_ylim()
        assert 1 <= top <= 1.1 and bottom <= lowest
        assert (top - lowest) / (top - bottom) > 0.6  # the curves fill the height


def test_the_axis_of_a_det_has_numbers_beside_the_lines():
    fpr = np.array([0, 0.002, 0.01, 0.1, 1])
    for fnr, wanted in (
        ([0.012, 0.012, 0.01, 0.008, 0.006], ['0.01', '0.02', '0.05']),
        ([0.3, 0.01, 0.001, 0.0001, 0.0001], None),  # decades are enough
        ([0.0, 0.0, 0.0, 0.0, 0.0], ['0.1', '0.2', '0.5', '1']),
    ):
        (axes,) = figures.roc_curve('t', {'r': (fpr, 1 - np.array(fnr), None)}, det=True).axes
        axes.figure.draw_without_rendering()
        low, high = axes.get_ylim()
        labels = [
            label.get_text()
            for label in axes.get_yticklabels()
            if low <= label.get_position()[1] <= high
        ]
        assert all(text in labels for text in wanted or ()) and len(labels) >= 3
        said = [text.get_text() for text in axes.texts]
        assert said == ([] if any(fnr) else ['no false rejects'])


def test_hardest_pairs_tell_names_and_what_was_decided(target, tmp_path):
    report = build_report(read_runs([f'r={save(tmp_path / "a.npz", target)}']))
    section = next(s for s in report.sections if s.title == 'Verification: set')
    pairs = [item for item in section.items if hasattr(item, 'captions')]
    thresholds = np.repeat(target['fold_thresholds'], 40)  # 400 pairs in 10 folds
    for item, kind in zip(pairs, ('accepts', 'rejects')):
        wrong = 0
        for pair, caption, right in zip(target[f'hardest_{kind}'], item.captions, item.right):
            first, second = target['identities'][pair]
            names = f'person {first:02d}' + ('' if first == second else f' / person {second:02d}')
            cosine = 1 - target['distances'][pair] / 2
            assert caption == f'{names} · cosine {cosine:.3f}'
            accepted = target['distances'][pair] < thresholds[pair]
            assert right == (accepted == (first == second))
            wrong += not right
        assert f'; {wrong} of them' in item.title


def test_the_share_that_is_told_is_no_less_than_its_count(tmp_path):
    """One of 187 is no 1 %: the report said 'accepts 10 % (1 of 12)'."""
    arrays = verified(np.random.RandomState(8))
    keep = np.flatnonzero(arrays['issame'])[:60], np.flatnonzero(~arrays['issame'])[:187]
    rows = np.sort(np.concatenate(keep))
    pairs = len(arrays['issame'])
    arrays = {
        name: value[rows] if value.shape[:1] == (pairs,) else value
        for name, value in arrays.items()
    }
    (said,) = build_report(read_runs([f'r={save(tmp_path / "a.npz", arrays)}'])).verdict
    share, count, total = re.search(
        r'it accepts at most ([\d.]+) % \((\d+) of (\d+)\)', said
    ).groups()
    assert int(total) == 187 and 0 < 100 * int(count) / int(total) < float(share)


def test_pairs_without_a_score_are_counted(tmp_path):
    arrays = verified(np.random.RandomState(8), failed=(20, 5))
    report = build_report(read_runs([f'r={save(tmp_path / "a.npz", arrays)}']))
    table = next(t for t in tables(report) if t.name == 'set-thresholds')
    assert 'ISO/IEC 19795-1' in table.note and 'r: 20 genuine, 5 impostor' in table.note
    cosines, issame = 1 - arrays['distances'] / 2, arrays['issame']
    for row in csv.DictReader(io.StringIO(csv_table(table))):
        refused = (cosines[issame] <= float(row['cosine above']) + 1e-12).sum()
        assert float(row['FRR %']) == pytest.approx(100 * (refused + 20) / (issame.sum() + 20))
    assert 'with those that gave no score' in report.verdict[0]


# --- groups


def labels_of(tmp_path, text, column=''):
    (tmp_path / 'labels.csv').write_text(text)
    return read_labels(tmp_path / 'labels.csv', column)


def by_person(number):
    return 'old' if number % 4 == 0 else 'young'


def test_a_ratio_is_shown_only_where_there_is_one():
    few, many = exact_interval(0, 1), exact_interval(0, 2000)
    some, more = exact_interval(1, 20), exact_interval(60, 1000)
    assert worst_ratio(['a', 'b'], [more, some]) == '×1.2 (a over b)'
    low = 0.06 / (1 - 0.025 ** (1 / 2000))  # Clopper and Pearson of no errors in 2,000
    assert worst_ratio(['a', 'b'], [more, many]) == (
        f'at least ×{low:.1f} (a over b), which has none'
    )
    assert worst_ratio(['a', 'b'], [more, few]).startswith('no ratio is shown, b having no errors')
    assert worst_ratio(['a', 'b'], [many, few]) == 'no errors in any group'
    assert worst_ratio(['a'], [more]) == 'only one group has such pairs'


def test_groups_of_people_pictures_and_pairs_agree(target, tmp_path):
    people = [f'"person {n:02d}",x,{by_person(n)}' for n in range(PEOPLE)]
    pictures = [by_person(number) for number in target['identities'].ravel()]
    first = labels_of(tmp_path, '\n'.join(['identity,other,age', *people]), 'age')
    second = labels_of(tmp_path, '\n'.join(['age', *pictures]))
    groups = pair_groups(first, target)
    assert (groups == pair_groups(second, target)).all()
    third = Labels(tmp_path, 'age', list(groups), None)
    assert (pair_groups(third, target) == groups).all()
    assert pair_groups(Labels(tmp_path, 'age', ['old'] * 7, None), target) is None
    # against a loop, at a threshold that makes errors of both kinds
    table = group_table('set', 'r', target, second, 0.3, 0.01)
    rows = list(csv.DictReader(io.StringIO(csv_table(table))))
    assert [row['age'] for row in rows] == ['old', 'young', ACROSS]
    for row in rows:
        errors = {True: [], False: []}
        for pair, (a, b) in enumerate(target['identities']):
            ages = {by_person(a), by_person(b)}
            if (row['age'] in ages and len(ages) == 1) or (row['age'] == ACROSS and len(ages) == 2):
                accepted = 1 - target['distances'][pair] / 2 > 0.3
                errors[a == b].append(accepted != (a == b))
        for kind, pairs, name in ((True, 'genuine', 'FNMR'), (False, 'impostor', 'FMR')):
            assert int(row[f'{pairs} pairs']) == len(errors[kind])
            if not errors[kind]:
                assert row[name] == ''
                continue
            assert float(row[name]) == pytest.approx(100 * np.mean(errors[kind]))
            exact = exact_interval(int(np.sum(errors[kind])), len(errors[kind]))
            assert float(row[f'{name} low']) <= 100 * exact.low + 1e-9
            assert float(row[f'{name} high']) >= 100 * exact.high - 1e-9
    fmr = {row['age']: float(row['FMR']) for row in rows[:2]}
    worst, best = max(fmr, key=fmr.get), min(fmr, key=fmr.get)
    if fmr[best]:
        assert f'FMR ×{fmr[worst] / fmr[best]:.1f} ({worst} over {best})' in table.note


def test_people_without_a_label_are_counted(target, tmp_path):
    labels = labels_of(
        tmp_path, 'identity,age\n' + ''.join(f'person {n:02d},old\n' for n in (1, 2))
    )
    groups = pair_groups(labels, target)
    known = np.isin(target['identities'], (1, 2)).all(axis=1)
    assert ((groups == 'old') == known).all() and ((groups == '') == ~known).all()
    table = group_table('set', 'r', target, labels, 0.3, 0.01)
    assert f'{(~known).sum():,} pairs without a label are left out' in table.note


@pytest.mark.parametrize(
    ('text', 'words', 'message'),
    [
        ('age\n', (), 'expected a header and lines'),
        ('a,b\n1,2\n', (), 'say --group-column, one of a, b'),
        ('a,b\n1,2\n', ('--group-column', 'c'), "no column 'c'"),
        ('a,b\n1\n', ('--group-column', 'b'), 'line 2 has 1 values'),
        ('a,b\n\n1,2\n1\n', ('--group-column', 'b'), 'line 4 has 1 values'),
        ('name,age\nAda,old\n\nBob,old\nAda,young\n', (), "line 5 calls Ada 'young', a line"),
        ('age\nold\n', (), 'are of no pair set here (400 pairs)'),
    ],
)
def test_wrong_labels(target, tmp_path, run_command, text, words, message):
    path = save(tmp_path / 'a.npz', target)
    (tmp_path / 'l.csv').write_text(text)
    out = tmp_path / 'r.html'
    code, _, err = run_command('report', path, '--groups', tmp_path / 'l.csv', *words, '--out', out)
    assert code == 2 and message in err and not out.exists()


def test_labels_without_a_header_are_an_error(tmp_path):
    with pytest.raises(InputError, match='does not exist'):
        read_labels(tmp_path / 'none.csv')


def test_sets_of_people_have_a_section(tmp_path):
    tar = {'0.001': {'value': 0.5, 'low': 0.4, 'high': 0.6, 'threshold_cosine': 0.3}}
    entry = {'people': 7, 'genuine_pairs': 30, 'impostor_pairs': 5000, 'tar': tar}
    about = {'model': 'm', 'targets': {}, 'all_pairs': {'mine': entry}}
    save_results(tmp_path / 'a.npz', VERIFICATION, about, {})
    report = build_report(read_runs([str(tmp_path / 'a.npz')]))
    assert [section.title for section in report.sections] == ['Summary', 'All pairs']
    (row,) = csv.DictReader(io.StringIO(csv_table(tables(report)[-1])))
    assert (row['genuine pairs'], row['TAR @ FAR 0.001']) == ('30', '50.0')
    assert (row['TAR @ FAR 0.001 low'], row['TAR @ FAR 0.001 high']) == ('40.0', '60.0')


# --- configuration


def test_seeds_and_options_of_the_loss_tell_runs_apart(tmp_path):
    words = []
    for seed in (1, 2):
        folder = tmp_path / f's{seed}'
        folder.mkdir()
        (folder / 'history.jsonl').write_text('{"step": 1, "loss": 2.0}\n')
        config = {'seed': seed, 'loss': 'margin', 'loss_options': {'m2': 0.1 * seed}}
        state = {'config': config, 'state': {}}
        (folder / 'model-0001.json').write_text(json.dumps(state))
        words.append(str(folder))
    report = build_report(read_runs(words))
    rows = {row[0]: row[1:] for table in tables(report) for row in table.rows}
    assert rows['options of the loss'] == ('m2=0.1', 'm2=0.2')
    assert next(t for t in tables(report) if t.name == 'training').rows[-4][1:] == ('1', '2')
    assert report.verdict == ['Nothing was evaluated: these are runs of training alone.']


@pytest.mark.parametrize('runs', [3, 13, 40])
def test_names_of_many_runs_stand_below_the_axes(runs):
    x = np.logspace(-3, 0, 20)
    names = [f'run {number}' for number in range(runs)]
    rows = [{'step': step, 'loss': 1.0} for step in range(20)]
    drawn = [
        figures.history_curves('a', dict.fromkeys(names, rows), ['loss']),
        figures.roc_curve('b', dict.fromkeys(names, (x, x, None))),
        figures.error_curves('c', dict.fromkeys(names, (x, 1 - x, x)), dict.fromkeys(names, 0.5)),
    ]
    for figure in drawn:
        figures.drawn(figure, 'png')
        (axes,) = figure.axes
        below = figure.legends
        (legend,) = below or [axes.get_legend()]
        assert bool(below) == (runs > 10 or figure is drawn[-1])
        frame, room = legend.get_window_extent(), axes.get_window_extent()
        assert len(legend.get_texts()) in (runs, runs + 2)
        assert figure.bbox.x0 <= frame.x0 and frame.x1 <= figure.bbox.x1
        assert figure.bbox.y0 <= frame.y0 and frame.y1 <= figure.bbox.y1
        assert not below or frame.y1 < room.y0
        assert room.height > 0.5 * 3.7 * figure.dpi
