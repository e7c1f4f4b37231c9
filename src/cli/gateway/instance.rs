//! The gateways of this home that run: each holds a lock on a file that says who it is.
//!
//! The lock tells whether it lives. A process id alone does not: it may be another's by now.

use std::{
    fs::{self, DirBuilder, File, TryLockError},
    io::{self, Read as _, Write as _},
    net::{IpAddr, Ipv4Addr, SocketAddr},
    os::unix::fs::{DirBuilderExt as _, MetadataExt as _},
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize};
use url::{Host, Url};

use crate::config::{self, Home};

/// What a gateway says of itself.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(in crate::cli) struct Instance {
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
    /// What starts another like it: flags of `ocx serve`.
    pub args: Vec<String>,
    /// What its streams have when it is told to end, in milliseconds.
    #[serde(default)]
    pub shutdown_ms: u64,
    /// Whether it was told to end, and lets its streams do so.
    #[serde(default)]
    pub stopping: bool,
}

impl Instance {
    /// Its address for a client on this machine.
    pub fn base(&self) -> String {
        format!(
            "http://{}",
            SocketAddr::new(config::reachable(self.address.ip()), self.address.port())
        )
    }

    /// Whether an address leads to it, from this machine.
    pub fn is_at(&self, base_url: &str) -> bool {
        let Ok(url) = Url::parse(base_url) else { return false };
        let host = match url.host() {
            Some(Host::Ipv4(ip)) => Some(IpAddr::from(ip)),
            Some(Host::Ipv6(ip)) => Some(IpAddr::from(ip)),
            Some(Host::Domain("localhost")) => Some(Ipv4Addr::LOCALHOST.into()),
            _ => None,
        };
        let own = self.address.ip();
        let here = |ip: IpAddr| ip.is_loopback() || ip == own || own.is_unspecified();
        host.is_some_and(here) && url.port_or_known_default() == Some(self.port())
    }

    /// Its port.
    pub fn port(&self) -> u16 {
        self.address.port()
    }
}

/// Held by a gateway while it runs. Dropping it takes the file away.
#[derive(Debug)]
pub(in crate::cli) struct Held {
    path: PathBuf,
    lock: File,
}

impl Held {
    /// Says something else of the gateway.
    ///
    /// # Errors
    ///
    /// When the file cannot be written; it then says what it said.
    pub fn tell(&mut self, instance: &Instance) -> io::Result<()> {
        self.lock = written(instance, &self.path)?;
        Ok(())
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        // Only if it is ours: somebody may have cleared the directory.
        if is_at(&self.lock, &self.path) {
            let _ = fs::remove_file(&self.path);
        }
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
pub(in crate::cli) fn hold(instance: &Instance, home: &Home) -> io::Result<Held> {
    home.create()?;
    DirBuilder::new().recursive(true).mode(0o700).create(home.run())?;
    let path = path(home, instance.port());
    if alive(&path).is_some() {
        return Err(io::Error::other("another gateway holds it"));
    }
    // One port has one gateway: of two that begin at once the other could not listen.
    let lock = written(instance, &path)?;
    Ok(Held { path, lock })
}

/// Locked and written before anybody can see it.
fn written(instance: &Instance, path: &Path) -> io::Result<File> {
    let dir = path.parent().unwrap_or(Path::new("."));
    let mut file = tempfile::NamedTempFile::new_in(dir)?;
    file.as_file().lock()?;
    file.write_all(&serde_json::to_vec(instance)?)?;
    file.persist(path).map_err(|error| error.error)
}

/// The gateways of a home that run, by port.
pub(in crate::cli) fn running(home: &Home) -> Vec<Instance> {
    let entries = fs::read_dir(home.run()).into_iter().flatten().flatten();
    let files = entries.map(|entry| entry.path());
    let files = files.filter(|path| path.extension().is_some_and(|ending| ending == "json"));
    let mut running: Vec<Instance> = files.filter_map(|path| alive(&path)).collect();
    running.sort_by_key(Instance::port);
    running
}

/// What this very gateway says of itself now, if it still runs.
pub(in crate::cli) fn now(instance: &Instance, home: &Home) -> Option<Instance> {
    alive(&path(home, instance.port())).filter(|now| now.pid == instance.pid)
}

fn alive(path: &Path) -> Option<Instance> {
    loop {
        let mut file = File::open(path).ok()?;
        match file.try_lock_shared() {
            Err(TryLockError::WouldBlock) => {
                let mut text = Vec::new();
                file.read_to_end(&mut text).ok()?;
                return serde_json::from_slice(&text).ok();
            }
            // Nobody holds it any more because it was replaced meanwhile: look again.
            Ok(()) if !is_at(&file, path) => {}
            // It was left by one that was killed. Or it cannot be known.
            Ok(()) | Err(TryLockError::Error(_)) => return None,
        }
    }
}

fn is_at(file: &File, path: &Path) -> bool {
    let identity = |meta: io::Result<fs::Metadata>| meta.map(|meta| (meta.dev(), meta.ino())).ok();
    identity(file.metadata()) == identity(fs::metadata(path))
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
            shutdown_ms: 1,
            stopping: false,
        }
    }

    #[test]
    fn who_holds_the_lock_runs_and_a_file_that_was_left_means_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let home = Home::at(dir.path().join("home"));
        assert_eq!(running(&home), []);
        let (first, second) = (instance(2), instance(1));
        let mut held = hold(&first, &home).unwrap();
        let other = hold(&second, &home).unwrap();
        assert!(hold(&first, &home).is_err(), "one a port");
        assert_eq!(running(&home), [second.clone(), first.clone()]);
        let stopping = Instance { stopping: true, ..first.clone() };
        held.tell(&stopping).unwrap();
        assert_eq!(running(&home), [second.clone(), stopping]);
        drop(held);
        assert_eq!(running(&home), std::slice::from_ref(&second));
        // As after kill -9: the file is there, and nobody holds it.
        fs::write(path(&home, 3), serde_json::to_vec(&instance(3)).unwrap()).unwrap();
        assert_eq!(running(&home), std::slice::from_ref(&second));
        let held = hold(&instance(3), &home).unwrap();
        assert_eq!(running(&home).len(), 2);
        drop((held, other));
        assert!(now(&second, &home).is_none());
    }
}
