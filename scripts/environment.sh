# Sourced by run, test and bench: makes .venv with the wanted extra, once, and sets $python.
#
#   environment EXTRA        e.g. environment experiments
#
# PYTHON=/path/to/python3.12 chooses another interpreter, DLWP_VENV=DIR another place for the environment.

root=$(CDPATH='' cd -- "$(dirname -- "${BASH_SOURCE[0]}")/.." && pwd -P)

die() { printf '%s\n' "$*" >&2; exit 1; }

is_usable() { "$1" -c 'import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1; }

version_of() { "$1" -c 'import sys; print(sys.version)' 2>/dev/null; }

find_python() {
  local name
  if [ -n "${PYTHON:-}" ]; then
    is_usable "$PYTHON" || die "PYTHON=$PYTHON is not a Python >= 3.11 with venv and pip; name one that is."
    printf '%s\n' "$PYTHON"
    return
  fi
  for name in python3 python3.11 python3.12 python3.13 python3.14 python; do
    if is_usable "$name"; then printf '%s\n' "$name"; return; fi
  done
  die "No Python >= 3.11 with venv and pip was found (on Debian: apt install python3-venv); name one: PYTHON=/path/to/python3.11"
}

# Whether the environment stands, with the wanted extra, and is of the interpreter that PYTHON asks for.
is_ready() {
  [ "$(cat "$venv/.installed-$1" 2>/dev/null)" = "$wanted" ] || return
  [ -z "${PYTHON:-}" ] || [ "$(version_of "$PYTHON")" = "$(version_of "$python")" ]
}

install() {
  local extra=$1 base bytecode=--no-compile
  if [ -n "${PYTHON:-}" ] && [ "$(version_of "$PYTHON")" != "$(version_of "$python")" ] \
    || ! "$python" -m pip --version >/dev/null 2>&1; then # none, another interpreter's, or one left half-made
    base=$(find_python) || exit 1
    "$base" -m venv --clear "$venv" || die "$base could not make an environment in $venv; its own words stand above."
  fi
  printf 'Installing dlwp-jax[%s] into %s (once; a few minutes on a slow line) ...\n' "$extra" "$venv" >&2
  # Installing takes half the time without compiling; Python does that when a module is first imported, if it may.
  [ -z "${PYTHONDONTWRITEBYTECODE:-}" ] || bytecode=--compile
  "$python" -m pip install --quiet "$bytecode" --disable-pip-version-check --constraint "$root/constraints.txt" \
    --editable "$root[$extra]" >&2 || die "Installing dlwp-jax[$extra] failed; pip's own words stand above."
  printf '%s\n' "$wanted" >"$venv/.installed-$extra.partial"
  mv "$venv/.installed-$extra.partial" "$venv/.installed-$extra"
}

# Run a module of the experiments, which are not installed: python looks for them in the clone.
experiments_module() {
  export PYTHONPATH="$root${PYTHONPATH:+:$PYTHONPATH}"
  exec "$python" -P -m "$@"
}

environment() {
  venv=${DLWP_VENV:-$root/.venv}
  case $venv in /*) ;; *) venv=$PWD/$venv ;; esac
  python=$venv/bin/python
  wanted=$(printf '%s\n' "$root" && cat "$root/pyproject.toml" "$root/constraints.txt")
  is_ready "$1" && return
  # Two calls at once: the second waits for the first. The lock lies beside the environment, which may be cleared.
  mkdir -p "$(dirname -- "$venv")"
  if command -v flock >/dev/null; then exec 9>"$venv.lock" && flock 9; fi
  is_ready "$1" || install "$1"
  exec 9>&-
}
