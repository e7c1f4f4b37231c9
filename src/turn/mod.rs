//! One call in progress: route, dispatch, encode, exchange, and what may be tried again.

use std::{
    borrow::Cow,
    rc::Rc,
    sync::Arc,
    time::{Duration, SystemTime},
};

use actix_rt::time::{Instant, sleep, timeout};

pub mod compaction;

use crate::{
    actors::{DispatchError, Lease, Snapshot, SnapshotCell},
    adapters::{Adapter, DecodeError, EncodeError, Expect, Target, WireRequest, adapter},
    config::ProviderSpec,
    credentials::{CallerAuth, CapsuleKey, Sealer, TokenId},
    error::GatewayError,
    exchange::{
        self, Exchange, Means, Quota,
        retry::{self, Again},
    },
    model::{Event, Losses, Prompt},
    registry::AdapterKind,
    routing::{self, Affinity, Route, RouteError, Rule},
    telemetry::{Metrics, Tally, TurnTrace, ledger::model_name, traces::TraceStep},
    upstream::Upstream,
};

/// What a call runs with. The snapshot is pinned: config, model list and credentials of one call
/// are of one generation, whatever is reloaded meanwhile.
pub struct Turn {
    /// The generation it runs on.
    pub snapshot: Arc<Snapshot>,
    /// Where newer generations are found, if the provider of this one is gone.
    pub cell: SnapshotCell,
    /// The caller's own login.
    pub caller: CallerAuth,
    /// Seals what upstreams want back.
    pub capsules: CapsuleKey,
    /// This thread's client.
    pub upstream: Upstream,
    /// Counters.
    pub metrics: Arc<Metrics>,
    /// Which target of a combo each conversation has.
    pub affinity: Arc<Affinity>,
    /// What is traced of it.
    pub trace: TurnTrace,
    /// Its requests, and what they used.
    pub tally: Rc<Tally>,
}

/// An answer that has begun.
pub struct Answer {
    /// Its source.
    pub exchange: Exchange,
    /// What it has said so far.
    pub events: Vec<Event>,
    /// What went wrong right after that.
    pub error: Option<GatewayError>,
    /// What the translation of the question could not carry.
    pub losses: Losses,
    /// Seals what the upstream wants back.
    pub sealer: Sealer,
    /// Attempts it took.
    pub attempts: u32,
    /// Whether its frames pass through.
    pub relays: bool,
    /// From when on its first byte is waited for, if that is traced and it has not come.
    pub waiting: Option<SystemTime>,
}

impl Answer {
    /// How it began, in words.
    fn beginning(&self) -> Cow<'static, str> {
        match &self.error {
            Some(error) => format!("answered, and then {}", told(error)).into(),
            None if self.events.is_empty() => "accepted; nothing had come yet".into(),
            None => "answered".into(),
        }
    }
}

impl Turn {
    /// Finds the route of a model name.
    ///
    /// # Errors
    ///
    /// When there is none.
    pub fn route(&self, model: &str) -> Result<Route, GatewayError> {
        let found = routing::find(model, &self.snapshot.config);
        self.noted(model, found.as_ref().map(|(_, rule)| *rule));
        Ok(found?.0)
    }

    /// The routes of a call, in the order in which they are tried.
    ///
    /// # Errors
    ///
    /// When there is none.
    pub fn plan(&self, model: &str, prompt: &Prompt) -> Result<Vec<Route>, GatewayError> {
        let from = self.trace.now();
        let plan = routing::plan(model, prompt, &self.snapshot.config, &self.affinity);
        let error = plan.as_ref().err().map(|_| "client_error");
        self.trace.step(TraceStep { name: "route", from, to: None, attempt: None, error });
        self.noted(model, plan.as_ref().map(|plan| plan.rule));
        Ok(plan?.routes)
    }

    fn noted(&self, model: &str, rule: Result<Rule, &RouteError>) {
        let rule = rule.map_or("no rule finds a provider for it", Rule::words);
        self.tally.notes.routed(model_name(model), rule);
    }

    /// A route of a combo answered: its conversation stays there.
    pub fn answered(&self, model: &str, prompt: &Prompt, route: &Route) {
        if self.snapshot.config.combos.contains_key(model) {
            self.affinity.remember(model, prompt, route);
        }
    }

    /// Whether the provider of a route compacts conversations itself.
    pub fn compacts_natively(&self, route: &Route) -> bool {
        self.snapshot.provider(&route.provider).is_some_and(|provider| {
            let spec = provider.spec();
            adapter(spec.adapter_for(route.model.as_str())).relays()
                && spec.quirks.native_compaction == Some(true)
        })
    }

