#!/usr/bin/env bash
# Installs the clients of other makers that judge a node from outside into target/clients: a Python environment, Node
# modules, and the compiled ERC-20. Does nothing when what is there is current. Needs the package registries once.
set -euo pipefail
here="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)/clients"
root="$(cd "$here/../../.." && pwd)"
out="$root/target/clients"

missing=()
command -v node >/dev/null || missing+=(nodejs)
command -v npm >/dev/null || missing+=(npm)
command -v python3 >/dev/null || missing+=(python3)
if command -v python3 >/dev/null && ! python3 -c 'import venv, ensurepip' 2>/dev/null; then
  missing+=(python3-venv)
fi
if [ ${#missing[@]} -gt 0 ]; then
  echo "clients cannot be installed, missing: ${missing[*]} (Debian: apt-get install ${missing[*]})" >&2
  exit 1
fi

mkdir -p "$out"
stamp="$(cd "$here" && cat package.json package-lock.json requirements.txt constraints.txt compile.mjs contracts/*.sol |
  sha256sum | cut -d' ' -f1) $(node --version) $(python3 --version)"
if [ -f "$out/stamp" ] && [ "$(cat "$out/stamp")" = "$stamp" ] &&
  "$out/venv/bin/python" -c 'import web3, grpc_tools' 2>/dev/null; then
  echo "clients are current: $out"
  exit 0
fi
rm -f "$out/stamp"

echo "Node modules…"
cp "$here/package.json" "$here/package-lock.json" "$out/"
(cd "$out" && npm ci --ignore-scripts --no-audit --no-fund --loglevel=error)

echo "Python packages…"
rm -rf "$out/venv"
python3 -m venv "$out/venv"
"$out/venv/bin/python" -m pip install --quiet --disable-pip-version-check \
  -r "$here/requirements.txt" -c "$here/constraints.txt"

echo "Token contract…"
node "$here/compile.mjs" "$out/node_modules" "$out/Token.json"

echo "$stamp" >"$out/stamp"
echo "clients installed: $out"
