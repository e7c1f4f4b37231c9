//! Structured logs on stderr or in files of bounded size, through tracing. A thread of its own writes
//! them: a terminal or pipe that nobody reads must not hold up calls.

use std::{
    io::{self, Write},
    panic::PanicHookInfo,
    path::Path,
    sync::OnceLock,
    thread,
    time::Duration,
};

use tracing_appender::non_blocking::{ErrorCounter, NonBlockingBuilder, WorkerGuard};
use tracing_subscriber::{EnvFilter, fmt};

use super::rolling::{Files, RollingFile};

/// Lines that may wait to be written; those beyond are dropped, and counted.
const QUEUE: usize = 16_384;
/// For so long lines are gathered after some were written.
const GATHER: Duration = Duration::from_millis(1);

/// Bytes of all files of a log.
const MAX_LOG: u64 = 64 << 20;
/// How many they are.
const LOG_FILES: u64 = 4;

static DROPPED: OnceLock<ErrorCounter> = OnceLock::new();

/// Lines that were dropped so far.
pub fn dropped_lines() -> u64 {
    DROPPED.get().map_or(0, |dropped| dropped.dropped_lines() as u64)
}

/// How log lines look.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum LogFormat {
    /// For people.
    #[default]
    Text,
    /// For machines: one JSON object a line.
    Json,
}

impl LogFormat {
    /// As the command line has it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Text => "text",
            Self::Json => "json",
        }
    }
}

/// Starts logging; `RUST_LOG` chooses what, `info` if it is unset. Panics are logged with their
/// place but without their message, which may hold a caller's data. What waits to be written when the
/// guard is dropped, is written then.
///
/// # Errors
///
/// When the log has a file, and there can be none.
pub fn init(format: LogFormat, file: Option<&Path>) -> io::Result<WorkerGuard> {
    let to: Box<dyn Write + Send> = match file {
        Some(path) => {
            let files = Files { path: path.to_owned(), keep: LOG_FILES };
            let mut file = RollingFile::new(files, MAX_LOG);
            // Whether it can be written at all.
            file.append(&[])?;
            Box::new(file)
        }
        None => Box::new(io::stderr()),
    };
    let (writer, guard) = NonBlockingBuilder::default()
        .buffered_lines_limit(QUEUE)
        .lossy(true)
        .thread_name("ocx-log")
        .finish(Gathering { lines: Vec::new(), to });
    let _ = DROPPED.set(writer.error_counter());
    let filter = EnvFilter::try_from_default_env()
        .unwrap_or_else(|_| EnvFilter::new("info,actix_server=warn"));
    // It would write down headers as they are, the collector's key among them.
    let filter = ["ureq=info", "ureq_proto=info"]
        .into_iter()
        .filter_map(|directive| directive.parse().ok())
        .fold(filter, EnvFilter::add_directive);
    let builder = fmt()
        .with_env_filter(filter)
        .with_writer(writer)
        .with_target(true)
        // A line that cannot be written is told on the same stderr, whose failure then panics: a full
        // disk under the log would end every call.
        .log_internal_errors(false);
    let started = match format {
        LogFormat::Text => builder.with_ansi(false).try_init(),
        LogFormat::Json => builder.json().flatten_event(true).try_init(),
    };
    if started.is_ok() {
        std::panic::set_hook(Box::new(log_panic));
    }
    Ok(guard)
}

/// Writes lines together that come within a moment. While the thread that writes sleeps, nobody spends
/// a system call on waking it.
struct Gathering<W> {
    lines: Vec<u8>,
    to: W,
}

impl<W: Write> Write for Gathering<W> {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        self.lines.extend_from_slice(line);
        Ok(line.len())
    }

    /// Called when no line waits.
    fn flush(&mut self) -> io::Result<()> {
        let written = self.to.write_all(&self.lines);
        // What cannot be written now cannot be later either; there is no other place to say so.
        self.lines.clear();
        thread::sleep(GATHER);
        written
    }
}

fn log_panic(info: &PanicHookInfo<'_>) {
    let place = info.location().map(ToString::to_string).unwrap_or_default();
    let thread = std::thread::current().name().unwrap_or("?").to_owned();
    tracing::error!(place, thread, version = env!("CARGO_PKG_VERSION"), "panic");
}
