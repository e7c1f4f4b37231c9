//! The account of a provider that people log in to: kept fresh ahead of time, renewed once for all
//! who wait.
//!
//! The tokens live in the vault; what is here is a copy and who waits for a better one. Renewing runs
//! beside the actor, so that no waiter that leaves, and no restart of the actor, cancels it halfway.

use std::{
    fs, io,
    os::unix::fs::MetadataExt as _,
    time::{Duration, SystemTime},
};

use actix::prelude::*;
use actix_rt::time::Instant;
use tokio::sync::oneshot;

use super::{
    DispatchError, Lease, ProviderActor,
    letter::{Awaited, Promise},
    messages::Renew,
};
use crate::{
    credentials::{Account, Credential, Opened, TokenId, VaultError, now_ms},
    oauth::{RefreshError, Renewed, Server, Why, login_reach, refresh},
    telemetry::{Metrics, metrics::timestamp},
    upstream::Upstream,
};

mod saving;

/// How often the clock is looked at: it may jump, and machines sleep.
const TICK: Duration = Duration::from_secs(30);
/// How often we look whether another process changed the vault.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// After a failure; doubled with each further one.
const FIRST_PAUSE: Duration = Duration::from_secs(1);
/// At most; also after an answer that was lost.
const MAX_PAUSE: Duration = Duration::from_secs(30);
/// Who may wait for tokens.
const MAX_WAITING: usize = 1024;
/// Logins that are known to be over although the vault may not say so.
const MAX_ENDED: usize = 16;
/// Requests that begin now must end before the token does, in milliseconds.
const GRACE: u64 = 5_000;

/// What the actor knows of its account.
#[derive(Default)]
pub(super) struct LoginState {
    account: Option<Account>,
    /// Why there is none.
    missing: Option<String>,
    /// The token that the provider refused.
    rejected: Option<TokenId>,
    ended: Vec<Ended>,
    /// What `auth.json` was when it was read.
    stamp: Option<Stamp>,
    looked: Option<Instant>,
    loading: bool,
    renewing: Option<Instant>,
    /// Accounts whose login holds, and those whose login is over.
    counted: (usize, usize),
    /// The process is about to end: nothing new is begun.
    finishing: bool,
    failures: u32,
    /// No refresh before, and why.
    paused: Option<(Instant, String)>,
    waiting: Vec<Waiting>,
    finished: Vec<oneshot::Sender<()>>,
    timer: Option<SpawnHandle>,
    save_timer: Option<SpawnHandle>,
    /// What is in memory only is being written.
    saving: bool,
}

/// Tokens of a login that is over.
struct Ended {
    id: String,
    added_at: u64,
    generation: u64,
    reason: String,
}

enum Waiting {
    /// For a lease, perhaps also while the upstream is left alone.
    Lease(oneshot::Sender<Result<Lease, DispatchError>>, bool),
    Renewal(oneshot::Sender<Result<(), DispatchError>>),
}

impl Waiting {
    /// Whether nobody waits any more.
    fn left(&self) -> bool {
        match self {
            Self::Lease(sender, _) => sender.is_closed(),
            Self::Renewal(sender) => sender.is_closed(),
        }
    }
}

type Stamp = (u64, u64, Option<SystemTime>);

#[derive(Message)]
#[rtype(result = "()")]
struct Loaded(Result<Opened, VaultError>, Option<Stamp>);

#[derive(Message)]
#[rtype(result = "()")]
struct Refreshed(Result<Renewed, RefreshError>);

impl LoginState {
    /// The access token, if it may be sent now.
    fn alive(&self) -> Option<Credential> {
        let account = self.account.as_ref()?;
        let grace = GRACE.min(account.tokens.lifetime / 4);
        if !account.tokens.is_alive(now_ms().saturating_add(grace)) {
            return None;
        }
        let credential = Credential::of_account(account);
        (self.rejected.is_none() || self.rejected != token(&credential)).then_some(credential)
    }

