#!/usr/bin/env bash
# Runs published Ethereum test vectors through our executor and state: vectors.sh DIR
# DIR holds vector files (*.json, at any depth), or archives of them (*.tar.xz, *.tar.gz) that are unpacked into a
# temporary folder. The last line is `N passed, N failed, N skipped`; the exit code is 0 only if none failed.
set -euo pipefail
root="$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)"
runner="${STATE_VECTORS:-${CARGO_TARGET_DIR:-$root/target}/release/examples/state-vectors}"

if [ $# -ne 1 ]; then
  echo "usage: vectors.sh DIR" >&2
  exit 2
fi
dir="$1"
if [ ! -d "$dir" ]; then
  echo "no folder $dir: give one with vector files or archives (make test-vectors VECTORS=DIR)" >&2
  exit 2
fi
if [ ! -x "$runner" ]; then
  echo "$runner is missing: cargo build --release -p quorate-evm --example state-vectors" >&2
  exit 2
fi

if [ -z "$(find -L "$dir" -name '*.json' -print -quit)" ]; then
  shopt -s nullglob
  archives=("$dir"/*.tar.xz "$dir"/*.tar.gz "$dir"/*.tgz)
  if [ ${#archives[@]} -eq 0 ]; then
    echo "$dir holds neither *.json files nor *.tar.xz or *.tar.gz archives" >&2
    exit 2
  fi
  unpacked="$(mktemp -d)"
  trap 'rm -rf "$unpacked"' EXIT
  trap 'exit 130' INT TERM
  for archive in "${archives[@]}"; do
    name="$(basename "$archive")"
    mkdir "$unpacked/$name"
    tar -xf "$archive" -C "$unpacked/$name"
  done
  dir="$unpacked"
fi

# Not `exec`: the temporary folder must go.
"$runner" "$dir"
