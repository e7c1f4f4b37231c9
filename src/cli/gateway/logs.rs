//! `ocx logs`: the log of a gateway in the background.

use std::{
    fs::{self, File},
    io::{self, Read as _, Seek as _, SeekFrom, Write as _},
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
    process::ExitCode,
    time::Duration,
};

use super::instance;
use crate::{
    cli::{args::LogsArgs, finish},
    config::Home,
};

/// How often a log that is followed is looked at.
const LOOK_EVERY: Duration = Duration::from_millis(200);
/// What is read at once, from the end.
const BLOCK: u64 = 64 << 10;

/// Runs the command.
pub(in crate::cli) fn logs(args: &LogsArgs, home: &Home) -> ExitCode {
    finish(print(args, home))
}

fn print(args: &LogsArgs, home: &Home) -> Result<(), String> {
    let path = chosen(args.port, home)?;
    let told = |error: io::Error| format!("{}: {error}", path.display());
    let mut file = File::open(&path).map_err(told)?;
    let start = tail(&mut file, args.lines).map_err(told)?;
    file.seek(SeekFrom::Start(start)).map_err(told)?;
    let printed = match args.follow {
        true => follow(&path, file),
        false => io::copy(&mut file, &mut io::stdout()).map(drop),
    };
    match printed {
        // A reader that has gone wants no more.
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        printed => printed.map_err(told),
    }
}

fn chosen(port: Option<u16>, home: &Home) -> Result<PathBuf, String> {
    let logs = home.logs();
    let none = || format!("there is no log in {}; `ocx start` writes one", logs.display());
    let mut running = instance::running(home);
    running.retain(|one| port.is_none_or(|port| one.port() == port));
    if let [only] = running.as_slice() {
        return only.log.clone().ok_or_else(|| {
            let (base, pid) = (only.base(), only.pid);
            format!("the gateway at {base} (process {pid}) logs to the stderr of who runs it")
        });
    }
    if let Some(port) = port {
        let path = logs.join(format!("{port}.log"));
        let none =
            || format!("{} is not there; without `--port` the newest log is taken", path.display());
        return if path.exists() { Ok(path.clone()) } else { Err(none()) };
    }
    let files = fs::read_dir(&logs).into_iter().flatten().flatten().map(|entry| entry.path());
    let files = files.filter(|path| path.extension().is_some_and(|ending| ending == "log"));
    let written = |path: &PathBuf| fs::metadata(path).and_then(|meta| meta.modified()).ok();
    files.max_by_key(written).ok_or_else(none)
}

/// Where the last lines begin.
fn tail(file: &mut File, lines: usize) -> io::Result<u64> {
    let mut end = file.metadata()?.len();
    let (mut found, mut block) = (0, Vec::new());
    while end > 0 {
        let start = end.saturating_sub(BLOCK);
        file.seek(SeekFrom::Start(start))?;
        block.clear();
        (&*file).take(end - start).read_to_end(&mut block)?;
        for at in memchr::memrchr_iter(b'\n', &block) {
            // The end of the last line is the first that is found.
            if found == lines {
                return Ok(start + at as u64 + 1);
            }
            found += 1;
        }
        end = start;
    }
    Ok(0)
}

fn follow(path: &Path, mut file: File) -> io::Result<()> {
    loop {
        let there = fs::metadata(path).ok();
        let same = file.metadata()?.ino();
        io::copy(&mut file, &mut io::stdout()).and_then(|_| io::stdout().flush())?;
        // The next file began.
        if there.is_some_and(|there| there.ino() != same) {
            file = File::open(path)?;
        }
        std::thread::sleep(LOOK_EVERY);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_lines_are_found_over_blocks() {
        let mut file = tempfile::tempfile().unwrap();
        let long = "x".repeat(usize::try_from(BLOCK).unwrap());
        write!(file, "a\n{long}\nb\nc\n").unwrap();
        for (lines, expected) in [(1, "c\n"), (2, "b\nc\n"), (9, "a\n")] {
            let start = tail(&mut file, lines).unwrap();
            file.seek(SeekFrom::Start(start)).unwrap();
            let mut text = String::new();
            file.read_to_string(&mut text).unwrap();
            assert!(text.starts_with(expected), "{lines}: {}", &text[..2]);
        }
        assert_eq!(tail(&mut file, 0).unwrap(), file.metadata().unwrap().len());
    }
}
