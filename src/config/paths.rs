//! Where our files are.

use std::{
    env, fs, io,
    os::unix::fs::{DirBuilderExt as _, PermissionsExt as _},
    path::{Path, PathBuf},
};

/// Our home: `$OPENCODEX_HOME`, else `~/.opencodex`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Home(PathBuf);

impl Home {
    /// Finds it; it need not exist.
    pub fn find() -> Self {
        let chosen = env::var_os("OPENCODEX_HOME").filter(|home| !home.is_empty());
        Self(chosen.map(PathBuf::from).unwrap_or_else(|| {
            env::home_dir().unwrap_or_else(|| PathBuf::from(".")).join(".opencodex")
        }))
    }

    /// A home at a given place.
    pub fn at(path: impl Into<PathBuf>) -> Self {
        Self(path.into())
    }

    /// The directory.
    pub fn path(&self) -> &Path {
        &self.0
    }

    /// `config.json`.
    pub fn config(&self) -> PathBuf {
        self.0.join("config.json")
    }

    /// The token of the management API, for the command line of the same user.
    pub fn admin_token(&self) -> PathBuf {
        self.0.join("admin-token")
    }

    /// The directory of the usage ledger.
    pub fn usage(&self) -> PathBuf {
        self.0.join("usage")
    }

    /// The directory where gateways that run say so.
    pub fn run(&self) -> PathBuf {
        self.0.join("run")
    }

    /// The directory of logs.
    pub fn logs(&self) -> PathBuf {
        self.0.join("logs")
    }

    /// Creates the directory, readable by its owner alone.
    ///
    /// # Errors
    ///
    /// When it cannot be created or its mode cannot be tightened.
    pub fn create(&self) -> io::Result<()> {
        match fs::DirBuilder::new().recursive(true).mode(0o700).create(&self.0) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
            _ => {}
        }
        tighten(&self.0, 0o700)
    }

    /// The key of [`crate::credentials::CapsuleKey`], as hexadecimal digits.
    pub fn capsule_key(&self) -> PathBuf {
        self.0.join("capsule-key")
    }

    /// Reads a secret of ours, or makes one. Its file is 0600 from its birth, and of two processes
    /// that make it at once one wins.
    ///
    /// # Errors
    ///
    /// When the file can be neither read nor made.
    pub fn secret_or_new(&self, path: &Path, new: impl FnOnce() -> String) -> io::Result<String> {
        if let Some(secret) = read_secret(path)? {
            return Ok(secret);
        }
        self.create()?;
        let mut file = tempfile::NamedTempFile::new_in(&self.0)?;
        io::Write::write_all(&mut file, format!("{}\n", new()).as_bytes())?;
        file.as_file().sync_all()?;
        match file.persist_noclobber(path) {
            Ok(_) => {}
            Err(error) if error.error.kind() == io::ErrorKind::AlreadyExists => {
                // An empty file is nobody's secret.
                if read_secret(path)?.is_none() {
                    error.file.persist(path).map_err(|error| error.error)?;
                }
            }
            Err(error) => return Err(error.error),
        }
        read_secret(path)?.ok_or_else(|| io::Error::other("the file is empty"))
    }
}

fn read_secret(path: &Path) -> io::Result<Option<String>> {
    match fs::read_to_string(path) {
        Ok(text) if text.trim().is_empty() => Ok(None),
        Ok(text) => {
            tighten(path, 0o600)?;
            Ok(Some(text.trim().to_owned()))
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

/// Takes away whatever a mode grants beyond `mode`.
fn tighten(path: &Path, mode: u32) -> io::Result<()> {
    let current = fs::metadata(path)?.permissions().mode() & 0o777;
    if current & !mode != 0 {
        fs::set_permissions(path, fs::Permissions::from_mode(current & mode))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn t50_secrets_are_private_from_birth_and_made_private_if_they_were_not() {
        let dir = tempfile::tempdir().unwrap();
        let home = Home::at(dir.path().join("home"));
        assert_eq!(home.secret_or_new(&home.admin_token(), || "t1".into()).unwrap(), "t1");
        let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!((mode(home.path()), mode(&home.admin_token())), (0o700, 0o600));
        fs::set_permissions(home.admin_token(), fs::Permissions::from_mode(0o644)).unwrap();
        assert_eq!(home.secret_or_new(&home.admin_token(), || "t2".into()).unwrap(), "t1");
        assert_eq!(mode(&home.admin_token()), 0o600);
    }
}
