//! What calls ask of a provider, as its mailbox sees it: counted while it waits, timed until it is
//! handled, and answered at once or later.

use actix::{
    dev::{MessageResponse, OneshotSender},
    prelude::*,
};
use actix_rt::time::Instant;
use tokio::sync::oneshot;

use super::ProviderActor;
use crate::telemetry::metrics::Held;

/// Messages that calls wait for.
pub(super) trait Awaited: Message<Result: Send> + Send {
    /// Handles it.
    fn deliver(
        self,
        actor: &mut ProviderActor,
        ctx: &mut Context<ProviderActor>,
    ) -> Promise<Self::Result>;
}

/// An answer, or one that is to come.
pub(super) enum Promise<T> {
    /// Here it is.
    Kept(T),
    /// It comes through the receiver; the second is the answer if it never does.
    Open(oneshot::Receiver<T>, T),
}

/// A message on its way.
pub(super) struct Letter<M> {
    message: M,
    sent: Instant,
    /// Counts it as waiting. Wherever a letter gets lost, the count goes with it.
    waiting: Held,
}

impl<M> Letter<M> {
    pub fn new(message: M, waiting: Held) -> Self {
        Self { message, sent: Instant::now(), waiting }
    }
}

impl<M: Message> Message for Letter<M> {
    type Result = M::Result;
}

impl<M: Awaited> Handler<Letter<M>> for ProviderActor {
    type Result = Promise<M::Result>;

    fn handle(
        &mut self,
        Letter { message, sent, waiting }: Letter<M>,
        ctx: &mut Self::Context,
    ) -> Self::Result {
        drop(waiting);
        let promise = message.deliver(self, ctx);
        self.message_time.observe(sent.elapsed().as_secs_f64());
        promise
    }
}

impl<M: Awaited> MessageResponse<ProviderActor, Letter<M>> for Promise<M::Result> {
    fn handle(self, _: &mut Context<ProviderActor>, asker: Option<OneshotSender<M::Result>>) {
        let Some(mut asker) = asker else { return };
        match self {
            Self::Kept(answer) => drop(asker.send(answer)),
            Self::Open(answer, never) => {
                // actix's own `Response` would wait on for whoever hung up, and whoever answers could
                // not tell.
                actix_rt::spawn(async move {
                    tokio::select! {
                        () = asker.closed() => {}
                        answer = answer => drop(asker.send(answer.unwrap_or(never))),
                    }
                });
            }
        }
    }
}
