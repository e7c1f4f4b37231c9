#!/usr/bin/env bash
# Installs what the tests need (Debian or Ubuntu) and runs all of them: format, lints, tests with
# the real Codex CLI, and documentation. Stops at the first failure. About ten minutes on two cores.
set -euo pipefail
cd "$(dirname "$0")/.."

as_root() { if [ "$(id -u)" = 0 ]; then "$@"; else sudo "$@"; fi; }
say() { printf '\n== %s\n' "$1"; }

say "what is needed"
missing=()
command -v cc >/dev/null || missing+=(gcc libc6-dev)
command -v npm >/dev/null || missing+=(nodejs npm)
if [ ${#missing[@]} -gt 0 ]; then
  as_root apt-get update -q
  as_root apt-get install -qy --no-install-recommends "${missing[@]}"
fi
command -v cargo >/dev/null || { echo "Rust is missing: see https://rustup.rs" >&2; exit 1; }
version=$(tr -d '[:space:]' < tests/codex/version.txt)
codex=target/codex/node_modules/.bin/codex
if ! { [ -x "$codex" ] && "$codex" --version | grep -q " $version\$"; }; then
  mkdir -p target/codex
  npm install --prefix target/codex --no-fund --no-audit --loglevel=error "@openai/codex@$version"
fi

say "format";  cargo fmt --all --check
say "lints";   cargo clippy --locked --all-targets -- -D warnings
say "tests";   cargo test --locked --no-fail-fast
say "docs";    RUSTDOCFLAGS="-D warnings" cargo doc --locked --no-deps --quiet
say "all of it passed"