    /// What is sent to the provider, if there is anything.
    pub fn credential(&self) -> Option<Credential> {
        self.alive()
    }

    /// What a person must do, if anything.
    pub fn lacks(&self, provider: &str) -> Option<String> {
        let missing = self.missing.as_ref().filter(|_| self.account.is_none())?;
        Some(format!("`ocx login {provider}` ({missing})"))
    }

    /// No refresh for so long at least; longer after each further failure.
    fn pause(&mut self, least: Duration, reason: String) {
        let pause = least.saturating_mul(1 << self.failures.min(5)).min(MAX_PAUSE);
        self.failures += 1;
        self.paused = Some((Instant::now() + pause, reason));
    }

    fn is_busy(&self) -> bool {
        self.loading || self.renewing.is_some()
    }

    fn ended(&self, account: &Account) -> Option<&Ended> {
        self.ended.iter().find(|ended| {
            ended.id == account.id
                && ended.added_at == account.added_at
                && ended.generation >= account.generation
        })
    }

    /// Tells the metrics of accounts and of the token in use.
    pub fn publish(&self, metrics: &Metrics, provider: &str) {
        let (hold, over) = self.counted;
        for (state, count) in [("ready", hold), ("needs_login", over)] {
            let count = i64::try_from(count).unwrap_or(i64::MAX);
            // Only of providers that people log in to.
            if hold + over > 0 {
                metrics.accounts.with_label_values(&[provider, state]).set(count);
            }
        }
        match &self.account {
            Some(account) => {
                let expires = Duration::from_millis(account.tokens.expires).as_secs_f64();
                metrics.token_expiry.with_label_values(&[provider]).set(expires);
            }
            // There is none, which is not the same as one that ended in 1970.
            None => drop(metrics.token_expiry.remove_label_values(&[provider])),
        }
    }

    /// Ends the timers, which would keep a retired actor alive.
    pub fn abandon(&mut self, ctx: &mut Context<ProviderActor>) {
        if let Some(timer) = self.timer.take() {
            ctx.cancel_future(timer);
        }
    }
}

fn token(credential: &Credential) -> Option<TokenId> {
    match credential {
        Credential::Account { id, .. } => Some(*id),
        _ => None,
    }
}

impl ProviderActor {
    /// Lends with the account's token, now or when there is one.
    pub(super) fn lend_account(
        &mut self,
        forced: bool,
        ctx: &mut Context<Self>,
    ) -> Promise<Result<Lease, DispatchError>> {
        self.look(ctx);
        if let Some(credential) = self.login.alive() {
            return Promise::Kept(self.lend(&[credential], forced, ctx));
        }
        if let Err(error) = self.want_tokens(ctx) {
            return Promise::Kept(Err(error));
        }
        let (metrics, id) = (&self.seed.metrics, self.seed.spec.id.as_str());
        metrics.refresh_waiters.with_label_values(&[id]).inc();
        let (sender, receiver) = oneshot::channel();
        self.login.waiting.push(Waiting::Lease(sender, forced));
        let restarted = DispatchError::Restarted(self.seed.spec.id.to_string());
        Promise::Open(receiver, Err(restarted))
    }

    /// Sees to it that tokens come, or says why they do not. Never renews a token that may be sent.
    fn want_tokens(&mut self, ctx: &mut Context<Self>) -> Result<(), DispatchError> {
        let provider = || self.seed.spec.id.to_string();
        self.login.waiting.retain(|waiting| !waiting.left());
        let login = &self.login;
        if login.waiting.len() >= MAX_WAITING {
            return Err(DispatchError::Saturated(provider()));
        }
        if login.is_busy() {
            return Ok(());
        }
        if let Some((until, reason)) = &login.paused
            && let Some(left) = until.checked_duration_since(Instant::now())
        {
            let (provider, reason) = (provider(), reason.clone());
            return Err(DispatchError::LoginStalled { provider, reason, left });
        }
        match (&login.account, &login.missing) {
            (Some(_), _) if login.finishing => Err(DispatchError::Restarted(provider())),
            (Some(account), _) => {
                let current = token(&Credential::of_account(account));
                let rejected = login.rejected.is_some() && login.rejected == current;
                self.renew(if rejected { Why::Rejected } else { Why::Due }, ctx);
                Ok(())
            }
            (None, None) => {
                self.load(ctx);
                Ok(())
            }
            (None, Some(reason)) => {
                let (provider, reason) = (provider(), reason.clone());
                Err(DispatchError::LoggedOut { provider, reason })
            }
        }
    }

