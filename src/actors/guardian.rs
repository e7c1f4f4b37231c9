//! Supervision that also holds when an actor panics.
//!
//! Actix's own `Supervisor` restarts an actor whose context *stopped*; a panic unwinds through it
//! and ends it together with the actor. A [`Guardian`] polls the same context, catches the unwind,
//! and restarts the actor behind the address and mailbox it had: queued messages survive, only the
//! message that caused the panic is lost, and its sender learns of it.

use std::{
    any::Any,
    collections::VecDeque,
    future::Future,
    panic::{AssertUnwindSafe, catch_unwind},
    pin::Pin,
    task::{Context as Task, Poll, ready},
    time::Duration,
};

use actix::{
    Actor, Addr, ArbiterHandle, AsyncContext as _, Context, Supervised,
    dev::{ContextFut, channel},
};
use actix_rt::time::{Instant, Sleep, sleep};

/// When to restart, and when to give up.
#[derive(Clone, Copy, Debug)]
pub struct Backoff {
    /// Rest after the first panic; it doubles with every further one.
    pub first: Duration,
    /// Longest rest.
    pub max: Duration,
    /// Panics within this time count together.
    pub window: Duration,
    /// More panics than this within `window` end the actor.
    pub max_restarts: usize,
}

impl Default for Backoff {
    fn default() -> Self {
        Self {
            first: Duration::from_millis(100),
            max: Duration::from_secs(30),
            window: Duration::from_secs(60),
            max_restarts: 5,
        }
    }
}

impl Backoff {
    fn delay(&self, streak: usize) -> Duration {
        let doublings = u32::try_from(streak.saturating_sub(1)).unwrap_or(u32::MAX);
        let factor = 1u32.checked_shl(doublings).unwrap_or(u32::MAX);
        self.first.saturating_mul(factor).min(self.max)
    }
}

/// One panic of a guarded actor. Its message is not told: it may hold a caller's data.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Crash {
    /// Panics within the window, this one included.
    pub streak: usize,
    /// When it runs again; never, if it panicked too often.
    pub restart_in: Option<Duration>,
}

/// Runs an actor, and runs it again when it panics.
///
/// [`Supervised::restarting`] must rebuild the actor's state from what outlives it: after a panic
/// that state may be half-changed. Timers and futures of the context are dropped beforehand, and
/// [`Actor::started`] is called again afterwards.
pub struct Guardian<A>
where
    A: Supervised + Actor<Context = Context<A>>,
{
    context: Pin<Box<ContextFut<A, Context<A>>>>,
    backoff: Backoff,
    resting: Option<Pin<Box<Sleep>>>,
    crashes: VecDeque<Instant>,
    on_crash: Box<dyn FnMut(&Crash)>,
}

