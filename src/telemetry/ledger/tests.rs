use std::{fs, path::Path};

use super::*;

const A_WHILE: Duration = Duration::from_secs(10);

fn counter() -> IntCounter {
    IntCounter::new("errors", "of a test").unwrap()
}

fn ended(id: TurnId, outcome: &str, usage: Option<Tokens>) -> Ended {
    Ended {
        id,
        at: 1_790_000_000.5,
        protocol: "responses".to_owned(),
        provider: "p".to_owned(),
        model: "m".to_owned(),
        outcome: outcome.to_owned(),
        missing: usage.is_none(),
        stream: true,
        attempts: 1,
        duration_ms: 12,
        usage,
        cost_usd: usage.map(|_| 0.25),
    }
}

fn sums(dir: &Path) -> Report {
    read(dir, By::Model, None).unwrap()
}

#[test]
fn what_was_written_is_summed_over_processes_and_what_never_ended_is_told() {
    let dir = tempfile::tempdir().unwrap();
    let used = Tokens { input: 10, cached_input: 4, cache_write: 1, output: 5, reasoning: 2 };
    for _ in 0..2 {
        let ledger = Ledger::open(dir.path().to_owned(), 1 << 20, counter());
        for outcome in ["ok", "incomplete", "client_cancelled", "upstream_error"] {
            let id = ledger.begin("p", "m");
            let usage = (outcome != "client_cancelled").then_some(used);
            ledger.end(ended(id, outcome, usage));
        }
        ledger.begin("p", "m");
        assert!(ledger.flush(A_WHILE));
    }
    let report = sums(dir.path());
    let row = &report.rows[0];
    assert_eq!(row.key, "p/m");
    assert_eq!((row.turns, row.ok, row.cancelled, row.failed), (8, 4, 2, 2));
    assert_eq!((row.missing, row.unfinished, row.unpriced), (2, 2, 0));
    assert_eq!((row.tokens.input, row.tokens.cached_input, row.tokens.output), (60, 24, 30));
    assert!((row.cost_usd.unwrap() - 1.5).abs() < 1e-9);
    assert_eq!(Row { key: "p/m".to_owned(), ..report.total.clone() }, *row);
    let late = read(dir.path(), By::Day, Some(jiff::civil::date(2030, 1, 1))).unwrap();
    assert_eq!(late.total.turns, 0, "all of it was before");
}

#[test]
fn a_ledger_cut_anywhere_loses_no_line_but_the_last() {
    let dir = tempfile::tempdir().unwrap();
    let ledger = Ledger::open(dir.path().to_owned(), 1 << 20, counter());
    for _ in 0..3 {
        let id = ledger.begin("p", "m");
        ledger.end(ended(id, "ok", Some(Tokens { input: 1, ..Tokens::default() })));
    }
    assert!(ledger.flush(A_WHILE));
    let path = dir.path().join("turns.jsonl");
    let whole = fs::read(&path).unwrap();
    let last = whole[..whole.len() - 1].iter().rposition(|byte| *byte == b'\n').unwrap() + 1;
    for cut in last..whole.len() {
        fs::write(&path, &whole[..cut]).unwrap();
        let report = sums(dir.path());
        let (damaged, lost) = match cut {
            cut if cut == last => (0, 1),
            // All of it but its end is there.
            cut if cut == whole.len() - 1 => (0, 0),
            _ => (1, 1),
        };
        assert_eq!((report.damaged_lines, report.total.unfinished), (damaged, lost), "at {cut}");
        assert_eq!(report.total.tokens.input, 3 - lost);
    }
}

#[test]
fn a_place_that_cannot_be_written_is_counted_and_holds_up_nobody() {
    let dir = tempfile::tempdir().unwrap();
    let no_directory = dir.path().join("file");
    fs::write(&no_directory, "").unwrap();
    let errors = counter();
    let ledger = Ledger::open(no_directory, 1 << 20, errors.clone());
    let id = ledger.begin("p", "m");
    ledger.end(ended(id, "ok", None));
    assert!(!ledger.flush(A_WHILE), "nothing is written");
    assert_eq!(errors.get(), 2);
}

#[test]
fn a_ledger_that_is_off_keeps_nothing() {
    let ledger = Ledger::off(counter());
    let id = ledger.begin("p", "m");
    ledger.end(ended(id, "ok", None));
    assert!(ledger.flush(A_WHILE));
    assert_eq!(ledger.errors.get(), 0);
}

#[test]
fn lines_that_are_odd_cost_nothing_but_themselves() {
    let dir = tempfile::tempdir().unwrap();
    let ledger = Ledger::open(dir.path().to_owned(), 1 << 20, counter());
    for at in [1e300, -1e300, 1e12, 1_790_000_000.0] {
        let id = ledger.begin("p", "m");
        ledger.end(Ended { at, ..ended(id, "ok", None) });
    }
    assert!(ledger.flush(A_WHILE));
    let report = sums(dir.path());
    assert_eq!((report.total.turns, report.damaged_lines), (1, 3));
}

#[test]
fn a_directory_that_can_only_be_read_is_read() {
    use std::os::unix::fs::PermissionsExt as _;
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("turns.jsonl"), "{}\n").unwrap();
    fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o555)).unwrap();
    assert_eq!(sums(dir.path()).damaged_lines, 1);
    fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755)).unwrap();
    assert!(!dir.path().join("lock").exists(), "reading makes no files");
}
