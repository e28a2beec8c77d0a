"""What operators need of a gallery: terms, expiry, a person's data, a log of what was done."""

import contextlib
import json
import sqlite3
import stat
import zipfile
from datetime import date, timedelta

import cv2
import numpy as np
import pytest
from deploy_models import export_folder, portrait
from vargfacenet.common.errors import InputError, RunError
from vargfacenet.deploy.decision_log import append, check_log
from vargfacenet.deploy.gallery import Gallery
from vargfacenet.deploy.gallery_records import MAX_TEXT, Terms, checked_terms
from vargfacenet.deploy.person_export import export_person

SIZE = 16
TODAY = date.today()
YESTERDAY = str(TODAY - timedelta(days=1))


class Tomorrow(date):
    """The clock, a day on."""

    @classmethod
    def today(cls):
        return TODAY + timedelta(days=1)


def unit(rng, count):
    rows = rng.randn(count, SIZE).astype(np.float32)
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


@pytest.fixture
def gallery(tmp_path):
    gallery = Gallery(tmp_path / 'g', SIZE, 'a' * 64)
    yield gallery
    gallery.close()


def logged(gallery):
    return [json.loads(line) for line in gallery.log_path.read_text().splitlines()]


def test_terms_are_kept_and_brought_up_to_date(gallery, rng):
    rows = unit(rng, 3)
    gallery.enrol(['a', 'b'], rows[:2], terms=Terms('consent', 'door', '2999-01-01'))
    gallery.enrol(['a'], rows[2:], terms=Terms(purpose='gate'))
    gallery.close()
    again = Gallery(gallery.folder)
    assert again.person('a')[1].terms == ('consent', 'gate', '2999-01-01')
    assert again.person('b')[1].terms == ('consent', 'door', '2999-01-01')
    assert again.person('a')[1].recorded.startswith(str(TODAY)[:4])
    again.close()


def test_a_name_is_one_person_in_either_form_of_unicode(gallery, rng):
    rows = unit(rng, 2)
    gallery.enrol(['Jos\xe9'], rows[:1])
    gallery.enrol([' Jose\u0301'], rows[1:])
    assert gallery.identities() == {'Jos\xe9': 2}
    assert gallery.remove('Jose\u0301') == 2


def test_whose_time_is_over_is_not_recognised_and_then_forgotten(gallery, rng):
    rows = unit(rng, 3)
    for name, row, day in (('past', 0, YESTERDAY), ('today', 1, str(TODAY)), ('ever', 2, '')):
        terms, then = Terms(expires=day), TODAY - timedelta(days=1)
        gallery.enrol([name], rows[row : row + 1], terms=terms, today=then)
    assert gallery.expired() == ['past'] and 'past' in gallery.identities()
    assert 'past' not in [match.identity for match in gallery.identify(rows[0], 5)]
    assert gallery.identify(rows[1], 5)[0].identity == 'today'
    assert gallery.expire() == ['past'] and gallery.expire() == []
    assert gallery.identities() == {'today': 1, 'ever': 1}
    assert rows[0].tobytes() not in (gallery.folder / 'embeddings.f32').read_bytes()
    assert gallery.expire(TODAY + timedelta(days=1)) == ['today']
    gallery.enrol(['new'], rows[:1])
    assert gallery.identify(rows[0])[0].identity == 'new'


@pytest.mark.parametrize(
    'terms', [('x' * (MAX_TEXT + 1),), ('', 'a\nb'), ('', '', 'soon'), ('', '', '2026-02-30')]
)
def test_terms_that_are_none(terms, gallery, rng):
    with pytest.raises(InputError):
        checked_terms(*terms)
    with pytest.raises(InputError):
        gallery.enrol(['a'], unit(rng, 1), terms=Terms(*terms))
    assert len(gallery) == 0


def test_a_day_that_is_over_is_refused(gallery, rng, run_command, tmp_path):
    """Who is enrolled so is recognised by nobody, and without a word."""
    with pytest.raises(InputError, match=f'{YESTERDAY}: this day is over.*{TODAY}, or a later'):
        gallery.enrol(['a'], unit(rng, 1), terms=Terms(expires=YESTERDAY))
    gallery.enrol(['b'], unit(rng, 1), terms=Terms(expires=str(TODAY)))
    assert gallery.identities() == {'b': 1}
    words = ('--gallery', tmp_path / 'new', '--model', 'absent,1', '--expires', '2020-01-01')
    code, _, errors = run_command('gallery', 'enrol', 'Eve', __file__, *words)
    assert code == 2 and 'expiry 2020-01-01: this day is over' in errors
    assert not (tmp_path / 'new').exists()


