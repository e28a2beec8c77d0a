# Makes the environment on first use and is instant after that. Source it from bash:
#
#     source common/setup_env.sh
#     VARGFACENET_EXTRAS=dev source common/setup_env.sh       # and the packages of an extra
#
# (No arguments: a sourced file without any sees those of the script that sources it.)
# Afterwards `python` and `vargfacenet` are those of .venv (or of $VARGFACENET_VENV). Packages are
# those of requirements.lock, by their hashes. Needs Python 3.9-3.12 with venv, or uv.
# A C++ compiler is optional: with one, the fast training operators and identification
# kernels are compiled once.

_vgf_root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
_vgf_venv=${VARGFACENET_VENV:-$_vgf_root/.venv}

_vgf_say() { echo "setup: $*" >&2; }

# Prints the path of the best Python: 3.11 is what the lock file was tested with.
_vgf_find_python() {
  local name path
  for name in python3.11 python3.10 python3.12 python3.9 python3 python; do
    path=$(command -v "$name") || continue
    # A version manager's shim can exist for a Python that is not there: run it. ensurepip is
    # a package of its own on Debian.
    "$path" -c 'import sys, venv, ensurepip
sys.exit(not (3, 9) <= sys.version_info < (3, 13))' 2>/dev/null && { echo "$path"; return 0; }
  done
  return 1
}

_vgf_make_venv() {
  local python
  if python=$(_vgf_find_python); then
    _vgf_say "making $_vgf_venv with $("$python" --version)"
    "$python" -m venv --clear "$_vgf_venv"
  elif command -v uv >/dev/null; then
    _vgf_say "making $_vgf_venv with uv and Python 3.11"
    uv venv --quiet --clear --python 3.11 "$_vgf_venv"
  else
    _vgf_say "no Python 3.9-3.12 with the venv module was found, and no uv." \
      "Install one of them (Debian/Ubuntu: apt-get install python3 python3-venv) and run this again."
    return 2
  fi
}

_vgf_without() { awk -v pin="$1==" '/^[^ ]/ { on = index($0, pin) != 1 } on'; } # pins without a package

# MXNet for NVIDIA cards has the files of the other one, and takes its place.
_vgf_choose_mxnet() { # extras...
  case " $* " in
    *" gpu "*)
      rm -rf "$_vgf_venv"/lib/python3*/site-packages/mxnet "$_vgf_venv"/lib/python3*/site-packages/mxnet-*.dist-info
      _vgf_without mxnet ;;
    *) cat ;;
  esac
}

