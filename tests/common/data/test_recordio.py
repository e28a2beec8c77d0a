import os
import struct
import zlib
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from pictures import jpeg
from vargfacenet.common.backend import mx
from vargfacenet.common.checksums import CHECKSUMS
from vargfacenet.common.data.recordio import (
    RecordFile,
    RecordWriter,
    read_property,
    write_face_records,
)
from vargfacenet.common.errors import InputError, RunError

MAGIC = struct.pack('<I', 0xCED7230A)
COUNTS = (3, 1, 2)


@pytest.fixture
def images(rng):
    return [[jpeg(rng) for _ in range(count)] for count in COUNTS]


@pytest.fixture
def rec(tmp_path, images):
    write_face_records(tmp_path / 'train', images)
    (tmp_path / CHECKSUMS).unlink()  # a set of others has no such list; its own test has
    return tmp_path / 'train.rec'


def plain_rec(folder, records, keys=None, num_classes=3):
    """A file written by MXNet alone: records of (label, content) at the given keys."""
    writer = mx.recordio.MXIndexedRecordIO(str(folder / 'p.idx'), str(folder / 'p.rec'), 'w')
    for key, (label, content) in zip(keys or range(len(records)), records):
        header = mx.recordio.IRHeader(0, label, key, 0)
        writer.write_idx(key, mx.recordio.pack(header, content))
    writer.close()
    (folder / 'property').write_text(f'{num_classes},112,112')
    return folder / 'p.rec'


def sealed(label, key, content):
    """id2 as the format's description has it: the mark, and the CRC-32 of all but the ids."""
    packed = mx.recordio.pack(mx.recordio.IRHeader(0, label, key, 0), content)
    return 0x56474352 << 32 | zlib.crc32(packed[:8] + packed[24:])


def by_hand(rec):
    """{key: (flag, label, id, label array, content)} from the bytes, parts put together."""
    content = rec.read_bytes()
    records = {}
    for line in rec.with_suffix('.idx').read_text().splitlines():
        key, start = (int(word) for word in line.split('\t'))
        magic, word = struct.unpack_from('<II', content, start)
        assert magic == 0xCED7230A and word >> 29 == 0
        payload = content[start + 8 : start + 8 + word]
        flag, label, number, _ = struct.unpack_from('<IfQQ', payload)
        array = struct.unpack_from(f'<{flag}f', payload, 24)
        records[key] = (flag, label, number, array, payload[24 + 4 * flag :])
    return records


def test_the_written_file_has_the_grouped_layout(rec, images):
    records = by_hand(rec)
    flat = [(label, image) for label, group in enumerate(images) for image in group]
    assert list(records) == [1, 2, 3, 4, 5, 6, 7, 8, 9, 0]  # record 0 is the last
    for key, (label, image) in enumerate(flat, 1):
        assert records[key] == (0, label, key, (), image)
    assert [records[key] for key in (7, 8, 9)] == [
        (2, 0, 7, (1, 4), b''),
        (2, 0, 8, (4, 5), b''),
        (2, 0, 9, (5, 7), b''),
    ]
    assert records[0] == (2, 0, 0, (7, 10), b'')
    assert rec.with_name('property').read_text() == '3,112,112\n'


def test_the_files_are_mxnets_byte_for_byte(tmp_path, rng):
    """Payloads of all lengths, with the magic number at every place and several times over."""
    words = [MAGIC, MAGIC[:2], b'\0', b'abcd']
    contents = [b'', MAGIC, MAGIC * 3, b'x' + MAGIC, jpeg(rng)]
    contents += [b''.join(words[i] for i in rng.randint(0, 4, n)) for n in rng.randint(1, 40, 200)]
    labels = [float(number) if number % 3 else [number, 0.5] for number in range(len(contents))]
    theirs = mx.recordio.MXIndexedRecordIO(str(tmp_path / 'a.idx'), str(tmp_path / 'a.rec'), 'w')
    with RecordWriter(tmp_path / 'b.rec', tmp_path / 'b.idx') as ours:
        for key, (label, content) in enumerate(zip(labels, contents), 1):
            header = mx.recordio.IRHeader(0, label, key, sealed(label, key, content))
            theirs.write_idx(key, mx.recordio.pack(header, content))
            ours.write(key, label, content)
    theirs.close()
    assert (tmp_path / 'b.rec').read_bytes() == (tmp_path / 'a.rec').read_bytes()
    assert (tmp_path / 'b.idx').read_bytes() == (tmp_path / 'a.idx').read_bytes()
    (tmp_path / 'property').write_text(f'{len(labels)},112,112')
    records = RecordFile(tmp_path / 'b.rec')
    read = [records.read(position)[1] for position in range(1, len(contents))]
    assert read == contents[1:]


