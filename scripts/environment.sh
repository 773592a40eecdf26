# Sourced by the scripts beside it: makes the virtual environment of the repository, or reuses it, and activates it.
#
#     source scripts/environment.sh EXTRA        (eval, or dev, which contains eval)
#
# PYTHON   the interpreter to make it with (default: the first of the usual names that is at least 3.11)
# VENV     where it lives, an absolute path (default: .venv in the repository)
#
# Sets `root`, the folder of the repository. Does not change the working directory.

root="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"

fail() {
    echo "error: $*" >&2
    exit 1
}

is_recent() {
    "$1" -c 'import sys; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1
}

find_python() {
    if [[ -n "${PYTHON:-}" ]]; then
        is_recent "$PYTHON" || fail "PYTHON must be a Python of at least 3.11; got $PYTHON"
        echo "$PYTHON"
        return
    fi
    local candidate
    for candidate in python3 python3.14 python3.13 python3.12 python3.11 python; do
        if is_recent "$candidate"; then
            echo "$candidate"
            return
        fi
    done
    fail "Python 3.11 or later must be on PATH; install it, or name it with PYTHON=..."
}

# What an installation depends on: the project file, and the folder, which an editable installation remembers.
fingerprint() {
    "$1" -c 'import hashlib, sys; print(hashlib.sha256(open(sys.argv[1], "rb").read() + sys.argv[2].encode()).hexdigest())' \
        "$root/pyproject.toml" "$root"
}

prepare() {
    local venv="$1" extra="$2"
    local stamp="$venv/installed-$extra"

    # An interrupted `venv` leaves a Python without pip; an upgrade of the system can leave no Python at all.
    if ! "$venv/bin/python" -m pip --version >/dev/null 2>&1; then
        local python
        python="$(find_python)"
        "$python" -m venv --clear "$venv" || fail "$python cannot make a virtual environment (Debian: install python3-venv)"
    fi

    local wanted
    wanted="$(fingerprint "$venv/bin/python")"
    if grep -qsx "$wanted" "$stamp" "$venv/installed-dev"; then
        return
    fi
    rm -f "$stamp"
    echo "Installing rvq-codec[$extra] into $venv (the first time this downloads several GB: torch and its CUDA libraries)" >&2
    "$venv/bin/python" -m pip install -qq --disable-pip-version-check --editable "$root[$extra]" ||
        fail "the installation failed; if a compiler or Python.h is missing (Debian: install gcc and python3-dev), then run this again"
    # Written last and moved into place, so that an interrupted installation is done again.
    echo "$wanted" >"$stamp.new"
    mv "$stamp.new" "$stamp"
}

VENV="${VENV:-$root/.venv}"
prepare "$VENV" "$1"
VIRTUAL_ENV="$VENV"
PATH="$VENV/bin:$PATH"
export VIRTUAL_ENV PATH
unset PYTHONHOME
