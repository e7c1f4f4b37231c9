//! The logins of accounts, in `auth.json`: crash-safe, shared with other processes, never emptied by
//! a broken file.
//!
//! | file | holds |
//! |---|---|
//! | `auth.json` | every account; [`document`] says how |
//! | `auth.json.bak` | the same before the last change |
//! | `auth.json.lock` | nothing; its lock orders writers |
//! | `refresh/<name>.lock` | nothing; its lock is the right to refresh that account |
//! | `refresh/<name>.intent` | that a refresh was begun, and when |
//! | `refresh/<name>.journal` | what a refresh brought, until `auth.json` has it too |
//!
//! Everything here blocks; who calls it from an actor does so on a thread for that.

use std::{
    collections::HashMap,
    fs::{self, File, OpenOptions, TryLockError},
    io::{self, Write as _},
    os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use sha2::{Digest as _, Sha256};

mod account;
mod document;
mod journal;

pub use account::{Account, Tokens};
pub use document::{Accounts, Store};
pub use journal::Intent;

use document::Reading;

/// How long a writer waits for another.
const LOCK_WAIT: Duration = Duration::from_secs(10);
/// How often it looks.
const LOCK_EVERY: Duration = Duration::from_millis(5);
/// How the names of files begin that are being written.
const TEMPORARY: &str = ".auth-";
/// How the names of copies of broken files begin.
const BROKEN: &str = "auth.json.corrupt-";
/// The largest file we read, in bytes.
const MAX_FILE: u64 = 4 << 20;

/// Where logins are kept. Cheap to clone; clones share what the disk did not take yet.
#[derive(Clone, Debug)]
pub struct Vault {
    home: PathBuf,
    unsaved: Arc<Mutex<HashMap<String, Unsaved>>>,
    /// Refreshes on their way.
    flights: Arc<AtomicUsize>,
    /// No refresh begins any more.
    closed: Arc<AtomicBool>,
}

/// A refresh is on its way as long as this lives.
#[derive(Debug)]
pub struct InFlight(Arc<AtomicUsize>);

impl Drop for InFlight {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::AcqRel);
    }
}

/// New tokens that are nowhere but in memory, and the lock that keeps others from using the old ones.
#[derive(Debug)]
struct Unsaved {
    account: Account,
    lock: AccountLock,
}

/// What became of new tokens.
#[derive(Debug)]
pub enum Kept {
    /// They are on the disk.
    OnDisk,
    /// They are in memory only, for this reason; [`Vault::save`] tries again.
    InMemory(VaultError),
}

/// What is in the vault, and whether the file is sound.
#[derive(Clone, Debug, Default)]
pub struct Opened {
    /// The accounts, with what journals know better.
    pub store: Store,
    /// What is wrong with the file, if anything. It is then left as it is until a login repairs it.
    pub damage: Option<String>,
    /// Whether there is a file.
    there: bool,
}

/// Why the vault did not take a change. The file is as it was.
#[derive(Debug, thiserror::Error)]
pub enum VaultError {
    /// Another process does not let go of the lock.
    #[error("{0} is locked by another process")]
    Locked(PathBuf),
    /// The file is broken, and this change is no reason to replace it.
    #[error("{path} is damaged ({damage}); `ocx login` repairs it")]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        damage: String,
    },
    /// The file system said no.
    #[error("{path}: {error}")]
    Io {
        /// The file.
        path: PathBuf,
        /// What it said.
        error: io::Error,
    },
}

/// The right to refresh one account, held by one process at a time. The kernel takes it back when
/// the process dies.
#[derive(Debug)]
pub struct AccountLock {
    _file: File,
}

/// May a change replace a broken file?
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Repair {
    /// A person asked for the change: yes, with a copy of the broken one kept.
    Yes,
    /// No.
    No,
}

impl Vault {
    /// The vault in a home directory, which need not exist.
    pub fn new(home: &Path) -> Self {
        Self {
            home: home.to_owned(),
            unsaved: Arc::default(),
            flights: Arc::default(),
            closed: Arc::default(),
        }
    }

