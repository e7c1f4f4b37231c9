//! Where our files are.

use std::{
    env, fs, io,
    os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _, PermissionsExt as _},
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

    /// Reads the admin token, or makes one. The file is 0600 from its birth.
    ///
    /// # Errors
    ///
    /// When the file can be neither read nor made.
    pub fn admin_token_or_new(&self, new: impl FnOnce() -> String) -> io::Result<String> {
        let path = self.admin_token();
        match fs::read_to_string(&path) {
            Ok(text) if !text.trim().is_empty() => {
                tighten(&path, 0o600)?;
                return Ok(text.trim().to_owned());
            }
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
        self.create()?;
        let token = new();
        let mut options = fs::OpenOptions::new();
        options.write(true).create(true).truncate(true).mode(0o600);
        io::Write::write_all(&mut options.open(&path)?, format!("{token}\n").as_bytes())?;
        tighten(&path, 0o600)?;
        Ok(token)
    }
}

/// Takes away whatever a mode grants beyond `mode`.
pub(super) fn tighten(path: &Path, mode: u32) -> io::Result<()> {
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
        assert_eq!(home.admin_token_or_new(|| "t1".into()).unwrap(), "t1");
        let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!((mode(home.path()), mode(&home.admin_token())), (0o700, 0o600));
        fs::set_permissions(home.admin_token(), fs::Permissions::from_mode(0o644)).unwrap();
        assert_eq!(home.admin_token_or_new(|| "t2".into()).unwrap(), "t1");
        assert_eq!(mode(&home.admin_token()), 0o600);
    }
}
