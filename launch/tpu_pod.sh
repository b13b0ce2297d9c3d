#!/usr/bin/env bash
# Runs a command on all hosts of a slice of Cloud TPU virtual machines, with gcloud.
#
#   TPU=my-slice ZONE=us-central2-b bash launch/tpu_pod.sh install
#   TPU=my-slice ZONE=us-central2-b bash launch/tpu_pod.sh train --gin_file=...
#
# `install` copies this folder to all hosts, and makes a virtual environment there. The hosts find
# each other by themselves. Where one is lost all end, and each starts again, to go on from the
# last checkpoint. All hosts have to see MODEL_DIR, gs://bucket/run for one.
set -euo pipefail

TPU=${TPU:?set TPU to the name of the slice}
ZONE=${ZONE:?set ZONE to the zone it is in}
PROJECT=${PROJECT:-}         # of gcloud; empty for its default
RESTARTS=${RESTARTS:-3}      # how often each host starts again
PYTHON=${PYTHON:-python3}    # on the hosts, 3.11 or newer
FOLDER=${FOLDER:-t5x_lite}   # on the hosts, in the home folder

if [[ $# == 0 ]]; then
  echo "usage: TPU=... ZONE=... $0 install | COMMAND [ARGUMENT...]" >&2
  exit 2
fi
where=("--zone=$ZONE" ${PROJECT:+"--project=$PROJECT"} --worker=all)

# Runs a script on all hosts.
on_all() {
  gcloud compute tpus tpu-vm ssh "$TPU" "${where[@]}" --command="$1"
}

if [[ $1 == install ]]; then
  source=$(mktemp)
  trap 'rm -f "$source"' EXIT
  tar -C "$(dirname "${BASH_SOURCE[0]}")/.." --exclude=.git --exclude='.venv*' -czf "$source" .
  gcloud compute tpus tpu-vm scp "$source" "$TPU:$FOLDER.tar.gz" "${where[@]}"
  on_all "mkdir -p $FOLDER && tar -C $FOLDER -xzf $FOLDER.tar.gz && cd $FOLDER &&
    $PYTHON -m venv .venv && .venv/bin/pip install --quiet -e '.[tpu,gs]'"
  exit
fi

# 75 is a host that was lost, or a run that saved because it was to end; from 128 on it was a signal.
on_all "cd $FOLDER && for attempt in \$(seq 0 $RESTARTS); do
  .venv/bin/t5x-lite $(printf '%q ' "$@")
  status=\$?
  [ \$status -ge 75 ] || break
done; exit \$status"
