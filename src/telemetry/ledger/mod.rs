//! The usage ledger: what every turn used, kept over restarts.
//!
//! A turn has two lines: one when it goes to an upstream, one when it is over. So what a `kill -9`
//! cut off is known to be missing. A thread of its own writes, from a bounded queue: neither a slow
//! disk nor a full one holds up a call. Lines are not synced one by one; what a power failure takes
//! are those of the last seconds.

use std::{
    path::{Path, PathBuf},
    sync::{
        atomic::{AtomicU64, Ordering},
        mpsc::{Receiver, SyncSender, sync_channel},
    },
    thread,
    time::{Duration, Instant, SystemTime},
};

use prometheus::IntCounter;

use super::{
    metrics::timestamp,
    rolling::{Files, RollingFile},
};

mod line;
mod report;

pub use line::{Began, Ended, Line, Tokens, TurnId, model_name};
pub use report::{By, Report, Row, read};

/// Lines that may wait to be written.
const QUEUE: usize = 16_384;
/// How often is tried whether the queue has room, at the end.
const LOOK_EVERY: Duration = Duration::from_millis(5);
/// For so long lines are gathered after some were written.
const GATHER: Duration = Duration::from_millis(1);
/// Lines written at once.
const BATCH: usize = 512;

/// The files in its directory.
fn files(dir: &Path) -> Files {
    Files { path: dir.join("turns.jsonl"), keep: 8 }
}

/// Where turns are written down.
#[derive(Debug)]
pub struct Ledger {
    writer: Option<SyncSender<Job>>,
    run: String,
    turns: AtomicU64,
    errors: IntCounter,
}

#[derive(Debug)]
enum Job {
    Line(Box<Line>),
    /// Everything before is to be written; then tell whether it is.
    Flush(SyncSender<bool>),
}

impl Ledger {
    /// One that keeps nothing.
    pub fn off(errors: IntCounter) -> Self {
        Self::new(None, errors)
    }

    /// Keeps turns in files of a directory, of about `max_bytes` in all; `errors` counts lines that
    /// were not written.
    pub fn open(dir: PathBuf, max_bytes: u64, errors: IntCounter) -> Self {
        let (writer, jobs) = sync_channel(QUEUE);
        let (file, counted) = (RollingFile::new(files(&dir), max_bytes), errors.clone());
        let thread = thread::Builder::new().name("ocx-ledger".to_owned());
        match thread.spawn(move || write(&jobs, file, &counted)) {
            Ok(_) => Self::new(Some(writer), errors),
            Err(error) => {
                tracing::error!(%error, "no usage is kept: its thread cannot be started");
                Self::off(errors)
            }
        }
    }

    fn new(writer: Option<SyncSender<Job>>, errors: IntCounter) -> Self {
        let run: [u8; 8] = rand::random();
        Self { writer, run: hex::encode(run), turns: AtomicU64::new(0), errors }
    }

    /// A turn goes to an upstream.
    pub fn begin(&self, provider: &str, model: &str) -> TurnId {
        let turn = self.turns.fetch_add(1, Ordering::Relaxed) + 1;
        let id = TurnId { run: self.run.clone(), turn };
        if self.writer.is_some() {
            self.write(Line::Began(Began {
                id: id.clone(),
                at: timestamp(SystemTime::now()),
                provider: provider.to_owned(),
                model: model_name(model),
            }));
        }
        id
    }

    /// A turn is over.
    pub fn end(&self, ended: Ended) {
        self.write(Line::Ended(ended));
    }

    fn write(&self, line: Line) {
        if let Some(writer) = &self.writer
            && writer.try_send(Job::Line(Box::new(line))).is_err()
        {
            self.errors.inc();
        }
    }

    /// Waits until everything so far is written, at most so long; whether it is.
    pub fn flush(&self, patience: Duration) -> bool {
        let Some(writer) = &self.writer else { return true };
        let (until, (told, heard)) = (Instant::now() + patience, sync_channel(1));
        // The queue may be full just now.
        while writer.try_send(Job::Flush(told.clone())).is_err() {
            if Instant::now() >= until {
                return false;
            }
            thread::sleep(LOOK_EVERY);
        }
        heard.recv_timeout(until.saturating_duration_since(Instant::now())).unwrap_or(false)
    }
}

/// The thread: takes what waits, and writes it at once.
fn write(jobs: &Receiver<Job>, mut file: RollingFile, errors: &IntCounter) {
    let mut failing = false;
    while let Ok(first) = jobs.recv() {
        let (mut bytes, mut lines, mut waiting) = (Vec::new(), 0, Vec::new());
        let mut next = Some(first);
        while let Some(job) = next.take() {
            match job {
                Job::Line(line) => {
                    // Of ours, so it can be written.
                    if serde_json::to_writer(&mut bytes, &line).is_ok() {
                        bytes.push(b'\n');
                        lines += 1;
                    }
                }
                Job::Flush(told) => waiting.push(told),
            }
            if lines < BATCH {
                next = jobs.try_recv().ok();
            }
        }
        if !bytes.is_empty() {
            let written = file.append(&bytes);
            if let Err(error) = &written {
                errors.inc_by(lines as u64);
                // Once, not for every turn of a full disk.
                if !failing {
                    tracing::error!(%error, "usage of turns cannot be written down");
                }
            }
            failing = written.is_err();
        }
        for told in waiting {
            let _ = told.send(!failing);
        }
        // To wake us costs a call more than a line is worth: what comes meanwhile waits for no one.
        thread::sleep(GATHER);
    }
}

#[cfg(test)]
mod tests;
