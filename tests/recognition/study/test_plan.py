"""A study's file: jobs in their order, words of their command lines, and what is refused."""

import pytest
from conftest import ROOT
from vargfacenet.common.errors import InputError
from vargfacenet.recognition.study.__main__ import check_commands, configurations
from vargfacenet.recognition.study.plan import (
    jobs_beside,
    jobs_of_arms,
    made_by,
    make_jobs,
    option_words,
    read_study,
    run_of,
)

FILE = """
seeds = [0, 1]
runs = 'out'
[options]
data-dir = 'data'
steps = 6
recipe = 'small'
[test]
target = ['a.bin']
pairs = ['b.npz']
[arms.published]
model = 'y1/model,0'
[arms.second]
command = 'distill'
teacher = 'run:published'
pretrained = 'run:first'
teacher-store = 'run:store'
recipe = false
[arms.first]
command = 'train'
network-option = {multiplier = 0.25, emb_size = 32}
[arms.store]
command = 'teach'
teacher = 'run:published'
[arms.once]
command = 'train'
seeds = [7]
pretrained = 'run:store2'
[arms.store2]
command = 'train'
seeds = [3]
no-classification = true
"""


def study_of(tmp_path, text=FILE):
    (tmp_path / 'own.toml').write_text(text)
    return read_study(tmp_path / 'own.toml')


def test_jobs_come_after_what_they_need(tmp_path):
    jobs = make_jobs(study_of(tmp_path))
    names = list(jobs)
    runs = [name for name in names if '.' not in name]
    assert set(runs) == {
        *('first-s0', 'first-s1', 'second-s0', 'second-s1'),
        *('store', 'once-s7', 'store2-s3'),
    }
    for job in jobs.values():
        assert all(names.index(other) < names.index(job.name) for other in job.after)
    assert set(jobs['second-s1'].after) == {'first-s1', 'store'}
    assert jobs['once-s7'].after == ('store2-s3',)
    assert 'store.test' not in jobs and jobs['published.test'].after == ()
    assert names.index('first-s0') < names.index('first-s1')


def test_words(tmp_path):
    jobs = make_jobs(study_of(tmp_path))
    assert ' '.join(jobs['first-s1'].words) == (
        'train --data-dir data --steps 6 --recipe small --network-option multiplier=0.25 '
        '--network-option emb_size=32 --models-root out/models --name first-s1 --seed 1 --resume'
    )
    assert ' '.join(jobs['second-s0'].words) == (
        'distill --generations 1 --teacher-store {store} --data-dir data --steps 6 '
        '--teacher y1/model,0 --pretrained {first-s0} '
        '--models-root out/models --name second-s0 --seed 0 --resume'
    )
    assert jobs['second-s0'].folder == 'models/second-s0-gen1'
    assert ' '.join(jobs['store'].words) == 'teach --data-dir data --teacher y1/model,0'
    assert ' '.join(jobs['published.test'].words) == (
        'verify --model y1/model,0 --target a.bin --pairs b.npz --save out/tests/published.npz'
    )
    assert jobs['first-s0.test'].words[2] == '{first-s0}'
    assert option_words({'a_b': True, 'c': False, 'd': [1, 2]}) == ['--a-b', '--d', '1,2']


def test_measures_of_other_commands_follow_each_other(tmp_path):
    text = FILE.replace(
        "[test]\ntarget = ['a.bin']\npairs = ['b.npz']",
        "[[test.measure]]\nname = 'light'\nvalue = ['tpr', '1e-08']\n"
        "commands = [['lfr', '--model', '{model}', '--out', '{folder}/f.bin'], "
        "['identify', '--probes', '{folder}/f.bin']]",
    )
    jobs = make_jobs(study_of(tmp_path, text))
    first, second = jobs['first-s0.measure0.0'], jobs['first-s0.measure0.1']
    assert first.words == ('lfr', '--model', '{first-s0}', '--out', 'out/tests/first-s0/f.bin')
    assert second.words == ('identify', '--probes', 'out/tests/first-s0/f.bin')
    assert second.after == ('first-s0', first.name) and 'first-s0.test' not in jobs