    /// Asks the upstream and waits for the beginning of its answer, so that whatever goes wrong
    /// before it can be told by an HTTP status. An upstream that accepted and then says nothing is
    /// waited for no longer than `hold`.
    ///
    /// # Errors
    ///
    /// When no attempt led to an answer.
    pub async fn start(
        &self,
        prompt: &Prompt,
        route: &Route,
        hold: Duration,
        attempts: &mut Attempts,
    ) -> Result<Answer, GatewayError> {
        let mut tries = 1;
        if let Some(provider) = self.snapshot.provider(&route.provider) {
            provider.retries().request();
        }
        let mut credentials = Credentials::default();
        loop {
            let (started, sent) = (Instant::now(), self.tally.requests());
            let failed = match self.attempt(prompt, route, hold, attempts).await {
                Ok(mut answer) => {
                    self.tally.notes.came(answer.beginning());
                    answer.attempts = attempts.made;
                    return Ok(answer);
                }
                Err(failed) => failed,
            };
            self.tally.notes.came(told(&failed.error));
            if self.tally.requests() > sent && retry::used_nothing(&failed.error) {
                self.tally.used_nothing();
            }
            if attempts.made >= MAX_ATTEMPTS {
                return Err(credentials.told(failed.error));
            }
            let again = match credentials.other(&failed) {
                Some(Other::Token(refused)) => {
                    // A token can end before its time. Callers read of the refusal otherwise.
                    if self.renew(route, refused).await.is_err() {
                        return Err(failed.error);
                    }
                    Again { pause: Duration::ZERO, cause: "token" }
                }
                Some(Other::Key) => Again { pause: Duration::ZERO, cause: "key" },
                None => {
                    let (took, retries) = (started.elapsed(), self.snapshot.config.retries);
                    let again = retry::decide(tries, &failed.error, took, retries, rand::random());
                    tries += 1;
                    match again.filter(|_| self.may_retry(route)) {
                        Some(again) => again,
                        None => return Err(credentials.told(failed.error)),
                    }
                }
            };
            let labels = [route.provider.as_str(), again.cause];
            self.metrics.retries.with_label_values(&labels).inc();
            self.trace.retry(again.cause);
            self.tally.notes.then(again.words());
            sleep(again.pause).await;
        }
    }

    /// Whether the provider's budget allows one more.
    fn may_retry(&self, route: &Route) -> bool {
        let budget = self.snapshot.provider(&route.provider);
        let allowed = budget.is_some_and(|provider| provider.retries().take());
        if !allowed {
            let labels = [route.provider.as_str()];
            self.metrics.retry_budget_exhausted.with_label_values(&labels).inc();
        }
        allowed
    }

    /// Waits for newer tokens of a route's account.
    async fn renew(&self, route: &Route, refused: TokenId) -> Result<(), DispatchError> {
        // Of the actor that lends.
        let provider = self.snapshot.provider(&route.provider);
        let gone = || DispatchError::Failed(route.provider.to_string());
        provider.ok_or_else(gone)?.renew(refused).await
    }

    async fn lease(&self, route: &Route, forced: bool) -> Result<Lease, GatewayError> {
        let failed = || DispatchError::Failed(route.provider.to_string());
        let provider = self.snapshot.provider(&route.provider).ok_or_else(failed)?;
        let lease = match provider.dispatch(self.caller.clone(), forced).await {
            // The actor is gone: perhaps a newer generation has another.
            Err(DispatchError::Failed(_)) => {
                let newest = self.cell.load_full();
                let provider = newest.provider(&route.provider).ok_or_else(failed)?;
                provider.dispatch(self.caller.clone(), forced).await
            }
            lease => lease,
        };
        if let Err(DispatchError::Saturated(_)) = &lease {
            self.metrics.rejected.with_label_values(&["over_limit"]).inc();
        }
        Ok(lease?)
    }

