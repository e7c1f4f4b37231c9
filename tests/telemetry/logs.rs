//! Logs that nobody reads.

use std::{process::Stdio, thread};

use serde_json::json;

use crate::{
    Caller,
    support::{ocx::Ocx, scratch},
};

#[test]
fn a_log_that_nobody_reads_holds_up_no_call_and_what_it_drops_is_counted() {
    let home = scratch("logs");
    let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_ocx"));
    // A pipe that fills up, with 64 KiB.
    command.env("RUST_LOG", "info");
    let ocx = Ocx::serve_unread(&home, &json!({"providers": {}}), command, Stdio::piped());
    thread::scope(|scope| {
        for _ in 0..8 {
            let caller = Caller::new(ocx.address);
            scope.spawn(move || {
                for _ in 0..2_500 {
                    // Nobody serves it, which is a line of the log each time.
                    assert_eq!(caller.ask("nobody/m").0, 400);
                }
            });
        }
    });
    assert_eq!(ocx.metric("ocx_requests_total{outcome=\"client_error\""), 20_000.0);
    let dropped = ocx.metric("ocx_log_dropped_total");
    assert!((1_000.0..20_000.0).contains(&dropped), "{dropped} of 20000");
}
