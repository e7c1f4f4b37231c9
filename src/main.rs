//! The `ocx` program.

use std::process::ExitCode;

fn main() -> ExitCode {
    ocx::cli::run()
}
