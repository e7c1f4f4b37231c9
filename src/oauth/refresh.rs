//! Renewing an account's tokens: once, whoever else wants it, in this process or another.
//!
//! Refresh tokens are good for one use, and a second use may end the login. So the right to use one is
//! a lock that the kernel takes back from the dead; whoever gets it looks first whether another was
//! quicker; that a use begins is noted before, and what it brought right after. A use whose outcome
//! nobody knows is not repeated while the old access token serves.

use std::time::Duration;

use actix_rt::time::{Instant, sleep};
use secrecy::ExposeSecret as _;
use sha2::{Digest as _, Sha256};

use super::server::{LoginError, Server};
use crate::credentials::{Account, AccountLock, Intent, Kept, Repair, Vault, now_ms};

/// How long we wait for another who renews the same account.
const LOCK_WAIT: Duration = Duration::from_secs(60);
/// How often we look whether the other is done.
const LOCK_EVERY: Duration = Duration::from_millis(20);
/// How long a refresh of unknown outcome is left alone, in milliseconds.
const LEAVE_ALONE: u64 = 30_000;

/// Why new tokens are wanted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Why {
    /// The old ones end soon, or ended.
    Due,
    /// The provider refused the access token.
    Rejected,
}

/// New tokens.
#[derive(Debug)]
pub struct Renewed {
    /// The account with them.
    pub account: Account,
    /// Whether somebody else had fetched them already.
    pub adopted: bool,
    /// Whether they are on the disk; else the vault has them in memory, to be saved later.
    pub saved: bool,
}

/// Why there are no new tokens.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RefreshError {
    /// The login ended: a person must log in again. Noted in the vault, if it could be.
    #[error("the login ended: {0}")]
    Ended(String),
    /// Somebody logged out.
    #[error("the account is logged out")]
    LoggedOut,
    /// It may work later.
    #[error("{reason}")]
    Later {
        /// What happened.
        reason: String,
        /// Whether the server may have done it all the same.
        ambiguous: bool,
    },
}

impl RefreshError {
    fn later(reason: impl ToString) -> Self {
        Self::Later { reason: reason.to_string(), ambiguous: false }
    }

    fn unknown(reason: impl ToString) -> Self {
        Self::Later { reason: reason.to_string(), ambiguous: true }
    }
}

/// Renews the tokens of an account of which the caller knows `known`.
///
/// # Errors
///
/// When there are no newer tokens than those.
pub async fn refresh(
    vault: &Vault,
    server: &mut Server,
    known: &Account,
    why: Why,
) -> Result<Renewed, RefreshError> {
    let _flight = vault.flight();
    let (lock, unsaved) = lock(vault, known).await?;
    let mut flight = Flight { vault: vault.clone(), lock: Some(lock), server };
    let result = flight.run(unsaved.as_ref().unwrap_or(known), why).await;
    // Who logged out took them out of the memory too; that the file is away may be for a moment only.
    let over = matches!(result, Err(RefreshError::Ended(_)));
    if let (Some(unsaved), Some(lock), false) = (unsaved, flight.lock.take(), over) {
        // Nothing newer came: it stays where it was, in memory, and with it the lock.
        let vault = vault.clone();
        blocking(move || vault.keep(lock, &unsaved)).await?;
    }
    result
}

/// Told to a refresh that did not begin.
const ENDS: &str = "ocx ends";

async fn lock(
    vault: &Vault,
    account: &Account,
) -> Result<(AccountLock, Option<Account>), RefreshError> {
    let deadline = Instant::now() + LOCK_WAIT;
    loop {
        let (own, provider, id) = (vault.clone(), account.provider.clone(), account.id.clone());
        let taken = blocking(move || own.try_lock(&provider, &id)).await?;
        if let Some(lock) = taken.map_err(RefreshError::later)? {
            return Ok(lock);
        }
        if vault.is_closed() {
            return Err(RefreshError::later(ENDS));
        }
        if Instant::now() >= deadline {
            return Err(RefreshError::later("another process holds the lock of this account"));
        }
        sleep(LOCK_EVERY).await;
    }
}

