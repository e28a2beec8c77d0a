"""The command: runs what is missing, goes on after a kill, and says what the runs' tests said."""

import fcntl
import html
import json
import os
import re
import resource
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from conftest import ROOT, registered_for_now
from vargfacenet.__main__ import main
from vargfacenet.common.data.people_sets import PeopleSet, write_people_set
from vargfacenet.common.engine.params_file import read_arrays
from vargfacenet.common.errors import InputError
from vargfacenet.common.history import read_history
from vargfacenet.recognition import hooks
from vargfacenet.recognition.study.plan import TEACH, Job, read_study
from vargfacenet.recognition.study.results import known_runs
from vargfacenet.recognition.study.runner import Child, Records, Runner
from vargfacenet.symbol import NETWORKS

from tests.recognition.conftest import SMALL_NETWORK, pattern

FILE = """
title = 'A small study'
runs = '{runs}'
seeds = [0]
measure = 'crowd TAR@0.001'

[options]
data-dir = '{data}'
steps = {steps}
per-batch-size = 8
frequent = 2
verbose = {verbose}
lr = 0.05
{network}

[test]
target = ['{data}/pairs.bin']
pairs = ['{crowd}']

[arms.scratch]
command = 'train'

[arms.angular]
command = 'distill'
teacher = 'run:scratch'

[[questions]]
ask = 'does a teacher help?'
arms = ['scratch', 'angular']

[published.scratch]
'pairs accuracy' = 0.001
"""
BROKEN = """
[arms.broken]
command = 'distill'
teacher = 'nowhere/model,3'

[arms.later]
command = 'train'
pretrained = 'run:broken'
"""


SMALL = "network = 'small'\nnetwork-option = {emb_size = 32}"
LARGER = """network = 'vargfacenet'
network-option = {multiplier = 0.25, emb_size = 32, bn_mom = 0.5}"""


@pytest.fixture(scope='module', autouse=True)
def small_network():
    """The network of a few layers, here and in the processes of a study."""
    with pytest.MonkeyPatch.context() as patch, registered_for_now(NETWORKS):
        patch.setenv('VARGFACENET_PLUGINS', str(SMALL_NETWORK))
        patch.setenv('CURVES', 'none')
        patch.setattr(hooks, 'plot_curves', hooks.plot_curves)  # put back behind the plugin
        yield


@pytest.fixture(scope='module')
def crowd(tmp_path_factory):
    """40 people of two pictures, 3,120 impostor pairs."""
    path = tmp_path_factory.mktemp('crowd') / 'crowd.npz'
    people = np.repeat(np.arange(40), 2)
    pictures = [pattern(500 + person, k) for person in range(40) for k in range(2)]
    write_people_set(path, PeopleSet(pictures, people, [f'p{i}' for i in range(40)], None))
    return path


def write_study(folder, patterns, crowd, more='', steps=4, verbose=100, network=SMALL):
    path = folder / 'own.toml'
    data = shutil.copytree(patterns, folder / 'data', dirs_exist_ok=True)
    values = {'runs': folder / 'runs', 'data': data, 'crowd': crowd}
    text = FILE.format(**values, steps=steps, verbose=verbose, network=network)
    path.write_text(text + more)
    return path


@pytest.fixture(scope='module')
def done(patterns, crowd, tmp_path_factory):
    """A study that has run: (its file, folder of its runs)."""
    folder = tmp_path_factory.mktemp('study')
    path = write_study(folder, patterns, crowd)
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv('CURVES')
        assert main(['study', str(path), '--jobs', '2']) == 0
    assert len(list((folder / 'runs').rglob('curves.png'))) == 2
    return path, folder / 'runs'


def record(runs, name):
    return json.loads((runs / 'records' / f'{name}.json').read_text())