    /// Looks, now and then, whether another process changed the vault.
    fn look(&mut self, ctx: &mut Context<Self>) {
        let now = Instant::now();
        let due = self.login.looked.is_none_or(|looked| now - looked >= LOOK_EVERY);
        if due && !self.login.is_busy() {
            self.login.looked = Some(now);
            let stamp = self.stamp();
            if stamp != self.login.stamp || stamp.is_none() {
                self.load(ctx);
            }
        }
    }

    fn stamp(&self) -> Option<Stamp> {
        let meta = fs::metadata(self.seed.vault.path()).ok()?;
        Some((meta.ino(), meta.len(), meta.modified().ok()))
    }

    /// Reads the account from the vault.
    pub(super) fn load(&mut self, ctx: &mut Context<Self>) {
        self.login.loading = true;
        self.login.looked = Some(Instant::now());
        let (vault, stamp, address) = (self.seed.vault.clone(), self.stamp(), ctx.address());
        actix_rt::spawn(async move {
            let path = vault.path();
            let opened = tokio::task::spawn_blocking(move || vault.open()).await;
            let opened = opened.unwrap_or_else(|error| {
                Err(VaultError::Io { path, error: io::Error::other(error) })
            });
            address.do_send(Loaded(opened, stamp));
        });
    }

    fn renew(&mut self, why: Why, ctx: &mut Context<Self>) {
        let spec = &self.seed.spec;
        let (Some(account), Some(login)) = (self.login.account.clone(), spec.login.clone()) else {
            return;
        };
        self.login.renewing = Some(Instant::now());
        let (vault, network) = (self.seed.vault.clone(), self.seed.network.clone());
        let reach = login_reach(&login, &spec.reach);
        let address = ctx.address();
        let flight = async move {
            let mut server = Server::new(login, Upstream::new(&network).via(&reach));
            refresh(&vault, &mut server, &account, why).await
        };
        actix_rt::spawn(async move {
            // A task of its own, so that a panic in it is an answer too.
            let result = actix_rt::spawn(flight).await.unwrap_or_else(|error| {
                Err(RefreshError::Later { reason: error.to_string(), ambiguous: true })
            });
            address.do_send(Refreshed(result));
        });
    }

    /// Serves whoever can be served, or tells all of them why not.
    fn serve_waiting(&mut self, ctx: &mut Context<Self>) {
        let mut waiting = std::mem::take(&mut self.login.waiting);
        waiting.retain(|waiting| !waiting.left());
        if waiting.is_empty() {
            return;
        }
        // Whoever hung up needs nothing; a lease that is not taken frees its slot.
        if let Some(credential) = self.login.alive() {
            for waiting in waiting {
                match waiting {
                    Waiting::Lease(sender, forced) => {
                        let lease = self.lend(std::slice::from_ref(&credential), forced, ctx);
                        drop(sender.send(lease));
                    }
                    Waiting::Renewal(sender) => drop(sender.send(Ok(()))),
                }
            }
            return;
        }
        match self.want_tokens(ctx) {
            Ok(()) => self.login.waiting = waiting,
            Err(error) => {
                for waiting in waiting {
                    match waiting {
                        Waiting::Lease(sender, _) => drop(sender.send(Err(error.clone()))),
                        Waiting::Renewal(sender) => drop(sender.send(Err(error.clone()))),
                    }
                }
            }
        }
    }

