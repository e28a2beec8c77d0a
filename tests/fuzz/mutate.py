"""Mutations of valid files: bits, bytes, numbers, cuts, doubles, and texts put in.

Of an archive half of the cases change a member before it is packed, whose checksum then agrees.
"""

import io
import random
import struct
import zipfile

_SMALL, _POWERS = (0, 1, -1, 2, 127, 128, 255, 256), (1 << 15, 1 << 16, 1 << 31)
NUMBERS = (*_SMALL, *_POWERS, (1 << 31) - 1, 1 << 40, (1 << 63) - 1, -(1 << 31), 10**9)
_WORDS = b'0 -1 1e999 NaN null [] {} " \xff \xc2\xb2 \xd9\xa1 \xef\xbb\xbf ../ / %s true 1.5 ()'
TEXTS = (
    *_WORDS.split(b' '),
    b' ',
    b'\n',
    b'\0',
    b'\t',
    b'9' * 30,
    b'9' * 400,
    b'9' * 5000,
    b'[' * 3000,
    b'a' * 3000,
)


def _flip(data, rnd):
    position = rnd.randrange(len(data))
    data[position] ^= 1 << rnd.randrange(8)


def _byte(data, rnd):
    data[rnd.randrange(len(data))] = rnd.choice((0, 1, 127, 128, 255, rnd.randrange(256)))


def _number(data, rnd):
    size, form = rnd.choice(((2, 'H'), (4, 'I'), (8, 'Q')))
    position = rnd.randrange(len(data))
    value = rnd.choice(NUMBERS) & ((1 << 8 * size) - 1)
    data[position : position + size] = struct.pack(rnd.choice('<>') + form, value)


def _cut(data, rnd):
    del data[rnd.randrange(len(data)) :]


def _drop(data, rnd):
    position = rnd.randrange(len(data))
    del data[position : position + rnd.choice((1, 2, 4, 8, 40, 400))]


def _double(data, rnd):
    position = rnd.randrange(len(data))
    size = rnd.choice((1, 4, 16, 64, 400))
    data[position:position] = data[position : position + size] * rnd.choice((1, 1, 2, 50))


def _put(data, rnd):
    position = rnd.randrange(len(data))
    data[position : position + rnd.choice((0, 0, 1, 3))] = rnd.choice(TEXTS)


def _swap(data, rnd):
    first, second = sorted((rnd.randrange(len(data)), rnd.randrange(len(data))))
    size = rnd.choice((1, 4, 20))
    data[first : first + size], data[second : second + size] = (
        data[second : second + size],
        data[first : first + size],
    )


WAYS = (_flip, _byte, _number, _cut, _drop, _double, _put, _put, _swap)


def _changed(data, rnd):
    for _ in range(rnd.choice((1, 1, 1, 2, 4))):
        if data:
            rnd.choice(WAYS)(data, rnd)
    return bytes(data)


def _changed_inside(data, rnd):
    """An archive with one member changed."""
    packed = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(data)) as archive, zipfile.ZipFile(packed, 'w') as changed:
        members = archive.infolist()
        chosen = rnd.choice(members)
        for member in members:
            content = archive.read(member)
            if member is chosen:
                content = _changed(bytearray(content), rnd)
            changed.writestr(member, content)
    return packed.getvalue()


def mutated(seeds, seed, count):
    """`count` pairs (number, content), the same for the same seed."""
    for number in range(count):
        rnd = random.Random(seed * 1_000_003 + number)
        data = rnd.choice(seeds)
        if data[:4] == b'PK\3\4' and rnd.random() < 0.5:
            yield number, _changed_inside(data, rnd)
        else:
            yield number, _changed(bytearray(data), rnd)
