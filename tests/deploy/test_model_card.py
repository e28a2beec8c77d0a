"""The model card of an export, and error rates by group against counting in float64."""

import csv
import json

import numpy as np
import pytest
from vargfacenet.common.data.image import encode_jpeg
from vargfacenet.common.errors import InputError
from vargfacenet.common.files import sha256
from vargfacenet.deploy.group_rates import group_rates, read_groups
from vargfacenet.deploy.model_card import model_card

THRESHOLD = 0.3


@pytest.fixture
def faces(rng):
    """40 people of up to 4 pictures, in two groups of which the second is harder to tell apart."""
    people = np.repeat(np.arange(40), rng.randint(1, 5, 40))
    groups = np.where(people < 20, 'a', np.where(people < 38, 'b', ''))
    centres = rng.randn(40, 16)
    centres[20:] += 0.8
    rows = centres[people] + 0.5 * rng.randn(len(people), 16)
    return rows / np.linalg.norm(rows, axis=1, keepdims=True), people, groups


def test_rates_by_group_are_those_of_counting(faces):
    rows, people, groups = faces
    found = group_rates(rows, people, groups, THRESHOLD)
    assert [rates.group for rates in found] == ['a', 'b']
    for rates in found:
        inside = np.flatnonzero(groups == rates.group)
        scores = {True: [], False: []}
        for index, first in enumerate(inside):
            for second in inside[:index]:
                cosine = sum(float(x) * float(y) for x, y in zip(rows[first], rows[second]))
                scores[bool(people[first] == people[second])].append(cosine > THRESHOLD)
        assert (rates.impostor_pairs, rates.genuine_pairs) == (
            len(scores[False]),
            len(scores[True]),
        )
        assert rates.far == pytest.approx(np.mean(scores[False]), abs=1e-12)
        assert rates.tar == pytest.approx(np.mean(scores[True]), abs=1e-12)
        assert rates.far_interval[0] <= rates.far <= rates.far_interval[1]
        assert rates.tar_interval[0] <= rates.tar <= rates.tar_interval[1]
        assert rates.people == len(set(people[inside])) and rates.pictures == len(inside)
    assert found[1].far > 2 * found[0].far


def test_an_interval_holds_the_truth_about_as_often_as_it_says(rng):
    """One picture a person, so that the rate of all pairs of such people is known by drawing."""
    truth, held = [], 0
    samples = [rng.randn(60, 4) for _ in range(60)]
    found = []
    for rows in samples:
        rows /= np.linalg.norm(rows, axis=1, keepdims=True)
        (rates,) = group_rates(rows, np.arange(60), np.full(60, 'g'), 0.5)
        truth.append(rates.far)
        found.append(rates.far_interval)
        assert np.isnan(rates.tar) and rates.as_dict()['tar'] is None
    held = np.mean([low <= np.mean(truth) <= high for low, high in found])
    assert 0.8 < held <= 1


@pytest.mark.parametrize(
    ('text', 'message'),
    [
        ('a,x\na,y\n', 'line 2: a is in x already'),
        ('a\n', 'line 1: expected PERSON,GROUP'),
        ('a,\n', 'line 1: expected'),
        ('nobody,x\n', "names none of the 2 people, such as 'a'"),
    ],
)
def test_groups_that_are_none(text, message, tmp_path):
    (tmp_path / 'groups.csv').write_text(text)
    with pytest.raises(InputError, match=message):
        read_groups(tmp_path / 'groups.csv', ['a', 'b'])


def test_groups_by_name(tmp_path):
    with open(tmp_path / 'groups.csv', 'w', newline='') as file:
        csv.writer(file).writerows([('person', 'group'), ('b', 'over 60'), ('Last, First', 'x')])
    assert read_groups(tmp_path / 'groups.csv', ['a', 'b', 'Last, First']) == ['', 'over 60', 'x']


def test_the_card_of_an_export(run_command, tmp_path):
    pytest.importorskip('mxnet')
    from deploy_models import portrait, write_checkpoint

    people = tmp_path / 'people'
    for number in range(8):
        folder = people / f'person{number}'
        folder.mkdir(parents=True)
        for picture in range(3):
            (folder / f'{picture}.jpg').write_bytes(encode_jpeg(portrait(number, picture)))
    lines = [f'person{number},{"even" if number % 2 == 0 else "odd"}' for number in range(8)]
    (tmp_path / 'groups.csv').write_text('\n'.join(lines))
    out = tmp_path / 'export'
    words = ['--people', people, '--groups', tmp_path / 'groups.csv', '--licence', 'CC0 | mine']
    words += ['--trained-on', 'nothing at all']
    model = write_checkpoint(tmp_path)
    code, _, errors = run_command('export', '--model', model, '--out', out, *words)
    assert code == 0, errors
    record = json.loads((out / 'export.json').read_text())
    assert record['files']['MODEL_CARD.md']['sha256'] == sha256(out / 'MODEL_CARD.md')
    text = (out / 'MODEL_CARD.md').read_text()
    for known in (
        'nothing at all',
        r'CC0 \| mine',
        record['source_sha256']['model-0003.params'],
        record['files']['model.onnx']['sha256'],
        'vargfacenet export',
        'no run wrote the checkpoint',
        '24 pictures of 8 people, 252 pairs of different people and 24 of the same',
    ):
        assert known in text, known
    first = record['verification'][0]
    low, high = first['intervals']['0.01']
    assert f'{first["thresholds"]["0.01"]:.4f} ({low:.4f} to {high:.4f})' in text
    groups = {rate['group']: rate for rate in first['groups']['0.01']}
    assert set(groups) == {'even', 'odd'} and groups['odd']['impostor_pairs'] == 54
    assert '| 0.01 | even | 4 |' in text
    assert run_command('check', out)[0] == 0
    (out / 'MODEL_CARD.md').write_text(text.replace('nothing', 'everything'))
    assert run_command('check', out)[0] == 1


def test_a_card_says_what_is_not_known():
    record = {
        'output': {'shape': ['N', 128]},
        'params': 5,
        'flops': 7e6,
        'vargfacenet': '1',
        'source_sha256': {},
        'verification': [],
        'files': {},
    }
    text = model_card(
        record, {'data_dir': 'faces', 'loss': 'arcface'}, '', '', 'vargfacenet export'
    )
    assert '| licence of the weights | not stated |' in text and '| trained on | faces |' in text
    assert '| training, loss | arcface |' in text
    assert text.count('Not measured') == 2
    for line in text.splitlines():
        assert not line.startswith('|') or line.endswith('|')