    /// Notes that a refresh is on its way.
    pub fn flight(&self) -> InFlight {
        self.flights.fetch_add(1, Ordering::AcqRel);
        InFlight(Arc::clone(&self.flights))
    }

    /// How many are, of this vault and its clones.
    pub fn flights(&self) -> usize {
        self.flights.load(Ordering::Acquire)
    }

    /// From now on no refresh sends a token: the process ends, and what comes after that is lost.
    pub fn close(&self) {
        self.closed.store(true, Ordering::Release);
    }

    /// Whether the process ends.
    pub fn is_closed(&self) -> bool {
        self.closed.load(Ordering::Acquire)
    }

    /// The directory that it is in.
    pub fn home(&self) -> &Path {
        &self.home
    }

    /// `auth.json`.
    pub fn path(&self) -> PathBuf {
        self.home.join("auth.json")
    }

    fn backup(&self) -> PathBuf {
        self.home.join("auth.json.bak")
    }

    /// Reads everything. A broken file costs only the accounts that nothing tells of any more.
    ///
    /// # Errors
    ///
    /// When a file is there and cannot be read.
    pub fn open(&self) -> Result<Opened, VaultError> {
        let mut opened = self.read()?;
        journal::overlay(&self.refresh_dir(), &mut opened.store);
        for unsaved in self.unsaved().values() {
            opened.store.renew(&unsaved.account);
        }
        Ok(opened)
    }

    fn unsaved(&self) -> MutexGuard<'_, HashMap<String, Unsaved>> {
        self.unsaved.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn read(&self) -> Result<Opened, VaultError> {
        let path = self.path();
        let Some(text) = read_private(&path)? else {
            // A save renames over the file, so only a person can have taken it away.
            return Ok(Opened::default());
        };
        match Store::read(&text) {
            Reading::Sound(store) => Ok(Opened { store, damage: None, there: true }),
            Reading::Broken { salvaged, damage } => {
                let mut store = salvaged;
                if let Ok(Some(former)) = read_private(&self.backup()) {
                    let (Reading::Sound(former) | Reading::Broken { salvaged: former, .. }) =
                        Store::read(&former);
                    store.fill_from(former);
                }
                Ok(Opened { store, damage: Some(damage), there: true })
            }
        }
    }

    /// Changes the file: reads it under its lock, lets `edit` change it, and replaces it whole.
    ///
    /// # Errors
    ///
    /// When it cannot be read, locked or written, or is broken and `repair` says no.
    pub fn change<T>(
        &self,
        repair: Repair,
        edit: impl FnOnce(&mut Store) -> T,
    ) -> Result<T, VaultError> {
        self.change_and(repair, Backup::Former, |store, _| edit(store))
    }

    /// Forgets an account, or all of a provider, wherever tokens of theirs are. Tells how many went.
    ///
    /// # Errors
    ///
    /// As [`change`](Self::change).
    pub fn log_out(&self, provider: &str, account: Option<&str>) -> Result<usize, VaultError> {
        let before = self.open()?.store.accounts(provider);
        let gone = self
            .change_and(Repair::Yes, Backup::Same, |store, _| store.log_out(provider, account))?;
        for account in before.list {
            if self.open()?.store.accounts(provider).list.iter().all(|left| left.id != account.id) {
                self.unsaved().remove(&key(provider, &account.id));
                self.discard(provider, &account.id, &["intent", "journal"]);
            }
        }
        Ok(gone)
    }