impl<A> Guardian<A>
where
    A: Supervised + Actor<Context = Context<A>>,
{
    /// Starts an actor on this thread's arbiter; `on_crash` logs and counts its panics.
    pub fn start(
        actor: impl FnOnce(&mut Context<A>) -> A,
        backoff: Backoff,
        on_crash: impl FnMut(&Crash) + 'static,
    ) -> Addr<A> {
        let mut context = Context::new();
        let actor = actor(&mut context);
        let addr = context.address();
        actix_rt::spawn(Self::new(context, actor, backoff, on_crash));
        addr
    }

    /// Starts an actor on another arbiter, with room for `mailbox` messages.
    pub fn start_in_arbiter(
        arbiter: &ArbiterHandle,
        mailbox: usize,
        actor: impl FnOnce(&mut Context<A>) -> A + Send + 'static,
        backoff: Backoff,
        on_crash: impl FnMut(&Crash) + Send + 'static,
    ) -> Addr<A> {
        let (sender, receiver) = channel::channel(mailbox);
        arbiter.spawn_fn(move || {
            let mut context = Context::with_receiver(receiver);
            let actor = actor(&mut context);
            actix_rt::spawn(Self::new(context, actor, backoff, on_crash));
        });
        Addr::new(sender)
    }

    fn new(
        context: Context<A>,
        actor: A,
        backoff: Backoff,
        on_crash: impl FnMut(&Crash) + 'static,
    ) -> Self {
        Self {
            context: Box::pin(context.into_future(actor)),
            backoff,
            resting: None,
            crashes: VecDeque::new(),
            on_crash: Box::new(on_crash),
        }
    }

    /// Rests, then restarts; `false` when it panicked too often or nobody holds an address.
    fn crashed(&mut self) -> bool {
        let now = Instant::now();
        self.crashes.push_back(now);
        while self.crashes.front().is_some_and(|at| now - *at > self.backoff.window) {
            self.crashes.pop_front();
        }
        let streak = self.crashes.len();
        let gives_up = streak > self.backoff.max_restarts;
        let restart_in = (!gives_up).then(|| self.backoff.delay(streak));
        (self.on_crash)(&Crash { streak, restart_in });
        let Some(rest) = restart_in else { return false };
        self.resting = Some(Box::pin(sleep(rest)));
        // At once, so that whatever the context's futures hold is free during the rest. If
        // `restarting` panics too, its state is beyond repair.
        catch_unwind(AssertUnwindSafe(|| self.context.restart())).unwrap_or(false)
    }
}

