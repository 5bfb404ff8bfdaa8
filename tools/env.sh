# Sourced by the tools: makes .venv with pinned packages when it is missing or out of date, and sets $bin to its programs.
# Python is $PYTHON if that is set, else the newest of 3.11 to 3.13 on the PATH.

cd "$(dirname "${BASH_SOURCE[0]}")/.."
bin=$PWD/.venv/bin

find_python() {
  local p
  for p in "${PYTHON:-}" python3.13 python3.12 python3.11 python3 python; do
    [ -n "$p" ] && command -v "$p" >/dev/null 2>&1 || continue
    "$p" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' 2>/dev/null && { echo "$p"; return; }
  done
  echo "ditscale: error: no Python 3.11, 3.12 or 3.13 found; install one, or set PYTHON=/path/to/python3.12" >&2
  return 1
}

make_venv() {  # Debian and Ubuntu ship Python without ensurepip: python3-venv has it
  local python=$1
  "$python" -m venv --clear .venv >/tmp/ditscale-venv.$$ 2>&1 && { rm -f /tmp/ditscale-venv.$$; return; }
  local package
  package=$("$python" -c 'import sys; print("python%d.%d-venv" % sys.version_info[:2])')
  if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null 2>&1; then
    echo "installing Debian's $package"
    { apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "$package"; } >/tmp/ditscale-venv.$$ 2>&1 &&
      "$python" -m venv --clear .venv >>/tmp/ditscale-venv.$$ 2>&1 && { rm -f /tmp/ditscale-venv.$$; return; }
  fi
  tail -5 /tmp/ditscale-venv.$$ >&2
  rm -f /tmp/ditscale-venv.$$
  echo "ditscale: error: $python cannot make a virtual environment; on Debian or Ubuntu: sudo apt-get install $package" >&2
  return 1
}

setup() {  # the stamp is written last, so that an interrupted installation is repeated
  local wanted
  wanted=$(cat pyproject.toml tools/constraints.txt | sha256sum)
  [ "$(cat .venv/complete 2>/dev/null)" = "$wanted" ] && return
  local python
  python=$(find_python)
  echo "installing ditscale into .venv (once; about a minute)"
  make_venv "$python"
  PIP_CONSTRAINT=$PWD/tools/constraints.txt "$bin/pip" install --quiet --disable-pip-version-check --use-pep517 --editable '.[test]'
  echo "$wanted" >.venv/complete
}

setup
