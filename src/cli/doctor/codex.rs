//! Whether Codex is led here, and nowhere else.

use super::Finding;
use crate::{
    cli::gateway::{instance, local::Place},
    codex::Codex,
    config::Home,
};

const AREA: &str = "codex";

/// Looks at it; `proven` is where a gateway of ours answers.
pub(super) fn examine(proven: Option<&Place>, home: &Home) -> Vec<Finding> {
    let codex = Codex::find(home.path());
    let status = match codex.status() {
        Ok(status) => status,
        Err(error) => {
            return vec![Finding::bad(AREA, error, "make Codex's files readable for this user")];
        }
    };
    if let Some(problem) = status.problem {
        return vec![Finding::bad(AREA, problem, "mend it: Codex itself does not start with it")];
    }
    if !status.installed {
        let not = Finding::good(AREA, "Codex does not use ocx");
        return match status.restorable {
            false => vec![not],
            true => vec![Finding::doubt(
                AREA,
                "Codex was led to ocx, or half so, and does not use it now",
                "`ocx restore` brings its own files back, `ocx codex install` leads it here again",
            )],
        };
    }
    let base = status.base_url.unwrap_or_default();
    let mut findings = Vec::new();
    let running = instance::running(home);
    let answers = proven.is_some_and(|place| base == format!("http://{}/v1", place.address));
    if !answers && !running.iter().any(|one| one.is_at(&base)) {
        findings.push(Finding::bad(
            AREA,
            format_args!("Codex asks {base}, where no gateway of this home runs"),
            match running.first() {
                Some(one) => format!("`ocx codex install` leads it to {}", one.base()),
                None => "`ocx start` starts it; `ocx restore` leads Codex away".to_owned(),
            },
        ));
    }
    if status.models == 0 {
        let what = format!(
            "the models that Codex is told of are gone from {}",
            status.codex_home.display()
        );
        findings.push(Finding::bad(
            AREA,
            what,
            "`ocx sync` writes them again; Codex does not start without",
        ));
    }
    if codex.is_logged_in() && !status.login {
        findings.push(Finding::doubt(
            AREA,
            "Codex logged in after it was led here, and does not bring its login",
            "`ocx sync`, for ChatGPT's own models",
        ));
    }
    if findings.is_empty() {
        let what = format!("Codex uses {base}, with {} models", status.models);
        findings.push(Finding::good(AREA, what));
    }
    findings
}
