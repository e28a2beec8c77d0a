"""All pairs of two sets of embeddings that score above a threshold, without the score matrix.

A fast kernel (bfloat16 tiles where the CPU has AMX, else bytes, else float32) finds every pair that
may pass, given a proven bound of its error; `exact_scores` then decides. The score of a pair is the
dot product in float64, rounded to float32: the same whatever kernel looked for it.

The kernels are C++ (kernels/), compiled at set-up; without a compiler NumPy does the same. One
library holds them in forms for several CPUs, of which the best that this one runs is used.
Letters: N rows (probes), M columns (distractors), D embedding size.
"""

import ctypes
import functools
import os
import platform
from pathlib import Path
from typing import Callable, NamedTuple, Optional

import numpy as np

from ...common.console import set_up_logging
from ...common.errors import InputError
from ...common.native import Form, Sources, loaded

# as `auto` prefers them: measured with AMX (bf16, float32), with AVX-512 VNNI and with AVX2 (int8,
# float32); with AVX-VNNI only its form, by AVX-512 VNNI's instruction in its place (docs/search.md)
KERNELS = ('auto', 'bf16', 'int8', 'float32', 'numpy')
BLOCK = 1 << 15  # columns that are packed at a time
CAPACITY = 1 << 22  # pairs that a search may find at once
ROW_STEP = 96  # a slice of packed rows begins at a multiple of it, whatever the kernel

FORM = 'VARGFACENET_SEARCH_FORM'  # environment variable: the only form to use
BASE = 'base'  # the form for every CPU
_AVX2 = ('avx2', 'fma')
_AVX512 = (*_AVX2, 'avx512f', 'avx512bw', 'avx512dq', 'avx512vl')


class CpuForm(NamedTuple):
    """What is compiled for the CPUs that have something."""

    title: str
    kernels: tuple[str, ...]
    needs: tuple[str, ...]  # as Linux and `cpu_has` name it


# a kernel's best form comes last
FORMS = {
    BASE: CpuForm('any CPU', ('float32',), ()),
    'avx2': CpuForm('AVX2', ('float32', 'int8'), _AVX2),
    'avx512': CpuForm('AVX-512', ('float32', 'int8'), _AVX512),
    'avx_vnni': CpuForm('AVX-VNNI', ('int8',), (*_AVX2, 'avx_vnni')),
    'avx512_vnni': CpuForm('AVX-512 VNNI', ('int8',), (*_AVX512, 'avx512_vnni')),
    'amx': CpuForm('AMX', ('bf16',), (*_AVX512, 'amx_tile', 'amx_bf16')),
}


def _compiled(name: str, form: CpuForm) -> Form:
    files = tuple(f'{kernel}.cc' for kernel in form.kernels)
    spelt = {'avx_vnni': 'avxvnni', 'avx512_vnni': 'avx512vnni'}
    flags = (spelt.get(need, need.replace('_', '-')) for need in form.needs)
    files = files if form.needs else ('cpu.cc', *files)
    return Form(name, files, tuple(f'-m{flag}' for flag in flags))


SOURCES = Sources(
    'vgscreen',
    what='identification kernels',
    folder=Path(__file__).resolve().parent / 'kernels',
    without='identification runs on NumPy, several times slower',
    forms=tuple(
        _compiled(name, form)
        for name, form in FORMS.items()
        if name == BASE or platform.machine() in ('x86_64', 'AMD64')
    ),
)

_TILE_ROWS, _TILE_DEPTH = 16, 32
_EXACT_PER_BLOCK = 1 << 14
_CACHE_LINE = 64
_NUMPY_ROWS = 2048
_INT8_SIZE = 1 << 16  # D below which no sum of products overflows

_F32 = np.ctypeslib.ndpointer(np.float32, flags='C')
_U8 = np.ctypeslib.ndpointer(np.uint8, flags='C')
_U16 = np.ctypeslib.ndpointer(np.uint16, flags='C')
_U32 = np.ctypeslib.ndpointer(np.uint32, flags='C')
_I32 = np.ctypeslib.ndpointer(np.int32, flags='C')
_I64 = np.ctypeslib.ndpointer(np.int64, flags='C')
_LONG = ctypes.c_int64


