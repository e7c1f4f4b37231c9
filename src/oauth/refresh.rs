//! Renewing an account's tokens: once, whoever else wants it, in this process or another.
//!
//! Refresh tokens are good for one use, and a second use may end the login. So the right to use one is
//! a lock that the kernel takes back from the dead; whoever gets it looks first whether another was
//! quicker; that a use begins is noted before, and what it brought right after. A use whose outcome
//! nobody knows is not repeated while the old access token serves.

use std::{sync::Arc, time::Duration};

use actix_rt::time::{Instant, sleep};
use secrecy::ExposeSecret as _;
use sha2::{Digest as _, Sha256};

use super::server::{LoginError, Server};
use crate::credentials::{Account, AccountLock, Intent, Repair, Vault, VaultError, now_ms};

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
    /// They are not in `auth.json` yet; try again, and keep this until then.
    pub pending: Option<Pending>,
}

/// Tokens that the disk did not take, and the lock that keeps others from using the old ones.
#[derive(Debug)]
pub struct Pending {
    vault: Vault,
    lock: Arc<AccountLock>,
    account: Account,
}

/// Why there are no new tokens.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RefreshError {
    /// The login ended: a person must log in again. Noted in the vault.
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

impl Pending {
    /// Tries again to write the tokens down.
    ///
    /// # Errors
    ///
    /// When the disk does not take them this time either.
    pub fn save(&self) -> Result<(), VaultError> {
        self.vault.keep(&self.lock, &self.account)
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
    let flight = Flight { vault: vault.clone(), lock: lock(vault, known).await?, server };
    flight.run(known, why).await
}

async fn lock(vault: &Vault, account: &Account) -> Result<Arc<AccountLock>, RefreshError> {
    let deadline = Instant::now() + LOCK_WAIT;
    loop {
        let (vault, provider, id) = (vault.clone(), account.provider.clone(), account.id.clone());
        let taken = blocking(move || vault.try_lock(&provider, &id)).await?;
        if let Some(lock) = taken.map_err(RefreshError::later)? {
            return Ok(Arc::new(lock));
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
    lock: Arc<AccountLock>,
    server: &'s mut Server,
}

impl Flight<'_> {
    async fn run(self, known: &Account, why: Why) -> Result<Renewed, RefreshError> {
        let current = self.current(known).await?;
        if current.generation > known.generation {
            return Ok(Renewed { account: current, adopted: true, pending: None });
        }
        let Some(token) = current.tokens.refresh.clone() else {
            return Err(self.end(&current, "it cannot be renewed").await);
        };
        let intent = self.intent(&current, token.expose_secret(), why)?;
        let repeated = intent.repeated;
        self.server.discover().await.map_err(RefreshError::later)?;
        if let Err(error) = self.begin(&current, intent).await {
            if why == Why::Due && current.tokens.is_alive(now_ms()) {
                return Err(error);
            }
            // Without new tokens nothing goes on at all; should we die now, the login is lost.
            tracing::error!(provider = current.provider, %error, "a refresh begins without a note of it");
        }
        match self.server.renew(&token).await {
            Ok(grant) => {
                let account = grant.renew(&current, now_ms(), self.server.skew());
                self.keep(account).await
            }
            Err(LoginError::Refused(code)) if ends_login(&code) => {
                let newest = self.current(known).await?;
                if newest.generation > known.generation {
                    return Ok(Renewed { account: newest, adopted: true, pending: None });
                }
                let reason =
                    if repeated { format!("{code}, after an answer was lost") } else { code };
                Err(self.end(&current, &reason).await)
            }
            Err(error @ LoginError::Unknown(_)) => Err(RefreshError::unknown(error)),
            Err(error) => {
                // What an earlier attempt may have done is still not known.
                if !repeated {
                    self.forget(&current).await;
                }
                Err(RefreshError::later(error))
            }
        }
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

    /// The note of this use, unless an earlier use of the same token forbids it for now.
    fn intent(&self, account: &Account, token: &str, why: Why) -> Result<Intent, RefreshError> {
        let digest = hex::encode(Sha256::digest(token.as_bytes()));
        let now = now_ms();
        let earlier = self.vault.intent(&account.provider, &account.id);
        let earlier = earlier.filter(|earlier| earlier.refresh_digest == digest);
        if let Some(earlier) = &earlier {
            let serves = why == Why::Due && account.tokens.is_alive(now);
            if serves || now < earlier.started.saturating_add(LEAVE_ALONE) {
                return Err(RefreshError::unknown("an earlier refresh has no known outcome"));
            }
        }
        Ok(Intent {
            generation: account.generation,
            refresh_digest: digest,
            started: now,
            repeated: earlier.is_some(),
        })
    }

    async fn begin(&self, account: &Account, intent: Intent) -> Result<(), RefreshError> {
        let (vault, lock) = (self.vault.clone(), Arc::clone(&self.lock));
        let (provider, id) = (account.provider.clone(), account.id.clone());
        let begun = blocking(move || vault.begin(&lock, &provider, &id, &intent)).await?;
        begun.map_err(RefreshError::later)
    }

    async fn forget(&self, account: &Account) {
        let (vault, lock) = (self.vault.clone(), Arc::clone(&self.lock));
        let (provider, id) = (account.provider.clone(), account.id.clone());
        let _ = blocking(move || vault.forget(&lock, &provider, &id)).await;
    }

    async fn keep(self, account: Account) -> Result<Renewed, RefreshError> {
        let pending = Pending { vault: self.vault, lock: self.lock, account: account.clone() };
        let (kept, pending) = blocking(move || (pending.save(), pending)).await?;
        let pending = match kept {
            // The journal has them, which is as good, until somebody repairs the file.
            Ok(()) | Err(VaultError::Damaged { .. }) => None,
            Err(error) => {
                tracing::error!(provider = account.provider, %error, "new tokens cannot be saved yet");
                Some(pending)
            }
        };
        Ok(Renewed { account, adopted: false, pending })
    }

    async fn end(&self, account: &Account, reason: &str) -> RefreshError {
        let (vault, lock) = (self.vault.clone(), Arc::clone(&self.lock));
        let (account, told) = (account.clone(), reason.to_owned());
        let noted = blocking(move || {
            vault.forget(&lock, &account.provider, &account.id);
            vault.change(Repair::No, |store| store.end_login(&account, &told))
        });
        if let Ok(Err(error)) = noted.await {
            tracing::warn!(%error, "the end of a login cannot be noted");
        }
        RefreshError::Ended(reason.to_owned())
    }
}

/// Codes after which the same refresh token never works again.
fn ends_login(code: &str) -> bool {
    matches!(
        code,
        "invalid_grant"
            | "refresh_token_reused"
            | "refresh_token_expired"
            | "refresh_token_invalidated"
            | "revoked"
            | "unauthorized_client"
            | "invalid_client"
    )
}