    /// Sends one request that the provider's protocol has beside calls, and reads its whole answer;
    /// nothing if the protocol has no such request.
    ///
    /// # Errors
    ///
    /// When the provider does not lend, or there is no good answer.
    pub async fn fetch<T>(
        &self,
        route: &Route,
        quota: Quota,
        build: impl Fn(&dyn Adapter, &Target<'_>) -> Option<Result<WireRequest, EncodeError>>,
        read: impl Fn(&dyn Adapter, Vec<u8>) -> Result<T, DecodeError>,
    ) -> Result<Option<T>, GatewayError> {
        let limits = &self.snapshot.config.limits;
        let (timeout, limit) = (limits.timeouts.whole, limits.max_retained);
        let mut renewed = false;
        loop {
            let notes = &self.tally.notes;
            notes.tries(&route.provider, &route.model);
            let lease = self.lease(route, false).await;
            let lease = lease.inspect_err(|error| notes.came(told(error)))?;
            notes.with(lease.with());
            let kind = lease.spec.adapter_for(route.model.as_str());
            let (adapter, sealer) = (adapter(kind), self.sealer(&lease.spec, route));
            let Some(request) = build(adapter, &target(&lease, route, &sealer)) else {
                notes.came("its protocol has no such request");
                return Ok(None);
            };
            let request = request.map_err(GatewayError::from);
            let mut request = request.inspect_err(|error| notes.came(told(error)))?;
            request.trace(self.trace.traceparent());
            if quota == Quota::Calls {
                self.tally.sent(route.provider.as_str(), route.model.as_str());
            }
            let upstream = &self.upstream;
            let fetched =
                exchange::fetch(upstream, &lease, adapter, request, quota, timeout, limit).await;
            if quota == Quota::Calls && fetched.as_ref().is_err_and(retry::used_nothing) {
                self.tally.used_nothing();
            }
            match &fetched {
                Ok(_) => notes.came("answered"),
                Err(error) => notes.came(told(error)),
            }
            match (fetched, lease.token()) {
                // A token can end before its time.
                (Err(error @ GatewayError::Refused { status: 401, .. }), Some(token))
                    if !renewed =>
                {
                    renewed = true;
                    drop(lease);
                    self.renew(route, token).await.map_err(|_| error)?;
                    notes.then(Again { pause: Duration::ZERO, cause: "token" }.words());
                }
                (fetched, _) => {
                    let read = read(adapter, fetched?);
                    let read = read.map_err(|error| exchange::broken(&lease, error));
                    return read.inspect_err(|error| notes.came(told(error))).map(Some);
                }
            }
        }
    }

    fn sealer(&self, spec: &ProviderSpec, route: &Route) -> Sealer {
        let model = route.model.as_str();
        let kind = spec.adapter_for(model);
        match kind {
            // Claudes since 5.5 refuse thinking of other models.
            AdapterKind::Anthropic => {
                self.capsules.sealer(&format!("{} {model}", kind.name()), &spec.base_url)
            }
            _ => self.capsules.sealer(kind.name(), &spec.base_url),
        }
    }

    async fn attempt(
        &self,
        prompt: &Prompt,
        route: &Route,
        hold: Duration,
        attempts: &mut Attempts,
    ) -> Result<Answer, Failed> {
        let (from, notes) = (self.trace.now(), &self.tally.notes);
        notes.tries(&route.provider, &route.model);
        let lease = self.lease(route, attempts.forced).await;
        let error = lease.as_ref().err().map(|error| error.class().outcome().label());
        let attempt = Some(attempts.made + 1);
        self.trace.step(TraceStep { name: "acquire", from, to: None, attempt, error });
        let lease = lease?;
        notes.with(lease.with());
        attempts.made += 1;
        let (token, keys) = (lease.token(), lease.keys());
        let answer = self.exchange(prompt, route, hold, attempts, lease).await;
        answer.map_err(|error| Failed { error, token, keys })
    }

    async fn exchange(
        &self,
        prompt: &Prompt,
        route: &Route,
        hold: Duration,
        attempts: &mut Attempts,
        lease: Lease,
    ) -> Result<Answer, GatewayError> {
        let spec = Arc::clone(&lease.spec);
        let kind = spec.adapter_for(route.model.as_str());
        let adapter = adapter(kind);
        let relays = adapter.relays() && prompt.raw.is_some();
        if prompt.previous_response_id.is_some() && !relays {
            return Err(GatewayError::NoHistory);
        }
        let sealer = self.sealer(&spec, route);
        let encoded = adapter.encode(prompt, &target(&lease, route, &sealer))?;
        let mut losses = encoded.losses;
        // A relay passes on what a translation would have lost.
        if !relays {
            losses.merge(&prompt.losses);
        }
        if spec.strict && losses.weigh() {
            return Err(GatewayError::Lossy { provider: spec.id.to_string(), losses });
        }
        let expect = Expect {
            stream: prompt.stream,
            relay: relays,
            eof_tolerant: spec.quirks.openai_chat_eof_tolerance == Some(true),
            keeps_reasoning: spec.quirks.keeps_reasoning(route.model.as_str()),
            escapes_tool_names: spec.quirks.escape_builtin_tool_names == Some(true),
        };
        let timeouts = &self.snapshot.config.limits.timeouts;
        if let Some(began) = attempts.unsent.take() {
            let overhead = self.metrics.overhead.with_label_values(&["request"]);
            overhead.observe(began.elapsed().as_secs_f64());
        }
        self.tally.sent(route.provider.as_str(), route.model.as_str());
        let means = Means {
            upstream: &self.upstream,
            metrics: &self.metrics,
            trace: &self.trace,
            attempt: attempts.made,
        };
        let opened = exchange::open(means, adapter, lease, encoded.request, expect, timeouts);
        // Boxed: an awc request is large, and most of a call waits elsewhere.
        let mut exchange = Box::pin(opened).await?;
        let (mut events, mut error, mut waiting) = (Vec::new(), None, None);
        if prompt.stream {
            let first = std::future::poll_fn(|task| exchange.poll_events(task, &mut events));
            let first = timeout(hold, first).await;
            // The caller may leave before anybody looks at them.
            self.tally.told(&events);
            match &first {
                // It goes on.
                Err(_) => waiting = exchange.asked(),
                Ok(came) => {
                    let failed = came.as_ref().err().map(|error| error.class().outcome().label());
                    means.first_byte(exchange.asked(), failed);
                }
            }
            match first {
                Ok(Err(early)) if !tells_anything(&events) => return Err(early),
                Ok(Err(late)) => error = Some(late),
                // Silence is met with signs of life, in the stream.
                Ok(Ok(())) | Err(_) => {}
            }
        } else {
            means.first_byte(exchange.asked(), None);
            // Framing and escapes around the text that may be held.
            let limit = self.snapshot.config.limits.max_retained.saturating_mul(4);
            let collected = exchange.collect(&mut events, limit, |events| self.tally.told(events));
            collected.await?;
        }
        Ok(Answer { exchange, events, error, losses, sealer, attempts: 1, relays, waiting })
    }
}

/// Requests that one call of a caller may make in all: retries, other keys, other targets.
const MAX_ATTEMPTS: u32 = 8;

/// What a call has cost so far.
#[derive(Clone, Copy, Debug, Default)]
pub struct Attempts {
    /// Requests that were made.
    pub made: u32,
    /// Targets that were not asked because they failed too often.
    pub left_alone: usize,
    /// Ask also upstreams that are left alone because they failed: there are no others.
    pub forced: bool,
    /// Since when the call is ours, until the first request is on its way.
    unsent: Option<Instant>,
}

impl Attempts {
    /// None yet, of a call that is ours since then.
    pub fn since(began: Instant) -> Self {
        Self { unsent: Some(began), ..Self::default() }
    }