def test_figures_are_those_of_the_tests(done):
    _, runs = done
    result = json.loads((runs / 'results.json').read_text())
    assert list(result['arms']) == ['scratch', 'angular'] and result['missing'] == []
    found = {}
    for arm in result['arms']:
        test = record(runs, f'{arm}-s0.test')['result']
        entry = found[arm] = result['arms'][arm]['measures']
        tar = test['all_pairs']['crowd']['tar']['0.001']
        got = entry['crowd TAR@0.001']
        assert (got['value'], got['low'], got['high']) == pytest.approx(
            (tar['value'], tar['low'], tar['high'])
        )
        assert entry['pairs accuracy']['value'] == test['targets']['pairs']['accuracy']
        assert result['arms'][arm]['steps'] == 4 and result['arms'][arm]['params'] > 1e3
    (question,) = result['questions']
    for each in question['comparisons']:
        values = [found[arm][each['measure']]['value'] for arm in ('angular', 'scratch')]
        assert each['difference']['value'] == pytest.approx(values[0] - values[1])
        assert each['difference']['seeds'] == 1 and 'one seed' in each['sentence']
    test = question['comparisons'][-1]['mcnemar']
    assert len(test['p_values']) == 1 and 0 < test['p_values'][0] <= 1
    words = record(runs, 'angular-s0')['words']
    assert words[words.index('--teacher') + 1] == record(runs, 'scratch-s0')['result']['model']
    page = (runs / 'report.html').read_text()
    assert 'does a teacher help?' in page and 'DEVIATES' in page and 'A small study' in page


def test_runs_that_are_there_cost_nothing(done, capsys):
    path, runs = done
    before = {file: file.stat().st_mtime_ns for file in (runs / 'models').rglob('*')}
    text = (runs / 'results.json').read_text()
    started = time.monotonic()
    assert main(['study', str(path)]) == 0
    assert time.monotonic() - started < 60
    assert 'started' not in capsys.readouterr().err
    assert before == {file: file.stat().st_mtime_ns for file in (runs / 'models').rglob('*')}
    assert (runs / 'results.json').read_text() == text


STORE = """
[arms.store]
command = 'teach'
teacher = 'run:scratch'
"""
MEASURE = """
[[test.measure]]
name = 'light'
value = ['tpr']
commands = {commands}
"""


@pytest.fixture
def elsewhere(done, tmp_path):
    """(study file, its runs' folder, results.json): another machine, with the results alone."""
    path, runs = done
    results = Path(shutil.copy(runs / 'results.json', tmp_path / 'known.json'))
    text = path.read_text()
    runs.rename(tmp_path / 'runs')
    yield path, runs, results
    path.write_text(text)
    shutil.rmtree(runs, ignore_errors=True)
    (tmp_path / 'runs').rename(runs)


def test_what_ran_elsewhere_is_known(elsewhere, capsys):
    """The same figures and claims without a model, but for the rounding of replicates."""
    path, runs, results = elsewhere
    assert main(['study', str(path), '--known', str(results)]) == 0
    told = capsys.readouterr()
    assert 'started' not in told.err and '2 runs of this study' in told.err
    assert not list(runs.rglob('*.params'))
    before, after = (json.loads(file.read_text()) for file in (results, runs / 'results.json'))
    for question, other in zip(before['questions'], after['questions']):
        for each, same in zip(question['comparisons'], other['comparisons']):
            assert each['mcnemar'] == same['mcnemar'] and each['sentence'] == same['sentence']
            for key, value in each['difference'].items():
                assert same['difference'][key] == pytest.approx(value, abs=2e-5, nan_ok=True)
    assert before['arms'].keys() == after['arms'].keys()
    assert before['arms']['angular']['runs'] == after['arms']['angular']['runs']


def test_a_known_run_that_another_needs_runs_again(elsewhere, capsys):
    path, runs, results = elsewhere
    path.write_text(
        path.read_text() + "\n[arms.more]\ncommand = 'train'\npretrained = 'run:scratch'"
    )
    code = main(['study', str(path), '--known', str(results), '--jobs', '2'])
    told = capsys.readouterr()
    assert code == 0, told.err
    started = re.findall('started (\\S+)', told.err)
    assert sorted(started) == ['more-s0', 'more-s0.test', 'scratch-s0', 'scratch-s0.test']
    result = json.loads((runs / 'results.json').read_text())
    assert result['missing'] == [] and result['questions'][0]['comparisons']


@pytest.mark.parametrize(
    ('old', 'new', 'told'),
    [
        ('steps = 4', 'steps = 6', 'made otherwise than here, left out: scratch-s0, angular-s0'),
        ('seeds = [0]', 'seeds = [1]', 'left out: scratch, seed 0, angular, seed 0'),
        ('[[questions]]', MEASURE.format(commands="[['info']]") + '[[questions]]', 'left out: scr'),
    ],
)
def test_a_run_of_other_words_is_not_known(old, new, told, elsewhere, run_command):
    path, _, results = elsewhere
    assert old in path.read_text()
    path.write_text(path.read_text().replace(old, new))
    code, result, errors = run_command('study', path, '--known', results, '--dry-run')
    assert code == 0 and told in errors and '0 runs of this study' in errors
    assert len(result['left']) == result['jobs'] > 3


