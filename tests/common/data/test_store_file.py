"""Headers of teacher stores."""

import pytest
from vargfacenet.common.data.store_file import HEADER_BYTES, read_header
from vargfacenet.common.errors import InputError

# as a store begins; the checksum at its end was calculated by zlib alone
STORED = (
    '{"teacher": "y1/model,0", '
    '"teacher_hash": "ed28aea16b1a3c23b930f28ddf77d6b41f191c9d26407338142d1f194e806acd", '
    '"data": "datasets/lfw_all/train.rec", '
    '"data_hash": "3989fd9cd9356f13ccec36d6f3621846e37f03e1e1d9443dad101909b5eb9ba2", '
    '"records": 9357, "embedding_size": 128, "engine": "openvino", "done": 9357, '
    '"crc32": 4185991741, '
    '"preprocessing": "RGB 0..255 112x112, image and mirror image, unit length, version 1", '
    '"views": 22, "augmentation": "mild,mixing(probability=0.5)", "view_seed": 0, '
    '"kind": "vargfacenet teacher store", "header_crc32": 648926334}'
)


def test_a_stored_header_is_whole(tmp_path):
    path = tmp_path / 'train.teacher.f16'
    path.write_bytes(STORED.encode().ljust(HEADER_BYTES))
    header = read_header(path)
    assert (header.records, header.views, header.crc32) == (9357, 22, 4185991741)


@pytest.mark.parametrize('change', [('9357', '9356'), ('4185991741', '4185991740')])
def test_a_changed_header_is_named(tmp_path, change):
    """The checksum of the rows, which stands in the header, is covered as well."""
    path = tmp_path / 'train.teacher.f16'
    path.write_bytes(STORED.replace(*change).encode().ljust(HEADER_BYTES))
    with pytest.raises(InputError, match='damaged after it was written: its header'):
        read_header(path)
