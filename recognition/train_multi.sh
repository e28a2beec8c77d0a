#!/usr/bin/env bash
# Trains with several processes, of this machine or of several, through Horovod:
#   recognition/train_multi.sh -np N [-H HOST:SLOTS,...] [options of vargfacenet train]
#   recognition/train_multi.sh -np N distill|teach|identify [options of that command]
# A process that fails ends all; --help tells the rest. docs/scale.md says what differs from one.
set -euo pipefail
VARGFACENET_EXTRAS="${VARGFACENET_EXTRAS:-} dist" source "$(dirname "$0")/../common/setup_env.sh"
# as `python -m` would, but without modules of the working directory
exec python -c 'import sys; sys.path = [place for place in sys.path if place]
from vargfacenet.common.launch.__main__ import main; sys.exit(main())' "$@"
