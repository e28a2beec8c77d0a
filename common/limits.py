"""How large what a file announces may be. Readers look at a header and ask here, before they make
room for anything.

A limit is far above what any real file of its kind holds, and low enough that whatever passes fits
into the memory of a small machine. Where the size of a file bounds its content (arrays stored as
they are), there is no limit but that size.
"""

from .errors import InputError

TEXT_BYTES = 256 << 20  # lists, labels, JSON; MegaFace's list of a million pictures is 60 MB
STUDY_BYTES = 1 << 20  # of an experiment's file; ours have a few KB
STUDY_RUNS = 1 << 12  # of an experiment; ours have up to 30, and each takes minutes at least
NAME_BYTES = 1 << 10  # of a parameter or a layer; the longest of any known network has 70
NUM_ARRAYS = 1 << 17  # in one file
NUM_AXES = 8  # of an array
PICTURE_BYTES = 1 << 30  # of a picture's file; 100 million pixels of 16 bits have 600 MB
WEB_PIXELS = 25_000_000  # of a picture sent to the web page; one of 100 million takes 0.9 GB there
VIDEO_PIXELS = 40_000_000  # of a frame; 8K has 33 million
NUM_NODES = 1 << 16  # of a network; ResNet-100 with attention has 1,900
LAYER_LENGTH = 1 << 24  # of any axis of a layer: 16 million classes
LAYER_BYTES = 16 << 20  # of what one layer gives for one picture; ResNet-100's largest has 3 MB
NETWORK_BYTES = 1 << 30  # of what all layers give; ResNet-100 with attention has 0.1 GB
HOLES = 1 << 30  # of a file that may hold some, where half of it is none

# Compressed arrays may unpack to this much, or to the file's size times the factor if that is more:
# embeddings shrink by 1.1, labels and masks by 20; deflate could reach 1000.
UNPACKED_BYTES = 256 << 20
UNPACKED_FACTOR = 64


def within(value: int, limit: int, what: str) -> None:
    """InputError if `value`, a size that a header announces, is negative or above `limit`."""
    if not 0 <= value <= limit:
        raise InputError(f'{what} is announced as {value}; at most {limit} is accepted')
