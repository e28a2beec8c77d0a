"""What is said of NVIDIA cards, by a driver of the test's own: no card is needed."""

import shutil
import subprocess
import sys

import pytest
from conftest import needs_mxnet
from vargfacenet.common import gpu
from vargfacenet.common.errors import InputError

# the functions of the driver's interface that are asked, for one card
DRIVER = """
#include <string.h>
int cuInit(unsigned flags) { return INIT; }
int cuDeviceGetCount(int *count) { *count = 1; return 0; }
int cuDeviceGet(int *device, int number) { *device = 40 + number; return 0; }
int cuDeviceGetName(char *name, int size, int device) { strncpy(name, "Card", size); return 0; }
int cuDeviceTotalMem_v2(unsigned long *bytes, int device) { *bytes = MEMORY; return device != 40; }
int cuDeviceGetAttribute(int *value, int which, int device) {
  *value = which == 75 ? MAJOR : which == 76 ? MINOR : -1;
  return 0;
}
"""


@pytest.fixture
def driver(tmp_path, monkeypatch):
    """Put a driver in place, whose card has a compute capability and some memory."""
    if not shutil.which('gcc'):
        pytest.skip('needs gcc')

    def use(major=8, minor=6, memory=8 << 30, init=0):
        source, library = tmp_path / 'driver.c', tmp_path / 'driver.so'
        source.write_text(DRIVER)
        values = {'MAJOR': major, 'MINOR': minor, 'MEMORY': f'{memory}ul', 'INIT': init}
        defines = [f'-D{name}={value}' for name, value in values.items()]
        command = ['gcc', '-shared', '-fPIC', *defines, str(source), '-o', str(library)]
        subprocess.run(command, check=True)
        monkeypatch.setattr(gpu, 'DRIVER', str(library))
        gpu._driver.cache_clear()

    yield use
    gpu._driver.cache_clear()


def test_what_the_driver_says(driver):
    driver(8, 9, 24 << 30)
    assert gpu.cards() == [gpu.Card('Card', (8, 9), 24 << 30)]
    gpu.check([0])  # an RTX 40 runs sm_86's code


@pytest.mark.parametrize(
    ('given', 'wanted', 'message'),
    [
        ({'major': 9, 'minor': 0}, 0, r'gpu:0 is a Card \(sm_90\), for which mxnet-cu112 has no'),
        ({'major': 12, 'minor': 0}, 0, r'sm_120'),
        ({'major': 3, 'minor': 7}, 0, r'sm_37.*Use --devices cpu'),
        ({'memory': 1 << 29}, 0, r'has 0\.54 GB of memory, which is too little'),
        ({}, 1, r'no gpu:1 here, the driver has 1 card'),
        ({'init': 100}, 0, r'cuInit gives error 100; see whether nvidia-smi shows the card'),
    ],
)
def test_a_card_that_cannot_is_one_line(given, wanted, message, driver):
    driver(**given)
    with pytest.raises(InputError, match=message):
        gpu.check([wanted])


def test_which_cards_the_machine_code_is_for():
    can = [(5, 0), (5, 2), (6, 1), (7, 0), (7, 5), (8, 0), (8, 6), (8, 9)]
    assert all(map(gpu.runs, can))
    assert not any(map(gpu.runs, [(3, 5), (4, 0), (9, 0), (10, 0), (12, 0)]))


def test_no_driver_is_one_line(monkeypatch):
    monkeypatch.setattr(gpu, 'DRIVER', 'libcuda.so.none')
    gpu._driver.cache_clear()
    with pytest.raises(InputError, match=r"needs NVIDIA's driver.*install the driver, or"):
        gpu.load_libraries()
    gpu._driver.cache_clear()


def test_a_library_that_is_missing_is_named(driver, monkeypatch):
    driver()
    monkeypatch.setattr(gpu, '_LIBRARIES', (('cudnn', 'libcudnn.so.none'),))
    with pytest.raises(InputError, match=r'libcudnn\.so\.none.*VARGFACENET_EXTRAS=gpu source'):
        gpu.load_libraries()


@needs_mxnet
def test_a_gpu_that_nobody_sees_is_said_once(monkeypatch, caplog):
    """A run asks for its devices when it is checked, and again when it starts."""
    from vargfacenet.common import backend

    monkeypatch.setattr(gpu, 'installed', lambda: False)
    assert backend.parse_devices('gpu:4711') == backend.parse_devices('gpu:4711')
    assert caplog.text.count('--devices gpu:4711: MXNet sees no GPU here') == 1


@needs_mxnet
def test_each_rank_of_a_machine_has_a_gpu(driver, monkeypatch):
    from vargfacenet.common import backend

    driver()
    monkeypatch.setattr(gpu, 'installed', lambda: True)
    asked = []
    monkeypatch.setattr(gpu, 'check', asked.append)
    monkeypatch.setenv('HOROVOD_LOCAL_SIZE', '2')
    monkeypatch.setenv('HOROVOD_LOCAL_RANK', '1')
    assert backend.parse_devices('gpu:3,5') == [backend.mx.gpu(5)]
    assert asked == [[5]]
    with pytest.raises(InputError, match='name one GPU for each of the 2 ranks'):
        backend.parse_devices('gpu:0')


@needs_mxnet
def test_an_environment_for_cards_without_a_driver_is_one_line(tmp_path):
    """The build for cards is said to be installed: no command starts, and none has a traceback."""
    info = tmp_path / 'mxnet_cu112-1.9.1.dist-info'
    info.mkdir()
    (info / 'METADATA').write_text('Metadata-Version: 2.1\nName: mxnet-cu112\nVersion: 1.9.1\n')
    program = (
        f'import sys; sys.path.insert(0, {str(tmp_path)!r})\n'
        'from vargfacenet.common import gpu; gpu.DRIVER = "libcuda.so.none"\n'
        'from vargfacenet.__main__ import main; sys.exit(main(["train", "--data-dir", "none"]))'
    )
    done = subprocess.run([sys.executable, '-c', program], capture_output=True, text=True)
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert line.startswith("vargfacenet train: mxnet-cu112 needs NVIDIA's driver")
