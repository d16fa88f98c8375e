#!/usr/bin/env bash
# Makes sure that this machine has what building and testing needs: a C compiler (SQLite and ring are built from
# source), PostgreSQL's server, Redis, and Python with the libraries that verify our signatures and our API; with BROWSER=1
# Chromium, too. On Debian and Ubuntu the missing ones are installed; elsewhere it says what to install. Does nothing,
# quickly, when everything is there.
set -euo pipefail

say() { echo "prerequisites: $*" >&2; }

# Debian keeps the server's binaries off the PATH, a directory for each major version.
have_postgres() {
  command -v initdb >/dev/null || compgen -G '/usr/lib/postgresql/*/bin/initdb' >/dev/null
}

as_root() {
  if [ "$(id -u)" = 0 ]; then "$@"; else sudo "$@"; fi
}

install_packages() {
  local apt=(env DEBIAN_FRONTEND=noninteractive apt-get -qq -o DPkg::Lock::Timeout=300 -o Dpkg::Use-Pty=0)
  # Without lists (a fresh container) there is nothing to install from; with old ones a version may be gone.
  as_root "${apt[@]}" update || say "apt-get update failed; trying with the package lists that are there"
  as_root "${apt[@]}" install --yes --no-install-recommends "$@"
}

if ! command -v cargo >/dev/null; then
  say "cargo is not on the PATH: install Rust 1.95 or newer from https://rustup.rs"
  exit 1
fi

packages=()
command -v cc >/dev/null || packages+=(gcc libc6-dev)
# A server that runs already stands in for ours. Redis is wanted all the same: its tests kill and restart one of their own.
[ -n "${TEST_DATABASE_URL:-}" ] || have_postgres || packages+=(postgresql)
command -v redis-server >/dev/null || packages+=(redis-server)
# The README's examples are run by curl, and processes are ended by kill.
command -v curl >/dev/null || packages+=(curl)
[ -x /bin/kill ] || [ -x /usr/bin/kill ] || packages+=(procps)
# The pages are looked at with it, if somebody asks: it is large, and what needs it says that it was skipped (tests/it/pages.rs).
[ -z "${BROWSER:-}" ] || command -v chromium >/dev/null || packages+=(chromium)
# Faults are made with these, as root; where they are missing, what needs them is skipped by name (tests/faults).
if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
  command -v strace >/dev/null || packages+=(strace)
  compgen -G '/usr/lib/*/faketime/libfaketime.so.1' >/dev/null || packages+=(libfaketime)
  command -v ip >/dev/null || packages+=(iproute2)
  command -v mkfs.ext4 >/dev/null || packages+=(e2fsprogs)
  { command -v prlimit && command -v losetup && command -v fallocate; } >/dev/null || packages+=(util-linux mount)
fi
# The libraries live in an environment of their own; Debian has what makes one in a package apart.
python3 -c 'import venv, ensurepip' 2>/dev/null || packages+=(python3 python3-venv)

# Where there is a container engine, tests/compose builds stand-ins for images that cannot be pulled.
need_stand_ins() {
  [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null && ! command -v debootstrap >/dev/null &&
    timeout 20 docker info >/dev/null 2>&1
}

install_missing() {
  if need_stand_ins; then packages+=(debootstrap); fi
  [ ${#packages[@]} -gt 0 ] || return 0
  if ! command -v apt-get >/dev/null; then
    say "install these with this system's package manager, then try again: ${packages[*]} (names as on Debian)"
    exit 1
  fi
  say "installing ${packages[*]}"
  if ! install_packages "${packages[@]}" </dev/null >&2; then
    say "could not install ${packages[*]}: install them by hand, then try again"
    exit 1
  fi
}

# The stamp says what is in it, and is written last: what was interrupted is made again.
make_verifiers() {
  local root verifiers
  root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
  verifiers=$root/target/verifiers
  # A stamp alone may be left over: a newer Python, or a folder that was moved, finds nothing in it.
  cmp -s "$root/tests/requirements.txt" "$verifiers/stamp" &&
    "$verifiers/bin/python" -c 'import nacl, schemathesis, standardwebhooks' 2>/dev/null && return 0
  say "making $verifiers"
  mkdir -p "$root/target"
  if ! { python3 -m venv --clear "$verifiers" &&
    "$verifiers/bin/python" -m pip install --quiet --disable-pip-version-check -r "$root/tests/requirements.txt"; } >&2; then
    say "could not install what tests/requirements.txt names into $verifiers: see above, then try again"
    exit 1
  fi
  cp "$root/tests/requirements.txt" "$verifiers/stamp"
}

# Checks the alert rules. Taken out of Debian's package and not installed with it, which would start a server; without it
# the check is skipped, and says so.
take_promtool() {
  local root dir
  root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
  dir=$root/target/promtool
  if command -v promtool >/dev/null || [ -x "$dir/usr/bin/promtool" ] || ! command -v apt-get >/dev/null; then return 0; fi
  say "taking promtool out of the package prometheus"
  mkdir -p "$dir"
  (cd "$dir" && apt-get -qq download prometheus && dpkg-deb -x prometheus_*.deb . && rm -f prometheus_*.deb) >&2 ||
    say "could not be had; the alert rules will not be checked"
}

install_missing
make_verifiers
take_promtool
