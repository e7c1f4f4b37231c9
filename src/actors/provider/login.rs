//! The account of a provider that people log in to: kept fresh ahead of time, renewed once for all
//! who wait.
//!
//! The tokens live in the vault; what is here is a copy and who waits for a better one. Renewing runs
//! beside the actor, so that no waiter that leaves, and no restart of the actor, cancels it halfway.

use std::{
    fs,
    os::unix::fs::MetadataExt as _,
    time::{Duration, SystemTime},
};

use actix::prelude::*;
use actix_rt::time::Instant;
use tokio::sync::oneshot;

use super::{DispatchError, Lease, ProviderActor, messages::Renew};
use crate::{
    credentials::{Account, Credential, Opened, VaultError, now_ms},
    oauth::{Pending, RefreshError, Renewed, Server, Why, login_reach, refresh},
    upstream::Upstream,
};

/// How often the clock is looked at: it may jump, and machines sleep.
const TICK: Duration = Duration::from_secs(30);
/// How often we look whether another process changed the vault.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// After a failure; doubled with each further one.
const FIRST_PAUSE: Duration = Duration::from_secs(1);
/// At most; also after an answer that was lost.
const MAX_PAUSE: Duration = Duration::from_secs(30);
/// How often tokens that the disk did not take are tried again.
const SAVE_EVERY: Duration = Duration::from_secs(5);
/// Who may wait for tokens.
const MAX_WAITING: usize = 1024;
/// Requests that begin now must end before the token does, in milliseconds.
const GRACE: u64 = 5_000;

/// What the actor knows of its account.
#[derive(Default)]
pub(super) struct LoginState {
    account: Option<Account>,
    /// Why there is none.
    missing: Option<String>,
    /// The generation that the provider refused.
    rejected: Option<u64>,
    /// What `auth.json` was when it was read.
    stamp: Option<Stamp>,
    looked: Option<Instant>,
    loading: bool,
    renewing: bool,
    failures: u32,
    /// No refresh before, and why.
    paused: Option<(Instant, String)>,
    waiting: Vec<Waiting>,
    pending: Option<Pending>,
    timer: Option<SpawnHandle>,
}

enum Waiting {
    Lease(oneshot::Sender<Result<Lease, DispatchError>>),
    Renewal(u64, oneshot::Sender<Result<(), DispatchError>>),
}

type Stamp = (u64, u64, Option<SystemTime>);

#[derive(Message)]
#[rtype(result = "()")]
struct Loaded(Result<Opened, VaultError>, Option<Stamp>);

#[derive(Message)]
#[rtype(result = "()")]
struct Refreshed(Result<Renewed, RefreshError>);

#[derive(Message)]
#[rtype(result = "()")]
struct Saved(Option<Pending>);

impl LoginState {
    /// The access token, if it may be sent now.
    fn alive(&self) -> Option<&Account> {
        let alive = |account: &&Account| {
            let grace = GRACE.min(account.tokens.lifetime / 4);
            account.tokens.is_alive(now_ms().saturating_add(grace))
                && self.rejected != Some(account.generation)
        };
        self.account.as_ref().filter(alive)
    }

    /// What is sent to the provider, if there is anything.
    pub fn credential(&self) -> Option<Credential> {
        let account = self.alive()?;
        let access = account.tokens.access.clone();
        Some(Credential::Account { access, generation: account.generation })
    }

    /// What a person must do, if anything.
    pub fn lacks(&self, provider: &str) -> Option<String> {
        let missing = self.missing.as_ref().filter(|_| self.account.is_none())?;
        Some(format!("`ocx login {provider}` ({missing})"))
    }

    fn is_busy(&self) -> bool {
        self.loading || self.renewing
    }

    /// Ends the timers, which would keep a retired actor alive.
    pub fn abandon(&mut self, ctx: &mut Context<ProviderActor>) {
        if let Some(timer) = self.timer.take() {
            ctx.cancel_future(timer);
        }
    }
}

