//! Lending: the one place of admission.

use std::{sync::Arc, time::Duration};

use actix::prelude::*;
use actix_rt::time::Instant;

use super::{
    DispatchError, Lease, LeaseOutcome, ProviderActor,
    messages::{Dispatch, Drill, Settle},
};
use crate::{
    config::{KeySource, process_env},
    credentials::{CallerAuth, Credential},
    registry::AuthMode,
};

/// No upstream may silence a provider for longer: its own limits may be gone sooner than it says.
const MAX_COOLDOWN: Duration = Duration::from_secs(60);

impl Handler<Dispatch> for ProviderActor {
    type Result = Result<Lease, DispatchError>;

    // The mailbox does not limit callers (actix#515), so the slot count does.
    fn handle(&mut self, Dispatch(caller): Dispatch, ctx: &mut Context<Self>) -> Self::Result {
        let spec = &self.seed.spec;
        let provider = || spec.id.to_string();
        if spec.base_url.contains(['{', '}']) {
            let base_url = spec.base_url.clone();
            return Err(DispatchError::Placeholder { provider: provider(), base_url });
        }
        if let Some(left) = self.cooling_left() {
            return Err(DispatchError::CoolingDown { provider: provider(), left });
        }
        let credential = self.credential(caller)?;
        let Ok(slot) = Arc::clone(&self.seed.slots).try_acquire_owned() else {
            return Err(DispatchError::Saturated(provider()));
        };
        Ok(Lease {
            spec: Arc::clone(spec),
            credential,
            settle: ctx.address().downgrade().recipient(),
            retirement: Arc::clone(&self.seed.retirement),
            _slot: slot,
        })
    }
}

impl ProviderActor {
    fn credential(&self, caller: CallerAuth) -> Result<Credential, DispatchError> {
        let spec = &self.seed.spec;
        match spec.auth {
            AuthMode::Forward if caller.is_authorized() => Ok(Credential::Forwarded(caller)),
            AuthMode::Forward => Err(DispatchError::NotLoggedIn(spec.id.to_string())),
            AuthMode::OAuth => Err(DispatchError::NotLoggedIn(spec.id.to_string())),
            AuthMode::Key | AuthMode::Local => match spec.resolve_key(&process_env) {
                Some(key) => Ok(Credential::Key(key)),
                None if spec.auth == AuthMode::Local || spec.authorizes_by_header() => {
                    Ok(Credential::None)
                }
                None => Err(self.no_key()),
            },
        }
    }

    fn no_key(&self) -> DispatchError {
        let spec = &self.seed.spec;
        let hint = match &spec.key {
            KeySource::Env(name) => {
                format!("set the variable {name} and restart ocx, or put the key into `apiKey`")
            }
            _ => "set `apiKey` in its config, or `authMode` to `local` if it needs none".to_owned(),
        };
        DispatchError::NoKey { provider: spec.id.to_string(), hint }
    }
}

impl Handler<Settle> for ProviderActor {
    type Result = ();

    fn handle(&mut self, Settle(outcome): Settle, ctx: &mut Context<Self>) {
        match outcome {
            LeaseOutcome::RateLimited { pause } => {
                let pause = pause.min(MAX_COOLDOWN);
                self.cooling_until = Some(Instant::now() + pause);
                self.publish_state();
                ctx.run_later(pause, |this, _| this.publish_state());
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