def test_a_run_whose_tests_did_not_all_run_is_not_known(elsewhere, run_command):
    path, _, results = elsewhere
    path.write_text(path.read_text() + MEASURE.format(commands="[['info']]"))
    stored = json.loads(results.read_text())
    del stored['crc32']
    for arm in stored['arms'].values():
        arm['runs']['0']['test']['commands'] = {'light': ['info']}
    kept = stored['arms']['scratch']['runs']['0']
    kept['measures']['light'] = 0.5
    kept['test']['kept']['light'] = {'people': 0, 'replicates': ''}
    results.write_text(json.dumps(stored))
    code, result, errors = run_command('study', path, '--known', results, '--dry-run')
    assert code == 0 and 'not all of their tests ran, left out: angular-s0\n' in errors
    assert '1 runs of this study' in errors and 'angular-s0.test' in result['left']


def test_a_run_of_other_words_here_takes_the_place_of_no_known_one(elsewhere, capsys):
    path, runs, results = elsewhere
    text = path.read_text()
    path.write_text(text.replace('steps = 4', 'steps = 2'))
    assert main(['study', str(path), '--arms', 'scratch']) == 0
    path.write_text(text)
    assert main(['study', str(path), '--known', str(results)]) == 0
    capsys.readouterr()
    before, after = (json.loads(file.read_text()) for file in (results, runs / 'results.json'))
    assert after['arms']['scratch']['runs'] == before['arms']['scratch']['runs']


def test_a_run_of_another_test_is_refused(elsewhere, run_command):
    path, runs, results = elsewhere
    stored = json.loads(results.read_text())
    del stored['crc32']
    digests = stored['arms']['angular']['runs']['0']['test']['digests']
    assert set(digests) == {'pairs', 'crowd'}
    digests['crowd'] = '0' * 64
    results.write_text(json.dumps(stored))
    code, _, errors = run_command('study', path, '--known', results)
    assert code == 2 and 'angular-s0 was not tested on the crowd that is here' in errors
    assert not list(runs.rglob('*.params'))


@pytest.mark.parametrize(
    'change',
    [
        lambda test: test['kept']['pairs accuracy'].update(replicates='AAAA'),
        lambda test: test['kept']['pairs accuracy'].update(replicates='#'),
        lambda test: test['correct'].update(other='AAAA'),
        lambda test: test['digests'].pop('pairs'),
        lambda test: test['pairs'].update(pairs=-1),
        lambda test: test['pairs'].update(pairs=test['pairs']['pairs'] + 8),
        lambda test: test['kept'].update(other=test['kept']['pairs accuracy']),
    ],
)
def test_a_test_that_is_damaged_is_named(change, elsewhere, run_command):
    path, _, results = elsewhere
    stored = json.loads(results.read_text())
    del stored['crc32']
    change(stored['arms']['angular']['runs']['0']['test'])
    results.write_text(json.dumps(stored))
    code, _, errors = run_command('study', path, '--known', results)
    assert code == 2 and 'known.json: angular-s0: the test that was kept is damaged' in errors


def test_results_without_their_tests_are_told(tmp_path, run_command, patterns, crowd):
    """Those of an older version, which are good for the page alone."""
    path = write_study(tmp_path, patterns, crowd)
    old = ROOT / 'studies/results/lfw_float32.json'
    code, _, errors = run_command('study', path, '--dry-run', '--known', old)
    assert code == 0 and 'without their tests, left out: y1, seed 0, scratch-s0' in errors


def test_the_page_comes_from_the_results_alone(done, tmp_path, capsys):
    _, runs = done
    assert main(['study', str(runs / 'results.json'), '--out', str(tmp_path)]) == 0
    assert (tmp_path / 'report.html').read_bytes() == (runs / 'report.html').read_bytes()
    assert json.loads(capsys.readouterr().out.splitlines()[-1])['claims']


RESULTS = sorted((ROOT / 'studies' / 'results').glob('*.json'))


