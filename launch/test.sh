#!/usr/bin/env bash
# Checks the style of the code and runs the tests, in a virtual environment that it makes.
#
#   bash launch/test.sh                       everything
#   bash launch/test.sh -m 'not slow'         any arguments of pytest
#   PYTHON=python3.12 bash launch/test.sh     with another Python; makes .venv anew
#   VENV=.venv-3.12 PYTHON=python3.12 ...     keeps one for each Python
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
source launch/environment.sh

make_environment test
# What some tests need is installed where it can be; without it they are skipped. Ubuntu has no Chromium
# but as a snap.
if [[ $(id -u) == 0 ]] && grep -qs '^ID=debian' /etc/os-release; then
  missing=()
  for package in chromium curl shellcheck; do
    command -v "$package" >/dev/null || missing+=("$package")
  done
  [[ ${#missing[@]} == 0 ]] || install_packages "${missing[@]}" || echo "without ${missing[*]}"
fi
ruff check .
ruff format --check .
for script in launch/*.sh .ci/run; do
  bash -n "$script"
done

# Compiling and tracing keep one core busy, so a process for each pays, and another while one waits for
# a command that it has started; four hold enough memory. The files of fewest tests, which would come
# last, are the ones that take longest. A process that dies ends the run; with another in its place the
# others would wait for ever.
processes=$(($(nproc) + 1))
python -m pytest --numprocesses="$processes" --maxprocesses=4 --max-worker-restart=0 \
  --dist=loadfile --no-loadscope-reorder "$@"