_SIZES = [_LONG, _LONG]
_FOUND = [_U32, _U32, _LONG]
# of every form that has them: arguments, result
_FUNCTIONS = {
    'float32_panel_rows': ([], ctypes.c_int),
    'float32_panel_columns': ([], ctypes.c_int),
    'pack_rows_float32': ([_F32, *_SIZES, _F32], None),
    'pack_columns_float32': ([_F32, *_SIZES, _F32], None),
    'screen_float32': ([_F32, _LONG, _F32, *_SIZES, _F32, *_FOUND], _LONG),
    'exact': ([_F32, _F32, _LONG, _I64, _I64, _LONG, _F32], None),
    'int8_panel_rows': ([], ctypes.c_int),
    'int8_panel_columns': ([], ctypes.c_int),
    'int8_depth': ([], ctypes.c_int),
    'pack_rows_int8': ([_F32, *_SIZES, _U8, _F32, _F32], None),
    'pack_columns_int8': ([_F32, *_SIZES, _U8, _F32, _F32, _I32], None),
    'screen_int8': (
        [_U8, _LONG, _U8, *_SIZES, _F32, _F32, _F32, _F32, _I32, *_FOUND],
        _LONG,
    ),
    'pack_rows_bf16': ([_F32, *_SIZES, _U16, _F32], None),
    'pack_columns_bf16': ([_F32, *_SIZES, _U16, _F32], None),
    'screen_bf16': ([_U16, _LONG, _U16, *_SIZES, _F32, *_FOUND], _LONG),
}


@functools.cache
def _native() -> Optional[ctypes.CDLL]:
    """The compiled kernels, or None, with one warning, where there are none. `runs` are the forms
    that the compiler knew and this CPU can run, the best first."""
    native = loaded(SOURCES)
    if native is None:
        return None
    can = functools.cache(lambda need: bool(native.vgs_base_cpu_has(need.encode())))
    native.runs = tuple(
        name
        for name, form in reversed(FORMS.items())
        if hasattr(native, f'vgs_{name}_screen_{form.kernels[0]}') and all(map(can, form.needs))
    )
    for form in native.runs:
        for name, (arguments, result) in _FUNCTIONS.items():
            function = getattr(native, f'vgs_{form}_{name}', None)
            if function is not None:
                function.argtypes, function.restype = arguments, result
    return native


def _function(form: str, name: str) -> Callable:
    return getattr(_native(), f'vgs_{form}_{name}')


def forms(kernel: str) -> tuple[str, ...]:
    """The forms of a kernel that this machine can use, the best first; none of 'numpy'.

    Raises InputError where VARGFACENET_SEARCH_FORM names none that this machine runs.
    """
    native = _native()
    runs, only = native.runs if native else (), os.environ.get(FORM)
    if only:
        if only not in runs:
            raise InputError(f'{FORM}={only}: this machine runs {", ".join(runs) or "none"}')
        runs = (only,)
    return tuple(form for form in runs if kernel in FORMS[form].kernels)


def choose_kernel(name: str = 'auto') -> str:
    """The fastest kernel that this machine has, or `name` if it has that; InputError if not."""
    if name not in KERNELS:
        raise InputError(f'kernel {name!r}: expected one of {", ".join(KERNELS)}')
    if name == 'numpy':
        return name
    have = [kernel for kernel in KERNELS if kernel == 'numpy' or forms(kernel)]
    if name != 'auto' and name not in have:
        raise InputError(f'kernel {name!r} does not run on this machine; it has {", ".join(have)}')
    return have[0] if name == 'auto' else name


def as_float32(embeddings: np.ndarray) -> np.ndarray:
    """`embeddings` without a copy where they are float32 rows, such as a memory map."""
    return np.ascontiguousarray(embeddings[:], np.float32)


class Scales(NamedTuple):
    """What the int8 kernel knows of each embedding, padded to whole panels."""

    steps: np.ndarray  # float32: what an integer stands for
    errors: np.ndarray  # float32: distance of the embedding from its integers times the step
    shifts: np.ndarray  # int32, of columns: from what a sum of products starts


class Packed(NamedTuple):
    """One side of a search in the layout of a kernel."""

    data: np.ndarray
    count: int  # embeddings
    size: int  # D
    per_row: int  # elements of `data` for each embedding
    norm: float  # the largest length of an embedding
    error: float  # the largest distance of an embedding from its packed form
    form: str = BASE  # for which the layout is
    scales: Optional[Scales] = None
    rests: Optional[np.ndarray] = None  # float32: length of what is not packed, see `shorten.py`

    def rows(self, start: int, end: int) -> 'Packed':
        """Embeddings start..end - 1, not copied; `start` is a multiple of ROW_STEP."""
        scales = self.scales and Scales(*(part[start:] for part in self.scales))
        return self._replace(
            data=self.data[start * self.per_row :],
            count=end - start,
            scales=scales,
            rests=None if self.rests is None else self.rests[start:],
        )

    @property
    def length(self) -> float:
        """No embedding is longer, packed or not."""
        return self.norm + self.error + (0.0 if self.rests is None else float(self.rests.max()))


