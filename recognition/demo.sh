#!/usr/bin/env bash
# The whole life of a light network on synthetic faces, in about ten minutes on two cores:
# data -> teacher -> student from scratch -> two generations of distillation -> verification ->
# slim export. Goes on where it was when it is run again; OUT (default: runs/demo) takes the result.
#   recognition/demo.sh [OUT]
set -euo pipefail
source "$(dirname "$0")/../common/setup_env.sh"
out=${1:-runs/demo}

step() { echo "== $*" >&2; }
json() { python -c 'import json, sys; print(json.loads(sys.stdin.read())[sys.argv[1]])' "$1"; }

if [ ! -f "$out/data/synth.bin" ]; then
  step "synthetic faces -> $out/data"
  vargfacenet synth "$out/data" --overwrite --identities 100 --images 24 --pairs 400 >/dev/null
fi
# A small scale and margin: with a few thousand images ArcFace at s 64, m 0.5 learns slowly.
common=(--data-dir "$out/data" --target synth --models-root "$out" --resume --epochs 5
  --per-batch-size 32 --frequent 25 --loss cosface --loss-option s=20 --loss-option m3=0.15)
student=(--network vargfacenet --network-option multiplier=0.25 --network-option emb_size=128)

step "teacher: ResNet18-SE of an eighth of the channels"
teacher=$(vargfacenet train "${common[@]}" --name teacher --network r18_se \
  --network-option width=0.125 --network-option emb_size=128 | json model)
step "student from scratch: VarGFaceNet of a fifth of the channels"
scratch=$(vargfacenet train "${common[@]}" "${student[@]}" --name scratch | json model)
step "the same student from the teacher, two generations"
result=$(vargfacenet distill "${common[@]}" "${student[@]}" --name distilled \
  --teacher "$teacher" --scratch "$scratch" --generations 2)
model=$(json model <<<"$result")
step "verification and slim export -> $out/export"
vargfacenet verify --model "$model" --target "$out/data/synth.bin" >/dev/null
vargfacenet export --model "$model" --out "$out/export" >/dev/null
step "done: $out/export/model-symbol.json and model-0000.params load in InsightFace's tools"
echo "$result"
