#!/usr/bin/env bash
# Draw `plenum top` on a busy cloud of the example's fleet; `make docs` runs it with the folder that holds the `plenum` command.
set -euo pipefail
bin=$1 picture=$2 port=${3:-7979}
home=$(mktemp -d)
export PLENUM_HOME="$home/data" XDG_CONFIG_HOME="$home" COLUMNS=104
trap 'kill -INT $up 2>/dev/null; wait $up 2>/dev/null; rm -rf "$home"' EXIT

gang() { # tenant name replicas gpus model duration priority
  printf -- '---\napiVersion: plenum.dev/v1alpha1\nkind: TrainingJob\nmetadata: {name: %s, tenant: %s}\nspec:\n  replicas: %s\n  resources: {gpu: %s, cpu: 16, memory: 256GiB}\n  gpuModels: [%s]\n  priority: %s\n  constraints: [{together: fabric.leaf}]\n  run: {simulate: {duration: %s}}\n' "$2" "$1" "$3" "$4" "$5" "$7" "$6"
}
{
  for tenant in research:96 product:64 vision:32; do
    printf -- '---\napiVersion: plenum.dev/v1alpha1\nkind: Tenant\nmetadata: {name: %s}\nspec: {quota: {gpu: %s}}\n' "${tenant%:*}" "${tenant#*:}"
  done
  gang research pretrain-70b 18 4 GB200 1h 10
  gang product post-train 4 8 H100 1h 5
  gang vision detector 3 2 L40S 1h 0
  gang vision segmenter 2 8 H100 1h 0
  gang research ablation 3 8 H100 1h 0
  printf -- '---\napiVersion: plenum.dev/v1alpha1\nkind: Endpoint\nmetadata: {name: chat, tenant: product}\nspec:\n  replicas: 6\n  resources: {gpu: 1, cpu: 8, memory: 64GiB}\n  gpuModels: [L40S]\n  constraints: [{apart: place.node, required: false}]\n'
} > "$home/busy.yaml"

"$bin/plenum" up --port "$port" -q -f examples/fleet-lab.yaml -f "$home/busy.yaml" > "$home/up.log" 2>&1 &
up=$!
for _ in $(seq 200); do
  sleep 0.5
  [ "$("$bin/plenum" get jobs -A --phase Running -o name 2>/dev/null | wc -l)" -ge 5 ] && break
done
script -qec "$bin/plenum top --once" /dev/null | tr -d "\r" | "$bin/python" tools/draw_terminal.py "$picture"
