#!/bin/sh
# Makes .venv with this project and one of its extras, with uv when it is there and plain venv and pip when not.
#   sh deploy/local/setup.sh dev
set -eu
extra=$1
python=${PYTHON:-python3}

install_venv_module() { # Debian keeps Python's venv in a package of its own
    if command -v apt-get >/dev/null && [ "$(id -u)" = 0 ]; then
        root=
    elif command -v apt-get >/dev/null && command -v sudo >/dev/null && sudo -n true 2>/dev/null; then
        root="sudo -n"
    else
        echo "Python's venv module is missing. On Debian or Ubuntu: sudo apt-get install python3-venv" >&2
        exit 1
    fi
    echo "Installing python3-venv..."
    $root env DEBIAN_FRONTEND=noninteractive apt-get -qq -o DPkg::Lock::Timeout=300 update
    $root env DEBIAN_FRONTEND=noninteractive apt-get -qq -o DPkg::Lock::Timeout=300 install -y python3-venv >/dev/null
}

if command -v uv >/dev/null; then
    [ -x .venv/bin/python ] || uv venv --quiet --python '>=3.11' .venv
    uv pip install --quiet --python .venv/bin/python --editable ".[$extra]"
    exit
fi

if ! "$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))'; then
    echo "Warren needs Python 3.11 or newer; PYTHON=/path/to/python3.11 make ... names one." >&2
    exit 1
fi
if ! .venv/bin/python -m pip --version >/dev/null 2>&1; then
    "$python" -c 'import ensurepip, venv' 2>/dev/null || install_venv_module
    "$python" -m venv --clear .venv
fi
.venv/bin/python -m pip install --quiet --disable-pip-version-check --editable ".[$extra]"
