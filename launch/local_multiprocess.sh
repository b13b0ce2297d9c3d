#!/usr/bin/env bash
# Runs a command on several hosts that are processes on this machine, to try what they would do.
#
#   bash launch/local_multiprocess.sh 4 train --gin_file=...
#
# It prints what the first one prints. The others write to files, which are shown where they fail.
# Where a host dies or hangs all are started again, and a run goes on from its last checkpoint.
# SIGTERM and Ctrl-C go to all of them.
set -uo pipefail

RESTARTS=${RESTARTS:-3}          # how often all are started again
HOST_TIMEOUT=${HOST_TIMEOUT:-60} # seconds after which a host that was not heard of is dead
DEVICES=${DEVICES:-}             # CPU devices of each process; empty for the accelerators there are
LOGS=${LOGS:-local_multiprocess} # folder for what the others print
T5X_LITE=${T5X_LITE:-t5x-lite}   # the program

if [[ $# -lt 2 || ! $1 =~ ^[1-9][0-9]*$ ]]; then
  echo "usage: $0 NUM_PROCESSES COMMAND [ARGUMENT...]" >&2
  exit 2
fi
num_processes=$1 command=$2
shift 2
read -ra program <<<"$T5X_LITE"
mkdir -p "$LOGS"
if [[ -n $DEVICES ]]; then
  export JAX_PLATFORMS=cpu
  export XLA_FLAGS="${XLA_FLAGS:-} --xla_force_host_platform_device_count=$DEVICES"
fi

stopped=
trap 'stopped=yes; kill -TERM "${processes[@]}" 2>/dev/null' TERM INT

free_port() {
  python3 -c 'import socket; s = socket.create_server(("", 0)); print(s.getsockname()[1])'
}

for ((attempt = 0; ; attempt++)); do
  processes=()
  address=localhost:$(free_port)
  for ((i = 0; i < num_processes; i++)); do
    start=("${program[@]}" "$command" "--coordinator_address=$address" "--process_id=$i"
      "--num_processes=$num_processes" "--host_timeout=$HOST_TIMEOUT" "$@")
    if [[ $i == 0 ]]; then
      "${start[@]}" &
    else
      "${start[@]}" &>"$LOGS/host-$i.txt" &
    fi
    processes[i]=$!
  done

  # 0, or what says most of all that went wrong: a bug (1), a mistake (2), a lost host (75).
  status=0 deadline=
  while [[ ${#processes[@]} -gt 0 ]]; do
    sleep 0.2
    for i in "${!processes[@]}"; do
      kill -0 "${processes[i]}" 2>/dev/null && continue
      wait "${processes[i]}"
      ended=$?
      unset "processes[i]"
      [[ $ended != 0 ]] || continue
      [[ $status != 0 && $status -lt $ended ]] || status=$ended
      if [[ $i != 0 ]]; then
        echo "host $i ended with status $ended, $LOGS/host-$i.txt with:" >&2
        tail -n 3 "$LOGS/host-$i.txt" >&2
      fi
      # The others end by themselves, but for what hangs.
      deadline=${deadline:-$((SECONDS + HOST_TIMEOUT))}
    done
    if [[ -n $deadline && $SECONDS -gt $deadline ]]; then
      kill -KILL "${processes[@]}" 2>/dev/null
    fi
  done
  if [[ $status -lt 75 || -n $stopped || $attempt -ge $RESTARTS ]]; then
    exit "$status"
  fi
  echo "starting all hosts again, restart $((attempt + 1)) of at most $RESTARTS" >&2
done