    /// Whether another request may be made.
    pub fn are_left(&self) -> bool {
        self.made < MAX_ATTEMPTS
    }
}

/// An attempt that led to no answer, and what it was made with.
struct Failed {
    error: GatewayError,
    /// The account's.
    token: Option<TokenId>,
    /// How many keys the provider has.
    keys: usize,
}

impl<E: Into<GatewayError>> From<E> for Failed {
    fn from(error: E) -> Self {
        Self { error: error.into(), token: None, keys: 1 }
    }
}

/// Something else to authenticate with.
enum Other {
    /// Another token than this.
    Token(TokenId),
    /// The provider's next key.
    Key,
}

/// What a turn has authenticated with so far.
#[derive(Default)]
struct Credentials {
    renewed: bool,
    keys_tried: usize,
    /// What the upstream said of the last key.
    refusal: Option<GatewayError>,
}

impl Credentials {
    /// What to authenticate with instead, if the refusal is about the credential and there is anything.
    fn other(&mut self, failed: &Failed) -> Option<Other> {
        let GatewayError::Refused { status, .. } = &failed.error else { return None };
        match (status, failed.token) {
            (401, Some(token)) if !self.renewed => {
                self.renewed = true;
                return Some(Other::Token(token));
            }
            (401 | 429, None) if self.keys_tried + 1 < failed.keys => {}
            _ => return None,
        }
        self.keys_tried += 1;
        self.refusal = Some(failed.error.clone());
        Some(Other::Key)
    }

    /// What to tell: that all keys rest says less than what the upstream said of one.
    fn told(self, error: GatewayError) -> GatewayError {
        match (&error, self.refusal) {
            (GatewayError::Dispatch(DispatchError::CoolingDown { .. }), Some(refusal)) => refusal,
            _ => error,
        }
    }
}

/// What a failed try is noted as.
fn told(error: &GatewayError) -> String {
    format!("{}: {error}", error.class().outcome().label())
}

fn target<'a>(lease: &'a Lease, route: &'a Route, sealer: &'a Sealer) -> Target<'a> {
    Target {
        model: route.model.as_str(),
        base_url: &lease.spec.base_url,
        quirks: &lease.spec.quirks,
        headers: &lease.spec.headers,
        credential: &lease.credential,
        sealer: Some(sealer),
    }
}

/// Whether events hold anything that a caller would see.
fn tells_anything(events: &[Event]) -> bool {
    events.iter().any(|event| !matches!(event, Event::Usage(_)))
}