def test_mxnet_reads_the_written_file(rec, images):
    reader = mx.recordio.MXIndexedRecordIO(str(rec.with_suffix('.idx')), str(rec), 'r')
    header, _ = mx.recordio.unpack(reader.read_idx(0))
    assert header.flag == 2
    read = []
    for key in range(int(header.label[0]), int(header.label[1])):
        bounds, _ = mx.recordio.unpack(reader.read_idx(key))
        group = range(*(int(bound) for bound in bounds.label))
        read.append([mx.recordio.unpack(reader.read_idx(image))[1] for image in group])
    assert read == images


def test_the_reader_returns_labels_and_bytes(rec, images):
    records = RecordFile(rec)
    assert (len(records), records.num_classes, records.grouped) == (6, 3, True)
    expected = [(label, image) for label, group in enumerate(images) for image in group]
    assert [records.read(position) for position in range(6)] == expected
    with pytest.raises(IndexError):
        records.read(6)


def test_the_reader_takes_the_prefix_and_generators_can_be_written(tmp_path, images):
    written = write_face_records(tmp_path / 'x.y', ((image for image in g) for g in images))
    assert written[:2] == (3, 6)
    assert written.paths.rec == tmp_path / 'x.y.rec'
    assert len(RecordFile(tmp_path / 'x.y')) == 6


def test_plain_files_of_mxnet_are_read(tmp_path, images):
    flat = [(float(label), image) for label, group in enumerate(images) for image in group]
    records = RecordFile(plain_rec(tmp_path, flat, keys=[40, 7, 9, 2, 3, 11]))
    assert (len(records), records.grouped) == (6, False)
    by_key = [flat[i] for i in (3, 4, 1, 2, 5, 0)]
    assert [records.read(position) for position in range(6)] == by_key
    assert records.name(5).endswith('p.rec record 40')


def test_an_array_label_counts_by_its_first_number(tmp_path, images):
    """Some packers store (class, aligned?); in a plain file record 0 is then no group header."""
    flat = [([float(label), 1.0], group[0]) for label, group in enumerate(images)]
    records = RecordFile(plain_rec(tmp_path, flat))
    assert not records.grouped
    assert [records.read(position)[0] for position in range(3)] == [0, 1, 2]


def test_a_payload_that_holds_the_magic_number_is_put_together(tmp_path, rng):
    contents = [
        MAGIC,
        MAGIC * 3,
        b'abcd' + MAGIC + b'efg',
        b'abc' + MAGIC + b'd',
        b'abcd' + MAGIC + b'efgh' + MAGIC,
    ]
    rec = plain_rec(tmp_path, [(0.0, content) for content in contents])
    records = RecordFile(rec)
    assert [records.read(position)[1] for position in range(5)] == contents
    kinds = set()
    for line in rec.with_suffix('.idx').read_text().splitlines():
        start = int(line.split()[1])
        kinds.add(struct.unpack_from('<II', rec.read_bytes(), start)[1] >> 29)
    assert kinds == {0, 1}  # only a magic number at a multiple of four splits a record


