import re
import unicodedata
from pathlib import Path

import cv2
import numpy as np
import pytest
from pictures import decoded, encoded, picture, write_folder
from vargfacenet.common.backend import mx
from vargfacenet.common.data.recordio import RecordFile


@pytest.fixture
def folder(tmp_path, rng):
    return write_folder(tmp_path / 'faces', rng, {'bea': 3, 'Abe': 1, 'cy': 5, 'dee': 2})


def stored(out):
    """[(label, bytes)] as MXNet reads them."""
    reader = mx.recordio.MXIndexedRecordIO(str(out / 'train.idx'), str(out / 'train.rec'), 'r')
    end = int(mx.recordio.unpack(reader.read_idx(0))[0].label[0])
    unpacked = (mx.recordio.unpack(reader.read_idx(key)) for key in range(1, end))
    return [(int(header.label), content) for header, content in unpacked]


def test_sorted_identities_keep_their_bytes(folder, tmp_path, run_command):
    code, result, _ = run_command('make-rec', folder, tmp_path / 'out')
    assert code == 0
    files = [sorted((folder / name).iterdir()) for name in ('Abe', 'bea', 'cy', 'dee')]
    expected = [(n, path.read_bytes()) for n, paths in enumerate(files) for path in paths]
    assert stored(tmp_path / 'out') == expected
    assert result == {
        'identities': 4,
        'images': 11,
        'kept': 11,
        'reencoded': 0,
        'skipped': 0,
        'identities_lost': 0,
        'rec': str(tmp_path / 'out/train.rec'),
        'idx': str(tmp_path / 'out/train.idx'),
        'property': str(tmp_path / 'out/property'),
        'classes': str(tmp_path / 'out/classes.txt'),
    }
    assert (tmp_path / 'out/classes.txt').read_text() == 'Abe\nbea\ncy\ndee\n'
    assert RecordFile(tmp_path / 'out/train.rec').num_classes == 4


def test_small_and_excluded_identities_are_left_out(folder, tmp_path, run_command):
    exclude = tmp_path / 'exclude.txt'
    exclude.write_text('cy\n\nzoe\n')
    code, result, err = run_command(
        'make-rec', folder, tmp_path / 'out', '--min-images', 2, '--exclude', exclude
    )
    assert code == 2 and '1 names have no folder' in err and '(zoe)' in err
    assert not (tmp_path / 'out').exists()
    options = ('--min-images', 2, '--exclude', exclude, '--allow-unknown')
    code, result, err = run_command('make-rec', folder, tmp_path / 'out', *options)
    assert (code, result['identities'], result['images']) == (0, 2, 5)
    assert '1 identities with fewer than 2 pictures are left out' in err and 'beyond' not in err
    assert '1 names have no folder' in err and 'zoe' in err
    pictures = {path.read_bytes() for name in ('bea', 'dee') for path in (folder / name).iterdir()}
    assert {content for _, content in stored(tmp_path / 'out')} == pictures


@pytest.mark.parametrize(
    ('words', 'message'),
    [
        (('--root', '.'), '--root . goes with a LIST'),
        (('--allow-unknown',), '--allow-unknown goes with --exclude'),
    ],
)
def test_options_that_would_be_ignored(words, message, folder, tmp_path, run_command):
    code, _, err = run_command('make-rec', folder, tmp_path / 'out', *words)
    assert code == 2 and message in err and err.count('\n') == 1
    assert not (tmp_path / 'out').exists()


def test_a_broken_picture_leaves_no_folder(folder, tmp_path, run_command):
    (folder / 'cy' / 'broken.jpg').write_bytes(b'no picture')
    code, _, err = run_command('make-rec', folder, tmp_path / 'new' / 'out')
    assert code == 2 and 'broken.jpg' in err
    assert not (tmp_path / 'new').exists()


