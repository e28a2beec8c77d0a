#!/usr/bin/env bash
# Trains with several processes of this machine through MXNet's parameter server (dist_sync):
#   recognition/dist_train.sh WORKERS [options of vargfacenet train]
# Starts a scheduler, one server and WORKERS workers, and ends them all when one of them fails.
# On several machines start the same roles by hand with the same DMLC_* variables.
set -euo pipefail
case "${1:-}" in
  [1-9] | [1-9][0-9]) workers=$1 ;;
  *) echo "usage: $0 WORKERS [options of vargfacenet train]" >&2; exit 2 ;;
esac
shift
source "$(dirname "$0")/../common/setup_env.sh"
# a wrong option is told once, and before anything is started
python -m vargfacenet.common.launch.check train --kvstore dist_sync "$@"
for word in "$@"; do
  case $word in -h | --help) exit 0 ;; esac  # that was all that was asked for
done

export DMLC_NUM_WORKER=$workers DMLC_NUM_SERVER=1
export DMLC_PS_ROOT_URI=127.0.0.1 DMLC_NODE_HOST=127.0.0.1
DMLC_PS_ROOT_PORT=$(python -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])')
export DMLC_PS_ROOT_PORT
cpus=$(nproc)
export OMP_NUM_THREADS=${OMP_NUM_THREADS:-$((cpus > workers ? cpus / workers : 1))}

pids=()
# Ctrl-C ends all of them at once: the newest checkpoint is what --resume goes on from.
trap 'kill -9 "${pids[@]}" 2>/dev/null || true' EXIT
trap 'exit 130' INT TERM
for role in scheduler server; do
  # importing the package runs the role until the workers are done
  DMLC_ROLE=$role python -c 'import vargfacenet.common.backend' &
  pids+=($!)
done
for _ in $(seq "$workers"); do
  DMLC_ROLE=worker vargfacenet train --kvstore dist_sync "$@" &
  pids+=($!)
done
for _ in "${pids[@]}"; do
  wait -n || { status=$?; echo "$0: a process ended with exit code $status; stopping the others" >&2; exit $status; }
done