    fn change_and<T>(
        &self,
        repair: Repair,
        backup: Backup,
        edit: impl FnOnce(&mut Store, bool) -> T,
    ) -> Result<T, VaultError> {
        self.make_home()?;
        let lock_path = self.home.join("auth.json.lock");
        let lock = open_lock(&lock_path)?;
        let deadline = Instant::now() + LOCK_WAIT;
        while !try_lock(&lock, &lock_path)? {
            if Instant::now() > deadline {
                return Err(VaultError::Locked(lock_path));
            }
            std::thread::sleep(LOCK_EVERY);
        }
        let mut opened = self.read()?;
        if let Some(damage) = &opened.damage {
            if repair == Repair::No {
                return Err(VaultError::Damaged { path: self.path(), damage: damage.clone() });
            }
            self.keep_broken()?;
            journal::overlay(&self.refresh_dir(), &mut opened.store);
        }
        let before = opened.store.to_text();
        let told = edit(&mut opened.store, opened.there);
        let after = opened.store.to_text();
        if before != after || opened.damage.is_some() {
            // What is broken is no backup; what is to be forgotten must not be in one.
            let sound = opened.damage.is_none() || backup == Backup::Same;
            self.replace(&after, sound.then_some(backup))?;
        }
        Ok(told)
    }

    /// Copies of broken files, which may hold tokens of whoever has logged out since.
    pub fn broken_copies(&self) -> Vec<PathBuf> {
        let files = fs::read_dir(&self.home).into_iter().flatten().flatten();
        let mut copies: Vec<PathBuf> = files
            .filter(|file| file.file_name().to_string_lossy().starts_with(BROKEN))
            .map(|file| file.path())
            .collect();
        copies.sort();
        copies
    }

    /// A broken file may be all that is left of somebody's login.
    fn keep_broken(&self) -> Result<(), VaultError> {
        let stamp = now_ms();
        let copy = self.home.join(format!("{BROKEN}{stamp}"));
        let bytes = fs::read(self.path()).map_err(|error| io_error(&self.path(), error))?;
        write_new(&copy, &bytes).map_err(|error| io_error(&copy, error))
    }

    /// Takes away what writers left that died. Only who holds the lock writes, so nobody needs them.
    fn sweep(&self) {
        for file in fs::read_dir(&self.home).into_iter().flatten().flatten() {
            if file.file_name().to_string_lossy().starts_with(TEMPORARY) {
                // What cannot be removed now is tried again with the next change.
                let _ = fs::remove_file(file.path());
            }
        }
    }

    /// Old or new, never a half: a file of its own, synced, renamed over the old one.
    fn replace(&self, text: &str, backup: Option<Backup>) -> Result<(), VaultError> {
        let path = self.path();
        let at = |path: &Path| {
            let path = path.to_owned();
            move |error| VaultError::Io { path, error }
        };
        self.sweep();
        let former = match backup {
            None => None,
            Some(Backup::Former) => read_private(&path)?,
            Some(Backup::Same) => Some(text.to_owned()),
        };
        if let Some(former) = former {
            let backup = self.backup();
            self.put(&backup, former.as_bytes()).map_err(at(&backup))?;
        }
        self.put(&path, text.as_bytes()).map_err(at(&path))
    }

    fn put(&self, path: &Path, bytes: &[u8]) -> io::Result<()> {
        // 0600 from its birth.
        let mut file = tempfile::Builder::new().prefix(TEMPORARY).tempfile_in(&self.home)?;
        file.write_all(bytes)?;
        file.as_file().sync_data()?;
        match file.persist(path) {
            Ok(_) => {}
            // A file that is mounted alone cannot be replaced, only written.
            Err(error) if is_mounted(&error.error) => {
                let mut target = OpenOptions::new().write(true).truncate(true).open(path)?;
                target.write_all(bytes)?;
                target.sync_data()?;
            }
            Err(error) => return Err(error.error),
        }
        File::open(&self.home)?.sync_all()
    }

    fn make_home(&self) -> Result<(), VaultError> {
        let made = fs::DirBuilder::new().recursive(true).mode(0o700).create(&self.home);
        made.map_err(|error| io_error(&self.home, error))
    }

    fn refresh_dir(&self) -> PathBuf {
        self.home.join("refresh")
    }

