#!/usr/bin/env bash
# TPR at FPR of probes among distractors; goes on where it was when it is run again after a kill.
#   eval/identify.sh PROBES DISTRACTORS PROBE_LABELS [identify options]
# PROBES and DISTRACTORS are .npy, .npz or LFR feature files. Environment: PROCESSES (1; more are
# started as ranks of Horovod, on HOSTS if that is set, e.g. a:4,b:4), STATE (identify-state.npz).
set -euo pipefail
if [ $# -lt 3 ]; then
  echo "usage: $0 PROBES DISTRACTORS PROBE_LABELS [identify options]" >&2
  exit 2
fi
[ "${PROCESSES:-1}" = 1 ] || VARGFACENET_EXTRAS="${VARGFACENET_EXTRAS:-} dist"
source "$(dirname "${BASH_SOURCE[0]}")/../common/setup_env.sh"

arguments=(--probes "$1" --distractors "$2" --probe-labels "$3"
  --resume "${STATE:-identify-state.npz}")
shift 3
launcher=(vargfacenet)
if [ "${PROCESSES:-1}" -gt 1 ]; then
  launcher=("$(dirname "${BASH_SOURCE[0]}")/../recognition/train_multi.sh"
    -np "$PROCESSES" -H "${HOSTS:-localhost:$PROCESSES}")
fi
exec "${launcher[@]}" identify "${arguments[@]}" "$@"