    /// Looks again when the token is due, and at the clock before that.
    fn arm(&mut self, ctx: &mut Context<Self>) {
        self.login.abandon(ctx);
        if self.seed.retirement.is_retired() || self.login.finishing {
            return;
        }
        let Some(account) = &self.login.account else { return };
        // A little earlier or later each time, so that processes do not all come at once.
        let jitter = rand::random_range(0..=account.tokens.lifetime / 20);
        let due = match account.tokens.refresh {
            Some(_) => account.tokens.renew_at().saturating_sub(jitter),
            None => u64::MAX,
        };
        let wait = Duration::from_millis(due.saturating_sub(now_ms()));
        let paused =
            self.login.paused.as_ref().map_or(Duration::ZERO, |(until, _)| {
                until.saturating_duration_since(Instant::now())
            });
        let wait = wait.max(paused).clamp(Duration::from_millis(10), TICK);
        self.login.timer = Some(ctx.run_later(wait, Self::tick));
    }

    fn tick(&mut self, ctx: &mut Context<Self>) {
        self.login.timer = None;
        let due = self.login.account.as_ref().is_some_and(|account| {
            let jitter = account.tokens.lifetime / 20;
            account.tokens.refresh.is_some()
                && now_ms() >= account.tokens.renew_at().saturating_sub(jitter)
        });
        if due && !self.login.is_busy() && self.want_tokens(ctx).is_ok() {
            return;
        }
        self.arm(ctx);
    }

    fn count_refresh(&self, result: &str) {
        let spec = &self.seed.spec;
        if self.seed.retirement.is_retired() {
            return;
        }
        self.seed.metrics.credential_refreshes.with_label_values(&[spec.id.as_str(), result]).inc();
    }
}

/// Why an account's token may not be sent, if the config leads elsewhere than where it was meant for.
fn leads_elsewhere(account: &Account, origin: &Option<String>) -> Option<String> {
    let meant = account.origin.as_ref()?;
    let now = origin.as_deref().unwrap_or("nowhere");
    (meant != now).then(|| format!("the login is for {meant}, and `baseUrl` leads to {now}"))
}

impl Handler<Loaded> for ProviderActor {
    type Result = ();

    fn handle(&mut self, Loaded(opened, stamp): Loaded, ctx: &mut Context<Self>) {
        let provider = self.seed.spec.id.to_string();
        let origin = self.seed.spec.origin();
        let login = &mut self.login;
        login.loading = false;
        match opened {
            Ok(opened) => {
                login.stamp = stamp;
                let mut accounts = opened.store.accounts(&provider);
                // What is over stays over, also where it could not be noted.
                for account in &mut accounts.list {
                    if let Some(ended) = login.ended(account) {
                        account.needs_login = Some(ended.reason.clone());
                    }
                }
                let over = accounts.list.iter().filter(|one| one.needs_login.is_some()).count();
                login.counted = (accounts.list.len() - over, over);
                let usable = accounts.usable().cloned();
                let elsewhere = usable.as_ref().and_then(|used| leads_elsewhere(used, &origin));
                let newer = usable.filter(|_| elsewhere.is_none());
                login.missing = newer.is_none().then(|| {
                    let ended =
                        || accounts.list.first().and_then(|first| first.needs_login.clone());
                    elsewhere.or_else(ended).unwrap_or_else(|| "nobody is logged in".to_owned())
                });
                let same =
                    |new: &Account, old: &Account| new.id == old.id && new.added_at == old.added_at;
                let (known, found) = (login.account.as_ref(), newer.as_ref());
                let older = known.zip(found).is_some_and(|(known, found)| {
                    same(found, known) && found.generation < known.generation
                });
                if !older {
                    let unchanged = known.zip(found).is_some_and(|(known, found)| {
                        same(found, known) && found.generation == known.generation
                    });
                    if !unchanged {
                        (login.paused, login.failures) = (None, 0);
                    }
                    login.account = newer;
                }
                if let Some(damage) = opened.damage {
                    let path = self.seed.vault.path();
                    tracing::error!(path = %path.display(), damage, "auth.json is damaged; `ocx login` repairs it");
                }
            }
            Err(error) => {
                tracing::error!(provider, %error, "logins cannot be read");
                if login.account.is_none() {
                    login.missing = Some(error.to_string());
                }
            }
        }
        self.publish_state();
        self.save_later(ctx);
        self.serve_waiting(ctx);
        self.arm(ctx);
        self.finish();
    }
}