    /// The place of an account's refresh files, without their ending.
    fn refresh_file(&self, provider: &str, account: &str, ending: &str) -> PathBuf {
        let digest = hex::encode(Sha256::digest(account.as_bytes()));
        self.refresh_dir().join(format!("{provider}-{}.{ending}", &digest[..24]))
    }

    /// Takes the right to refresh an account; nothing while another has it. With it comes the account, if
    /// its newest tokens are in memory only.
    ///
    /// # Errors
    ///
    /// When its lock file cannot be made.
    pub fn try_lock(
        &self,
        provider: &str,
        account: &str,
    ) -> Result<Option<(AccountLock, Option<Account>)>, VaultError> {
        self.make_home()?;
        let dir = self.refresh_dir();
        let made = fs::DirBuilder::new().recursive(true).mode(0o700).create(&dir);
        made.map_err(|error| io_error(&dir, error))?;
        if let Some(unsaved) = self.unsaved().remove(&key(provider, account)) {
            // Whoever goes on from tokens in memory has the right already.
            return Ok(Some((unsaved.lock, Some(unsaved.account))));
        }
        let path = self.refresh_file(provider, account, "lock");
        let file = open_lock(&path)?;
        Ok(try_lock(&file, &path)?.then_some((AccountLock { _file: file }, None)))
    }

    /// The refresh of this account that was begun and not ended, if there is one.
    pub fn intent(&self, provider: &str, account: &str) -> Option<Intent> {
        journal::read_intent(&self.refresh_file(provider, account, "intent"))
    }

    /// Notes that a refresh begins, before anything is sent.
    ///
    /// # Errors
    ///
    /// When it cannot be written; nothing may be sent then.
    pub fn begin(
        &self,
        _: &AccountLock,
        provider: &str,
        account: &str,
        intent: &Intent,
    ) -> Result<(), VaultError> {
        let path = self.refresh_file(provider, account, "intent");
        journal::write_intent(&path, intent).map_err(|error| io_error(&path, error))
    }

    /// Forgets that a refresh was begun: nothing was sent, or its end is known.
    pub fn forget(&self, _: &AccountLock, provider: &str, account: &str) {
        self.discard(provider, account, &["intent"]);
    }

    fn discard(&self, provider: &str, account: &str, endings: &[&str]) {
        for ending in endings {
            let path = self.refresh_file(provider, account, ending);
            let gone = fs::remove_file(&path);
            if let Err(error) = gone
                && error.kind() != io::ErrorKind::NotFound
            {
                tracing::warn!(path = %path.display(), %error, "a refresh file cannot be removed");
            }
        }
    }

    /// Takes what a process that died left in the journal into `auth.json`, which lets the journal go.
    /// Nothing is lost if that fails: the journal stays.
    pub fn fold(&self, _: &AccountLock, provider: &str, account: &str) {
        let path = self.refresh_file(provider, account, "journal");
        let Some(journaled) = journal::read(&path) else { return };
        let folded = self.change(Repair::No, |store| {
            store.renew(&journaled);
            store.accounts(provider).list.iter().any(|known| known.id == account)
        });
        match folded {
            // Of an earlier login, perhaps, or known already: of no more use.
            Ok(true) => self.discard(provider, account, &["journal"]),
            // The file is gone, which may be for a moment only.
            Ok(false) => {}
            Err(error) => tracing::warn!(provider, %error, "a journal stays for now"),
        }
    }

    /// Keeps what a refresh brought: first in the journal, with one write, then in `auth.json`. If the
    /// disk takes neither, it stays in memory, and so does the lock.
    pub fn keep(&self, lock: AccountLock, account: &Account) -> Kept {
        match self.write_down(account) {
            Ok(()) => Kept::OnDisk,
            Err(error) => {
                let unsaved = Unsaved { account: account.clone(), lock };
                self.unsaved().insert(key(&account.provider, &account.id), unsaved);
                Kept::InMemory(error)
            }
        }
    }