@pytest.mark.parametrize('path', RESULTS, ids=lambda path: path.stem)
def test_the_results_of_the_project_draw_their_page(path, tmp_path, run_command):
    code, result, errors = run_command('study', path, '--out', tmp_path)
    assert code == 0, errors
    page = (tmp_path / f'{path.stem}.html').read_text()
    stored = json.loads(path.read_text())
    # results of a study in another precision than its file's lie beside it
    study = read_study(ROOT / 'studies' / f'{path.stem.removesuffix("_float32")}.toml')
    trained = {name for name, arm in study.arms.items() if arm.kind != TEACH}
    assert stored['arms'].keys() == trained
    asked = [question['ask'] for question in study.questions]
    assert [question['ask'] for question in stored['questions']] == asked
    assert stored['title'] in page and all(arm in page for arm in stored['arms'])
    claimed = [each for question in stored['questions'] for each in question['comparisons']]
    sentences = [each['sentence'] for each in claimed if each['measure'] == stored['measure']]
    assert result['claims'] == list(dict.fromkeys(sentences))  # each once
    assert (f'{len(result["claims"])} comparisons, each' in page) == bool(result['claims'])
    first = re.findall('<p class="verdict">(.*?)</p>', page.split('<section')[0])
    assert [html.unescape(text) for text in first[:5]] == result['claims'][:5]
    assert len(first) == min(6, len(result['claims']))
    assert page.count('Made by vargfacenet study.') == 1
    open_questions = sum(not question['comparisons'] for question in stored['questions'])
    assert errors.count('None of these runs is there yet.') == open_questions


@pytest.mark.parametrize('name', ['lfw', 'precision', 'smoke'])
def test_the_studies_of_the_project_know_their_results(name):
    """Their runs were of the words that the file has now, and their tests are kept."""
    path, file = ROOT / f'studies/results/{name}.json', ROOT / f'studies/{name}.toml'
    arms = json.loads(path.read_text())['arms']
    runs = sum(len(arm['runs']) for arm in arms.values())
    assert len(known_runs(read_study(file), path)) == runs > 0


@pytest.mark.parametrize(
    'words',
    [
        ('--arms', 'scratch'),
        ('--jobs', 2),
        ('--dry-run',),
        ('--known', 'x.json'),
    ],
)
def test_options_of_runs_do_not_go_with_results(words, tmp_path, run_command):
    code, _, errors = run_command('study', RESULTS[0], '--out', tmp_path, *words)
    assert code == 2 and f'{words[0]} with' in errors and errors.count('\n') == 1
    assert not list(tmp_path.iterdir())


def _changed(change):
    """The text of a project's results with `change(result)` made to them."""
    stored = json.loads(RESULTS[0].read_text())
    stored.pop('crc32', None)
    change(stored)
    return json.dumps(stored)


@pytest.mark.parametrize(
    ('change', 'message'),
    [
        (lambda result: result.pop('machine'), "the field 'machine' is missing"),
        (lambda result: result.update(title=[]), "the field 'title' is '[]'; expected a text"),
        (lambda result: result.update(version=3), "'version' is '3'; expected a text"),
        (lambda result: result.update(missing='x'), "'missing' is 'x'; expected a list"),
        (lambda result: result.update(arms=[]), "'arms' is '[]'; expected a table"),
        (lambda result: result['arms'].update(x=[]), "'arms' 'x': expected an object"),
        (
            lambda result: result['arms']['scratch']['runs'].update({'0': 3}),
            "'arms' 'scratch': the field 'runs' '0': expected an object",
        ),
        (
            lambda result: result['questions'][0]['comparisons'][0].update(told='no'),
            "'questions' [0]: the field 'comparisons' [0]: the field 'told' is 'no'; expected true",
        ),
        (
            lambda result: result['arms']['scratch']['published'].update(x=float('nan')),
            "'published' 'x' is 'nan'; expected a number",
        ),
        (lambda result: result['study'].update(x=float('nan')), 'is NaN or infinite'),
    ],
)
def test_what_is_no_result_of_a_study(change, message, tmp_path, run_command):
    (tmp_path / 'x.json').write_text(_changed(change))
    out = tmp_path / 'pages'
    code, _, errors = run_command('study', tmp_path / 'x.json', '--out', out)
    assert code == 2 and message in errors and errors.count('\n') == 1
    assert not out.exists()


