#!/usr/bin/env bash
# 10-fold verification of a checkpoint on every .bin of a folder, or on the files given.
#   eval/verify.sh PREFIX,EPOCH DATA_DIR_OR_BIN...
# Environment: BATCH_SIZE (64), DEVICES (cpu), PLOT (a .png for the ROC curves; none by default).
set -euo pipefail
if [ $# -lt 2 ]; then
  echo "usage: $0 PREFIX,EPOCH DATA_DIR_OR_BIN..." >&2
  exit 2
fi
source "$(dirname "${BASH_SOURCE[0]}")/../common/setup_env.sh"

model=$1
shift
arguments=(--batch-size "${BATCH_SIZE:-64}" --devices "${DEVICES:-cpu}")
[ -z "${PLOT:-}" ] || arguments+=(--plot "$PLOT")
shopt -s nullglob
for source in "$@"; do
  files=("$source")
  if [ -d "$source" ]; then
    files=("${source%/}"/*.bin)
    if [ ${#files[@]} -eq 0 ]; then
      echo "$0: no .bin file in $source" >&2
      exit 2
    fi
  fi
  for file in "${files[@]}"; do
    arguments+=(--target "$file")
  done
done
exec vargfacenet verify --model "$model" "${arguments[@]}"
