#!/usr/bin/env bash
# Compiles embed.cc against the OpenVINO of the Python package, which has its headers and libraries.
#   deploy/cpp/build.sh OUTPUT [C++ compiler]
set -euo pipefail
if [ $# -lt 1 ]; then
  echo "usage: $0 OUTPUT [C++ compiler]" >&2
  exit 2
fi
here=$(cd "$(dirname "$0")" && pwd)
if ! openvino=$(python -c 'import openvino, os; print(os.path.dirname(openvino.__file__))' 2>/dev/null)
then
  echo "$0: this shell's python has no openvino; run first:" \
    "VARGFACENET_EXTRAS=deploy source common/setup_env.sh" >&2
  exit 2
fi
library=$(ls "$openvino"/libs/libopenvino.so.*)
"${2:-c++}" -O2 -std=c++17 -Wall "$here/embed.cc" -I "$openvino/include" \
  "$library" -Wl,-rpath,"$openvino/libs" -o "$1"
