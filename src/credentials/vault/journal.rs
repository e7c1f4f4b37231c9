//! What a refresh leaves behind on its way, so that a process that dies loses as little as can be.

use std::{
    fs::{self, OpenOptions},
    io::{self, Write as _},
    os::unix::fs::OpenOptionsExt as _,
    path::Path,
};

use serde::{Deserialize, Serialize};

use super::{
    Store,
    account::{Account, WireAccount},
};

/// A refresh that was begun.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Intent {
    /// The generation of the tokens that were to be replaced.
    pub generation: u64,
    /// Digest of the refresh token that was sent, in hexadecimal.
    pub refresh_digest: String,
    /// When, in milliseconds since 1970.
    pub started: u64,
    /// Whether its outcome was unknown before and it was tried again.
    #[serde(default)]
    pub repeated: bool,
}

pub(super) fn read_intent(path: &Path) -> Option<Intent> {
    serde_json::from_slice(&fs::read(path).ok()?).ok()
}

/// Replaces the note: a half one would say that nothing was begun.
pub(super) fn write_intent(path: &Path, intent: &Intent) -> io::Result<()> {
    let dir = path.parent().unwrap_or(path);
    let mut file = tempfile::Builder::new().prefix(".intent-").tempfile_in(dir)?;
    file.write_all(&serde_json::to_vec(intent)?)?;
    file.as_file().sync_data()?;
    file.persist(path).map_err(|error| error.error)?;
    Ok(())
}

#[derive(Serialize, Deserialize)]
struct Line {
    provider: String,
    account: WireAccount,
}

/// Writes with one write, which is whole for whoever reads after our death. What stood there before is
/// spent: its refresh token bought this one.
pub(super) fn write(path: &Path, account: &Account) -> io::Result<()> {
    let mut wire = WireAccount::default();
    wire.update(account);
    let mut line = serde_json::to_vec(&Line { provider: account.provider.clone(), account: wire })?;
    line.push(b'\n');
    let mut file =
        OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(path)?;
    file.write_all(&line)?;
    file.sync_data()
}

/// The account in a journal, if it is whole.
pub(super) fn read(path: &Path) -> Option<Account> {
    let line: Line = serde_json::from_slice(&fs::read(path).ok()?).ok()?;
    Some(line.account.account(&line.provider))
}

/// Takes over what journals know and `auth.json` does not yet.
pub(super) fn overlay(dir: &Path, store: &mut Store) {
    let Ok(files) = fs::read_dir(dir) else { return };
    for file in files.flatten() {
        let path = file.path();
        if path.extension().is_some_and(|ending| ending == "journal")
            && let Some(account) = read(&path)
        {
            store.renew(&account);
        }
    }
}
