#!/usr/bin/env bash
# Runs the tests of exported models, decisions and evaluation where MXNet is not installed, on the
# current NumPy: what a machine gets for which MXNet has no wheel.
#   tests/without_mxnet.sh [pytest options]
# .venv-without-mxnet is made on first use; MXNet's environment exports the model that is tried.
set -euo pipefail
cd "$(dirname "$0")/.."
VARGFACENET_EXTRAS=dev source common/setup_env.sh

venv=${VARGFACENET_VENV_WITHOUT_MXNET:-.venv-without-mxnet}
key=$(cat requirements.lock setup.py pyproject.toml tests/without_mxnet.sh | sha256sum)
if [ "$(cat "$venv/.installed" 2>/dev/null)" != "$key" ]; then
  echo "setup: making $venv, without MXNet and with NumPy 2" >&2
  python -m venv --clear "$venv"
  # the pins of the lock file for a machine that MXNet does not know
  python - <<'PY' >"$venv/pins.txt"
import re
import subprocess

from pip._vendor.packaging.requirements import Requirement

pins = subprocess.run(['common/pins.sh', 'dev'], capture_output=True, text=True, check=True).stdout
for pin, hashes in re.findall(r'^(\S.*?) \\\n((?:    --hash=.*\n)+)', pins, re.M):
    pin = Requirement(pin)
    if pin.marker is None or pin.marker.evaluate({'platform_machine': 'elsewhere'}):
        print(f'{pin.name}{pin.specifier} \\\n{hashes}', end='')
PY
  pip=("$venv/bin/python" -m pip --disable-pip-version-check --quiet install --no-deps)
  "${pip[@]}" --require-hashes --only-binary :all: -r "$venv/pins.txt" >&2
  "${pip[@]}" --no-build-isolation -e . >&2
  echo "$key" >"$venv/.installed"
fi

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python tests/deploy_models.py "$work"
export VARGFACENET_TEST_EXPORT=$work/export
"$venv/bin/python" - "$work" <<'PY'
import importlib.util
import subprocess
import sys
import time
from pathlib import Path

import numpy
from vargfacenet.common.synth.face import jpeg_faces

assert importlib.util.find_spec('mxnet') is None and int(numpy.__version__.split('.')[0]) >= 2
folder = Path(sys.argv[1])
for person in (0, 1):
    (folder / f'{person}.jpg').write_bytes(jpeg_faces(3, person, [0], 250)[0])
compare = ['compare', '0.jpg', '1.jpg', '--model', 'export']
for what, words in (
    ('import vargfacenet', ['-c', 'import vargfacenet']),
    ('vargfacenet compare, start to answer', ['-m', 'vargfacenet', *compare]),
):
    started = time.perf_counter()
    subprocess.run([sys.executable, *words], check=True, cwd=folder, capture_output=True)
    print(f'{what}: {time.perf_counter() - started:.2f} s', flush=True)
PY
"$venv/bin/python" -m pytest -q -m "not slow" -p no:cacheprovider "$@" \
  --ignore tests/deploy/bench tests/test_public.py tests/common tests/deploy tests/eval tests/symbol
