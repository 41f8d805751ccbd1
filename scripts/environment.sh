# Sourced by run, test and bench: makes .venv with the wanted extra, once, and sets $python.
#
#   environment EXTRA        e.g. environment experiments
#
# PYTHON=/path/to/python3.12 chooses another interpreter, DLWP_VENV=DIR another place for the environment.

root=$(cd -- "$(dirname -- "${BASH_SOURCE[0]}")/.." && pwd -P)

die() { printf '%s\n' "$*" >&2; exit 1; }

is_new_enough() { "$1" -c 'import sys, venv; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1; }

find_python() {
  if [ -n "${PYTHON:-}" ]; then
    is_new_enough "$PYTHON" || die "PYTHON=$PYTHON is not a Python >= 3.11 with the venv module; name one that is."
    command -v "$PYTHON"
    return
  fi
  local name
  for name in python3 python3.11 python3.12 python3.13 python3.14 python; do
    if is_new_enough "$name"; then command -v "$name"; return; fi
  done
  die "No Python >= 3.11 with the venv module was found; install one, or name it: PYTHON=/path/to/python3.11 $0"
}

environment() {
  local extra=$1 venv=${DLWP_VENV:-$root/.venv} base wanted stamp
  python=$venv/bin/python
  # An existing environment decides the interpreter, unless PYTHON asks for another.
  if [ -n "${PYTHON:-}" ] || ! [ -x "$python" ]; then base=$(find_python) || exit 1; else base=$python; fi
  wanted=$("$base" -c 'import sys; print(sys.version)' && printf '%s\n' "$root" && cat "$root/pyproject.toml" "$root/constraints.txt")
  stamp=$venv/.installed-$extra
  [ -x "$python" ] && [ "$(cat "$stamp" 2>/dev/null)" = "$wanted" ] && return

  mkdir -p "$venv"
  if command -v flock >/dev/null; then exec 9>"$venv/.lock"; flock 9; fi  # two calls at once: the second waits
  if [ -x "$python" ] && [ "$(cat "$stamp" 2>/dev/null)" = "$wanted" ]; then exec 9>&-; return; fi
  printf 'Installing dlwp-jax[%s] into %s (once; a few minutes on a slow line) ...\n' "$extra" "$venv" >&2
  if [ "$base" != "$python" ]; then
    rm -f "$venv"/.installed-*
    "$base" -m venv --clear "$venv" || die "$base could not make an environment in $venv; on Debian: apt install python3-venv"
  fi
  "$python" -m pip install --quiet --disable-pip-version-check --constraint "$root/constraints.txt" \
    --editable "$root[$extra]" >&2 || die "Installing dlwp-jax[$extra] failed; pip's own words stand above."
  printf '%s\n' "$wanted" >"$stamp.partial" && mv "$stamp.partial" "$stamp"
  { exec 9>&-; } 2>/dev/null
}
