//! Real clients against `ocx serve`, with a scripted model behind it that checks every request
//! against the rules its vendor publishes.
//!
//! `tests/all.sh` installs the pinned clients; without them these tests fail, they are never skipped.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on should stop")]

#[path = "../support/mod.rs"]
mod support;

mod adapters;
mod codex;
mod setup;
mod table;

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::{Duration, Instant},
};

/// A client that hangs must not hang the build.
const TIMEOUT: Duration = Duration::from_secs(120);

/// A file that `tests/all.sh` installs.
fn installed(path: &str) -> PathBuf {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/clients").join(path);
    assert!(path.exists(), "{} is missing: run tests/all.sh, which installs it", path.display());
    path
}

/// What a program printed and left.
struct Ran {
    ok: bool,
    out: String,
    err: String,
}

/// Runs a program to its end; its output goes to files in `dir`.
fn run(command: &mut Command, dir: &Path) -> Ran {
    let started = Instant::now();
    let (out, err) = (dir.join("client.out"), dir.join("client.err"));
    let mut child = command
        .stdin(Stdio::null())
        .stdout(fs::File::create(&out).unwrap())
        .stderr(fs::File::create(&err).unwrap())
        .spawn()
        .unwrap();
    let status = loop {
        if let Some(status) = child.try_wait().unwrap() {
            break status;
        }
        if started.elapsed() > TIMEOUT {
            let _ = child.kill();
            panic!("a client hangs; see {}", dir.display());
        }
        std::thread::sleep(Duration::from_millis(20));
    };
    let read = |path| fs::read_to_string(path).unwrap();
    Ran { ok: status.success(), out: read(out), err: read(err) }
}
