#!/usr/bin/env bash
# Makes requirements.lock anew from setup.py:
#   common/relock.sh                          # keeps versions that still fit; adds and drops packages
#   common/relock.sh --upgrade                # the newest of everything that setup.py allows
#   common/relock.sh --upgrade-package rich   # of one package
# Needs uv, or Python with pip to get it. Hashes are those that the package index tells.
set -euo pipefail
cd "$(dirname "$0")/.."

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python=$(command -v .venv/bin/python || command -v python3)
if ! uv=$(command -v uv); then
  "$python" -m venv "$work/uv"
  "$work/uv/bin/pip" install --quiet --disable-pip-version-check uv
  uv=$work/uv/bin/uv
fi

compile() { # file inputs and options...
  local file=$1
  shift
  "$uv" pip compile --universal --python-version 3.9 --generate-hashes --no-annotate --no-header \
    --quiet --output-file "$file" "$@"
}

# all extras together first, and then each alone at the versions of those
sed -n 's/^requires = \["\(.*\)"\]/\1/p' pyproject.toml >"$work/build.in"
grep -v '^#' requirements.lock >"$work/all" || true
compile "$work/all" "$work/build.in" setup.py --all-extras "$@"
extras=$(sed -n "/extras_require/,/^    }/s/^        '\([a-z]*\)':.*/\1/p" setup.py)
for part in build base $extras; do
  cp "$work/all" "$work/of-$part"
  case $part in
    build) compile "$work/of-build" "$work/build.in" ;;
    base) compile "$work/of-base" setup.py ;;
    *) compile "$work/of-$part" setup.py --extra "$part" ;;
  esac
done

"$python" - "$work" $extras <<'PY' >"$work/lock"
import re
import sys
from pathlib import Path

work, extras = Path(sys.argv[1]), sys.argv[2:]


def pins(name):
    """The pins of a file, each with its hashes."""
    return re.findall(r'^\S.*\n(?:    --hash=.*\n)*', (work / name).read_text(), re.M)


base = pins('of-base')
needed = {pin: ['base'] for pin in base}
for part in ('build', *extras):
    for pin in pins(f'of-{part}'):
        if pin not in base:
            needed.setdefault(pin, []).append(part)
strays = {pin.split()[0] for pin in needed} ^ {pin.split()[0] for pin in pins('all')}
if strays:
    sys.exit(f'one environment has other versions than all together: {sorted(strays)}')

print(
    '# The tested versions for every extra, with and without MXNet, and the SHA-256 of their files.\n'
    '# Made by common/relock.sh; run it after a change of the requirements in setup.py.\n'
    '# A heading says what needs the pins below it; common/pins.sh picks by it, for pip install -r.'
)
groups = sorted({tuple(names) for names in needed.values()})
for group in groups:
    print(f'# for: {" ".join(group)}')
    print(''.join(sorted(pin for pin, names in needed.items() if tuple(names) == group)), end='')
PY
cp "$work/lock" requirements.lock
