# shellcheck shell=bash
# For the other scripts here to source: make_environment EXTRA makes a virtual environment with
# t5x_lite[EXTRA], or takes the one that is there, and puts it on PATH.
#
# PYTHON  the interpreter, 3.11 or newer (python3, or a newer one where that is too old)
# VENV    the folder of the environment (.venv)

fail() {
  echo "$(basename "$0"): $*" >&2
  exit 1
}

# Installs Debian packages, or says which ones to install.
install_packages() {
  if ! command -v apt-get >/dev/null; then
    fail "install Python 3.11 or newer with its venv module, and set PYTHON to it"
  elif [[ $(id -u) != 0 ]]; then
    fail "first run: sudo apt-get install $*"
  fi
  echo "installing $*"
  apt-get update -qq
  DEBIAN_FRONTEND=noninteractive apt-get install -y -qq "$@" >/dev/null
}

# Prints the first Python that is new enough.
find_python() {
  local python
  for python in ${PYTHON:-python3 python3.12 python3.11}; do
    if "$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
      echo "$python"
      return
    fi
  done
  return 1
}

make_environment() {
  local extra=$1 venv=${VENV:-.venv} python version stamp
  if ! python=$(find_python); then
    [[ -z ${PYTHON:-} ]] || fail "PYTHON=$PYTHON does not run, or is older than 3.11"
    if command -v python3 >/dev/null; then # Too old, as on Ubuntu 22.04, which has 3.11 beside it.
      install_packages python3.11 python3.11-venv
    else
      install_packages python3 python3-venv
    fi
    python=$(find_python) || fail 'found no Python 3.11 or newer; set PYTHON to one'
  fi
  version=$("$python" -c 'import sys; print("%d.%d" % sys.version_info[:2])')
  # Debian packs ensurepip, without which there is no pip in an environment, by itself.
  "$python" -c 'import ensurepip, venv' 2>/dev/null || install_packages "python$version-venv"

  if [[ ! -x $venv/bin/python$version ]]; then
    echo "making $venv with Python $version"
    rm -rf "$venv"
    "$python" -m venv "$venv"
  fi
  PATH=$(cd "$venv/bin" && pwd):$PATH

  # What was asked for is kept, so that nothing is resolved again while it stays the same.
  stamp=$venv/t5x_lite-$extra
  if ! cmp -s <(cat setup.cfg pyproject.toml && pwd) "$stamp"; then
    echo "installing t5x_lite[$extra] into $venv"
    python -m pip install --quiet --disable-pip-version-check -e ".[$extra]"
    (cat setup.cfg pyproject.toml && pwd) >"$stamp"
  fi
}
