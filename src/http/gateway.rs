//! What handlers hold: everything that is shared between workers, and this worker's own client.

use std::{
    net::SocketAddr,
    rc::Rc,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Instant,
};

use actix::Addr;
use actix_web::HttpRequest;

use super::{
    access::{Facts, Policy},
    record::CallRecord,
};
use crate::{
    actors::{ConfigWatcher, Snapshot, SnapshotCell},
    callers::Protocol,
    config::DataKey,
    credentials::{CallerAuth, CapsuleKey, bearer_token},
    routing::Affinity,
    telemetry::{Tally, Telemetry, traces::TraceHeaders},
    turn::Turn,
    upstream::{Network, Upstream},
};

/// Shared by all workers.
pub struct Shared {
    /// Where the current config and its providers are found.
    pub cell: SnapshotCell,
    /// Counters, and what else is told of turns.
    pub telemetry: Arc<Telemetry>,
    /// Whether we are going down.
    pub lifecycle: Arc<Lifecycle>,
    /// The management token, where the config names none.
    pub admin: DataKey,
    /// Seals what upstreams want back.
    pub capsules: CapsuleKey,
    /// Which target of a combo each conversation has.
    pub affinity: Arc<Affinity>,
    /// Settings of every connection to an upstream.
    pub network: Network,
    /// For reloads; there is none when no file is watched.
    pub watcher: Option<Addr<ConfigWatcher>>,
    /// When we began.
    pub started: Instant,
    /// Where we listen, with the port that was picked.
    pub address: SocketAddr,
}

/// The end of the program, in two steps.
#[derive(Debug, Default)]
pub struct Lifecycle {
    draining: AtomicBool,
    ending: AtomicBool,
}

impl Lifecycle {
    /// New calls are refused from now on; running streams go on.
    pub fn drain(&self) {
        self.draining.store(true, Ordering::Release);
    }

    /// Running streams end now, each with its terminal event.
    pub fn end_streams(&self) {
        self.ending.store(true, Ordering::Release);
    }

    /// Whether new calls are refused.
    pub fn is_draining(&self) -> bool {
        self.draining.load(Ordering::Acquire)
    }

    /// Whether running streams must end.
    pub fn is_ending(&self) -> bool {
        self.ending.load(Ordering::Acquire)
    }
}

/// This worker's handle on everything.
pub struct Gateway {
    /// What all workers share.
    pub shared: Arc<Shared>,
    /// This thread's client: awc's cannot leave their thread.
    pub upstream: Upstream,
}

impl Shared {
    /// The rules of access of a snapshot.
    pub fn policy<'p>(&'p self, snapshot: &'p Snapshot) -> Policy<'p> {
        let access = &snapshot.config.access;
        Policy {
            access,
            admin: access.admin_token.as_ref().unwrap_or(&self.admin),
            host: self.address.ip(),
            port: self.address.port(),
        }
    }
}

impl Gateway {
    /// Begins a call: pins one snapshot, and takes the caller's own login off the request.
    ///
    /// Only a Responses client can be logged in to ChatGPT; what a client of another vendor's protocol
    /// calls its key is none of OpenAI's business.
    pub fn begin(&self, request: &HttpRequest, protocol: Protocol, record: &CallRecord) -> Turn {
        let caller = match protocol {
            Protocol::Responses => self.caller(request),
            Protocol::ChatCompletions | Protocol::Messages => CallerAuth::default(),
        };
        self.turn(caller, Some(record))
    }

    /// The caller's own login, without what is ours.
    pub fn caller(&self, request: &HttpRequest) -> CallerAuth {
        let snapshot = self.shared.cell.load_full();
        let policy = self.shared.policy(&snapshot);
        CallerAuth::pick(
            |name| request.headers().get(name).and_then(|value| value.to_str().ok()),
            |value| policy.is_ours(value),
        )
    }

    /// Begins a turn of a caller; it pins one snapshot.
    pub fn turn(&self, caller: CallerAuth, record: Option<&CallRecord>) -> Turn {
        let snapshot = self.shared.cell.load_full();
        let tally = || Rc::new(Tally::new(Arc::clone(&self.shared.telemetry)));
        Turn {
            caller,
            cell: Arc::clone(&self.shared.cell),
            capsules: self.shared.capsules.clone(),
            upstream: self.upstream.clone(),
            metrics: Arc::clone(&self.shared.telemetry.metrics),
            affinity: Arc::clone(&self.shared.affinity),
            trace: record.map(|record| record.trace().clone()).unwrap_or_default(),
            tally: record.map_or_else(tally, CallRecord::tally),
            snapshot,
        }
    }

    /// Begins the account of a call, and its trace, which goes on from that of its caller.
    pub fn record(&self, protocol: &'static str, caller: &TraceHeaders) -> CallRecord {
        let telemetry = &self.shared.telemetry;
        let trace = telemetry.tracer.as_ref().map(|tracer| tracer.turn(protocol, caller));
        CallRecord::new(protocol, Arc::clone(telemetry), trace.unwrap_or_default())
    }

    /// Begins the account of a call that asks no model anything.
    pub fn record_beside_turns(&self, protocol: &'static str) -> CallRecord {
        CallRecord::beside_turns(protocol, Arc::clone(&self.shared.telemetry))
    }
}

/// What a request says of the trace that it belongs to.
pub(super) fn trace_headers(request: &HttpRequest) -> TraceHeaders {
    TraceHeaders::read(|name| request.headers().get(name)?.to_str().ok())
}

/// What a request says about where it comes from, read from raw headers only.
pub(super) fn facts(request: &HttpRequest) -> Facts<'_> {
    let text = |name: &str| request.headers().get(name).and_then(|value| value.to_str().ok());
    let mut hosts = request.headers().get_all("host").map(|value| value.to_str().unwrap_or(""));
    let method = request.method();
    Facts {
        unsafe_method: !method.is_safe(),
        preflight: method == actix_web::http::Method::OPTIONS,
        hosts: [hosts.next(), hosts.next()],
        authority: request.uri().authority().map(|authority| authority.as_str()),
        // A value that is no text is no origin of ours.
        origin: request.headers().get("origin").map(|value| value.to_str().unwrap_or("?")),
        fetch_site: text("sec-fetch-site"),
        content_type: text("content-type"),
        query: request.query_string(),
        // Anthropic's clients send the second, all others the third.
        key: text("x-opencodex-api-key")
            .or_else(|| text("x-api-key"))
            .or_else(|| bearer_token(text("authorization")?)),
    }
}
