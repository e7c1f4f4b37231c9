//! A message as the mailbox sees it: counted while it waits, timed until it is handled.

use actix::prelude::*;
use actix_rt::time::Instant;

use super::{
    ProviderActor,
    messages::{Dispatch, Renew},
};
use crate::telemetry::metrics::Held;

/// Messages that calls wait for.
pub(super) trait Awaited: Message<Result: Send> + Send + Sized {
    /// Handles it.
    fn deliver(
        self,
        actor: &mut ProviderActor,
        ctx: &mut Context<ProviderActor>,
    ) -> Response<Self::Result>;
}

macro_rules! awaited {
    ($($message:ty),*) => {$(
        impl Awaited for $message {
            fn deliver(
                self,
                actor: &mut ProviderActor,
                ctx: &mut Context<ProviderActor>,
            ) -> Response<Self::Result> {
                actor.handle(self, ctx)
            }
        }
    )*};
}

awaited!(Dispatch, Renew);

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
    type Result = Response<M::Result>;

    fn handle(
        &mut self,
        Letter { message, sent, waiting }: Letter<M>,
        ctx: &mut Self::Context,
    ) -> Self::Result {
        drop(waiting);
        let response = message.deliver(self, ctx);
        self.message_time.observe(sent.elapsed().as_secs_f64());
        response
    }
}
