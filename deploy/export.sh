#!/usr/bin/env bash
# Sets up the environment with the packages of ONNX and its run times on first use, then:
# vargfacenet export "$@"
set -euo pipefail
VARGFACENET_EXTRAS=deploy source "$(dirname "$0")/../common/setup_env.sh"
exec vargfacenet export "$@"