def test_who_is_over_gets_no_more_pictures_without_a_later_day(gallery, rng):
    """They would be recognised by nobody, and without a word."""
    rows = unit(rng, 3)
    gallery.enrol(['Ada'], rows[:1], terms=Terms('consent', '', YESTERDAY), today=date(2020, 1, 1))
    lines = len(logged(gallery))
    later = rf"Ada's expiry {YESTERDAY}: this day is over.*{TODAY}, or a later day with --expires"
    for terms in (Terms(), Terms(purpose='door')):
        with pytest.raises(InputError, match=later):
            gallery.enrol(['Bob', 'Ada'], rows[1:], terms=terms)
    assert gallery.identities() == {'Ada': 1} and len(logged(gallery)) == lines
    assert gallery.person('Ada')[1].terms == ('consent', '', YESTERDAY)
    gallery.enrol(['Ada'], rows[1:2], terms=Terms(expires=str(TODAY)))
    gallery.enrol(['Ada'], rows[2:])  # on the last day
    assert [match.identity for match in gallery.identify(rows[1])] == ['Ada']
    assert gallery.identities() == {'Ada': 3}


def test_what_was_done_is_logged_by_number(gallery, rng):
    gallery.enrol(['Ada Lovelace', 'b'], unit(rng, 2), ['secret.jpg', ''], [b'x', b'y'])
    number = gallery.person('Ada Lovelace')[0]
    gallery.remove('Ada Lovelace')
    lines = logged(gallery)
    assert [line['what'] for line in lines] == ['enrol', 'remove']
    assert number in lines[0]['people'] and lines[1]['people'] == [number]
    text = gallery.log_path.read_text()
    assert 'Ada' not in text and 'secret' not in text
    assert check_log(gallery.log_path) == (2, [])


@pytest.fixture(scope='module')
def model(tmp_path_factory):
    return export_folder(tmp_path_factory.mktemp('export'), thresholds={'0.01': 0.5, '0.1': 0.4})


@pytest.fixture
def photographs(tmp_path):
    paths = []
    for identity, picture in ((1, 0), (1, 1), (2, 0)):
        paths.append(tmp_path / f'{identity}-{picture}.png')
        cv2.imwrite(str(paths[-1]), portrait(identity, picture)[..., ::-1])
    return paths


def test_a_change_of_many_people_is_logged_in_lines_that_can_be_read(tmp_path):
    """10,000 people in one line made of the log one that `check` called damaged."""
    rows = np.zeros((2500, SIZE), np.float32)
    rows[:, 0] = 1
    with contextlib.closing(Gallery(tmp_path / 'many', SIZE, 'a' * 64)) as gallery:
        gallery.enrol([f'p{number}' for number in range(2500)], rows)
        gallery.note('identify', outcome='no match')
        logged = [json.loads(line) for line in gallery.log_path.read_text().splitlines()]
        assert [len(line['people']) for line in logged] == [1000, 1000, 500, 0]
        assert [line.get('part') for line in logged] == ['1 of 3', '2 of 3', '3 of 3', None]
        assert len({number for line in logged for number in line['people']}) == 2500
        assert check_log(gallery.log_path) == (4, [])
        with pytest.raises(ValueError, match='at most 65536'):
            append(gallery.log_path, 'x' * 70_000)
        assert check_log(gallery.log_path) == (4, [])


def test_the_life_of_a_person_by_commands(model, photographs, run_command, tmp_path, monkeypatch):
    folder, key = tmp_path / 'people', tmp_path / 'key'

    def gallery(action, *words, fails=False):
        place = ('--gallery', folder, '--key-file', key)
        needs = ('--model', model) if action in ('enrol', 'identify') else ()
        code, result, errors = run_command('gallery', action, *words, *place, *needs)
        assert (code == 0) is not fails, errors
        return errors if fails else result

    assert run_command('gallery', 'make-key', key)[0] == 0
    terms = ('--basis', 'consent of today', '--purpose', 'the door')
    gallery('enrol', 'Ada', photographs[0], *terms, '--force')
    gallery('enrol', 'Bob', photographs[2], '--force', '--keep-crops', '--expires', TODAY)
    monkeypatch.setattr('vargfacenet.deploy.gallery.date', Tomorrow)
    found = gallery('identify', photographs[0], '--threshold', '0.99')
    assert [match['name'] for match in found['matches']] == ['Ada']
    about = gallery('show', 'Ada', '--export', tmp_path / 'ada.zip')
    assert about['person']['basis'] == 'consent of today' and not about['faces'][0]['crop']
    whats = [line['what'] for line in about['decisions']]
    assert whats == ['enrol', 'gallery identify']
    assert about['decisions'][1]['outcome'] == 'match'
    assert about['decisions'][1]['threshold'] == 0.99
    assert not {'cosine', 'embedding', 'name'} & set(about['decisions'][1])
    gallery('show', 'Bob', '--export', tmp_path / 'bob.zip')
    assert 'is there already' in gallery(
        'show', 'Bob', '--export', tmp_path / 'bob.zip', fails=True
    )
    assert stat.S_IMODE((tmp_path / 'ada.zip').stat().st_mode) == 0o600
    with zipfile.ZipFile(tmp_path / 'ada.zip') as archive:
        assert archive.namelist() == ['person.json']
        assert len(json.loads(archive.read('person.json'))['faces'][0]['embedding']) == 32
    with zipfile.ZipFile(tmp_path / 'bob.zip') as archive:
        picture = cv2.imdecode(np.frombuffer(archive.read('crop-0.jpg'), np.uint8), 1)
        assert picture.shape == (112, 112, 3)
    assert gallery('expire')['expired'] == ['Bob']
    assert run_command('gallery', 'make-key', tmp_path / 'new')[0] == 0
    assert gallery('rekey', '--new-key-file', tmp_path / 'new')['faces'] == 1
    assert 'another key' in gallery('list', fails=True)
    key = tmp_path / 'new'
    assert gallery('list')['identities'] == {'Ada': 1}
    assert run_command('check', folder)[1]['items'][0]['remarks']
    log = folder / 'decisions.jsonl'
    log.write_text(''.join(log.read_text().splitlines(keepends=True)[:-2]))
    code, _, errors = run_command('check', folder)
    assert code == 1 and 'is cut off' in ' '.join(errors.split())


