//! Lending: the one place of admission.

use std::sync::Arc;

use actix::prelude::*;
use actix_rt::time::Instant;

use super::{
    DispatchError, Lease, LeaseOutcome, ProviderActor,
    keys::{MAX_PAUSE, NoKey, Pick},
    messages::{Dispatch, Drill, Settle},
};
use crate::{
    config::{KeySource, process_env},
    credentials::{CallerAuth, Credential},
    registry::AuthMode,
};

impl Handler<Dispatch> for ProviderActor {
    type Result = Response<Result<Lease, DispatchError>>;

    // The mailbox does not limit callers (actix#515), so the slot count does.
    fn handle(&mut self, Dispatch(caller): Dispatch, ctx: &mut Context<Self>) -> Self::Result {
        let spec = &self.seed.spec;
        if spec.base_url.contains(['{', '}']) {
            let (provider, base_url) = (spec.id.to_string(), spec.base_url.clone());
            return Response::reply(Err(DispatchError::Placeholder { provider, base_url }));
        }
        match spec.auth {
            AuthMode::OAuth => self.lend_account(ctx),
            AuthMode::Forward => Response::reply(self.lend_login(caller, ctx)),
            AuthMode::Key | AuthMode::Local => Response::reply(self.lend_key(ctx)),
        }
    }
}

impl ProviderActor {
    fn lend_login(
        &mut self,
        caller: CallerAuth,
        ctx: &mut Context<Self>,
    ) -> Result<Lease, DispatchError> {
        if !caller.is_authorized() {
            return Err(DispatchError::NotLoggedIn(self.seed.spec.id.to_string()));
        }
        self.lease(Credential::Forwarded(caller), ctx)
    }

    fn lend_key(&mut self, ctx: &mut Context<Self>) -> Result<Lease, DispatchError> {
        let spec = Arc::clone(&self.seed.spec);
        let keys: Vec<_> = spec.keys.iter().map(|key| key.resolve(&process_env)).collect();
        if keys.iter().all(Option::is_none) {
            if spec.auth != AuthMode::Local && !spec.authorizes_by_header() {
                return Err(self.no_key());
            }
            return self.lease(Credential::None, ctx);
        }
        let pick = self.pick(|index| keys.get(index).is_some_and(Option::is_some))?;
        let key = keys.into_iter().nth(pick.index).flatten();
        self.lend(key.map_or(Credential::None, Credential::Key), pick, ctx)
    }

    /// Lends where there is one credential for all.
    pub(super) fn lease(
        &mut self,
        credential: Credential,
        ctx: &mut Context<Self>,
    ) -> Result<Lease, DispatchError> {
        let pick = self.pick(|_| true)?;
        self.lend(credential, pick, ctx)
    }

    fn pick(&mut self, has: impl Fn(usize) -> bool) -> Result<Pick, DispatchError> {
        let provider = self.seed.spec.id.to_string();
        let picked = self.keys.pick(Instant::now(), has);
        picked.map_err(|reason| match reason {
            NoKey::Resting(left) => DispatchError::CoolingDown { provider, left },
            NoKey::Open(left) => DispatchError::CircuitOpen { provider, left },
        })
    }

    fn lend(
        &self,
        credential: Credential,
        pick: Pick,
        ctx: &mut Context<Self>,
    ) -> Result<Lease, DispatchError> {
        let spec = &self.seed.spec;
        let Ok(slot) = Arc::clone(&self.seed.slots).try_acquire_owned() else {
            return Err(DispatchError::Saturated(spec.id.to_string()));
        };
        Ok(Lease {
            spec: Arc::clone(spec),
            credential,
            pick,
            of: self.keys.len(),
            settle: ctx.address().downgrade().recipient(),
            retirement: Arc::clone(&self.seed.retirement),
            _slot: slot,
        })
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
                self.keys.rate_limited(pick.index, pause, now);
                self.publish_state();
                ctx.run_later(pause.min(MAX_PAUSE), |this, _| this.publish_state());
            }
            LeaseOutcome::Refused => self.keys.refused(pick.index, now),
            LeaseOutcome::Accepted => self.keys.accepted(pick.index, now),
            LeaseOutcome::Failed => self.keys.failed(pick.index, now),
        }
    }
}

impl Handler<Drill> for ProviderActor {
    type Result = ();

    fn handle(&mut self, _: Drill, _: &mut Context<Self>) {
        panic!("a drill");
    }
}
