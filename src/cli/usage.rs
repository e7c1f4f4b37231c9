//! `ocx usage`.

use std::process::ExitCode;

use jiff::Timestamp;

use super::{args::UsageArgs, say};
use crate::{
    config::Home,
    telemetry::ledger::{self, By, Report, Row},
};

/// Sums what turns used.
pub(super) fn usage(args: &UsageArgs, home: &Home) -> ExitCode {
    let report = match ledger::read(&home.usage(), args.by, args.since) {
        Ok(report) => report,
        Err(error) => {
            eprintln!("ocx: the usage ledger in {}: {error}", home.usage().display());
            return ExitCode::FAILURE;
        }
    };
    if args.json {
        say(serde_json::to_string_pretty(&report).unwrap_or_default());
    } else {
        print(&report, args.by);
    }
    ExitCode::SUCCESS
}

const HEADINGS: [&str; 11] = [
    "turns",
    "ok",
    "failed",
    "left",
    "input",
    "cached",
    "output",
    "reasoning",
    "cost $",
    "missing",
    "unfinished",
];

fn print(report: &Report, by: By) {
    let Some(first) = report.first else {
        say(
            "No usage is written down here. A gateway does so turn by turn, unless its config says no.",
        );
        return;
    };
    let key = match by {
        By::Provider => "provider",
        By::Model => "model",
        By::Day => "day",
    };
    let rows: Vec<(&str, [String; 11])> = report
        .rows
        .iter()
        .chain([&report.total])
        .map(|row| (row.key.as_str(), cells(row)))
        .collect();
    let mut widths = HEADINGS.map(str::len);
    for (_, cells) in &rows {
        for (width, cell) in widths.iter_mut().zip(cells) {
            *width = (*width).max(cell.len());
        }
    }
    let keys = rows.iter().map(|(key, _)| key.chars().count());
    let first_width = keys.chain([key.len()]).max().unwrap_or_default();
    let line = |key: &str, cells: &[&str]| {
        let cells = cells.iter().zip(widths).map(|(cell, width)| format!("  {cell:>width$}"));
        say(format_args!("{key:<first_width$}{}", cells.collect::<String>()));
    };
    line(key, &HEADINGS);
    for (key, cells) in &rows {
        line(key, &cells.each_ref().map(String::as_str));
    }
    let since = Timestamp::from_second(first as i64).map(|at| at.to_string()).unwrap_or_default();
    say(format_args!("The ledger begins at {since}."));
    notes(report);
}

fn cells(row: &Row) -> [String; 11] {
    let tokens = &row.tokens;
    let cost = row.cost_usd.map_or_else(|| "-".to_owned(), |cost| format!("{cost:.4}"));
    [
        row.turns.to_string(),
        row.ok.to_string(),
        row.failed.to_string(),
        row.cancelled.to_string(),
        tokens.input.to_string(),
        tokens.cached_input.to_string(),
        tokens.output.to_string(),
        tokens.reasoning.to_string(),
        cost,
        row.missing.to_string(),
        row.unfinished.to_string(),
    ]
}

/// What the sums do not hold.
fn notes(report: &Report) {
    let total = &report.total;
    for (count, what) in [
        (total.missing, "missing: what they used was never told, and is in no sum"),
        (total.unfinished, "unfinished: they run, or were cut off with their process"),
        (total.unpriced, "without a price in the config: their cost is in no sum"),
        (report.damaged_lines, "lines that could not be read"),
    ] {
        if count > 0 {
            say(format_args!("{count} {what}."));
        }
    }
}
