//! New tokens that the disk did not take, and the end of the process, which waits for them.

use std::time::Duration;

use actix::prelude::*;
use tokio::sync::oneshot;

use super::ProviderActor;
use crate::actors::provider::messages::Finish;

/// How often tokens that the disk did not take are tried again.
const SAVE_EVERY: Duration = Duration::from_secs(5);

#[derive(Message)]
#[rtype(result = "()")]
struct Saved {
    all: bool,
}

impl ProviderActor {
    /// What the disk did not take is tried again, as long as there is any.
    pub(super) fn save_later(&mut self, ctx: &mut Context<Self>) {
        let due = !self.login.saving && self.seed.vault.has_unsaved(self.seed.spec.id.as_str());
        if due && self.login.save_timer.is_none() {
            self.login.save_timer = Some(ctx.run_later(SAVE_EVERY, Self::save));
        }
    }

    fn save(&mut self, ctx: &mut Context<Self>) {
        if let Some(timer) = self.login.save_timer.take() {
            ctx.cancel_future(timer);
        }
        let provider = self.seed.spec.id.to_string();
        // While they are renewed, whoever renews has them.
        if self.login.saving || !self.seed.vault.has_unsaved(&provider) {
            return;
        }
        self.login.saving = true;
        let (vault, address) = (self.seed.vault.clone(), ctx.address());
        actix_rt::spawn(async move {
            let saved = tokio::task::spawn_blocking(move || vault.save(&provider)).await;
            address.do_send(Saved { all: saved.unwrap_or(false) });
        });
    }

    /// Tells who waits for the end that no refresh is on its way. What the disk did not take is tried
    /// once more by them, for all providers.
    pub(super) fn finish(&mut self) {
        if self.login.is_busy() || self.login.saving {
            return;
        }
        for waiting in self.login.finished.drain(..) {
            let _ = waiting.send(());
        }
    }
}

impl Handler<Saved> for ProviderActor {
    type Result = ();

    fn handle(&mut self, Saved { all }: Saved, ctx: &mut Context<Self>) {
        self.login.saving = false;
        if all {
            tracing::info!(provider = %self.seed.spec.id, "new tokens are saved now");
        }
        self.save_later(ctx);
        self.finish();
    }
}

impl Handler<Finish> for ProviderActor {
    type Result = Response<()>;

    fn handle(&mut self, _: Finish, _: &mut Context<Self>) -> Self::Result {
        let (sender, receiver) = oneshot::channel();
        self.login.finishing = true;
        self.login.finished.push(sender);
        self.finish();
        Response::fut(async move { receiver.await.unwrap_or_default() })
    }
}