def test_max_images_draws_by_seed_and_independently_of_others(folder, tmp_path, run_command):
    def drawn(seed, *more):
        out = tmp_path / 'out'
        code, _, err = run_command(
            'make-rec', folder, out, '--max-images', 2, '--seed', seed, '--overwrite', *more
        )
        assert code == 0 and 'fewer' not in err
        beyond = sum(max(len(list(path.iterdir())) - 2, 0) for path in folder.iterdir())
        assert more or f'{beyond} pictures beyond 2 of an identity are left out' in err
        return [content for _, content in stored(out)]

    exclude = tmp_path / 'exclude.txt'
    exclude.write_text('Abe\nbea\n')
    first = drawn(0)
    assert first == drawn(0)
    assert len(first) == 1 + 2 + 2 + 2
    assert drawn(0, '--exclude', exclude) == first[3:]
    assert any(drawn(seed) != first for seed in range(1, 5))
    files = [path.read_bytes() for path in sorted((folder / 'cy').iterdir())]
    assert sorted(map(files.index, first[3:5])) == list(map(files.index, first[3:5]))


def test_other_sizes_and_formats_are_encoded_anew(folder, tmp_path, rng, run_command):
    rgb = picture(rng)
    (folder / 'Abe' / 'b.PNG').write_bytes(encoded(rgb, '.png'))
    (folder / 'Abe' / 'c.jpeg').write_bytes(encoded(cv2.resize(rgb, (224, 224))))
    (folder / 'Abe' / 'notes.txt').write_text('no picture by name')
    (folder / 'Abe' / '.hidden.jpg').write_text('no picture at all')
    (folder / 'readme.jpg').write_text('not in an identity folder')
    code, result, _ = run_command('make-rec', folder, tmp_path / 'out')
    assert (code, result['images'], result['kept'], result['reencoded']) == (0, 13, 11, 2)
    for label, content in stored(tmp_path / 'out')[1:3]:
        assert label == 0
        assert decoded(content).shape == (112, 112, 3)
        assert np.abs(decoded(content).astype(int) - rgb).mean() < 3


def test_the_quality_matters(folder, tmp_path, rng, run_command):
    (folder / 'Abe' / 'b.png').write_bytes(encoded(picture(rng), '.png'))
    sizes = []
    for quality in (30, 95):
        run_command('make-rec', folder, tmp_path / 'out', '--quality', quality, '--overwrite')
        sizes.append(len(stored(tmp_path / 'out')[1][1]))
    assert sizes[0] < sizes[1] / 2


@pytest.mark.parametrize(
    'line',
    [
        'cy/',
        './cy',
        'faces/cy',
        '../faces/cy/cy_0001.jpg',
        '{folder}/cy',
        '{folder}/../faces/cy/',
        'cy/cy_0001.jpg',
        '"cy"',
        'cy\t5',
        'cy 5',
        'cy,5',
        'cy\t1\t2',
        'cy\t1\tAbe\t2',
        'cy\\cy_0001.jpg',
    ],
)
def test_a_person_is_excluded_however_the_folder_is_spelt(
    folder, tmp_path, run_command, line, monkeypatch
):
    (tmp_path / 'here').mkdir()
    monkeypatch.chdir(tmp_path / 'here' if line[0] == '.' else tmp_path)
    Path('exclude.txt').write_text(line.format(folder=folder) + '\n')
    code, result, _ = run_command('make-rec', folder, 'out', '--exclude', 'exclude.txt')
    expected = ['bea', 'dee'] if 'Abe' in line else ['Abe', 'bea', 'dee']
    assert code == 0 and result['identities'] == len(expected)
    assert Path('out/classes.txt').read_text().split() == expected


@pytest.mark.parametrize('encoding', ['utf-8-sig', 'utf-16', 'utf-8'])
def test_excluded_names_in_other_encodings_and_normal_forms(
    folder, tmp_path, run_command, encoding
):
    (folder / 'cy').rename(folder / unicodedata.normalize('NFD', 'Zo\xe9'))
    exclude = tmp_path / 'exclude.txt'
    exclude.write_bytes('Zo\xe9\r\nbea\r\n'.encode(encoding))
    _, result, _ = run_command('make-rec', folder, tmp_path / 'out', '--exclude', exclude)
    assert result['identities'] == 2
    assert (tmp_path / 'out/classes.txt').read_text() == 'Abe\ndee\n'