def test_every_flipped_bit_of_a_record_is_noticed(rec, images, rng):
    """In pictures, labels, ids, frames and paddings alike: another picture or label never comes."""
    content = rec.read_bytes()
    expected = [(label, image) for label, group in enumerate(images) for image in group]
    starts = [int(line.split()[1]) for line in rec.with_suffix('.idx').read_text().splitlines()]
    places = [start + byte for start in starts[:6] for byte in range(32)]  # frame and header
    places += rng.randint(0, starts[6], 200).tolist()
    unread = {start + byte for start in starts[:6] for byte in range(16, 24)}  # ids
    for start, following in zip(starts, starts[1:7]):
        end = start + 8 + struct.unpack_from('<II', content, start)[1]
        unread.update(range(end, following))  # padding
    for place in places:
        damaged = bytearray(content)
        damaged[place] ^= 1 << rng.randint(8)
        rec.write_bytes(damaged)
        try:
            records = RecordFile(rec)
        except InputError:
            continue
        read, refused = [], 0
        for position in range(6):
            try:
                read.append(records.read(position))
            except InputError as error:
                assert 'record' in str(error)
                refused += 1
                read.append(expected[position])
        assert read == expected and (refused == 1 or place in unread), place
        records.close()


def test_records_of_others_are_read_unchecked(tmp_path, images):
    flat = [(float(label), image) for label, group in enumerate(images) for image in group]
    rec = plain_rec(tmp_path, flat)
    records = RecordFile(rec)
    assert not records.has_checksum(0)
    content = bytearray(rec.read_bytes())
    content[int(rec.with_suffix('.idx').read_text().split()[1]) + 200] ^= 4
    rec.write_bytes(content)
    assert RecordFile(rec).read(0) != flat[0]


def test_a_tool_that_copies_headers_keeps_the_checksum(tmp_path, rec, images):
    """unpack and pack of MXNet with other ids, as shufflers do."""
    reader = mx.recordio.MXIndexedRecordIO(str(rec.with_suffix('.idx')), str(rec), 'r')
    (tmp_path / 'again').mkdir()
    writer = mx.recordio.MXRecordIO(str(tmp_path / 'again' / 'train.rec'), 'w')
    for key in (5, 1, 3):
        header, content = mx.recordio.unpack(reader.read_idx(key))
        writer.write(mx.recordio.pack(header._replace(id=key + 100), content))
    writer.close()
    (tmp_path / 'again' / 'property').write_text('3,112,112')
    records = RecordFile(tmp_path / 'again' / 'train.rec')
    assert records.has_checksum(0)
    flat = [(label, image) for label, group in enumerate(images) for image in group]
    assert [records.read(position) for position in range(3)] == [flat[4], flat[0], flat[2]]


def test_many_threads_read_the_same(rec, images):
    records = RecordFile(rec)
    expected = [image for group in images for image in group]
    with ThreadPoolExecutor(8) as pool:
        read = list(pool.map(lambda n: records.read(n % 6)[1], range(3000)))
    assert read == expected * 500


def test_empty_identities_of_others_are_no_hindrance(tmp_path, images):
    """InsightFace's cleaned sets keep identities whose range [a, a) is empty."""
    flat = [(0.0, images[0][0]), (2.0, images[2][0])]
    ranges = [([1.0, 2.0], b''), ([2.0, 2.0], b''), ([2.0, 3.0], b''), ([3.0, 6.0], b'')]
    records = RecordFile(plain_rec(tmp_path, flat + ranges, keys=[1, 2, 3, 4, 5, 0]))
    assert [records.read(n)[0] for n in range(len(records))] == [0, 2]


def test_the_file_is_closed_once_nobody_uses_it(rec):
    def open_files():
        return sum(
            os.path.realpath(f'/proc/self/fd/{fd}') == str(rec.resolve())
            for fd in os.listdir('/proc/self/fd')
        )

    if not os.path.isdir('/proc/self/fd'):
        pytest.skip('needs /proc')
    records, other = RecordFile(rec), RecordFile(rec)
    assert open_files() == 2
    records.close()
    assert open_files() == 1
    del other
    assert open_files() == 0


# --- bad files


def test_an_identity_without_pictures_leaves_nothing_behind(tmp_path, images):
    with pytest.raises(InputError, match='identity 1 has no pictures'):
        write_face_records(tmp_path / 'train', [images[0], [], images[2]])
    with pytest.raises(InputError, match='no identities'):
        write_face_records(tmp_path / 'train', [])
    assert list(tmp_path.iterdir()) == []


