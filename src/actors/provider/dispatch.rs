//! Lending: the one place of admission.

use std::sync::Arc;

use actix::prelude::*;
use actix_rt::time::Instant;

use super::{
    DispatchError, Lease, LeaseOutcome, ProviderActor,
    keys::NoKey,
    lease::Settling,
    letter::{Awaited, Promise},
    messages::{Dispatch, Drill, Settle},
};
use crate::{
    config::KeySource,
    credentials::{CallerAuth, Credential},
    registry::AuthMode,
};

impl Awaited for Dispatch {
    // The mailbox does not limit callers (actix#515), so the slot count does.
    fn deliver(
        self,
        actor: &mut ProviderActor,
        ctx: &mut Context<ProviderActor>,
    ) -> Promise<Self::Result> {
        let (Self { caller, forced }, spec) = (self, &actor.seed.spec);
        if spec.base_url.contains(['{', '}']) {
            let (provider, base_url) = (spec.id.to_string(), spec.base_url.clone());
            return Promise::Kept(Err(DispatchError::Placeholder { provider, base_url }));
        }
        match spec.auth {
            AuthMode::OAuth => actor.lend_account(forced, ctx),
            AuthMode::Forward => Promise::Kept(actor.lend_login(caller, forced, ctx)),
            AuthMode::Key | AuthMode::Local => Promise::Kept(actor.lend_key(forced, ctx)),
        }
    }
}

impl ProviderActor {
    fn lend_login(
        &mut self,
        caller: CallerAuth,
        forced: bool,
        ctx: &mut Context<Self>,
    ) -> Result<Lease, DispatchError> {
        if !caller.is_authorized() {
            return Err(DispatchError::NotLoggedIn(self.seed.spec.id.to_string()));
        }
        self.lend(&[Credential::Forwarded(caller)], forced, ctx)
    }

    fn lend_key(&mut self, forced: bool, ctx: &mut Context<Self>) -> Result<Lease, DispatchError> {
        let spec = Arc::clone(&self.seed.spec);
        let keys = Arc::clone(&self.own);
        if keys.iter().any(|key| !matches!(key, Credential::None)) {
            return self.lend(&keys, forced, ctx);
        }
        if spec.auth != AuthMode::Local && !spec.authorizes_by_header() {
            return Err(self.no_key());
        }
        // Nothing to tell keys apart by.
        self.pick_and_lend(forced, |_| true, |_| Credential::None, 1, ctx)
    }

    /// Lends the next of several credentials that may be used.
    pub(super) fn lend(
        &mut self,
        credentials: &[Credential],
        forced: bool,
        ctx: &mut Context<Self>,
    ) -> Result<Lease, DispatchError> {
        let is_there = |credential: &Credential| !matches!(credential, Credential::None);
        let count = credentials.iter().filter(|credential| is_there(credential)).count();
        let has = |index: usize| credentials.get(index).is_some_and(is_there);
        let nth = |index: usize| credentials.get(index).cloned().unwrap_or(Credential::None);
        self.pick_and_lend(forced, has, nth, count, ctx)
    }

    fn pick_and_lend(
        &mut self,
        forced: bool,
        has: impl Fn(usize) -> bool,
        nth: impl Fn(usize) -> Credential,
        of: usize,
        ctx: &mut Context<Self>,
    ) -> Result<Lease, DispatchError> {
        let spec = &self.seed.spec;
        let provider = || spec.id.to_string();
        // First, so that a probe that is picked is also sent.
        let Ok(slot) = Arc::clone(&self.seed.slots).try_acquire_owned() else {
            return Err(DispatchError::Saturated(provider()));
        };
        let pick = self.keys.pick(Instant::now(), forced, has).map_err(|reason| match reason {
            NoKey::Resting(left) => DispatchError::CoolingDown { provider: provider(), left },
            NoKey::Open(left) => DispatchError::CircuitOpen { provider: provider(), left },
        })?;
        let to = Settling {
            pick,
            successes: self.keys.successes(pick.index),
            actor: ctx.address().downgrade().recipient(),
        };
        let retirement = Arc::clone(&self.seed.retirement);
        Ok(Lease::new(Arc::clone(spec), nth(pick.index), of, to, retirement, slot))
    }

    fn no_key(&self) -> DispatchError {
        let spec = &self.seed.spec;
        let hint = match spec.keys.first() {
            Some(KeySource::Env(name)) => {
                format!("set the variable {name} and restart ocx, or put the key into `apiKey`")
            }
            _ => "set `apiKey` in its config, or `authMode` to `local` if it needs none".to_owned(),
        };
        DispatchError::NoKey { provider: spec.id.to_string(), hint }
    }
}

impl Handler<Settle> for ProviderActor {
    type Result = ();

    fn handle(&mut self, Settle(pick, outcome): Settle, ctx: &mut Context<Self>) {
        let now = Instant::now();
        match outcome {
            LeaseOutcome::RateLimited { pause } => {
                self.keys.rate_limited(pick, pause, now);
            }
            LeaseOutcome::Refused => self.keys.refused(pick, now),
            LeaseOutcome::Accepted => self.keys.accepted(pick),
            LeaseOutcome::Failed => self.keys.failed(pick, now),
            LeaseOutcome::Abandoned => self.keys.abandoned(pick, now),
        }
        if self.seed.retirement.is_retired() {
            // A timer would only keep it alive.
            return;
        }
        self.publish_state();
        if let Some(left) = self.cooling_left() {
            // Once, when it is over.
            let publish = ctx.run_later(left, |this, _| this.publish_state());
            if let Some(before) = self.publishing.replace(publish) {
                ctx.cancel_future(before);
            }
        }
    }
}

impl Handler<Drill> for ProviderActor {
    type Result = ();

    fn handle(&mut self, _: Drill, _: &mut Context<Self>) {
        panic!("a drill");
    }
}