def test_a_failed_run_leaves_the_others(done, patterns, crowd, capsys):
    path, runs = done
    write_study(path.parent, patterns, crowd, BROKEN)
    assert main(['study', str(path)]) == 1
    err = capsys.readouterr().err
    assert 'broken-s0: ' in err and 'nowhere/model' in err and 'later-s0: broken-s0 failed' in err
    result = json.loads((runs / 'results.json').read_text())
    assert result['missing'] == ['broken-s0', 'later-s0']
    assert result['arms']['angular']['measures']
    write_study(path.parent, patterns, crowd)


def test_faults_show_before_anything_runs(patterns, crowd, tmp_path, run_command):
    path = write_study(tmp_path, patterns, crowd, "[arms.x]\ncommand = 'train'\nloss = 'arcfase'\n")
    code, _, err = run_command('study', path)
    assert code == 2 and 'arm x: ' in err and 'arcface' in err
    path = write_study(tmp_path, patterns, crowd)
    code, result, err = run_command('study', path, '--dry-run')
    assert code == 0 and len(result['left']) == result['jobs'] == 4
    assert 'vargfacenet distill' in err and not (tmp_path / 'runs').exists()
    (tmp_path / 'runs/records').mkdir(parents=True)
    (tmp_path / 'runs/records/x.json').write_text('{}')
    code, _, err = run_command('study', path)
    assert code == 2 and 'no record of a study' in err


@pytest.mark.parametrize(
    ('more', 'words', 'message'),
    [
        ("[arms.a]\ncommand = 'train'\nlrr = 1", [], 'arm a: unrecognized arguments: --lrr'),
        (STORE + "techer = 'x'", [], 'arm store: unrecognized arguments: --techer'),
        (STORE + 'views = 2', [], 'arm store: --views and --augment belong together'),
        (STORE.replace('store', 'x'), ['--arms', 'nope'], "unknown arm of --arms 'nope'"),
        (
            MEASURE.format(commands="[['lfr', '--modle', '{model}']]"),
            [],
            '[[test.measure]] light: ',
        ),
        (MEASURE.format(commands="[['lfrr']]"), [], "unknown command 'lfrr'"),
        (
            "[[data]]\nmakes = 'x'\ncommand = ['make-rec', 'a', 'b', '--max-imges', 2]",
            [],
            '[[data]] x: unrecognized arguments: --max-imges 2; did you mean --max-images',
        ),
    ],
)
@pytest.mark.parametrize('dry', [True, False])
def test_a_misspelt_word_of_any_job_is_told_first(
    more, words, message, dry, patterns, crowd, tmp_path, run_command
):
    path = write_study(tmp_path, patterns, crowd, more)
    code, _, err = run_command('study', path, *words, *(['--dry-run'] if dry else []))
    assert code == 2 and message in err and err.count('\n') == 1, err
    assert 'arm ' not in err.partition('(see ')[2]  # the command whose help is meant
    assert not (tmp_path / 'runs').exists()


@pytest.mark.parametrize(
    ('old', 'new', 'message'),
    [
        ("'crowd TAR@0.001'", "'crwod TAR@0.001'", "'crwod TAR@0.001'"),
        ("'pairs accuracy'", "'pair accuracy'", "unknown measure in [published.scratch] 'pair acc"),
        ('crowd.npz', 'crwod.npz', 'crwod.npz does not exist'),
    ],
)
def test_a_measure_that_no_test_has_is_told_before_training(
    old, new, message, patterns, crowd, tmp_path, run_command
):
    path = write_study(tmp_path, patterns, crowd)
    assert old in path.read_text()
    path.write_text(path.read_text().replace(old, new))
    code, _, err = run_command('study', path)
    assert code == 2 and message in err and err.count('\n') == 1, err
    assert not list((tmp_path / 'runs').rglob('*.params'))


def test_a_record_that_was_changed_is_named(tmp_path):
    job = Job('scratch-s0', 'train', ('train', '--lr', '0.1'))
    Records(tmp_path).add(job, job.words, {'model': 'a,1', 'steps': 10}, 2.0)
    assert Records(tmp_path).is_done(job)
    path = tmp_path / 'scratch-s0.json'
    path.write_text(path.read_text().replace('a,1', 'b,1'))
    with pytest.raises(InputError, match=r'scratch-s0.json was changed or damaged'):
        Records(tmp_path)


