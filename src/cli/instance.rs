//! The gateways of this home that run: each holds a lock on a file that says who it is.
//!
//! The lock tells whether it lives. A process id alone does not: it may be another's by now.

use std::{
    fs::{self, DirBuilder, File, OpenOptions, TryLockError},
    io::{self, Read as _, Seek as _, SeekFrom, Write as _},
    net::SocketAddr,
    os::unix::fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
    time::Duration,
};

use serde::{Deserialize, Serialize};

use crate::config::{self, Home};

/// What a gateway says of itself.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Instance {
    /// Its process.
    pub pid: u32,
    /// Where it listens.
    pub address: SocketAddr,
    /// Of the program.
    pub version: String,
    /// Whether `ocx start` started it.
    pub detached: bool,
    /// Its config file, which need not exist.
    pub config: PathBuf,
    /// Where its log goes, if that is a file.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub log: Option<PathBuf>,
    /// What it was started with.
    pub args: Vec<String>,
}

impl Instance {
    /// Its address for a client on this machine.
    pub fn base(&self) -> String {
        format!(
            "http://{}",
            SocketAddr::new(config::reachable(self.address.ip()), self.address.port())
        )
    }

    /// Its port.
    pub fn port(&self) -> u16 {
        self.address.port()
    }
}

/// Held by a gateway while it runs. Dropping it takes the file away.
#[derive(Debug)]
pub(super) struct Held {
    path: PathBuf,
    _lock: File,
}

impl Drop for Held {
    fn drop(&mut self) {
        // Still locked: nobody else can have made it theirs.
        let _ = fs::remove_file(&self.path);
    }
}

fn path(home: &Home, port: u16) -> PathBuf {
    home.run().join(format!("{port}.json"))
}

/// Tells others that a gateway runs, as long as the result is held.
///
/// # Errors
///
/// When the file cannot be written, or another gateway holds it.
pub(super) fn hold(instance: &Instance, home: &Home) -> io::Result<Held> {
    home.create()?;
    match DirBuilder::new().mode(0o700).create(home.run()) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
        _ => {}
    }
    let path = path(home, instance.port());
    for _ in 0..TRIES {
        let mut options = OpenOptions::new();
        let mut file = options.create(true).truncate(false).write(true).mode(0o600).open(&path)?;
        match file.try_lock() {
            // Whoever held it before may have taken it away just now.
            Ok(()) if !is_at(&file, &path) => continue,
            Ok(()) => {}
            Err(TryLockError::Error(error)) => return Err(error),
            // Perhaps by one that only looks.
            Err(TryLockError::WouldBlock) => {
                std::thread::sleep(PAUSE);
                continue;
            }
        }
        file.set_len(0)?;
        file.seek(SeekFrom::Start(0))?;
        file.write_all(&serde_json::to_vec(instance)?)?;
        return Ok(Held { path, _lock: file });
    }
    Err(io::Error::other("another gateway holds it"))
}

fn is_at(file: &File, path: &Path) -> bool {
    let identity = |meta: io::Result<fs::Metadata>| meta.map(|meta| (meta.dev(), meta.ino())).ok();
    identity(file.metadata()) == identity(fs::metadata(path))
}

/// How often a file is read that its owner just writes, and how long we wait in between.
const TRIES: usize = 20;
const PAUSE: Duration = Duration::from_millis(10);

/// The gateways of a home that run, by port.
pub(super) fn running(home: &Home) -> Vec<Instance> {
    let entries = fs::read_dir(home.run()).into_iter().flatten().flatten();
    let files = entries.map(|entry| entry.path());
    let files = files.filter(|path| path.extension().is_some_and(|ending| ending == "json"));
    let mut running: Vec<Instance> = files.filter_map(|path| alive(&path)).collect();
    running.sort_by_key(Instance::port);
    running
}

/// Whether this very gateway still runs.
pub(super) fn still_runs(instance: &Instance, home: &Home) -> bool {
    alive(&path(home, instance.port())).is_some_and(|now| now.pid == instance.pid)
}

fn alive(path: &Path) -> Option<Instance> {
    for _ in 0..TRIES {
        let mut file = File::open(path).ok()?;
        match file.try_lock_shared() {
            // Nobody holds it: it was left by one that was killed.
            Ok(()) => return None,
            Err(TryLockError::Error(_)) => return None,
            Err(TryLockError::WouldBlock) => {}
        }
        let mut text = Vec::new();
        file.read_to_end(&mut text).ok()?;
        if let Ok(instance) = serde_json::from_slice(&text) {
            return Some(instance);
        }
        std::thread::sleep(PAUSE);
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    fn instance(port: u16) -> Instance {
        Instance {
            pid: std::process::id(),
            address: SocketAddr::new([127, 0, 0, 1].into(), port),
            version: "1".into(),
            detached: false,
            config: "c".into(),
            log: None,
            args: Vec::new(),
        }
    }

    #[test]
    fn who_holds_the_lock_runs_and_a_file_that_was_left_means_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let home = Home::at(dir.path().join("home"));
        assert_eq!(running(&home), []);
        let (first, second) = (instance(2), instance(1));
        let held = hold(&first, &home).unwrap();
        let other = hold(&second, &home).unwrap();
        assert!(hold(&first, &home).is_err(), "one a port");
        assert_eq!(running(&home), [second.clone(), first.clone()]);
        drop(held);
        assert_eq!(running(&home), std::slice::from_ref(&second));
        // As after kill -9: the file is there, and nobody holds it.
        fs::write(path(&home, 3), serde_json::to_vec(&instance(3)).unwrap()).unwrap();
        assert_eq!(running(&home), std::slice::from_ref(&second));
        let held = hold(&instance(3), &home).unwrap();
        assert_eq!(running(&home).len(), 2);
        drop((held, other));
        assert!(!still_runs(&second, &home));
    }
}
