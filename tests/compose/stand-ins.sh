#!/usr/bin/env bash
# Sees to it that images are there: those that are, stay; those that can be pulled, are; for the others, where no registry
# can be reached, stand-ins are built from Debian's packages and this machine's Rust toolchain, under the same tags:
#
#   tests/compose/stand-ins.sh debian:bookworm-slim rust:1.95-bookworm postgres:17-bookworm redis:7-bookworm
#
# Prints the tags that it gave to stand-ins, one a line: take them away (`docker rmi`) before somebody else mistakes them
# for the real ones. The stand-ins themselves stay as hookpost-stand-in/..., and are quickly there the next time.
# Without root and debootstrap it builds none, and exits with 3.
set -euo pipefail

PULL_S=600
BUILD_S=600
RELEASE=bookworm
OWN=hookpost-stand-in
BASE=$OWN/debian:$RELEASE-slim

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
registry=unknown dir=''

say() { echo "stand-ins: $*" >&2; }
there() { docker image inspect "$1" >/dev/null 2>&1; }

main() {
  [ $# -gt 0 ] || { say "usage: $0 IMAGE..."; exit 2; }
  trap '[ -z "$dir" ] || rm -rf --one-file-system "$dir"' EXIT
  local image
  for image; do
    there "$image" || pull "$image" || stand_in "$image"
  done
}

# Asked once: what has no answer for the first has none for the others.
pull() {
  [ "$registry" != none ] || return 1
  if timeout "$PULL_S" docker pull --quiet "$1" >&2; then return 0; fi
  registry=none
  return 1
}

stand_in() {
  local name=${1%%:*}
  there "$OWN/$1" || { say "building one for $1"; "make_$name" "$OWN/$1"; }
  docker tag "$OWN/$1" "$1"
  echo "$1"
}

# As the host has it, or debootstrap's own choice.
mirror() {
  apt-get indextargets --format '$(ORIGIN) $(LABEL) $(REPO_URI)' 'Created-By: Packages' 2>/dev/null |
    awk '$1 == "Debian" && $2 == "Debian" { print $3; exit }'
}

# Without what the slim image is without, too.
make_debian() {
  { [ "$(id -u)" = 0 ] && command -v debootstrap >/dev/null; } || { say 'root and debootstrap are needed'; exit 3; }
  dir=$(mktemp -d "${TMPDIR:-/tmp}/hookpost-stand-ins.XXXXXX")
  timeout "$BUILD_S" debootstrap --variant=minbase "$RELEASE" "$dir/root" $(mirror) >"$dir/log" 2>&1 </dev/null ||
    { tail -n 20 "$dir/log" >&2; return 1; }
  (cd "$dir/root" && rm -rf var/cache/apt/* var/lib/apt/lists/* usr/share/{doc,man,info,locale}/*)
  tar -C "$dir/root" -c . | docker import --change 'CMD ["bash"]' - "$1" >&2
}

make_postgres() { build "$1" postgres.Dockerfile -C "$here/stand-ins" postgres-entrypoint.sh; }
make_redis() { build "$1" redis.Dockerfile; }

# Of the toolchain only what builds: documentation is more than half of it.
make_rust() {
  local sysroot config=${CARGO_HOME:-$HOME/.cargo}/config.toml more=()
  sysroot=$(rustc --print sysroot)
  [ "$sysroot" != /usr ] || { say "rustc is Debian's own: install Rust by rustup"; return 1; }
  if [ -e "$config" ]; then more=(-C "$(dirname "$config")" config.toml); fi
  build "$1" rust.Dockerfile --exclude=lib/rustlib/src -C "$sysroot" bin lib \
    -C /etc/ssl/certs ca-certificates.crt "${more[@]}"
}

# From that Dockerfile and what tar takes besides.
build() {
  local tag=$1 dockerfile=$2
  shift 2
  there "$BASE" || make_debian "$BASE"
  tar --create --dereference "$@" -C "$here/stand-ins" "$dockerfile" |
    timeout "$BUILD_S" docker build --quiet --tag "$tag" --file "$dockerfile" - >&2
}

main "$@"