impl ProviderActor {
    /// Lends with the account's token, now or when there is one.
    pub(super) fn lend_account(
        &mut self,
        ctx: &mut Context<Self>,
    ) -> Response<Result<Lease, DispatchError>> {
        self.look(ctx);
        if let Some(credential) = self.login.credential() {
            return Response::reply(self.lease(credential, ctx));
        }
        if let Err(error) = self.want_tokens(ctx) {
            return Response::reply(Err(error));
        }
        let (sender, receiver) = oneshot::channel();
        self.login.waiting.push(Waiting::Lease(sender));
        let restarted = DispatchError::Restarted(self.seed.spec.id.to_string());
        Response::fut(async move { receiver.await.unwrap_or(Err(restarted)) })
    }

    /// Sees to it that tokens come, or says why they do not.
    fn want_tokens(&mut self, ctx: &mut Context<Self>) -> Result<(), DispatchError> {
        let provider = || self.seed.spec.id.to_string();
        if self.login.waiting.len() >= MAX_WAITING {
            return Err(DispatchError::Saturated(provider()));
        }
        if self.login.is_busy() {
            return Ok(());
        }
        let now = Instant::now();
        if let Some((until, reason)) = &self.login.paused
            && let Some(left) = until.checked_duration_since(now)
        {
            let (provider, reason) = (provider(), reason.clone());
            return Err(DispatchError::LoginStalled { provider, reason, left });
        }
        match (&self.login.account, &self.login.missing) {
            (Some(account), _) => {
                let rejected = self.login.rejected == Some(account.generation);
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
            if self.stamp() != self.login.stamp || self.login.stamp.is_none() {
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
            let opened = tokio::task::spawn_blocking(move || vault.open()).await;
            if let Ok(opened) = opened {
                address.do_send(Loaded(opened, stamp));
            }
        });
    }

    fn renew(&mut self, why: Why, ctx: &mut Context<Self>) {
        let spec = &self.seed.spec;
        let (Some(account), Some(login)) = (self.login.account.clone(), spec.login.clone()) else {
            return;
        };
        self.login.renewing = true;
        let (vault, network) = (self.seed.vault.clone(), self.seed.network.clone());
        let reach = login_reach(&login, &spec.reach);
        let address = ctx.address();
        actix_rt::spawn(async move {
            let mut server = Server::new(login, Upstream::new(&network).via(&reach));
            let result = refresh(&vault, &mut server, &account, why).await;
            address.do_send(Refreshed(result));
        });
    }

    /// Serves whoever can be served, or tells all of them why not.
    fn serve_waiting(&mut self, ctx: &mut Context<Self>) {
        let alive = self.login.credential();
        let mut left = Vec::new();
        for waiting in std::mem::take(&mut self.login.waiting) {
            match (waiting, &alive) {
                // Whoever hung up needs none; a lease that is not taken frees its slot.
                (Waiting::Lease(sender), Some(credential)) => {
                    let _ = sender.send(self.lease(credential.clone(), ctx));
                }
                (Waiting::Renewal(old, sender), Some(Credential::Account { generation, .. }))
                    if *generation > old =>
                {
                    let _ = sender.send(Ok(()));
                }
                (waiting, _) => left.push(waiting),
            }
        }
        if left.is_empty() {
            return;
        }
        match self.want_tokens(ctx) {
            Ok(()) => self.login.waiting = left,
            Err(error) => {
                for waiting in left {
                    match waiting {
                        Waiting::Lease(sender) => drop(sender.send(Err(error.clone()))),
                        Waiting::Renewal(_, sender) => drop(sender.send(Err(error.clone()))),
                    }
                }
            }
        }
    }

    /// Looks again when the token is due, and at the clock before that.
    fn arm(&mut self, ctx: &mut Context<Self>) {
        self.login.abandon(ctx);
        if self.seed.retirement.is_retired() {
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
                let accounts = opened.store.accounts(&provider);
                let usable = accounts.usable().cloned();
                let elsewhere = usable.as_ref().and_then(|used| leads_elsewhere(used, &origin));
                let newer = usable.filter(|_| elsewhere.is_none());
                login.missing = newer.is_none().then(|| {
                    let ended =
                        || accounts.list.first().and_then(|first| first.needs_login.clone());
                    elsewhere.or_else(ended).unwrap_or_else(|| "nobody is logged in".to_owned())
                });
                // Tokens that the disk did not take are newer than what it holds.
                if login.pending.is_none() || newer.is_none() {
                    if newer.as_ref().map(|new| (&new.id, new.generation))
                        != login.account.as_ref().map(|old| (&old.id, old.generation))
                    {
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
        self.serve_waiting(ctx);
        self.arm(ctx);
    }
}

impl Handler<Refreshed> for ProviderActor {
    type Result = ();

    fn handle(&mut self, Refreshed(result): Refreshed, ctx: &mut Context<Self>) {
        let provider = self.seed.spec.id.to_string();
        let login = &mut self.login;
        login.renewing = false;
        let counted = match result {
            Ok(renewed) => {
                let result = if renewed.adopted { "adopted" } else { "ok" };
                tracing::info!(
                    provider,
                    generation = renewed.account.generation,
                    result,
                    "tokens renewed"
                );
                login.account = Some(renewed.account);
                (login.paused, login.failures, login.missing) = (None, 0, None);
                if renewed.pending.is_some() {
                    login.pending = renewed.pending;
                    ctx.run_later(SAVE_EVERY, Self::save);
                }
                result
            }
            Err(RefreshError::Later { reason, ambiguous }) => {
                let pause = FIRST_PAUSE.saturating_mul(1 << login.failures.min(5)).min(MAX_PAUSE);
                let pause = if ambiguous { MAX_PAUSE } else { pause };
                login.failures += 1;
                tracing::warn!(provider, reason, ambiguous, ?pause, "tokens could not be renewed");
                login.paused = Some((Instant::now() + pause, reason));
                if ambiguous { "ambiguous" } else { "transient" }
            }
            Err(error) => {
                tracing::error!(provider, %error, "the login of this provider is over");
                (login.account, login.missing) = (None, None);
                "needs_login"
            }
        };
        self.count_refresh(counted);
        if self.login.account.is_none() {
            // Perhaps another account is logged in.
            return self.load(ctx);
        }
        self.publish_state();
        self.serve_waiting(ctx);
        self.arm(ctx);
    }
}

impl ProviderActor {
    fn save(&mut self, ctx: &mut Context<Self>) {
        let Some(pending) = self.login.pending.take() else { return };
        let address = ctx.address();
        actix_rt::spawn(async move {
            let saved = tokio::task::spawn_blocking(move || match pending.save() {
                Ok(()) => None,
                Err(_) => Some(pending),
            });
            if let Ok(left) = saved.await {
                address.do_send(Saved(left));
            }
        });
    }

    /// The last try to write tokens down before the process ends.
    pub(super) fn save_now(&mut self) {
        if let Some(pending) = self.login.pending.take()
            && let Err(error) = pending.save()
        {
            let provider = self.seed.spec.id.as_str();
            tracing::error!(provider, %error, "new tokens are lost: log in again");
        }
    }
}

impl Handler<Saved> for ProviderActor {
    type Result = ();

    fn handle(&mut self, Saved(left): Saved, ctx: &mut Context<Self>) {
        match left {
            Some(pending) => {
                self.login.pending = Some(pending);
                ctx.run_later(SAVE_EVERY, Self::save);
            }
            None => tracing::info!(provider = %self.seed.spec.id, "new tokens are saved now"),
        }
    }
}

impl Handler<Renew> for ProviderActor {
    type Result = Response<Result<(), DispatchError>>;

    fn handle(&mut self, Renew(generation): Renew, ctx: &mut Context<Self>) -> Self::Result {
        let known = self.login.account.as_ref().map(|account| account.generation);
        if known.is_some_and(|known| known > generation) && self.login.alive().is_some() {
            return Response::reply(Ok(()));
        }
        if known == Some(generation) {
            self.login.rejected = Some(generation);
        }
        if let Err(error) = self.want_tokens(ctx) {
            return Response::reply(Err(error));
        }
        let (sender, receiver) = oneshot::channel();
        self.login.waiting.push(Waiting::Renewal(generation, sender));
        let restarted = DispatchError::Restarted(self.seed.spec.id.to_string());
        Response::fut(async move { receiver.await.unwrap_or(Err(restarted)) })
    }
}