def test_a_long_result_is_read_whole(tmp_path):
    """`lfr` names up to a thousand pictures that are missing."""
    runner, result = Runner(tmp_path, 1), {'missing_names': [f'{n:050}.jpg' for n in range(1000)]}
    output = tmp_path / 'logs' / 'a.out'
    output.write_text(f'a line before\n{json.dumps(result)}\n')
    job = Job('a', 'test', ('lfr',))
    runner._finish(Child(job, job.words, None, time.monotonic(), output), 0)
    assert not runner.failed and record(tmp_path, 'a')['result'] == result


def test_a_study_is_run_once_at_a_time(patterns, crowd, tmp_path, run_command):
    path = write_study(tmp_path, patterns, crowd)
    (tmp_path / 'runs').mkdir()
    handle = os.open(tmp_path / 'runs', os.O_RDONLY)
    fcntl.flock(handle, fcntl.LOCK_EX)
    try:
        code, _, err = run_command('study', path)
    finally:
        os.close(handle)
    assert code == 2 and 'another command is writing there' in err


def _start(path, stderr=subprocess.DEVNULL, by=()):
    words = [*by, sys.executable, '-m', 'vargfacenet', 'study', str(path), '--jobs', '1']
    return subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=stderr, cwd=ROOT)


def _wait_for(condition, seconds=120):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.05)


def _holders(runs):
    """Processes that were started with the runs' folder in their words."""
    found = subprocess.run(['ps', '-wweo', 'pid,args'], capture_output=True, text=True, check=True)
    return [line for line in found.stdout.splitlines() if f'{runs}/models' in line]


LONG = """
[arms.long]
command = 'train'
steps = 100000
"""


def _runs_long(runs):
    history = runs / 'models/long-s0/history.jsonl'
    return history.exists() and history.stat().st_size > 0


@pytest.fixture
def started():
    """_start, and an end to what is left when a test fails."""
    processes = []

    def start(*words, **named):
        processes.append(_start(*words, **named))
        return processes[-1]

    yield start
    for process in processes:
        if process.poll() is None:
            process.terminate()
            process.wait(120)


def test_results_grow_and_hold_what_is_there_at_a_stop(
    done, patterns, crowd, tmp_path, started, default_signals
):
    path, runs = done
    write_study(path.parent, patterns, crowd, LONG)
    (runs / 'records/angular-s0.test.json').unlink()  # one test runs again
    files = [runs / 'results.json', runs / 'report.html']
    for file in files:
        file.unlink()
    log = tmp_path / 'log'
    with open(log, 'wb') as err:
        process = started(path, err, by=['nohup'])
        # the next run starts before the page of the one before it is drawn
        _wait_for(lambda: _runs_long(runs) and all(file.exists() for file in files))
        process.send_signal(signal.SIGHUP)  # the terminal is closed: it is none of its business
        result = json.loads(files[0].read_text())  # grown, while the study runs
        assert result['missing'] == ['long-s0'] and result['questions'][0]['comparisons']
        assert 'Not there: 1 runs (long-s0)' in files[1].read_text()

        # a child that does not save: the second Ctrl-C does not wait for it
        for file in files:
            file.unlink()
        (child,) = [int(line.split()[0]) for line in _holders(runs)]
        os.kill(child, signal.SIGSTOP)
        assert b'stopping' not in log.read_bytes()
        process.send_signal(signal.SIGINT)
        _wait_for(lambda: b'press Ctrl-C again' in log.read_bytes())
        process.send_signal(signal.SIGINT)
        assert process.wait(20) == 130 and not any(file.exists() for file in files)
        os.kill(child, signal.SIGCONT)
        _wait_for(lambda: not _holders(runs))

        process = started(path, err)
        _wait_for(lambda: _holders(runs) and process.poll() is None)
        process.send_signal(signal.SIGTERM)
        assert process.wait(120) == 143 and not _holders(runs)
    told = f'{files[0]} and {files[1]} hold the 2 of 3 runs that are there; the same command goes'
    assert log.read_text().count(told) == 1
    assert json.loads(files[0].read_text()) == result
    assert 'Not there: 1 runs (long-s0)' in files[1].read_text()
    write_study(path.parent, patterns, crowd)


