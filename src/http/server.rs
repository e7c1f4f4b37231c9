//! The listener and its workers.

use std::{
    io,
    net::{SocketAddr, TcpListener},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use actix_rt::time::{Instant, sleep};
use actix_web::{
    App, HttpServer,
    dev::{Server, ServerHandle},
    web::Data,
};

use super::{
    gateway::{Gateway, Shared},
    routes,
};
use crate::{telemetry::metrics::Histogram, upstream::Upstream};

/// Longer than callers keep idle connections, so that it is they who close them.
const KEEP_ALIVE: Duration = Duration::from_secs(75);
/// How long the head of a request may take.
const REQUEST_HEAD: Duration = Duration::from_secs(10);
/// How long a close may take.
const DISCONNECT: Duration = Duration::from_secs(5);
/// Connections per worker.
const MAX_CONNECTIONS: usize = 25_000;

/// Workers that are told apart in the metrics; the others share the last place.
const MAX_TOLD: usize = 16;
/// How often a worker looks how late it is.
const LOOK_EVERY: Duration = Duration::from_millis(500);

fn lag_of(shared: &Shared, worker: usize) -> Histogram {
    // A worker that is replaced after a panic goes on as another number.
    let label = worker.min(MAX_TOLD - 1).to_string();
    shared.telemetry.metrics.loop_lag.with_label_values(&[&label])
}

/// Sets an alarm, again and again, and notes how late it comes: so long everything waits that a
/// worker does.
async fn watch_lag(lag: Histogram) {
    loop {
        let asked = Instant::now();
        sleep(LOOK_EVERY).await;
        lag.observe(asked.elapsed().saturating_sub(LOOK_EVERY).as_secs_f64());
    }
}

/// A server that accepts.
pub struct Listening {
    /// Where.
    pub address: SocketAddr,
    /// Runs until it is stopped.
    pub server: Server,
    /// Stops it.
    pub handle: ServerHandle,
}

/// Serves on a bound listener. Signals are the caller's business.
///
/// # Errors
///
/// When the listener cannot be used.
pub fn serve(
    listener: TcpListener,
    shared: Arc<Shared>,
    workers: usize,
    shutdown: Duration,
) -> io::Result<Listening> {
    let address = listener.local_addr()?;
    let network = shared.network.clone();
    let started = Arc::new(AtomicUsize::new(0));
    let server = HttpServer::new(move || {
        let worker = started.fetch_add(1, Ordering::Relaxed);
        actix_rt::spawn(watch_lag(lag_of(&shared, worker)));
        let gateway = Gateway { shared: Arc::clone(&shared), upstream: Upstream::new(&network) };
        App::new().app_data(Data::new(gateway)).configure(routes::configure)
    })
    .workers(workers)
    .keep_alive(KEEP_ALIVE)
    .client_request_timeout(REQUEST_HEAD)
    .client_disconnect_timeout(DISCONNECT)
    .max_connections(MAX_CONNECTIONS)
    .shutdown_timeout(shutdown.as_secs() + u64::from(shutdown.subsec_nanos() > 0))
    // Small frames must not wait for the acknowledgement of the one before.
    .tcp_nodelay(true)
    // With the default, a caller that leaves during silence is not noticed at all.
    .h1_allow_half_closed(false)
    .disable_signals()
    .listen(listener)?
    .run();
    let handle = server.handle();
    Ok(Listening { address, server, handle })
}
