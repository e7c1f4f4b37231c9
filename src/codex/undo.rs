//! The record of what files of the user's were before ocx wrote them. It is on the disk before the first
//! of them is touched, and goes when all of them are again as they were.

use std::{
    fs::{self, File},
    io::{self, Write as _},
    os::unix::fs::{DirBuilderExt as _, MetadataExt as _, PermissionsExt as _, fchown},
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use super::wiring::Former;

const RECORD: &str = "record.json";
/// Files that a killed process left begin so.
const TEMPORARY: &str = ".ocx-tmp-";

/// What there was.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Record {
    /// Values of `config.toml` that ours stand for.
    pub former: Former,
    /// The files that are or may be written.
    pub files: Vec<Kept>,
}

/// A file as it was.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Kept {
    /// Its place.
    pub path: PathBuf,
    /// The copy of what it held, in the directory of the record; nothing if there was no file.
    pub copy: Option<String>,
    /// Its mode.
    pub mode: u32,
    /// Digests of what we wrote into it, the newest last; none if we only keep it.
    pub written: Vec<String>,
}

/// Where the record is.
#[derive(Clone, Debug)]
pub struct Undo(PathBuf);

impl Undo {
    /// In a directory, which need not exist.
    pub fn at(dir: PathBuf) -> Self {
        Self(dir)
    }

    /// The record, if something is to be undone.
    ///
    /// # Errors
    ///
    /// When it cannot be read.
    pub fn read(&self) -> io::Result<Option<Record>> {
        match fs::read(self.0.join(RECORD)) {
            Ok(bytes) => Ok(Some(serde_json::from_slice(&bytes)?)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Keeps a copy of a file's bytes.
    ///
    /// # Errors
    ///
    /// When it cannot be written.
    pub fn keep(&self, bytes: &[u8]) -> io::Result<String> {
        let name = format!("original-{}", digest(bytes));
        if !self.0.join(&name).exists() {
            self.make()?;
            replace(&self.0.join(&name), bytes, 0o600)?;
        }
        Ok(name)
    }

    /// What a copy holds.
    ///
    /// # Errors
    ///
    /// When it cannot be read.
    pub fn copy(&self, name: &str) -> io::Result<Vec<u8>> {
        fs::read(self.0.join(name))
    }

    /// Writes the record: from now on there is something to undo.
    ///
    /// # Errors
    ///
    /// When it cannot be written.
    pub fn write(&self, record: &Record) -> io::Result<()> {
        self.make()?;
        replace(&self.0.join(RECORD), &serde_json::to_vec_pretty(record)?, 0o600)?;
        self.sweep(record)
    }

    /// Everything is undone.
    ///
    /// # Errors
    ///
    /// When the record cannot be removed.
    pub fn forget(&self) -> io::Result<()> {
        remove(&self.0.join(RECORD))?;
        self.sweep(&Record::default())
    }

    /// The directory.
    pub fn dir(&self) -> &Path {
        &self.0
    }

    /// Removes copies that no record names.
    fn sweep(&self, record: &Record) -> io::Result<()> {
        for entry in fs::read_dir(&self.0).into_iter().flatten() {
            let name = entry?.file_name().to_string_lossy().into_owned();
            let named = record.files.iter().any(|kept| kept.copy.as_deref() == Some(&name));
            if name.starts_with(TEMPORARY) || (name.starts_with("original-") && !named) {
                remove(&self.0.join(name))?;
            }
        }
        Ok(())
    }

    fn make(&self) -> io::Result<()> {
        match fs::DirBuilder::new().recursive(true).mode(0o700).create(&self.0) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => Err(error),
            _ => Ok(()),
        }
    }
}

/// The digest of a file's bytes.
pub fn digest(bytes: &[u8]) -> String {
    hex::encode(Sha256::digest(bytes))
}

/// A file's bytes and mode; nothing if there is none.
///
/// # Errors
///
/// When it cannot be read.
pub fn read(path: &Path) -> io::Result<Option<(Vec<u8>, u32)>> {
    match fs::read(path) {
        Ok(bytes) => Ok(Some((bytes, fs::metadata(path)?.permissions().mode() & 0o7777))),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

/// Old or new, never a half; through a symlink, to the file that it leads to.
///
/// # Errors
///
/// When it cannot be written.
pub fn replace(path: &Path, bytes: &[u8], mode: u32) -> io::Result<()> {
    let target = target(path);
    let dir = target.parent().unwrap_or(Path::new("."));
    let former = fs::metadata(&target).ok();
    let mut file = tempfile::Builder::new().prefix(TEMPORARY).tempfile_in(dir)?;
    file.write_all(bytes)?;
    file.as_file().set_permissions(fs::Permissions::from_mode(mode))?;
    if let Some(former) = former {
        // It stays whose it was, where we may say so.
        let _ = fchown(file.as_file(), Some(former.uid()), Some(former.gid()));
    }
    file.as_file().sync_data()?;
    file.persist(&target).map_err(|error| error.error)?;
    File::open(dir)?.sync_all()
}

/// The file that a path leads to, be it through symlinks, and whether it is there or not.
pub fn target(path: &Path) -> PathBuf {
    /// Longer chains are loops.
    const MAX_LINKS: usize = 16;
    let mut target = path.to_owned();
    for _ in 0..MAX_LINKS {
        let Ok(link) = fs::read_link(&target) else { break };
        target = target.parent().unwrap_or(Path::new(".")).join(link);
    }
    target
}

/// Removes a file that may be gone already; of a symlink, the file that it leads to.
///
/// # Errors
///
/// When it is there and stays.
pub fn remove(path: &Path) -> io::Result<()> {
    match fs::remove_file(target(path)) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// Removes what killed processes left half-written in a directory.
pub fn sweep(dir: &Path) {
    for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
        if entry.file_name().to_string_lossy().starts_with(TEMPORARY) {
            // What cannot be removed now is tried again the next time.
            let _ = fs::remove_file(entry.path());
        }
    }
}