@pytest.mark.slow
@pytest.mark.parametrize('number', [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_a_killed_study_ends_with_the_same_weights(patterns, crowd, tmp_path, number):
    weights = {}
    for kind in ('whole', 'killed'):
        folder = tmp_path / kind
        folder.mkdir()
        path = write_study(folder, patterns, crowd, steps=40, verbose=5, network=LARGER)
        runs = folder / 'runs'
        process = _start(path)
        if kind == 'killed':
            _wait_for(lambda run=runs / 'models/scratch-s0': len(read_history(run)) > 4)
            process.send_signal(number)
            process.wait(120)
            _wait_for(lambda runs=runs: not _holders(runs))
            assert not (runs / 'records/scratch-s0.json').exists()
            process = _start(path)
        assert process.wait(300) == 0
        weights[kind] = read_arrays(runs / 'models/angular-s0-gen1/model-0008.params')
    assert weights['whole'].keys() == weights['killed'].keys()
    for name, value in weights['whole'].items():
        np.testing.assert_array_equal(weights['killed'][name], value, err_msg=name)


@pytest.mark.slow
def test_the_smoke_study_answers_its_questions(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert main(['study', str(ROOT / 'studies' / 'smoke.toml')]) == 0
    spent = resource.getrusage(resource.RUSAGE_CHILDREN)
    # three minutes on two idle cores, by the time that the runs had of a CPU: others use it too
    seconds = spent.ru_utime + spent.ru_stime - before.ru_utime - before.ru_stime
    assert seconds < 2 * 180
    result = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert len(result['claims']) == 4 and result['missing'] == []
    assert (tmp_path / 'runs/smoke/report.html').is_file()


@pytest.mark.slow
@pytest.mark.timeout(1800)  # 37 jobs
def test_the_paper_study_at_small_scale(patterns, tmp_path, monkeypatch, capsys):
    """Every arm, store, measure and question of the file, on patterns and small networks."""
    data = tmp_path / 'datasets/ms1m-retinaface-t1'
    shutil.copytree(patterns, data)
    for name in ('lfw', 'cfp_fp', 'agedb_30'):
        shutil.copy(patterns / 'pairs.bin', data / f'{name}.bin')
    images = tmp_path / 'trillionpairs/images'
    names = {'elfw': [], 'delfw': []}
    for person in range(12):
        for k in range(2 if person < 6 else 1):
            path = images / f'{person}/{k}.jpg'
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(pattern(700 + person, k))
            names['elfw' if person < 6 else 'delfw'].append(f'{person}/{k}.jpg')
    for name, lines in names.items():
        (tmp_path / f'trillionpairs/{name}.txt').write_text('\n'.join(lines))
    text = (ROOT / 'studies/paper.toml').read_text().replace("'1e-8'", "'0.1'")
    text = text.replace("'1e-08'", "'0.1'").replace('epochs = 48', 'steps = 6')
    text = text.replace("recipe = 'paper'", "recipe = 'paper'\ndataset='synth'\nsteps = 3")
    text = text.replace('verbose', 'per-batch-size = 8\nlr = 0.01\nverbose')
    small = 'network-option = {width = 0.0625, emb_size = 32}\n'
    for network in ('r34_se', 'r50_se', 'r100_se'):
        text = text.replace(f"network = '{network}'", f"network = 'r18_se'\n{small}")
    text = text.replace('\n[options]', '\n[options]\nnetwork-option = {emb_size = 32}')
    (tmp_path / 'paper.toml').write_text(text)
    monkeypatch.chdir(tmp_path)
    code = main(['study', 'paper.toml'])
    assert code == 0, capsys.readouterr().err[-2000:]
    result = json.loads((tmp_path / 'runs/paper/results.json').read_text())
    assert result['missing'] == [] and len(result['questions']) == 6
    assert all(question['comparisons'] for question in result['questions'])
    page = (tmp_path / 'runs/paper/report.html').read_text()
    assert page.count('DEVIATES') > 10 and 'deepglint-light TPR@1e-8' in page


def test_tables_in_tables_without_end_are_one_line(tmp_path):
    (tmp_path / 'deep.toml').write_text(f'[{".".join(["a"] * 5000)}]\n')
    with pytest.raises(InputError, match='nested too deep'):
        read_study(tmp_path / 'deep.toml')
