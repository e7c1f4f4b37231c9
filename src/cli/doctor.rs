use super::args::DoctorArgs;
use crate::config::Home;
use std::process::ExitCode;
pub(super) fn doctor(_args: &DoctorArgs, _home: &Home) -> ExitCode {
    ExitCode::FAILURE
}
