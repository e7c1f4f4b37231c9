//! The files of the ledger: appended to, of bounded size, the oldest dropped. Several processes may
//! share them.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Read as _, Seek as _, SeekFrom, Write as _},
    os::unix::fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
};

/// Files that are kept: the one that grows, and those before it.
pub(super) const FILES: u64 = 8;

/// Appends to the newest file.
#[derive(Debug)]
pub(super) struct LedgerFile {
    dir: PathBuf,
    /// Bytes of one file.
    limit: u64,
    open: Option<File>,
}

impl LedgerFile {
    /// In a directory, which need not exist; all files together have about `max_bytes`.
    pub fn new(dir: PathBuf, max_bytes: u64) -> Self {
        Self { dir, limit: (max_bytes / FILES).max(1), open: None }
    }

    /// Appends whole lines.
    ///
    /// # Errors
    ///
    /// When they are not, or only in part, on the file. The next try begins on a line of its own.
    pub fn append(&mut self, lines: &[u8]) -> io::Result<()> {
        let appended = self.try_append(lines);
        if appended.is_err() {
            self.open = None;
        }
        appended
    }

    fn try_append(&mut self, lines: &[u8]) -> io::Result<()> {
        let path = path(&self.dir, 0);
        let size = match self.newest(&path)?.metadata()?.len() {
            size if size > 0 && size + lines.len() as u64 > self.limit => {
                self.rotate(&path)?;
                0
            }
            size => size,
        };
        debug_assert!(size <= self.limit);
        self.newest(&path)?.write_all(lines)
    }

    /// The file that grows: another process may have begun a new one, or a person deleted it.
    fn newest(&mut self, path: &Path) -> io::Result<&mut File> {
        let there = fs::metadata(path).ok().map(|there| (there.dev(), there.ino()));
        let open = match self.open.take() {
            Some(open) if Some(identity(&open)?) == there => open,
            _ => begin(&self.dir, path)?,
        };
        Ok(self.open.insert(open))
    }

    /// Makes room: every file gets the next number, and the last one goes.
    fn rotate(&mut self, path: &Path) -> io::Result<()> {
        // One process at a time; the other then finds it done.
        let lock = lock(&self.dir)?;
        lock.lock()?;
        let before = self.open.as_ref().map(identity).transpose()?;
        if before == Some(identity(&File::open(path)?)?) {
            for number in (0..FILES - 1).rev() {
                match fs::rename(self::path(&self.dir, number), self::path(&self.dir, number + 1)) {
                    Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                    _ => {}
                }
            }
        }
        self.open = None;
        Ok(())
    }
}

fn identity(file: &File) -> io::Result<(u64, u64)> {
    let metadata = file.metadata()?;
    Ok((metadata.dev(), metadata.ino()))
}

/// Opens a file to append to. What a killed process left of a line gets an end of its own.
fn begin(dir: &Path, path: &Path) -> io::Result<File> {
    match fs::DirBuilder::new().recursive(true).mode(0o700).create(dir) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
        _ => {}
    }
    let mut file =
        OpenOptions::new().read(true).append(true).create(true).mode(0o600).open(path)?;
    if file.metadata()?.len() > 0 {
        let mut last = [0];
        file.seek(SeekFrom::End(-1))?;
        file.read_exact(&mut last)?;
        if last != *b"\n" {
            file.write_all(b"\n")?;
        }
    }
    Ok(file)
}

fn path(dir: &Path, number: u64) -> PathBuf {
    dir.join(if number == 0 { "turns.jsonl".to_owned() } else { format!("turns.{number}.jsonl") })
}

fn lock(dir: &Path) -> io::Result<File> {
    let mut options = OpenOptions::new();
    options.read(true).append(true).create(true).mode(0o600).open(dir.join("lock"))
}

/// Opens all files, the oldest first. They stay what they are, whatever is rotated later.
///
/// # Errors
///
/// When one is there and cannot be opened.
pub(super) fn open_all(dir: &Path) -> io::Result<Vec<File>> {
    if !dir.exists() {
        return Ok(Vec::new());
    }
    // Without a lock nobody has rotated yet, or nobody can here.
    let lock = File::open(dir.join("lock")).ok();
    if let Some(lock) = &lock {
        lock.lock_shared()?;
    }
    let mut files = Vec::new();
    for number in (0..FILES).rev() {
        match File::open(path(dir, number)) {
            Ok(file) => files.push(file),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
    }
    Ok(files)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    fn text(dir: &Path) -> String {
        let mut text = String::new();
        for mut file in open_all(dir).unwrap() {
            file.read_to_string(&mut text).unwrap();
        }
        text
    }

    #[test]
    fn the_newest_lines_are_kept_and_the_size_is_bounded() {
        let dir = tempfile::tempdir().unwrap();
        let dir = dir.path().join("usage");
        let (mut one, mut other) =
            (LedgerFile::new(dir.clone(), 80 * FILES), LedgerFile::new(dir.clone(), 80 * FILES));
        for n in 0..1000 {
            let file = if n % 3 == 0 { &mut other } else { &mut one };
            file.append(format!("line {n:04}\n").as_bytes()).unwrap();
        }
        let text = text(&dir);
        let lines: Vec<&str> = text.lines().collect();
        let first: usize = lines[0][5..].parse().unwrap();
        let expected: Vec<String> = (first..1000).map(|n| format!("line {n:04}")).collect();
        assert_eq!(lines, expected, "none is lost between processes, and their order stays");
        assert!((50..=64).contains(&lines.len()), "{}", lines.len());
        let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!((mode(&dir), mode(&path(&dir, 0)), mode(&path(&dir, 3))), (0o700, 0o600, 0o600));
    }

    #[test]
    fn a_torn_line_costs_itself_alone_and_a_deleted_file_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let mut file = LedgerFile::new(dir.path().to_owned(), 1 << 20);
        fs::write(path(dir.path(), 0), "whole\nhal").unwrap();
        file.append(b"next\n").unwrap();
        assert_eq!(text(dir.path()), "whole\nhal\nnext\n");
        fs::remove_file(path(dir.path(), 0)).unwrap();
        file.append(b"again\n").unwrap();
        assert_eq!(text(dir.path()), "again\n");
    }
}