@pytest.mark.parametrize(
    ('old', 'new', 'expected'),
    [
        ("command = 'train'\nseeds = [7]", "command = 'trian'\nseeds = [7]", 'trian'),
        ("'run:first'", "'run:frist'", 'first'),
        ("'run:first'", "'run:second'", 'circle'),
        ('seeds = [0, 1]', 'seeds = [0, 0]', 'twice'),
        ('seeds = [0, 1]', "seeds = ['a']", 'whole numbers'),
        ('steps = 6', 'seed = 6', 'seed is what the study gives'),
        ("runs = 'out'", "rnus = 'out'", 'runs'),
        ("runs = 'out'", "runs = 'out", 'no TOML'),
        ("runs = 'out'", f'runs = {10_000 * "["}', 'no TOML'),
        ('[arms.first]', '[arms."a/b"]', 'letters'),
        ('recipe = false', 'generations = 2', 'generations must be 1'),
        ("'run:store2'", "'run:second'", 'has no seed 7'),
        ('[test]', "[[questions]]\nask = 'x'\narms = ['first', 'nobody']\n[test]", 'nobody'),
        ('[test]', "[[data]]\nmakes = 'x'\ncommand = ['rm']\n[test]", 'make-rec'),
        ("model = 'y1/model,0'", "model = 'y1/model,0'\nlr = 1", 'model'),
        ("target = ['a.bin']", 'target = [3]', r"target \[0\] is '3'; expected a text"),
        ('seeds = [7]', 'seeds = 7', 'seeds are 7'),
        ('seeds = [7]', f'seeds = {[*range(5000)]}', 'number of runs is announced as 50'),
        ('steps = 6', 'steps = nan', 'not JSON compliant'),
        ('steps = 6', 'steps = 2026-11-27', 'a date in quotes is a text'),
        ('[test]', "[[questions]]\nask = 'x'\narms = [['first'], []]\n[test]", 'arms .0. is'),
        ('[test]', "[published.first]\nx = 'y'\n[test]", "'x' is 'y'; expected a number"),
        ('[test]', '[published.first]\nx = 99.7\n[test]', '99.7 is no share'),
    ],
)
def test_faults_are_named(tmp_path, old, new, expected):
    assert old in FILE
    with pytest.raises(InputError, match=expected):
        make_jobs(study_of(tmp_path, FILE.replace(old, new)))


def test_some_arms_and_what_they_need(tmp_path):
    study = study_of(tmp_path)
    jobs = jobs_of_arms(study, make_jobs(study), ['second'])
    runs = {'second-s0', 'second-s1', 'first-s0', 'first-s1', 'store'}
    assert set(jobs) == runs | {'second-s0.test', 'second-s1.test'}
    with pytest.raises(InputError, match='second'):
        jobs_of_arms(study, make_jobs(study), ['secnd'])


@pytest.mark.parametrize('path', sorted((ROOT / 'studies').glob('*.toml')), ids=lambda p: p.stem)
def test_the_studies_of_the_project_are_sound(path):
    """Every option is known to its command, and every run's inputs come before it."""
    study = read_study(path)
    configurations(study, check_data=False)
    check_commands(study)
    jobs = make_jobs(study)
    assert len(jobs) >= 2 * len(study.arms) - 3
    measured = {arm for question in study.questions for arm in question['arms']}
    assert measured <= study.arms.keys()


def test_known_runs_leave_what_others_need(tmp_path):
    jobs = make_jobs(study_of(tmp_path))
    runs = {run_of(name) for name in jobs}
    assert jobs_beside(jobs, ()) == jobs
    assert jobs_beside(jobs, runs - {'store'}) == {}  # a store is known by nobody
    left = jobs_beside(jobs, runs - {'store', 'second-s1'})
    # published is a network that is there: its test alone would be a job, and it is known
    assert {run_of(name) for name in left} == {'second-s1', 'first-s1', 'store'}
    assert {name for name in left if name.endswith('.test')} == {'second-s1.test', 'first-s1.test'}


def test_what_a_run_is_made_by(tmp_path):
    data = "[[data]]\nmakes = 'data/train.rec'\ncommand = ['make-rec', 'crops', 'data']\n"
    other = "[[data]]\nmakes = 'c.npz'\ncommand = ['make-pairs', 'crops', 'c.npz']\n"
    study = study_of(tmp_path, FILE.replace('[test]', f'{data}{other}[test]'))
    made = made_by(study, study.arms['second'], 1)
    assert set(made) == {'second-s1', 'first-s1', 'store', 'data/train.rec'}
    assert made['data/train.rec'] == ('make-rec', 'crops', 'data')
    assert '{first-s1}' in made['second-s1'] and 'y1/model,0' in made['second-s1']
