#!/usr/bin/env bash
# Installs what the tests need (Debian or Ubuntu) and runs all of them: format, lints, tests with
# the real clients, and documentation. Stops at the first failure. About ten minutes on two cores.
set -euo pipefail
cd "$(dirname "$0")/.."

as_root() { if [ "$(id -u)" = 0 ]; then "$@"; else sudo "$@"; fi; }
say() { printf '\n== %s\n' "$1"; }

say "what is needed"
missing=()
command -v cc >/dev/null || missing+=(gcc libc6-dev)
command -v npm >/dev/null || missing+=(nodejs npm)
python3 -c 'import ensurepip, venv' 2>/dev/null || missing+=(python3 python3-venv)
command -v prlimit >/dev/null || missing+=(util-linux)
if [ ${#missing[@]} -gt 0 ]; then
  as_root apt-get update -q
  as_root apt-get install -qy --no-install-recommends "${missing[@]}"
fi
command -v cargo >/dev/null || { echo "Rust is missing: see https://rustup.rs" >&2; exit 1; }
# Unpacked and not installed: the package would start a service of its own.
tools=target/tools
if ! [ -x "$tools/usr/bin/promtool" ]; then
  mkdir -p "$tools"
  (cd "$tools" && { apt-get download -q prometheus || { as_root apt-get update -q; apt-get download -q prometheus; }; }
    for package in prometheus_*.deb; do dpkg -x "$package" . && rm "$package"; done)
fi
clients=target/clients
pinned() { tr -d '[:space:]' < "tests/clients/$1"; }
has() { [ -x "$clients/node_modules/.bin/$1" ] && "$clients/node_modules/.bin/$1" --version | grep -qF "$2"; }
codex=$(pinned codex-version.txt); claude=$(pinned claude-code-version.txt)
if ! { has codex "$codex" && has claude "$claude"; }; then
  mkdir -p "$clients"
  npm install --prefix "$clients" --no-fund --no-audit --loglevel=error \
    "@openai/codex@$codex" "@anthropic-ai/claude-code@$claude"
fi
if ! cmp -s tests/clients/requirements.txt "$clients/venv/installed"; then
  python3 -m venv "$clients/venv"
  "$clients/venv/bin/pip" install -q --disable-pip-version-check -r tests/clients/requirements.txt
  cp tests/clients/requirements.txt "$clients/venv/installed"
fi

say "format";  cargo fmt --all --check
say "lints";   cargo clippy --locked --all-targets -- -D warnings
say "tests";   cargo test --locked --no-fail-fast
say "docs";    RUSTDOCFLAGS="-D warnings" cargo doc --locked --no-deps --quiet
say "all of it passed"