# Horovod has no wheels. It is built from the locked source against the MXNet that is installed, and
# kept, so that the next environment has it at once. HOROVOD_WITH_MPI=1 and HOROVOD_GPU_OPERATIONS=NCCL
# in the environment build it with these.
_vgf_horovod() { # pins, install command...
  local pins=$1 key kept tool missing=() settings
  shift
  grep -q '^horovod==' "$pins" || return 0
  key=$({ awk '/^[^ ]/ { on = /^(horovod|mxnet)/ } on' "$pins"; env | grep '^HOROVOD_' | sort
    "$_vgf_venv/bin/python" -VV; uname -m; } | sha256sum | cut -c1-16)
  kept=${XDG_CACHE_HOME:-${HOME:-/tmp}/.cache}/vargfacenet/horovod-$key
  if ! ls "$kept"/*.whl >/dev/null 2>&1; then
    for tool in g++ make; do command -v "$tool" >/dev/null || missing+=("$tool"); done
    if [ ${#missing[@]} -gt 0 ]; then
      _vgf_say "Horovod is built here, which needs ${missing[*]} (Debian/Ubuntu: apt-get install g++ make)"
      return 2
    fi
    _vgf_say "building Horovod, some minutes, once: the wheel is kept in $kept"
    settings=(HOROVOD_CMAKE="$_vgf_venv/bin/cmake" HOROVOD_WITH_MXNET=1 HOROVOD_WITHOUT_TENSORFLOW=1
      HOROVOD_WITHOUT_PYTORCH=1 HOROVOD_WITH_GLOO=1 MAKEFLAGS="-j$(nproc)")
    [ -n "${HOROVOD_WITH_MPI:-}" ] || settings+=(HOROVOD_WITHOUT_MPI=1)
    [ -n "${HOROVOD_GPU_OPERATIONS:-}" ] || settings+=(CUDACXX=/bin/false) # none is looked for
    awk '/^[^ ]/ { on = /^horovod==/ } on' "$pins" >"$_vgf_venv/horovod.txt"
    if [ ! -x "$_vgf_venv/bin/pip" ]; then # uv keeps what it has built itself
      env "${settings[@]}" "$@" --quiet --no-deps --no-build-isolation --require-hashes \
        -r "$_vgf_venv/horovod.txt" >&2
      return
    fi
    rm -rf "$kept.part"
    env "${settings[@]}" "$_vgf_venv/bin/python" -m pip --disable-pip-version-check wheel --quiet \
      --no-deps --no-build-isolation --require-hashes -r "$_vgf_venv/horovod.txt" -w "$kept.part" >&2 &&
      mv -T "$kept.part" "$kept" || return 2
  fi
  "$@" --quiet --no-deps --no-index "$kept"/*.whl >&2
}

_vgf_install() { # extras...
  local pins="$_vgf_venv/pins.txt" pip=("$_vgf_venv/bin/python" -m pip --disable-pip-version-check install)
  [ -x "$_vgf_venv/bin/pip" ] || pip=(uv pip install --python "$_vgf_venv/bin/python")
  _vgf_say "installing packages into $_vgf_venv (0.8 to 1.3 GB the first time)"
  # First the packages, each file by its hash and none that runs code of its own to be built, but
  # for Horovod; then the project itself, by the setuptools that is among them.
  { "$_vgf_root/common/pins.sh" "$@" >"$pins.all" &&
    _vgf_without horovod <"$pins.all" | _vgf_choose_mxnet "$@" >"$pins" &&
    "${pip[@]}" --quiet --require-hashes --only-binary :all: -r "$pins" >&2 &&
    _vgf_horovod "$pins.all" "${pip[@]}" &&
    "${pip[@]}" --quiet --no-deps --no-build-isolation -e "$_vgf_root" >&2
  } || { _vgf_say "installing packages failed; see the lines above"; return 2; }
  (cd / && "$_vgf_venv/bin/python" -c 'import cv2, vargfacenet.common.backend') || {
    _vgf_say "the packages are installed but do not load; if a library lib*.so is named above," \
      "install it (Debian/Ubuntu: apt-get install libgl1 libglib2.0-0 libgomp1)"
    return 2
  }
}

_vgf_setup() { # extras...
  local extra stamp key missing=()
  # an environment for NVIDIA cards stays one
  [ ! -e "$_vgf_venv/.installed-gpu" ] || set -- "$@" gpu
  "$_vgf_venv/bin/python" -c '' 2>/dev/null || _vgf_make_venv || return 2
  key="$(cat "$_vgf_root"/{requirements.lock,setup.py,pyproject.toml} | sha256sum) $_vgf_root"
  for extra in base "$@"; do
    [ "$(cat "$_vgf_venv/.installed-$extra" 2>/dev/null)" = "$key" ] || missing+=("$extra")
  done
  if [ ${#missing[@]} -gt 0 ]; then
    _vgf_install "$@" || return 2
    for extra in base "$@"; do echo "$key" >"$_vgf_venv/.installed-$extra"; done
  fi
  # A compiled library of another source or machine is never loaded, so this only saves the
  # second that asking MXNet takes.
  # (By find: a pattern without a file would end a script that has set -e and pipefail.)
  key=$({ find "$_vgf_root"/{common,eval,recognition} -name '*.cc' -o -name '*.h' | sort | xargs cat
    cat /proc/cpuinfo 2>/dev/null || true; } | grep -v MHz | sha256sum)
  stamp="$_vgf_venv/.compiled"
  if [ "$(cat "$stamp" 2>/dev/null)" != "$key $_vgf_root" ]; then
    (cd / && "$_vgf_venv/bin/python" -m vargfacenet.common.engine.ops.build >&2 &&
      "$_vgf_venv/bin/python" -m vargfacenet.eval.search.screen >&2 &&
      "$_vgf_venv/bin/python" -m vargfacenet.recognition.kernels.sample >&2) || return 2
    echo "$key $_vgf_root" >"$stamp"
  fi
}

VARGFACENET_EXTRAS=${VARGFACENET_EXTRAS:-}

# Two scripts started together must not install into one environment at the same time.
mkdir -p "$(dirname "$_vgf_venv")" 2>/dev/null
if command -v flock >/dev/null && { : >>"$_vgf_venv.lock"; } 2>/dev/null; then
  exec 9>>"$_vgf_venv.lock"
  flock 9
  _vgf_setup $VARGFACENET_EXTRAS
  _vgf_status=$?
  exec 9>&-
else
  _vgf_setup $VARGFACENET_EXTRAS
  _vgf_status=$?
fi
if [ $_vgf_status -ne 0 ]; then
  # A script that sources this stops; an interactive shell stays open.
  case $- in *i*) return $_vgf_status ;; *) exit $_vgf_status ;; esac
fi
export VIRTUAL_ENV=$_vgf_venv
case ":$PATH:" in *":$_vgf_venv/bin:"*) ;; *) PATH="$_vgf_venv/bin:$PATH" ;; esac
export PATH