    fn write_down(&self, account: &Account) -> Result<(), VaultError> {
        let path = self.refresh_file(&account.provider, &account.id, "journal");
        let journaled = journal::write(&path, account);
        let renewed = self.change_and(Repair::No, Backup::Former, |store, there| {
            store.renew(account);
            there
        });
        match (renewed, journaled) {
            (Ok(true), _) => {
                self.discard(&account.provider, &account.id, &["intent", "journal"]);
                Ok(())
            }
            // The file is away, which may be for a moment only: nothing was written to it.
            (Ok(false), Ok(())) => Ok(()),
            (Ok(false), Err(error)) => Err(io_error(&path, error)),
            // The journal is as good, until somebody repairs the file.
            (Err(VaultError::Damaged { .. }), Ok(())) => {
                self.discard(&account.provider, &account.id, &["intent"]);
                Ok(())
            }
            (Err(error), _) => Err(error),
        }
    }

    /// Tries again to write down what is in memory only. Tells whether all of a provider's is on the disk.
    pub fn save(&self, provider: &str) -> bool {
        self.save_those(&key(provider, ""))
    }

    /// The same, of all providers.
    pub fn save_all(&self) -> bool {
        self.save_those("")
    }

    fn save_those(&self, prefix: &str) -> bool {
        // They are in no map meanwhile; who waits for the end waits for them, too.
        let _flight = self.flight();
        let keys: Vec<String> =
            self.unsaved().keys().filter(|key| key.starts_with(prefix)).cloned().collect();
        let mut all = true;
        for key in keys {
            // Out of the map meanwhile: the disk may be slow, and others want to look.
            let Some(unsaved) = self.unsaved().remove(&key) else { continue };
            if let Err(error) = self.write_down(&unsaved.account) {
                let provider = &unsaved.account.provider;
                tracing::warn!(provider, %error, "new tokens cannot be saved yet");
                self.unsaved().insert(key, unsaved);
                all = false;
            }
        }
        all
    }

    /// Whether tokens of a provider are in memory only.
    pub fn has_unsaved(&self, provider: &str) -> bool {
        let prefix = key(provider, "");
        self.unsaved().keys().any(|key| key.starts_with(&prefix))
    }
}

fn key(provider: &str, account: &str) -> String {
    // No provider's name has a blank.
    format!("{provider} {account}")
}

/// What the copy beside the file holds after a change.
#[derive(Clone, Copy, PartialEq)]
enum Backup {
    /// The file before the change.
    Former,
    /// The file after it: what is to be forgotten is not kept anywhere.
    Same,
}

/// Milliseconds since 1970.
pub fn now_ms() -> u64 {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    u64::try_from(now.unwrap_or_default().as_millis()).unwrap_or(u64::MAX)
}

fn io_error(path: &Path, error: io::Error) -> VaultError {
    VaultError::Io { path: path.to_owned(), error }
}

/// The text of a file that only its owner should read; nothing if there is none.
fn read_private(path: &Path) -> Result<Option<String>, VaultError> {
    let read = || {
        let meta = fs::metadata(path)?;
        if !meta.is_file() || meta.len() > MAX_FILE {
            return Err(io::Error::other(format!("no file of at most {MAX_FILE} bytes")));
        }
        let bytes = fs::read(path)?;
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    };
    match read() {
        Ok(text) => Ok(Some(text)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(io_error(path, error)),
    }
}

fn write_new(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
    file.write_all(bytes)?;
    file.sync_data()
}

fn open_lock(path: &Path) -> Result<File, VaultError> {
    let open = OpenOptions::new().write(true).create(true).truncate(false).mode(0o600).open(path);
    open.map_err(|error| io_error(path, error))
}

fn try_lock(file: &File, path: &Path) -> Result<bool, VaultError> {
    match file.try_lock() {
        Ok(()) => Ok(true),
        Err(TryLockError::WouldBlock) => Ok(false),
        Err(TryLockError::Error(error)) => Err(io_error(path, error)),
    }
}

fn is_mounted(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::ResourceBusy | io::ErrorKind::CrossesDevices)
}

#[cfg(test)]
mod tests;