def test_what_is_damaged_of_a_person_is_said_and_the_rest_exported(run_command, tmp_path, rng):
    folder, rows = tmp_path / 'people', unit(rng, 3)
    with contextlib.closing(Gallery(folder, SIZE, 'a' * 64)) as gallery:
        gallery.enrol(['Ada'] * 3, rows, list('abc'), [b'one', b'two', b'three'])
    with contextlib.closing(sqlite3.connect(folder / 'gallery.sqlite')) as database, database:
        database.execute("UPDATE faces SET crop = x'ff' WHERE row = 1")
    with open(folder / 'embeddings.f32', 'r+b') as matrix:
        matrix.write(b'x')
    place = ('--gallery', folder, '--export', tmp_path / 'ada.zip')
    code, result, errors = run_command('gallery', 'show', 'Ada', *place)
    damaged = [['embedding'], ['picture'], []]
    assert code == 0 and [face['damaged'] for face in result['faces']] == damaged
    assert 'the picture of row 1, of Ada' in ' '.join(errors.split())
    with zipfile.ZipFile(tmp_path / 'ada.zip') as archive:
        assert archive.namelist() == ['person.json', 'crop-0.jpg', 'crop-2.jpg']
        faces = json.loads(archive.read('person.json'))['faces']
    assert faces[0]['embedding'] is None
    assert [face['embedding'] for face in faces[1:]] == rows[1:].tolist()
    assert [face['damaged'] for face in faces] == damaged
    log = folder / 'decisions.jsonl'
    log.rename(tmp_path / 'log')
    with contextlib.closing(Gallery(folder)) as gallery:
        log.mkdir()
        with pytest.raises(RunError, match='cannot be logged'):
            export_person(gallery, 'Ada', tmp_path / 'again.zip')
    assert sorted(path.name for path in tmp_path.iterdir()) == ['ada.zip', 'log', 'people']


def test_a_passphrase_by_commands(model, photographs, run_command, tmp_path, monkeypatch):
    place = ('--gallery', tmp_path / 'people', '--passphrase')
    monkeypatch.setenv('VARGFACENET_PASSPHRASE', 'five words of your own')
    words = ('enrol', 'Ada', photographs[0], '--model', model, '--force')
    assert run_command('gallery', *words, *place)[0] == 0
    assert run_command('gallery', 'list', *place)[1]['identities'] == {'Ada': 1}
    monkeypatch.setenv('VARGFACENET_PASSPHRASE', 'five words of anothers')
    code, _, errors = run_command('gallery', 'list', *place)
    assert code == 2 and 'another key' in errors


def test_crops_are_kept_only_where_asked(model, photographs, run_command, tmp_path):
    for folder, words in (('without', ()), ('with', ('--keep-crops',))):
        place = ('--gallery', tmp_path / folder, '--model', model, '--force')
        assert run_command('gallery', 'enrol', 'Ada', photographs[0], *place, *words)[0] == 0
        content = (tmp_path / folder / 'gallery.sqlite').read_bytes()
        assert (b'JFIF' in content) is bool(words)
        # and the picture is known again all the same
        code, _, errors = run_command('gallery', 'enrol', 'Eve', photographs[0], *place[:4])
        assert code == 2 and "the same picture is enrolled as 'Ada'" in errors


def test_compare_logs_where_asked(model, photographs, run_command, tmp_path):
    log = tmp_path / 'log.jsonl'
    words = ('compare', *photographs[:2], '--model', model, '--log', log)
    assert run_command(*words)[0] == 0 and run_command(*words, '--threshold', '-0.9')[0] == 0
    lines = [json.loads(line) for line in log.read_text().splitlines()]
    assert [line['what'] for line in lines] == ['compare', 'compare']
    assert lines[1]['outcome'] == 'match' and lines[1]['threshold'] == -0.9
    assert 'cosine' not in lines[0] and str(photographs[0]) not in log.read_text()
    code, result, _ = run_command('check', tmp_path)
    kinds = {item['kind']: item for item in result['items']}
    assert code == 0 and kinds['decision log']['content'] == '2 decisions'
