"""Class centres and their momenta: the arrays that are too large to be parameters of a Module."""

import tempfile
from typing import Optional, Union

import cv2
import numpy as np

from ...common.files import PathLike, naming, reserve
from ...common.memory import free_memory
from ...common.parallel import ordered_map

INITIAL_DEVIATION = 0.01  # of the centres' values, as in the MXNet original
BLOCK = 1024  # rows that NumPy works on at a time: a few such arrays stay in the cache
_START_BLOCK = 4096  # classes whose first values are drawn together

_MOST_OF_MEMORY = 0.9  # the network needs some as well

Rows = Union[slice, np.ndarray]

DTYPES = ('float32', 'float16')
_SMALLEST_NORMAL = 2.0**-14  # of float16; below, its values are multiples of 2**-24
_LARGEST = 65504.0  # of float16
_DROPPED_BITS = 13  # of float32's mantissa that float16 has not


def round_at_random(values: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """float32 -> float16, up or down at random so that the mean is the value itself.

    A change that is smaller than the distance of float16 numbers would be lost by rounding to the
    nearest one, every time; so it is kept in the mean (Gupta et al., arXiv:1502.02551). Chances
    are multiples of 2**-13. Values beyond float16 become its largest.
    """
    noise = np.frombuffer(random.bytes(2 * values.size), np.uint16).reshape(values.shape)
    noise = noise & np.uint16((1 << _DROPPED_BITS) - 1)
    values = np.clip(values, -_LARGEST, _LARGEST)
    bits = values.view(np.uint32) + noise  # away from zero, over the edge of what is kept or not
    bits &= np.uint32(0xFFFFFFFF << _DROPPED_BITS & 0xFFFFFFFF)
    rounded = np.clip(bits.view(np.float32), -_LARGEST, _LARGEST)
    # near zero float16 is as fine as float32 is from 0.5 to 1, whose own rounding is used there
    share = (noise + np.float32(0.5)) * np.float32(2.0**-_DROPPED_BITS) - np.float32(0.5)
    small = values + share * np.float32(2.0**-24)
    small += np.float32(0.75)
    small -= np.float32(0.75)
    np.copyto(rounded, small, where=np.abs(values) < _SMALLEST_NORMAL)
    return to_float16(rounded)


# OpenCV's conversions use the processor's; NumPy's take ten times as long
def to_float16(values: np.ndarray) -> np.ndarray:
    """(M, D) or (M,) float32 -> float16, to the nearest."""
    return cv2.convertFp16(values).view(np.float16).reshape(values.shape)


def to_float32(values: np.ndarray) -> np.ndarray:
    """(M, D) float16 -> float32; float32 as it is."""
    if values.dtype == np.float32 or not values.size:
        return values.astype(np.float32, copy=False)
    return cv2.convertFp16(values.view(np.int16)).reshape(values.shape)


def _mapped(shape: tuple, dtype: str, folder: PathLike) -> np.ndarray:
    """Zeros in a file without a name in `folder`, whose room is reserved; it is gone when the
    process is, however it ends."""
    size = int(np.prod(shape)) * np.dtype(dtype).itemsize
    with naming(folder), tempfile.TemporaryFile(dir=folder) as handle:
        # a full disk is an error here, not a SIGBUS at some step
        reserve(handle.fileno(), 0, size)
        return np.asarray(np.memmap(handle, dtype, 'r+', shape=shape))


class Centres:
    """Centres and momenta of a shard, (rows, width) each, zeros at first.

    Parameters
    ----------
    rows : classes
    width : values of a class: the embedding size times the centres of a class
    dtype : of `DTYPES`, in which they are stored; with float16 every update is rounded at random
    folder : where the two take more than `_MOST_OF_MEMORY` of what is free beside a step, they are
        files mapped into memory there, and a step goes at the disk's pace. None: plain memory in
        any case.
    beside : bytes that a step needs as well
    """

    def __init__(
        self,
        rows: int,
        width: int,
        dtype: str = 'float32',
        folder: Optional[PathLike] = None,
        beside: int = 0,
    ):
        self.rows, self.width, self.dtype = rows, width, dtype
        shape = (rows, width)
        size = 2 * rows * width * np.dtype(dtype).itemsize
        self.on_disk = folder is not None and size > _MOST_OF_MEMORY * (free_memory() - beside)

        def zeros() -> np.ndarray:
            return _mapped(shape, dtype, folder) if self.on_disk else np.zeros(shape, dtype)

        self.weights, self.momenta = zeros(), zeros()

    def start(self, seed: int, first_class: int) -> None:
        """Normal values of deviation 0.01: a class's are a function of (seed, class), however the
        classes are sharded."""
        block, end = _START_BLOCK, first_class + self.rows

        def fill(start: int) -> None:
            random = np.random.default_rng([seed, start])
            values = random.standard_normal((block, self.width), np.float32)
            low, high = max(start, first_class), min(start + block, end)
            part = values[low - start : high - start] * np.float32(INITIAL_DEVIATION)
            part = part if self.dtype == 'float32' else to_float16(part)
            rows = slice(low - first_class, high - first_class)
            self.weights[rows] = part
            self.momenta[rows] = 0  # a page's first write takes time: here, not in some step

        for _ in ordered_map(fill, range(first_class - first_class % block, end, block)):
            pass

    def read(self, rows: Rows) -> tuple[np.ndarray, np.ndarray]:
        """Copies of centres and momenta of some rows, float32."""
        weights, momenta = self.read_weights(rows), to_float32(self.momenta[rows])
        if isinstance(rows, slice) and self.dtype == 'float32':  # views
            return weights.copy(), momenta.copy()
        return weights, momenta

    def read_weights(self, rows: Rows) -> np.ndarray:
        """The centres of some rows, float32; of a slice perhaps no copy."""
        return to_float32(self.weights[rows])

    def write(
        self,
        rows: Rows,
        weights: np.ndarray,
        momenta: np.ndarray,
        random: np.random.Generator,
    ) -> None:
        """Store what `read` gave, changed; `random` is drawn from where values are rounded."""
        if not len(weights):
            return
        for stored, values in ((self.weights, weights), (self.momenta, momenta)):
            stored[rows] = values if self.dtype == 'float32' else round_at_random(values, random)
