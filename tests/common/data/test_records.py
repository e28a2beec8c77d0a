import numpy as np
import pytest
from pictures import decoded, encoded, jpeg, picture, write_folder
from vargfacenet.common.data.image import decode_rgb
from vargfacenet.common.data.recordio import write_face_records
from vargfacenet.common.data.records import (
    UNLABELLED,
    check_crops,
    next_crop,
    open_records,
    side_file,
)
from vargfacenet.common.errors import InputError

COUNTS = {'bea': 3, 'Abe': 1, 'cy': 2}


@pytest.fixture
def folder(tmp_path, rng):
    return write_folder(tmp_path / 'faces', rng, COUNTS)


def everything(records):
    return [records.read(position) for position in range(len(records))]


def test_a_folder_and_the_record_file_made_of_it_are_the_same_set(folder, tmp_path, run_command):
    (folder / 'cy' / 'cy_0003.png').write_bytes(encoded(decoded(jpeg(np.random)), '.png'))
    assert run_command('make-rec', folder, tmp_path / 'rec')[0] == 0
    from_folder, from_file = open_records(folder), open_records(tmp_path / 'rec')
    assert len(from_folder) == len(from_file) == 7
    assert from_folder.num_classes == from_file.num_classes == 3
    assert from_folder.class_names == from_file.class_names == ('Abe', 'bea', 'cy')
    assert everything(from_folder)[:6] == everything(from_file)[:6]
    assert from_folder.read(6)[0] == from_file.read(6)[0] == 2
    assert side_file(from_folder.source, '.teacher') == folder / 'train.teacher'
    assert side_file(from_file.source, '.teacher') == tmp_path / 'rec' / 'train.teacher'
    assert from_folder.name(6) == str(folder / 'cy' / 'cy_0003.png')
    for records in (from_folder, from_file):
        records.will_need(0, 7)
        with pytest.raises(IndexError):
            records.read(7)
        records.close()


def test_crops_without_identity_folders_are_a_set_without_labels(tmp_path, rng):
    contents = [jpeg(rng) for _ in range(3)]
    for number, content in enumerate(contents):
        (tmp_path / f'{number}.jpg').write_bytes(content)
    (tmp_path / 'notes.txt').write_text('no picture')
    records = open_records(tmp_path)
    assert (len(records), records.num_classes, records.class_names) == (3, 0, ())
    assert everything(records) == [(UNLABELLED, content) for content in contents]


def test_the_digest_of_a_folder_follows_names_and_pictures(folder, rng):
    digests = [open_records(folder).digest() for _ in range(2)]
    (folder / 'bea' / 'bea_0001.jpg').rename(folder / 'bea' / 'bea_0009.jpg')
    digests.append(open_records(folder).digest())
    content = (folder / 'cy' / 'cy_0001.jpg').read_bytes()
    (folder / 'cy' / 'cy_0001.jpg').write_bytes(content[:-3] + b'\0' + content[-2:])
    digests.append(open_records(folder).digest())
    assert digests[0] == digests[1] and len(set(digests)) == 3


def test_a_picture_lost_meanwhile_is_named(folder):
    records = open_records(folder)
    path = folder / 'bea' / 'bea_0001.jpg'
    path.unlink()
    path.mkdir()
    for read in (records.digest, lambda: everything(records)):
        with pytest.raises(InputError, match=f'{path}: it cannot be read'):
            read()


def test_a_record_file_of_any_name_is_found_if_it_is_the_only_one(tmp_path, rng):
    write_face_records(tmp_path / 'mine', [[jpeg(rng)], [jpeg(rng)]])
    for place in (tmp_path, tmp_path / 'mine.rec', tmp_path / 'mine'):
        assert open_records(place).source == tmp_path / 'mine.rec'
    write_face_records(tmp_path / 'other', [[jpeg(rng)]])
    with pytest.raises(InputError, match=r'mine\.rec, other\.rec and no train\.rec'):
        open_records(tmp_path)
    write_face_records(tmp_path / 'train', [[jpeg(rng)]])
    assert open_records(tmp_path).source == tmp_path / 'train.rec'


def test_class_names_of_another_set_are_not_taken(tmp_path, rng):
    write_face_records(tmp_path / 'train', [[jpeg(rng)], [jpeg(rng)]])
    (tmp_path / 'classes.txt').write_text('anna\n')
    assert open_records(tmp_path).class_names == ()
    (tmp_path / 'classes.txt').write_text('anna\nbea\n')
    assert open_records(tmp_path).class_names == ('anna', 'bea')


def test_what_is_no_training_set(tmp_path, folder):
    with pytest.raises(InputError, match='missing does not exist'):
        open_records(tmp_path / 'missing')
    (tmp_path / 'empty').mkdir()
    with pytest.raises(InputError, match=r'empty holds neither train\.rec nor crops'):
        open_records(tmp_path / 'empty')
    records = open_records(folder)
    (folder / 'cy' / 'cy_0002.jpg').unlink()
    with pytest.raises(InputError, match=r'cy_0002\.jpg: it cannot be read \(No such file'):
        records.read(5)


def test_what_is_decoded_is_the_picture(folder, rng):
    rgb = picture(rng)
    (folder / 'Abe' / 'Abe_0001.jpg').write_bytes(encoded(rgb, '.png'))  # whatever its name says
    np.testing.assert_array_equal(decode_rgb(open_records(folder).read(0)[1]), rgb)


@pytest.mark.timeout(30)
def test_where_nothing_can_be_read_the_last_reason_is_told(tmp_path, rng):
    """However many may be left out: there is no picture to take the place of another."""
    for number in range(3):
        small = encoded(picture(rng, 40, 40))
        (tmp_path / f'{number}.jpg').write_bytes(small)
    records, bad = open_records(tmp_path), {}
    with pytest.raises(InputError, match=r'40x40.*; --skip-corrupt N leaves up to N'):
        next_crop(records, 1, {}, allowed=1)
    with pytest.raises(InputError, match='40x40') as told:  # where leaving out helps nobody
        next_crop(records, 1, bad, allowed=100)
    assert len(bad) == 3 and '--skip-corrupt' not in str(told.value)


def test_photographs_in_the_place_of_crops_are_known_by_their_size(folder, rng):
    records = open_records(folder)
    check_crops(records)
    paths = [path for path in sorted(folder.rglob('*')) if path.is_file()]
    paths[0].write_bytes(b'\xff\xd8\xff broken')  # is left to whoever reads it
    for path in paths[1:-1]:
        path.write_bytes(encoded(picture(rng, 300, 400)))
    check_crops(records)  # one crop: the others are named by the step that meets them
    paths[-1].write_bytes(encoded(picture(rng, 90, 80)))
    with pytest.raises(InputError, match=r'no aligned crops.*: .* 400x300 pixels; `vargfacenet al'):
        check_crops(records)
