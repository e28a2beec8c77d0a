"""The operators' tests once more, compiled for CPUs that have less than this one."""

import subprocess
import sys
from pathlib import Path

import pytest
from vargfacenet.common import native
from vargfacenet.common.backend import mx  # noqa: F401 (this folder's tests share its engine)
from vargfacenet.common.parallel import cpu_fields

NEEDED = {'x86-64-v2': {'sse4_2'}, 'haswell': {'avx2', 'fma'}}

# -march=native replaced, the library in a folder of its own; then pytest.
RUN = """
import sys
from pathlib import Path
import pytest
from vargfacenet.common import native
from vargfacenet.common.backend import mx  # noqa: F401 (this folder's tests share its engine)
march, folder, *arguments = sys.argv[1:]
native.FLAGS = tuple(f'-march={march}' if f == '-march=native' else f for f in native.FLAGS)
native._writable_folder = lambda sources: Path(folder)
sys.exit(pytest.main(['-q', '-p', 'no:cacheprovider', *arguments]))
"""


@pytest.mark.slow
@pytest.mark.timeout(1800)  # the operators are compiled anew
@pytest.mark.skipif(native._compiler() is None, reason='needs a C++ compiler')
@pytest.mark.parametrize('march', NEEDED)
def test_operators_are_right_compiled_for(march, tmp_path):
    if not NEEDED[march] <= set(cpu_fields().get('flags', '').split()):
        pytest.skip(f'this CPU is no {march}')
    names = ('test_bf16.py', 'test_conv.py', 'test_ops.py')
    tests = [str(Path(__file__).with_name(name)) for name in names]
    here = ['-k', 'not instructions_are_used']  # compiled for a CPU of its own, where g++ knows it
    command = [sys.executable, '-c', RUN, march, str(tmp_path), *tests, *here]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-1000:]
    assert 'skipped' not in done.stdout
    assert len(list(tmp_path.glob('vgops-*.so'))) == 1