def test_a_link_to_an_excluded_person_is_that_person(folder, tmp_path, run_command):
    (folder / 'same').symlink_to(folder / 'cy')
    (tmp_path / 'exclude.txt').write_text('cy\n')
    _, result, _ = run_command(
        'make-rec', folder, tmp_path / 'out', '--exclude', tmp_path / 'exclude.txt'
    )
    assert result['identities'] == 3


def test_an_existing_data_set_is_not_replaced_unasked(folder, tmp_path, run_command):
    assert run_command('make-rec', folder, tmp_path / 'out')[0] == 0
    before = (tmp_path / 'out/train.rec').read_bytes()
    code, _, err = run_command('make-rec', folder, tmp_path / 'out', '--min-images', 3)
    assert code == 2 and 'train.rec is there already' in err and '--overwrite' in err
    assert (tmp_path / 'out/train.rec').read_bytes() == before
    # a .rec of another name reads the same property
    (tmp_path / 'out/train.rec').rename(tmp_path / 'out/faces.rec')
    (tmp_path / 'out/train.idx').rename(tmp_path / 'out/faces.idx')
    code, _, err = run_command('make-rec', folder, tmp_path / 'out', '--min-images', 3)
    assert code == 2 and 'faces.rec is there already' in err
    assert RecordFile(tmp_path / 'out/faces.rec').num_classes == 4


def test_what_is_left_out_is_said(folder, tmp_path, run_command):
    (folder / 'bea' / 'deep').mkdir()
    (folder / 'bea' / 'notes.txt').write_text('no picture')
    (folder / 'alone.jpg').write_bytes((folder / 'Abe' / 'Abe_0001.jpg').read_bytes())
    (folder / '__MACOSX').mkdir()
    (folder / 'bea' / '._bea_0001.jpg').write_text('no picture')
    (folder / 'bea' / 'no_suffix').write_bytes(encoded(picture(np.random), '.jpg'))
    code, result, err = run_command('make-rec', folder, tmp_path / 'out')
    assert (code, result['identities'], result['images']) == (0, 4, 12)
    assert '1 files are no pictures' in err and '.txt 1' in err
    assert 'folders inside 1 identity folders' in err and '1 pictures in no identity folder' in err


def test_one_identity_is_warned_of(folder, tmp_path, run_command):
    code, _, err = run_command('make-rec', folder, tmp_path / 'out', '--min-images', 4)
    assert code == 0 and 'one identity, cy' in err


@pytest.mark.parametrize(
    'form',
    [
        '{n}\t{label}.000000\t{path}',
        '1\t{path}\t{label}',
        '{path} {label}',
        '{label} {path}',
        '{path},{label}',
    ],
)
def test_lists_with_labels_make_the_same_records(folder, tmp_path, run_command, form):
    """im2rec's and InsightFace's .lst, and lines of path and label; labels need not be 0, 1, 2."""
    lines = []
    for label, name in ((11, 'dee'), (5, 'bea'), (2, 'Abe')):
        for path in sorted((folder / name).iterdir()):
            line = form.format(n=len(lines), label=label, path=path.relative_to(folder))
            lines.append(line + '\n')
    (tmp_path / 'x.lst').write_text(''.join(lines))
    code, result, _ = run_command(
        'make-rec', tmp_path / 'x.lst', tmp_path / 'out', '--root', folder
    )
    assert (code, result['identities'], result['images']) == (0, 3, 6)
    expected = [
        (label, path.read_bytes())
        for label, name in enumerate(('Abe', 'bea', 'dee'))
        for path in sorted((folder / name).iterdir())
    ]
    assert stored(tmp_path / 'out') == expected
    assert (tmp_path / 'out/classes.txt').read_text() == '2\n5\n11\n'
    assert (tmp_path / 'out/property').read_text() == '3,112,112\n'