impl<A> Future for Guardian<A>
where
    A: Supervised + Actor<Context = Context<A>>,
{
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, task: &mut Task<'_>) -> Poll<()> {
        let this = &mut *self;
        loop {
            if let Some(rest) = &mut this.resting {
                ready!(rest.as_mut().poll(task));
                this.resting = None;
            }
            let polled: Result<Poll<()>, Box<dyn Any + Send>> =
                catch_unwind(AssertUnwindSafe(|| this.context.as_mut().poll(task)));
            match polled {
                // Stopped on purpose: it stays stopped.
                Ok(poll) => return poll,
                Err(_) if this.crashed() => {}
                Err(_) => return Poll::Ready(()),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering::SeqCst},
    };

    use actix::prelude::*;

    use super::*;

    /// What outlives the actor.
    #[derive(Default)]
    struct Seed {
        vault: Mutex<&'static str>,
        ticks: AtomicUsize,
        crashes: Mutex<Vec<Crash>>,
    }

    struct Fragile {
        seed: Arc<Seed>,
        token: &'static str,
        asked: usize,
    }

    impl Fragile {
        fn new(seed: Arc<Seed>) -> Self {
            let token = *seed.vault.lock().unwrap();
            Self { seed, token, asked: 0 }
        }

        fn spawn(seed: &Arc<Seed>, backoff: Backoff) -> Addr<Self> {
            let (counted, own) = (Arc::clone(seed), Arc::clone(seed));
            Guardian::start(
                |_| Self::new(own),
                backoff,
                move |crash| counted.crashes.lock().unwrap().push(*crash),
            )
        }
    }

    fn quick() -> Backoff {
        Backoff { first: Duration::from_millis(5), ..Backoff::default() }
    }

    impl Actor for Fragile {
        type Context = Context<Self>;

        fn started(&mut self, ctx: &mut Self::Context) {
            ctx.run_interval(Duration::from_millis(10), |act, _| {
                act.seed.ticks.fetch_add(1, SeqCst);
            });
        }
    }

    impl Supervised for Fragile {
        fn restarting(&mut self, _: &mut Self::Context) {
            *self = Self::new(Arc::clone(&self.seed));
        }
    }

    #[derive(Message)]
    #[rtype(result = "(&'static str, usize)")]
    struct Ask;

    impl Handler<Ask> for Fragile {
        type Result = MessageResult<Ask>;
        fn handle(&mut self, _: Ask, _: &mut Self::Context) -> Self::Result {
            self.asked += 1;
            MessageResult((self.token, self.asked))
        }
    }

    #[derive(Message)]
    #[rtype(result = "()")]
    enum Harm {
        Panic,
        PanicLater,
        Stop,
    }

    impl Handler<Harm> for Fragile {
        type Result = ();
        fn handle(&mut self, harm: Harm, ctx: &mut Self::Context) {
            match harm {
                Harm::Panic => {
                    self.token = "half-changed";
                    panic!("asked to")
                }
                Harm::PanicLater => {
                    ctx.notify_later(Harm::Panic, Duration::from_millis(1));
                }
                Harm::Stop => ctx.stop(),
            }
        }
    }

    #[actix::test]
    async fn x01_a_panic_costs_one_message_and_nothing_else() {
        let (seed, other) = (Arc::new(Seed::default()), Arc::new(Seed::default()));
        let (addr, neighbour) = (Fragile::spawn(&seed, quick()), Fragile::spawn(&other, quick()));
        assert_eq!(addr.send(Ask).await.unwrap(), ("", 1));
        *seed.vault.lock().unwrap() = "new";

        let (panicked, queued) = tokio::join!(addr.send(Harm::Panic), addr.send(Ask));
        assert!(panicked.is_err(), "the sender of the fatal message learns of it");
        assert_eq!(queued.unwrap(), ("new", 1), "the next one is served, from rebuilt state");
        assert_eq!(neighbour.send(Ask).await.unwrap(), ("", 1));
        assert_eq!(seed.crashes.lock().unwrap().len(), 1);
        assert!(other.crashes.lock().unwrap().is_empty());

        let before = seed.ticks.load(SeqCst);
        sleep(Duration::from_millis(60)).await;
        let ticks = seed.ticks.load(SeqCst) - before;
        assert!((2..=8).contains(&ticks), "one timer runs again, not two: {ticks}");
    }

    #[actix::test]
    async fn a_panic_outside_a_message_restarts_too() {
        let seed = Arc::new(Seed::default());
        let addr = Fragile::spawn(&seed, quick());
        addr.send(Harm::PanicLater).await.unwrap();
        sleep(Duration::from_millis(30)).await;
        assert_eq!(seed.crashes.lock().unwrap().len(), 1);
        assert!(addr.send(Ask).await.is_ok());
    }

    #[actix::test]
    async fn f51_an_actor_that_always_panics_rests_longer_and_then_ends() {
        let seed = Arc::new(Seed::default());
        let addr = Fragile::spawn(&seed, Backoff { max_restarts: 3, ..quick() });
        for _ in 0..4 {
            assert!(addr.send(Harm::Panic).await.is_err());
        }
        assert!(addr.send(Ask).await.is_err());
        let rests: Vec<_> = seed.crashes.lock().unwrap().iter().map(|c| c.restart_in).collect();
        let ms = |n| Some(Duration::from_millis(n));
        assert_eq!(rests, [ms(5), ms(10), ms(20), None]);
    }

    #[actix::test]
    async fn a_deliberate_stop_is_final() {
        let seed = Arc::new(Seed::default());
        let addr = Fragile::spawn(&seed, quick());
        let _ = addr.send(Harm::Stop).await;
        sleep(Duration::from_millis(20)).await;
        assert!(!addr.connected());
        assert_eq!(Arc::strong_count(&seed), 1, "nothing of the actor is left");
    }

    #[actix::test]
    async fn works_in_another_arbiter() {
        let arbiter = Arbiter::new();
        let seed = Arc::new(Seed::default());
        let (counted, own) = (Arc::clone(&seed), Arc::clone(&seed));
        let addr = Guardian::start_in_arbiter(
            &arbiter.handle(),
            256,
            move |_| Fragile::new(own),
            quick(),
            move |crash| counted.crashes.lock().unwrap().push(*crash),
        );
        assert!(addr.send(Harm::Panic).await.is_err());
        assert!(addr.send(Ask).await.is_ok());
        assert_eq!(seed.crashes.lock().unwrap().len(), 1);
        arbiter.stop();
    }
}
