#!/usr/bin/env bash
# The main job, and a first look around; `make up` runs it with the folder that holds the `plenum` command.
set -euo pipefail
plenum=$1/plenum

mkdir -p out
echo "── A production cluster's workload, placed pod by pod: Plenum against the best published policy ──"
"$plenum" replay --policy fgd,plenum --plot out/replay.png

echo
echo "── Five workloads on a small mixed fleet, and why one of them waits ──"
"$plenum" place --fleet examples/fleet-lab.yaml examples/jobs.yaml || [ $? -eq 1 ]  # 1: something waits, as it should
echo
"$plenum" explain pretrain-70b --fleet examples/fleet-lab.yaml examples/jobs.yaml

cat <<END

── Where to look next ──
  out/replay.png                                   the curves of the replay
  $plenum fleet show examples/fleet-100k.yaml  100,000 GPUs in 25 lines
  $plenum --help                               all commands
  make bench                                       how fast, against what
  README.md, docs/map.md                           how it works, and where things are
END