def test_bad_lists_name_the_line(folder, tmp_path, run_command):
    path = tmp_path / 'x.lst'
    for text, reason in (
        ('Abe/Abe_0001.jpg 0\nbea/missing.jpg 1\n', 'x.lst line 2: there is no picture'),
        ('Abe/Abe_0001.jpg\n', "x.lst line 1: 'Abe/Abe_0001.jpg'; expected PATH LABEL"),
        ('\n', 'x.lst is empty'),
    ):
        path.write_text(text)
        code, _, err = run_command('make-rec', path, tmp_path / 'out', '--root', folder)
        assert code == 2 and reason in err


# --- bad input


def test_a_broken_picture_is_named_and_nothing_is_written(folder, tmp_path, run_command):
    broken = folder / 'cy' / 'cy_0003.jpg'
    broken.write_bytes(broken.read_bytes()[:500])
    code, _, err = run_command('make-rec', folder, tmp_path / 'out')
    assert code == 2
    assert f'{broken}: JPEG of 500 bytes is cut off' in err and '--skip-broken' in err
    assert not (tmp_path / 'out').exists()


def test_skip_broken_counts_and_drops_identities_that_get_too_small(folder, tmp_path, run_command):
    for path in (folder / 'Abe' / 'Abe_0001.jpg', folder / 'dee' / 'dee_0002.jpg'):
        path.write_bytes(b'')
    code, result, errors = run_command('make-rec', folder, tmp_path / 'out', '--skip-broken')
    assert code == 0
    for name in ('dee_0002.jpg', 'Abe_0001.jpg'):
        assert re.search(rf'{name}: 0 bytes are no picture .*; left out\n', errors)
    assert 'identity Abe: 0 pictures can be read, of at least 1; left out' in errors
    assert (result['identities'], result['images'], result['kept']) == (3, 9, 9)
    assert (result['skipped'], result['identities_lost']) == (2, 1)
    assert [label for label, _ in stored(tmp_path / 'out')] == [0] * 3 + [1] * 5 + [2]


def test_every_picture_broken_is_an_error(tmp_path, run_command):
    (tmp_path / 'faces' / 'a').mkdir(parents=True)
    (tmp_path / 'faces' / 'a' / '1.jpg').write_bytes(b'')
    code, _, err = run_command('make-rec', tmp_path / 'faces', tmp_path / 'out', '--skip-broken')
    assert code == 2 and 'no identities to write' in err
    assert not (tmp_path / 'out').exists()


def test_an_empty_identity_folder_is_named_unless_excluded(folder, tmp_path, run_command):
    (folder / 'nobody').mkdir()
    code, _, err = run_command('make-rec', folder, tmp_path / 'out')
    assert code == 2 and f'{folder}/nobody holds no pictures' in err
    exclude = tmp_path / 'exclude.txt'
    exclude.write_text('nobody')
    assert run_command('make-rec', folder, tmp_path / 'out', '--exclude', exclude)[0] == 0


def test_no_identity_at_all(tmp_path, run_command):
    (tmp_path / 'faces').mkdir()
    code, _, err = run_command('make-rec', tmp_path / 'faces', tmp_path / 'out')
    assert code == 2 and 'no identity folders' in err
    code, _, err = run_command('make-rec', tmp_path / 'missing', tmp_path / 'out')
    assert code == 2 and 'missing is no folder' in err


@pytest.mark.parametrize(
    ('options', 'reason'),
    [
        (['--min-images', 6], 'none of 4 identities has 6 pictures'),
        (['--min-images', 0], '--min-images 0'),
        (['--min-images', 3, '--max-images', 2], '--max-images 2'),
        (['--max-images', -1], '--max-images -1'),
        (['--quality', 101], '--quality 101'),
        (['--seed', -1], '--seed -1'),
        (['--exclude', 'no/such/file'], '--exclude file no/such/file does not exist'),
    ],
)
def test_wrong_options(folder, tmp_path, run_command, options, reason):
    code, _, err = run_command('make-rec', folder, tmp_path / 'out', *options)
    assert code == 2 and reason in err
    assert not (tmp_path / 'out').exists()


def test_an_output_that_is_a_file(folder, tmp_path, run_command):
    (tmp_path / 'out').write_text('')
    code, _, err = run_command('make-rec', folder, tmp_path / 'out')
    assert code == 2 and 'cannot write here' in err