def _aligned(elements: int, dtype: type) -> np.ndarray:
    """Uninitialised 1-D array that begins at a cache line, as the kernels need."""
    size = np.dtype(dtype).itemsize
    memory = np.empty(elements * size + _CACHE_LINE, np.uint8)
    start = -memory.ctypes.data % _CACHE_LINE
    return memory[start : start + elements * size].view(dtype)


def pack(embeddings: np.ndarray, kernel: str, columns: bool, form: Optional[str] = None) -> Packed:
    """Bring embeddings into a kernel's layout.

    Parameters
    ----------
    embeddings : (N, D) float32
    kernel : any but 'auto', see `choose_kernel`
    columns : whether they are the columns of the search
    form : one of `forms(kernel)`, the same for rows and columns; default the best

    Raises
    ------
    InputError for more dimensions than the int8 kernel can sum, and for an embedding with a number
    that is not finite: no bound of its errors would hold, so that nothing would be found.
    """
    embeddings = np.ascontiguousarray(embeddings, np.float32)
    count, size = embeddings.shape
    norm = float(np.sqrt(np.einsum('nd,nd->n', embeddings, embeddings, dtype=np.float64).max()))
    if not np.isfinite(norm):
        raise InputError('an embedding to search has a number that is NaN or infinite')
    if kernel == 'numpy':
        return Packed(embeddings.reshape(-1), count, size, size, norm, 0.0)
    form = form or forms(choose_kernel(kernel))[0]
    side = 'columns' if columns else 'rows'
    fill = _function(form, f'pack_{side}_{kernel}')
    if kernel == 'float32':
        panel = _function(form, f'float32_panel_{side}')()
        data = _aligned(-(-count // panel) * panel * size, np.float32)
        fill(embeddings, count, size, data)
        return Packed(data, count, size, size, norm, 0.0, form)
    if kernel == 'int8':
        return _pack_int8(embeddings, columns, norm, form)
    padded = -(-size // _TILE_DEPTH) * _TILE_DEPTH
    tiled = -(-count // _TILE_ROWS) * _TILE_ROWS
    data, errors = _aligned(tiled * padded, np.uint16), np.zeros(tiled, np.float32)
    fill(embeddings, count, size, data, errors)
    return Packed(data, count, size, padded, norm, float(errors.max()), form)


def _pack_int8(embeddings: np.ndarray, columns: bool, norm: float, form: str) -> Packed:
    count, size = embeddings.shape
    if size >= _INT8_SIZE:
        raise InputError(
            f'embeddings of {size} dimensions: the int8 kernel takes fewer than {_INT8_SIZE}; '
            "choose the kernel 'float32'"
        )
    side = 'columns' if columns else 'rows'
    panel, depth = _function(form, f'int8_panel_{side}')(), _function(form, 'int8_depth')()
    padded, paneled = -(-size // depth) * depth, -(-count // panel) * panel
    data = _aligned(paneled * padded, np.uint8)
    scales = Scales(
        np.ones(paneled, np.float32), np.zeros(paneled, np.float32), np.zeros(paneled, np.int32)
    )
    wanted = scales if columns else scales[:2]
    _function(form, f'pack_{side}_int8')(embeddings, count, size, data, *wanted)
    return Packed(data, count, size, padded, norm, float(scales.errors.max()), form, scales)


def error_bound(rows: Packed, columns: Packed) -> float:
    """How far a kernel's product can be from the exact score.

    |ab - a'b'| <= |a - a'| |b| + |a'| |b - b'| for the rounding of the embeddings, and that of the
    sums, see `_sum_bound`.
    """
    a = rows.norm + rows.error
    return rows.error * columns.norm + a * columns.error + _sum_bound(rows, columns)


def _sum_bound(rows: Packed, columns: Packed) -> float:
    """Twice the classical bound D u |a'||b'| (Higham 2002, Eq. 3.5; u = 2**-24).

    The sums of the int8 kernel are exact; its few operations in float32 stay below this as well,
    and so does the rounding of rotated embeddings, 2**-24 of their length on either side.
    """
    return (rows.size + 8) * 2.0**-23 * rows.length * columns.length


def _int8_limits(
    rows: Packed, columns: Packed, thresholds: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """(thresholds, lifts) of screen_int8, each (N,) float32: the error bound a row, not a set.

    Both are rounded to the side on which a pair is rather found. A pair is found if its product is
    above the threshold less the lift times what the kernel takes for the column's error. Of whole
    embeddings that is the error; of shortened ones it is the length of the rest, which matters
    more, and the errors of all columns count as the largest.
    """
    steps, errors = (part[: rows.count].astype(np.float64) for part in rows.scales[:2])
    lowered, lifts = (
        thresholds - errors * columns.norm - _sum_bound(rows, columns),
        rows.norm + errors,
    )
    if rows.rests is not None:
        lowered, lifts = lowered - lifts * columns.error, rows.rests[: rows.count]
    lowered, lifts = (lowered / steps).astype(np.float32), lifts / steps
    up = np.float32(np.inf)
    return np.nextafter(lowered, -up), np.nextafter(lifts.astype(np.float32), up)


class Searcher:
    """Finds pairs; owns the memory for what is found.

    Parameters
    ----------
    kernel : as `choose_kernel` returned it
    capacity : pairs that one search may find
    """

    def __init__(self, kernel: str, capacity: int = CAPACITY):
        self.kernel, self.capacity = kernel, capacity
        self._found = np.empty((2, capacity if kernel != 'numpy' else 0), np.uint32)

    def search(
        self, rows: Packed, columns: Packed, thresholds: np.ndarray
    ) -> Optional[tuple[np.ndarray, np.ndarray]]:
        """Every pair whose exact score is above its row's threshold, and some that are a bit below.

        Parameters
        ----------
        thresholds : (N,) float, one a row; -inf finds everything

        Returns
        -------
        (i, j) int64 row and column numbers in any order, or None for more than `capacity`.
        """
        thresholds = np.asarray(thresholds, np.float64)
        if self.kernel == 'int8':
            scales = columns.scales
            if columns.rests is not None:
                scales = scales._replace(errors=columns.rests)
            limits = _int8_limits(rows, columns, thresholds)
            return self._search_native(rows, columns, limits, scales)
        lowered = thresholds - error_bound(rows, columns)
        lowered = np.nextafter(lowered.astype(np.float32), np.float32(-np.inf))
        if self.kernel == 'numpy':
            return self._search_numpy(rows, columns, lowered)
        return self._search_native(rows, columns, (lowered,))

    def _search_native(
        self,
        rows: Packed,
        columns: Packed,
        limits: tuple[np.ndarray, ...],
        scales: tuple[np.ndarray, ...] = (),
    ) -> Optional[tuple[np.ndarray, np.ndarray]]:
        padded = np.zeros((len(limits), rows.count + ROW_STEP), np.float32)  # for whole panels
        padded[:, : rows.count] = limits
        sides = rows.data, rows.count, columns.data, columns.count
        assert rows.form == columns.form, (rows.form, columns.form)
        screen = _function(rows.form, f'screen_{self.kernel}')
        found = screen(*sides, rows.size, *padded, *scales, *self._found, self.capacity)
        if found > self.capacity:
            return None
        return self._found[0, :found].astype(np.int64), self._found[1, :found].astype(np.int64)

    def _search_numpy(
        self, rows: Packed, columns: Packed, lowered: np.ndarray
    ) -> Optional[tuple[np.ndarray, np.ndarray]]:
        a = rows.data[: rows.count * rows.size].reshape(rows.count, rows.size)
        b = columns.data[: columns.count * columns.size].reshape(columns.count, columns.size)
        found, total = [], 0
        for start in range(0, len(a), _NUMPY_ROWS):
            block = slice(start, start + _NUMPY_ROWS)
            i, j = np.nonzero(a[block] @ b.T >= lowered[block, None])
            found.append((i + start, j))
            total += len(i)
            if total > self.capacity:
                return None
        return tuple(np.concatenate(parts) for parts in zip(*found))


def exact_scores(a: np.ndarray, b: np.ndarray, i: np.ndarray, j: np.ndarray) -> np.ndarray:
    """(n,) float32 scores of pairs (a[i], b[j]): the float64 dot product, rounded.

    Parameters
    ----------
    a, b : (N, D), (M, D) float32, C-contiguous; memory maps are read where pairs need them
    i, j : (n,) int64
    """
    native = _native()
    scores = np.empty(len(i), np.float32)
    if native is not None:
        i, j = np.ascontiguousarray(i, np.int64), np.ascontiguousarray(j, np.int64)
        form = next(form for form in native.runs if 'float32' in FORMS[form].kernels)
        exact = _function(form, 'exact')
        exact(np.asarray(a), np.asarray(b), a.shape[1], i, j, len(i), scores)
        return scores
    for start in range(0, len(i), _EXACT_PER_BLOCK):
        block = slice(start, start + _EXACT_PER_BLOCK)
        left, right = np.asarray(a[i[block]], np.float64), np.asarray(b[j[block]], np.float64)
        scores[block] = np.einsum('nd,nd->n', left, right)
    return scores


if __name__ == '__main__':
    set_up_logging()
    _native()
