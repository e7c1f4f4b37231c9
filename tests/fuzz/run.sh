#!/usr/bin/env bash
# Fuzzes every target for N minutes in all (default 60), on stable Rust. What is found lies in
# target/fuzz/artifacts; the corpus grows below target/fuzz/corpus and begins with tests/fuzz/corpus
# and the transcripts. Ends with an error at the first finding.
set -euo pipefail
cd "$(dirname "$0")/../.."

minutes=${1:-60}
targets=$(sed -n 's/^path = "targets\/\(.*\)\.rs"$/\1/p' tests/fuzz/Cargo.toml)
count=$(wc -w <<< "$targets")
export CARGO_TARGET_DIR=target/fuzz
command -v cargo-fuzz >/dev/null || cargo install cargo-fuzz --locked
# Everything is safe Rust, so the sanitizers are left out, and stable will do.
fuzz() { cargo fuzz "$1" --fuzz-dir tests/fuzz -s none "${@:2}"; }

cargo run -q --manifest-path tests/fuzz/Cargo.toml --example seeds -- target/fuzz/seeds
fuzz build
for target in $targets; do
  mkdir -p "target/fuzz/corpus/$target" "target/fuzz/artifacts/$target" "tests/fuzz/corpus/$target"
  printf '\n== %s, %s of %s minutes\n' "$target" "$((minutes * 60 / count)) s" "$minutes"
  fuzz run "$target" "target/fuzz/corpus/$target" "tests/fuzz/corpus/$target" \
    "target/fuzz/seeds/$target" -- -max_total_time=$((minutes * 60 / count)) -timeout=10 \
    -max_len=65536 -print_final_stats=1 -artifact_prefix="target/fuzz/artifacts/$target/" \
    2>&1 | grep -E 'stat::|DONE|ERROR|SUMMARY|panicked|assert|left:|right:' || {
      echo "$target: a finding; see target/fuzz/artifacts/$target" >&2; exit 1; }
done
