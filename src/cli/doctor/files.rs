//! Our own files: whether they are right, private and usable.

use std::{
    fs,
    io::{self, Read as _},
    os::unix::fs::PermissionsExt as _,
    path::Path,
};

use super::Finding;
use crate::{
    config::{ConfigFile, ConfigProblems, Home, Loaded},
    credentials::{CapsuleKey, Vault},
};

/// Descriptors below which some hundred streams end in refusals: two a stream.
const FEW_FILES: u64 = 4096;

/// What the config says.
pub(super) fn config(
    path: &Path,
    checked: &Result<Option<Loaded>, ConfigProblems>,
) -> Vec<Finding> {
    let path = path.display();
    match checked {
        Err(problems) => vec![Finding::bad(
            "config",
            problems,
            "mend it; a running gateway goes on with what it had",
        )],
        Ok(None) => {
            vec![Finding::good("config", format_args!("{path}: none, so the defaults hold"))]
        }
        Ok(Some(loaded)) => {
            let warnings = loaded.warnings.iter();
            let warnings =
                warnings.map(|warning| Finding::doubt("config", warning, "see the README"));
            let good = Finding::good("config", format_args!("{path} checks"));
            std::iter::once(good).chain(warnings).collect()
        }
    }
}

/// Whether others may read what is secret.
pub(super) fn private(
    path: &Path,
    config: Option<&ConfigFile>,
    vault: &Vault,
    home: &Home,
) -> Vec<Finding> {
    let mut secret = vec![home.admin_token(), home.capsule_key(), vault.path()];
    secret.extend(vault.broken_copies());
    if config.is_some_and(ConfigFile::holds_secrets) {
        secret.push(path.to_owned());
    }
    let mut findings: Vec<Finding> =
        secret.iter().filter_map(|path| exposed(path, 0o600)).collect();
    // Without any of them it holds nothing yet; the first start makes it private.
    let holds_secrets = secret.iter().any(|path| path.exists());
    if holds_secrets {
        findings.extend(exposed(home.path(), 0o700));
    }
    if findings.is_empty() {
        let state = if holds_secrets { "is private" } else { "holds no secret yet" };
        findings.push(Finding::good("files", format_args!("{} {state}", home.path().display())));
    }
    findings.extend(vault.broken_copies().iter().map(|copy| {
        Finding::doubt(
            "files",
            format_args!("{} is a copy of a damaged auth.json and may hold tokens", copy.display()),
            "delete it if nobody needs it",
        )
    }));
    findings
}

fn exposed(path: &Path, mode: u32) -> Option<Finding> {
    let found = fs::metadata(path).ok()?.permissions().mode() & 0o777;
    (found & !mode != 0).then(|| {
        Finding::bad(
            "files",
            format_args!(
                "{} holds secrets, and others may read or change it ({found:o})",
                path.display()
            ),
            format!("chmod {mode:o} {}", path.display()),
        )
    })
}

/// Whether our files are what they should be, and can be written.
pub(super) fn usable(vault: &Vault, home: &Home) -> Vec<Finding> {
    let mut findings = Vec::new();
    match vault.open() {
        Ok(opened) => findings.extend(opened.damage.map(|damage| {
            let what = format!("{}: {damage}", vault.path().display());
            Finding::bad(
                "files",
                what,
                "`ocx login PROVIDER` repairs it; what is lost must log in again",
            )
        })),
        Err(error) => findings.push(Finding::bad(
            "files",
            error,
            "make it readable for this user; accounts cannot be used till then",
        )),
    }
    let key = home.capsule_key();
    match read(&key) {
        Ok(text) if CapsuleKey::from_hex(text.trim()).is_none() => findings.push(Finding::bad(
            "files",
            format_args!("{} is not 64 hexadecimal digits", key.display()),
            "delete it and `ocx restart`; running conversations then lose their reasoning once",
        )),
        Ok(_) => {}
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => findings.push(Finding::bad(
            "files",
            format_args!("{}: {error}", key.display()),
            "make it readable for this user",
        )),
    }
    if home.path().exists()
        && let Err(error) = tempfile::tempfile_in(home.path())
    {
        findings.push(Finding::bad(
            "files",
            format_args!("{} cannot be written: {error}", home.path().display()),
            "make room, or give it to this user: tokens are renewed there, and usage is kept",
        ));
    }
    if let Ok((_, most)) = rlimit::getrlimit(rlimit::Resource::NOFILE)
        && most < FEW_FILES
    {
        findings.push(Finding::doubt(
            "machine",
            format_args!("a process may have {most} open files; a stream takes two"),
            "raise the limit (`ulimit -Hn`, `LimitNOFILE=` of a service)",
        ));
    }
    findings
}

/// The beginning of a file; ours are short.
fn read(path: &Path) -> io::Result<String> {
    let mut text = Vec::new();
    fs::File::open(path)?.take(4096).read_to_end(&mut text)?;
    Ok(String::from_utf8_lossy(&text).into_owned())
}