/// Runs what waits for the disk on a thread for that.
async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, RefreshError> {
    tokio::task::spawn_blocking(work).await.map_err(RefreshError::later)
}

struct Flight<'s> {
    vault: Vault,
    /// Gone when what was renewed is kept.
    lock: Option<AccountLock>,
    server: &'s mut Server,
}

impl Flight<'_> {
    async fn run(&mut self, known: &Account, why: Why) -> Result<Renewed, RefreshError> {
        self.fold(known).await?;
        let mut current = self.current(known).await?;
        if current.added_at == known.added_at && current.generation < known.generation {
            // An old copy of the file was put back: ours are the tokens that are not spent.
            current = known.clone();
        } else if is_newer(&current, known) {
            return Ok(Renewed { account: current, adopted: true, saved: true });
        }
        let Some(token) = current.tokens.refresh.clone() else {
            return Err(self.end(&current, "it cannot be renewed").await);
        };
        let intent = self.intent(&current, token.expose_secret(), why).await?;
        let repeated = intent.repeated;
        self.server.discover().await.map_err(RefreshError::later)?;
        self.check_issuer(&current)?;
        if self.vault.is_closed() {
            return Err(RefreshError::later(ENDS));
        }
        if let Err(error) = self.begin(&current, intent).await {
            if why == Why::Due && current.tokens.is_alive(now_ms()) {
                return Err(error);
            }
            // Without new tokens nothing goes on at all; should we die now, the login is lost.
            tracing::error!(provider = current.provider, %error, "a refresh begins without a note of it");
        }
        match self.server.renew(&token).await {
            Ok(grant) => self.keep(grant.renew(&current, now_ms())).await,
            Err(LoginError::Refused(code)) if ends_login(&code) => {
                let newest = self.current(known).await?;
                if is_newer(&newest, &current) {
                    return Ok(Renewed { account: newest, adopted: true, saved: true });
                }
                let reason =
                    if repeated { format!("{code}, after an answer was lost") } else { code };
                Err(self.end(&current, &reason).await)
            }
            Err(error @ LoginError::Unknown(_)) => Err(RefreshError::unknown(error)),
            Err(error) => {
                // What an earlier attempt may have done is still not known.
                if !repeated {
                    self.forget(&current).await?;
                }
                Err(RefreshError::later(error))
            }
        }
    }

    /// Runs what needs the lock and waits for the disk.
    async fn locked<T: Send + 'static>(
        &mut self,
        work: impl FnOnce(&Vault, &AccountLock) -> T + Send + 'static,
    ) -> Result<T, RefreshError> {
        let (vault, lock) = (self.vault.clone(), self.lock.take());
        let lock = lock.ok_or_else(|| RefreshError::later("the lock of this account is gone"))?;
        let (told, lock) = blocking(move || (work(&vault, &lock), lock)).await?;
        self.lock = Some(lock);
        Ok(told)
    }

    /// What an earlier process brought and did not write down goes first.
    async fn fold(&mut self, account: &Account) -> Result<(), RefreshError> {
        let (provider, id) = (account.provider.clone(), account.id.clone());
        self.locked(move |vault, lock| vault.fold(lock, &provider, &id)).await
    }

    async fn current(&self, known: &Account) -> Result<Account, RefreshError> {
        let (vault, provider, id) = (self.vault.clone(), known.provider.clone(), known.id.clone());
        let opened = blocking(move || vault.open()).await?.map_err(RefreshError::later)?;
        let accounts = opened.store.accounts(&provider);
        let current = accounts.list.into_iter().find(|account| account.id == id);
        let current = current.ok_or(RefreshError::LoggedOut)?;
        match &current.needs_login {
            Some(reason) => Err(RefreshError::Ended(reason.clone())),
            None => Ok(current),
        }
    }

    /// The note of this use, unless an earlier use of the same token forbids it for now. One whose
    /// outcome is not known is repeated as soon as the access token serves no more: then there is nothing
    /// left that a server could take away.
    async fn intent(
        &self,
        account: &Account,
        token: &str,
        why: Why,
    ) -> Result<Intent, RefreshError> {
        let refresh_digest = hex::encode(Sha256::digest(token.as_bytes()));
        let now = now_ms();
        let (vault, provider, id) =
            (self.vault.clone(), account.provider.clone(), account.id.clone());
        let earlier = blocking(move || vault.intent(&provider, &id)).await?;
        let earlier = earlier.filter(|earlier| {
            earlier.refresh_digest == refresh_digest && earlier.generation == account.generation
        });
        if let Some(earlier) = &earlier {
            let serves = why == Why::Due && account.tokens.is_alive(now);
            // A note of a far future is of a clock that was wrong; clocks also step back a little.
            let young = now.abs_diff(earlier.started) < LEAVE_ALONE;
            if serves || young {
                return Err(RefreshError::unknown("an earlier refresh has no known outcome"));
            }
        }
        let (generation, repeated) = (account.generation, earlier.is_some());
        Ok(Intent { generation, refresh_digest, started: now, repeated })
    }

    /// A refresh token goes where it came from, wherever the config leads by now.
    fn check_issuer(&self, account: &Account) -> Result<(), RefreshError> {
        let (Some(meant), now) = (&account.issuer, self.server.issuer()) else { return Ok(()) };
        if now.as_ref() == Some(meant) {
            return Ok(());
        }
        let now = now.unwrap_or_else(|| "nowhere".to_owned());
        let reason = format!("its refresh token is for {meant}, and the config leads to {now}");
        Err(RefreshError::later(reason))
    }

    async fn begin(&mut self, account: &Account, intent: Intent) -> Result<(), RefreshError> {
        let (provider, id) = (account.provider.clone(), account.id.clone());
        let begun = self.locked(move |vault, lock| vault.begin(lock, &provider, &id, &intent));
        begun.await?.map_err(RefreshError::later)
    }

    async fn forget(&mut self, account: &Account) -> Result<(), RefreshError> {
        let (provider, id) = (account.provider.clone(), account.id.clone());
        self.locked(move |vault, lock| vault.forget(lock, &provider, &id)).await
    }

    async fn keep(&mut self, account: Account) -> Result<Renewed, RefreshError> {
        let (vault, new, lock) = (self.vault.clone(), account.clone(), self.lock.take());
        let lock = lock.ok_or_else(|| RefreshError::later("the lock of this account is gone"))?;
        let kept = blocking(move || vault.keep(lock, &new)).await?;
        if let Kept::InMemory(error) = &kept {
            tracing::error!(provider = account.provider, %error, "new tokens cannot be saved yet");
        }
        Ok(Renewed { account, adopted: false, saved: matches!(kept, Kept::OnDisk) })
    }

    async fn end(&mut self, account: &Account, reason: &str) -> RefreshError {
        let (account, told) = (account.clone(), reason.to_owned());
        let noted = self.locked(move |vault, lock| {
            vault.forget(lock, &account.provider, &account.id);
            vault.change(Repair::No, |store| store.end_login(&account, &told))
        });
        if let Ok(Err(error)) = noted.await {
            tracing::warn!(%error, "the end of a login cannot be noted");
        }
        RefreshError::Ended(reason.to_owned())
    }
}

/// Whether an account has other tokens than the ones that are known: newer ones of the same login, or
/// those of another.
fn is_newer(current: &Account, known: &Account) -> bool {
    current.added_at != known.added_at || current.generation > known.generation
}

/// Codes after which the same refresh token never works again. Not `invalid_client`: a wrong `clientId`
/// in the config can be put right.
fn ends_login(code: &str) -> bool {
    matches!(
        code,
        "invalid_grant"
            | "refresh_token_reused"
            | "refresh_token_expired"
            | "refresh_token_invalidated"
            | "revoked"
    )
}
