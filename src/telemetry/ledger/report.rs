//! Sums of the ledger.

use std::{
    collections::{BTreeMap, HashMap},
    fs::File,
    io::{self, BufRead as _, BufReader, Read as _},
    path::Path,
};

use jiff::{SignedDuration, Timestamp, civil::Date, tz::TimeZone};
use serde::Serialize;

use super::{
    files,
    line::{Began, Ended, Line, Tokens, TurnId},
};

/// Longest line that is read; ours are far shorter.
const MAX_LINE: u64 = 16 << 10;

/// What turns are summed by.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum By {
    /// Provider.
    Provider,
    /// Provider and model.
    Model,
    /// Day, in this machine's time zone.
    Day,
}

/// All sums.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Report {
    /// When the first turn of the ledger was, seconds since 1970: what is older was dropped.
    pub first: Option<f64>,
    /// In the order of their keys.
    pub rows: Vec<Row>,
    /// Over all rows.
    pub total: Row,
    /// Lines that could not be read, as a killed process or a full disk leaves them.
    pub damaged_lines: u64,
}

/// Turns of one key.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Row {
    /// Provider, `provider/model`, or day (`YYYY-MM-DD`).
    pub key: String,
    /// Turns that ended.
    pub turns: u64,
    /// Of them, those that were answered, up to a limit included.
    pub ok: u64,
    /// Of them, those that the caller gave up.
    pub cancelled: u64,
    /// Of them, those that failed.
    pub failed: u64,
    /// Tokens, as upstreams counted them.
    #[serde(flatten)]
    pub tokens: Tokens,
    /// What they cost, in US dollars; nothing if the config has a price of none of them.
    pub cost_usd: Option<f64>,
    /// Turns whose tokens have no price.
    pub unpriced: u64,
    /// Turns that an upstream was asked, and never told what they used: it is in no sum.
    pub missing: u64,
    /// Turns without an end: they run, or were cut off with their process.
    pub unfinished: u64,
}

/// Reads the ledger in a directory, from a day on if one is given.
///
/// # Errors
///
/// When a file is there and cannot be read.
pub fn read(dir: &Path, by: By, since: Option<Date>) -> io::Result<Report> {
    let mut sums = Sums { by, since, zone: TimeZone::system(), ..Sums::default() };
    for file in files(dir).open_all()? {
        sums.read(file)?;
    }
    Ok(sums.report())
}

struct Sums {
    by: By,
    since: Option<Date>,
    zone: TimeZone,
    first: Option<f64>,
    rows: BTreeMap<String, Row>,
    open: HashMap<TurnId, Began>,
    damaged: u64,
}

impl Default for Sums {
    fn default() -> Self {
        Self {
            by: By::Provider,
            since: None,
            zone: TimeZone::UTC,
            first: None,
            rows: BTreeMap::new(),
            open: HashMap::new(),
            damaged: 0,
        }
    }
}

impl Sums {
    fn read(&mut self, file: File) -> io::Result<()> {
        let mut lines = BufReader::new(file);
        let mut line = Vec::new();
        loop {
            line.clear();
            if lines.by_ref().take(MAX_LINE).read_until(b'\n', &mut line)? == 0 {
                return Ok(());
            }
            match serde_json::from_slice(&line) {
                Ok(Line::Began(began)) => self.began(began),
                Ok(Line::Ended(ended)) => self.ended(&ended),
                Err(_) => self.damaged += 1,
            }
        }
    }

    fn began(&mut self, began: Began) {
        self.open.insert(began.id.clone(), began);
    }

    fn ended(&mut self, ended: &Ended) {
        self.open.remove(&ended.id);
        let Some(row) = self.row(&ended.provider, &ended.model, ended.at) else { return };
        row.turns += 1;
        match ended.outcome.as_str() {
            "ok" | "incomplete" => row.ok += 1,
            "client_cancelled" => row.cancelled += 1,
            _ => row.failed += 1,
        }
        match (&ended.usage, ended.cost_usd) {
            (Some(tokens), cost) => {
                row.tokens.add(tokens);
                row.cost_usd = plus(row.cost_usd, cost);
                row.unpriced += u64::from(cost.is_none());
            }
            (None, _) => row.missing += u64::from(ended.missing),
        }
    }

    /// The row of a turn, unless it was too early, or at no time that there is.
    fn row(&mut self, provider: &str, model: &str, at: f64) -> Option<&mut Row> {
        let time = SignedDuration::try_from_secs_f64(at).and_then(Timestamp::from_duration);
        let Ok(time) = time else {
            self.damaged += 1;
            return None;
        };
        self.first.get_or_insert(at);
        let day = time.to_zoned(self.zone.clone()).date();
        if self.since.is_some_and(|since| day < since) {
            return None;
        }
        let key = match self.by {
            By::Provider => provider.to_owned(),
            By::Model => format!("{provider}/{model}"),
            By::Day => day.to_string(),
        };
        let fresh = || Row { key: key.clone(), ..Row::default() };
        Some(self.rows.entry(key.clone()).or_insert_with(fresh))
    }

    fn report(mut self) -> Report {
        for began in std::mem::take(&mut self.open).into_values() {
            if let Some(row) = self.row(&began.provider, &began.model, began.at) {
                row.unfinished += 1;
            }
        }
        let rows: Vec<Row> = self.rows.into_values().collect();
        let total = rows.iter().fold(Row { key: "total".to_owned(), ..Row::default() }, sum);
        Report { first: self.first, rows, total, damaged_lines: self.damaged }
    }
}

/// A sum to which some have nothing to add.
fn plus(sum: Option<f64>, more: Option<f64>) -> Option<f64> {
    match (sum, more) {
        (Some(sum), Some(more)) => Some(sum + more),
        (sum, more) => sum.or(more),
    }
}

fn sum(mut total: Row, row: &Row) -> Row {
    total.turns += row.turns;
    total.ok += row.ok;
    total.cancelled += row.cancelled;
    total.failed += row.failed;
    total.tokens.add(&row.tokens);
    total.cost_usd = plus(total.cost_usd, row.cost_usd);
    total.unpriced += row.unpriced;
    total.missing += row.missing;
    total.unfinished += row.unfinished;
    total
}