def test_an_interrupted_rewrite_keeps_the_old_files(rec, images):
    before = {path.name: path.read_bytes() for path in rec.parent.iterdir()}

    def broken():
        yield images[0]
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_face_records(rec, broken())
    assert {path.name: path.read_bytes() for path in rec.parent.iterdir()} == before


@pytest.mark.parametrize('size', [20_000, 500], ids=['while writing', 'on closing'])
def test_a_disk_that_is_full_is_reported_and_leaves_nothing_behind(tmp_path, size):
    """A limit of the file size stands in for the full disk: writes fail in the same way."""
    resource = pytest.importorskip('resource')
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (400, limits[1]))
    try:
        with pytest.raises(RunError, match=r'train\.rec: writing failed'):
            write_face_records(tmp_path / 'train', [[b'x' * size]])
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize('name', ['train.rec', 'property'])
def test_each_file_is_needed(rec, name):
    rec.with_name(name).unlink()
    with pytest.raises(InputError, match=f'{name} does not exist'):
        RecordFile(rec)


def test_a_file_without_its_index_is_read_through(tmp_path, rec, images, rng):
    """InsightFace's rec2shufrec writes none, and four lines of property."""
    expected = [RecordFile(rec).read(position) for position in range(6)]
    rec.with_suffix('.idx').unlink()
    rec.with_name('property').write_text('3,112,112\n6\nshuffled\n2020-01-01 00:00:00\n')
    records = RecordFile(rec)
    assert [records.read(position) for position in range(len(records))] == expected
    (tmp_path / 'shuffled').mkdir()
    content = [b'12' + MAGIC * 3, *(image for group in images for image in group)]
    writer = mx.recordio.MXRecordIO(str(tmp_path / 'shuffled' / 'train.rec'), 'w')
    for number, image in enumerate(content):
        writer.write(mx.recordio.pack(mx.recordio.IRHeader(0, number % 3, number, 0), image))
    writer.close()
    (tmp_path / 'shuffled' / 'property').write_text('3,112,112')
    records = RecordFile(tmp_path / 'shuffled' / 'train.rec')
    read = [records.read(position) for position in range(len(records))]
    assert read == [(number % 3, image) for number, image in enumerate(content)]


@pytest.mark.parametrize('lost', [1, 20, 3000])
def test_a_cut_off_file_without_its_index_is_noticed(rec, lost):
    rec.with_suffix('.idx').unlink()
    os.truncate(rec, rec.stat().st_size - lost)
    with pytest.raises(InputError, match=r'train\.rec.*(is cut off|no record starts)'):
        RecordFile(rec)


def test_byte_order_marks_are_no_part_of_the_text(rec):
    for path in (rec.with_suffix('.idx'), rec.with_name('property')):
        path.write_bytes(b'\xef\xbb\xbf' + path.read_bytes().replace(b'\n', b'\r\n'))
    records = RecordFile(rec)
    assert (len(records), records.num_classes) == (6, 3)


def test_the_digest_follows_the_data(rec, images):
    before = RecordFile(rec).digest()
    assert RecordFile(rec).digest() == before
    write_face_records(rec, [images[2], images[1], images[0]])
    assert RecordFile(rec).digest() != before


@pytest.mark.parametrize('lost', [1, 20, 3000])
def test_a_truncated_rec_is_noticed_at_once(rec, lost):
    os.truncate(rec, rec.stat().st_size - lost)
    with pytest.raises(InputError, match=r'train\.rec.*(cut off|ends at)'):
        RecordFile(rec)


def test_an_index_past_the_end_names_the_record(rec):
    idx = rec.with_suffix('.idx')
    idx.write_text(idx.read_text() + '10\t99999999\n')
    with pytest.raises(InputError, match=r'train\.idx: record 10 starts at byte 99999999'):
        RecordFile(rec)


def test_an_index_of_another_file_is_noticed_when_read(rec):
    idx = rec.with_suffix('.idx')
    lines = idx.read_text().splitlines()
    key, start = lines[1].split('\t')
    lines[1] = f'{key}\t{int(start) + 4}'
    idx.write_text('\n'.join(lines))
    records = RecordFile(rec)
    records.read(0)
    with pytest.raises(InputError, match=r'train\.rec record 2 .*does not start like a record'):
        records.read(1)