impl Handler<Refreshed> for ProviderActor {
    type Result = ();

    fn handle(&mut self, Refreshed(result): Refreshed, ctx: &mut Context<Self>) {
        let provider = self.seed.spec.id.to_string();
        let login = &mut self.login;
        // The series of a retired provider are gone, or belong to its successor.
        let metrics = (!self.seed.retirement.is_retired()).then_some(&self.seed.metrics);
        if let (Some(began), Some(metrics)) = (login.renewing.take(), metrics) {
            let took = began.elapsed().as_secs_f64();
            metrics.refresh_duration.with_label_values(&[&*provider]).observe(took);
        }
        let counted = match result {
            Ok(renewed) => {
                let result = if renewed.adopted { "adopted" } else { "ok" };
                tracing::info!(
                    provider,
                    generation = renewed.account.generation,
                    result,
                    "tokens renewed"
                );
                // Another's login may have been made for another address.
                let elsewhere = leads_elsewhere(&renewed.account, &self.seed.spec.origin());
                login.account = Some(renewed.account).filter(|_| elsewhere.is_none());
                if let Some(metrics) = metrics {
                    let renewed_at = &metrics.refresh_success_time;
                    renewed_at.with_label_values(&[&*provider]).set(timestamp(SystemTime::now()));
                }
                login.missing = None;
                if !renewed.adopted && login.account.is_some() && login.alive().is_none() {
                    // Asking on and on would bring no other.
                    let reason = "the server gives a token that the provider refuses".to_owned();
                    login.pause(FIRST_PAUSE, reason);
                } else {
                    (login.paused, login.failures) = (None, 0);
                }
                result
            }
            Err(RefreshError::Later { reason, ambiguous }) => {
                tracing::warn!(provider, reason, ambiguous, "tokens could not be renewed");
                login.pause(if ambiguous { MAX_PAUSE } else { FIRST_PAUSE }, reason);
                if ambiguous { "ambiguous" } else { "transient" }
            }
            Err(error) => {
                tracing::error!(provider, %error, "the login of this provider is over");
                // Who is logged out may be logged in again, were it by putting the file back.
                if let (
                    RefreshError::Ended(reason),
                    Some(Account { id, added_at, generation, .. }),
                ) = (error, login.account.take())
                {
                    if login.ended.len() >= MAX_ENDED {
                        login.ended.remove(0);
                    }
                    login.ended.push(Ended { id, added_at, generation, reason });
                }
                login.missing = None;
                "needs_login"
            }
        };
        self.count_refresh(counted);
        self.save_later(ctx);
        if self.login.account.is_none() {
            // Perhaps another account is logged in.
            return self.load(ctx);
        }
        self.publish_state();
        self.serve_waiting(ctx);
        self.arm(ctx);
        self.finish();
    }
}

impl Awaited for Renew {
    fn deliver(
        self,
        actor: &mut ProviderActor,
        ctx: &mut Context<ProviderActor>,
    ) -> Promise<Self::Result> {
        let Self(refused) = self;
        let known = actor.login.account.as_ref().and_then(|a| token(&Credential::of_account(a)));
        if known == Some(refused) {
            actor.login.rejected = Some(refused);
        }
        if actor.login.alive().is_some() {
            return Promise::Kept(Ok(()));
        }
        if let Err(error) = actor.want_tokens(ctx) {
            return Promise::Kept(Err(error));
        }
        let (sender, receiver) = oneshot::channel();
        actor.login.waiting.push(Waiting::Renewal(sender));
        let restarted = DispatchError::Restarted(actor.seed.spec.id.to_string());
        Promise::Open(receiver, Err(restarted))
    }
}
