"""NVIDIA cards: the libraries that MXNet's build for them needs, and what the driver says of them.

mxnet-cu112 holds machine code for the compute capabilities of `BUILT_FOR`, read off the wheel, and
no PTX, which a driver could translate. A card runs code of its own major number and the same or a
lower minor one.
"""

import ctypes
import importlib.util
import sys
from functools import cache
from pathlib import Path
from typing import NamedTuple

from .errors import InputError
from .extras import how_to_install

PACKAGE = 'mxnet-cu112'
DRIVER = 'libcuda.so.1'
BUILT_FOR = ((5, 0), (6, 0), (7, 0), (8, 0), (8, 6))
LEAST_MEMORY = 1 << 30  # bytes; an estimate, nobody has tried

# folder of a package under nvidia/, library; in this order, since later ones need earlier ones
_LIBRARIES = (
    ('cuda_runtime', 'libcudart.so.11.0'),
    ('cuda_nvrtc', 'libnvrtc.so.11.2'),
    ('nvtx', 'libnvToolsExt.so.1'),
    ('cublas', 'libcublasLt.so.11'),
    ('cublas', 'libcublas.so.11'),
    ('cufft', 'libcufft.so.10'),
    ('curand', 'libcurand.so.10'),
    ('cusolver', 'libcusolver.so.11'),
    ('nccl', 'libnccl.so.2'),
    ('cudnn', 'libcudnn.so.8'),
)
_NAME_LENGTH = 100
_MAJOR, _MINOR = 75, 76  # attributes of a device


class Card(NamedTuple):
    """What the driver says of a card."""

    name: str
    capability: tuple[int, int]
    memory: int  # bytes in all


def installed() -> bool:
    """Whether MXNet's build for NVIDIA cards is the one that is installed: by the folder that pip
    leaves. importlib.metadata looks for it too, and takes 14 ms to be imported."""
    folder = f'{PACKAGE.replace("-", "_")}-*.dist-info'
    return any(found for place in sys.path for found in Path(place).glob(folder))


def load_libraries() -> None:
    """Load NVIDIA's libraries from their packages, so that MXNet finds them without
    LD_LIBRARY_PATH.

    Raises
    ------
    InputError where a package or the driver is missing.
    """
    _driver()
    found = importlib.util.find_spec('nvidia')
    folders = list(found.submodule_search_locations or ()) if found else []
    for package, library in _LIBRARIES:
        paths = [Path(folder) / package / 'lib' / library for folder in folders]
        path = next(filter(Path.is_file, paths), library)  # or one of the system's
        try:
            ctypes.CDLL(str(path), ctypes.RTLD_GLOBAL)
        except OSError as error:
            raise InputError(
                f'{PACKAGE} needs {library} ({error}); it comes with the extra: '
                f'{how_to_install("gpu")}'
            ) from None


@cache
def _driver() -> ctypes.CDLL:
    try:
        return ctypes.CDLL(DRIVER, ctypes.RTLD_GLOBAL)
    except OSError:
        raise InputError(
            f"{PACKAGE} needs NVIDIA's driver, and there is no {DRIVER} here: install the driver, "
            'or use an environment without the extra gpu (VARGFACENET_VENV names another one)'
        ) from None


def _ask(function: str, *arguments) -> None:
    """Call the driver; InputError with its error's number."""
    code = getattr(_driver(), function)(*arguments)
    if code:
        raise InputError(
            f"NVIDIA's driver: {function} gives error {code}; see whether nvidia-smi shows the card"
        )


def cards() -> list[Card]:
    """All cards, in the driver's order. InputError for a driver that is missing or fails."""
    _ask('cuInit', 0)
    count = ctypes.c_int()
    _ask('cuDeviceGetCount', ctypes.byref(count))
    found = []
    for number in range(count.value):
        device, memory = ctypes.c_int(), ctypes.c_size_t()
        name = ctypes.create_string_buffer(_NAME_LENGTH)
        _ask('cuDeviceGet', ctypes.byref(device), number)
        _ask('cuDeviceGetName', name, _NAME_LENGTH, device)
        _ask('cuDeviceTotalMem_v2', ctypes.byref(memory), device)
        capability = []
        for attribute in (_MAJOR, _MINOR):
            value = ctypes.c_int()
            _ask('cuDeviceGetAttribute', ctypes.byref(value), attribute, device)
            capability.append(value.value)
        found.append(Card(name.value.decode(errors='replace'), tuple(capability), memory.value))
    return found


def runs(capability: tuple[int, int]) -> bool:
    """Whether MXNet holds machine code that a card of this compute capability runs."""
    return any(capability[0] == major and capability[1] >= minor for major, minor in BUILT_FOR)


def check(wanted: list[int]) -> None:
    """InputError unless MXNet can use the cards of these numbers."""
    found = cards()
    for number in wanted:
        if number >= len(found):
            raise InputError(
                f'--devices: there is no gpu:{number} here, the driver has {len(found)} card(s)'
            )
        card = found[number]
        if not runs(card.capability):
            sm = 'sm_{}{}'.format(*card.capability)
            raise InputError(
                f'--devices: gpu:{number} is a {card.name} ({sm}), for which {PACKAGE} has no '
                'machine code; it has that of sm_50 to sm_89 (Maxwell to Ada). Use --devices cpu'
            )
        if card.memory < LEAST_MEMORY:
            raise InputError(
                f'--devices: gpu:{number}, a {card.name}, has {card.memory / 1e9:.2f} GB of '
                f'memory, which is too little to train ({LEAST_MEMORY / 1e9:.2f} GB at least). Use '
                '--devices cpu'
            )