@pytest.mark.parametrize(
    ('text', 'reason'),
    [
        ('', 'is empty'),
        ('1\t0\n2', 'middle of a line'),
        ('1\t0\nx\t5\n', 'two whole numbers'),
        ('1\t0\n1\t0\n', 'record 1 is listed twice'),
        ('1\t-8\n', 'negative'),
    ],
)
def test_malformed_indices(rec, text, reason):
    rec.with_suffix('.idx').write_text(text)
    with pytest.raises(InputError, match=reason):
        RecordFile(rec)


def test_an_index_without_the_end_of_the_file_is_reported(rec, caplog):
    idx = rec.with_suffix('.idx')
    idx.write_text(''.join(line + '\n' for line in idx.read_text().splitlines()[:6]))
    assert len(RecordFile(rec)) == 6
    assert 'lists nothing in the last' in caplog.text


def test_an_index_that_lacks_images_is_noticed(rec):
    idx = rec.with_suffix('.idx')
    lines = idx.read_text().splitlines()
    idx.write_text('\n'.join(lines[:2] + lines[3:]))
    with pytest.raises(InputError, match=r'announces images 1\.\.6; .*lists 5'):
        RecordFile(rec)


@pytest.mark.parametrize(
    ('text', 'reason'),
    [
        ('', 'expected one line CLASSES,112,112'),
        ('3', 'expected one line'),
        ('3,112,112,3', 'expected one line'),
        ('three,112,112', 'expected one line'),
        ('0,112,112', 'expected one line'),
        ('3,112,96', '112x96; this network needs 112x112'),
        ('2,112,112', 'announces 3 identities; .*property says 2 classes'),
    ],
)
def test_bad_property_files(rec, text, reason):
    rec.with_name('property').write_text(text)
    with pytest.raises(InputError, match=reason):
        RecordFile(rec)


def test_property_may_state_another_size_if_asked(tmp_path):
    (tmp_path / 'property').write_text('10,224,224\n')
    assert read_property(tmp_path / 'property', 224) == 10


@pytest.mark.parametrize('label', [3.0, -1.0, 0.5, float('nan')])
def test_a_label_out_of_range_names_the_record(tmp_path, rng, label):
    records = RecordFile(plain_rec(tmp_path, [(0.0, jpeg(rng)), (label, jpeg(rng))]))
    assert records.read(0)[0] == 0
    with pytest.raises(InputError, match=r'p\.rec record 1 .*has label .*allows 0\.\.2'):
        records.read(1)


def test_a_record_without_a_picture_is_named(tmp_path, rng):
    records = RecordFile(plain_rec(tmp_path, [(0.0, jpeg(rng)), (0.0, b'')]))
    with pytest.raises(InputError, match=r'record 1 .*no picture'):
        records.read(1)


def test_a_payload_too_short_for_a_header_is_named(tmp_path):
    writer = mx.recordio.MXIndexedRecordIO(str(tmp_path / 'p.idx'), str(tmp_path / 'p.rec'), 'w')
    writer.write_idx(1, b'short')
    writer.write_idx(2, struct.pack('<IfQQ', 9, 0, 0, 0))
    writer.close()
    (tmp_path / 'property').write_text('3,112,112')
    records = RecordFile(tmp_path / 'p.rec')
    with pytest.raises(InputError, match=r'record 1 .*5 bytes'):
        records.read(0)
    with pytest.raises(InputError, match=r'record 2 .*9 numbers'):
        records.read(1)


def test_a_large_index_is_kept_in_two_arrays(rec):
    """Two int64 per record and no Python objects: 5.8 million records fit in 93 MB."""
    idx = rec.with_suffix('.idx')
    count = 200_000
    rows = np.column_stack([np.arange(count), np.zeros(count, int)])
    np.savetxt(idx, rows, fmt='%d', delimiter='\t')
    records = RecordFile(rec)
    assert len(records) == count
    held = sum(value.nbytes for value in vars(records).values() if isinstance(value, np.ndarray))
    assert held == 16 * count
