//! Files that are appended to and have a bound: when one is full the next begins, and the oldest goes.
//! Several processes may share them.

use std::{
    fs::{self, File, Metadata, OpenOptions},
    io::{self, Read as _, Seek as _, SeekFrom, Write as _},
    os::unix::fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
};

/// Files of one name: `turns.jsonl` grows, and `turns.1.jsonl`, `turns.2.jsonl` … are those before it.
#[derive(Clone, Debug)]
pub(super) struct Files {
    /// The one that grows.
    pub path: PathBuf,
    /// How many are kept, with it.
    pub keep: u64,
}

/// Appends to the newest file.
#[derive(Debug)]
pub(super) struct RollingFile {
    files: Files,
    /// Bytes of one file.
    limit: u64,
    open: Option<File>,
    /// Whether it is beyond its limit, and could not be put aside.
    grows: bool,
}

impl RollingFile {
    /// In a directory, which need not exist; all files together have about `max_bytes`.
    pub fn new(files: Files, max_bytes: u64) -> Self {
        let limit = (max_bytes / files.keep).max(1);
        Self { files, limit, open: None, grows: false }
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
        let limit = self.limit;
        let (newest, size) = self.newest()?;
        if size == 0 || size + lines.len() as u64 <= limit {
            return newest.write_all(lines);
        }
        match self.rotate() {
            Ok(()) => self.grows = false,
            // Lines count more than their file's size. Said once: it may be our own log.
            Err(error) if !self.grows => {
                self.grows = true;
                let path = self.files.path.display();
                tracing::warn!(%path, %error, "a full file cannot be put aside, and grows");
            }
            Err(_) => {}
        }
        self.newest()?.0.write_all(lines)
    }

    /// The file that grows, and its size: another process may have begun a new one, or a person deleted it.
    fn newest(&mut self) -> io::Result<(&mut File, u64)> {
        let there = fs::metadata(&self.files.path).ok();
        let (open, meta) = match (self.open.take(), there) {
            (Some(open), Some(there)) if identity(&open.metadata()?) == identity(&there) => {
                (open, there)
            }
            _ => {
                let begun = self.files.begin()?;
                let meta = begun.metadata()?;
                (begun, meta)
            }
        };
        Ok((self.open.insert(open), meta.len()))
    }

    /// Makes room: every file gets the next number, and the last one goes.
    fn rotate(&mut self) -> io::Result<()> {
        let files = &self.files;
        // One process at a time; the other then finds it done.
        let lock = files.lock()?;
        lock.lock()?;
        let before = self.open.as_ref().map(File::metadata).transpose()?;
        let there = fs::metadata(&files.path)?;
        if before.is_some_and(|before| identity(&before) == identity(&there)) {
            for number in (0..files.keep - 1).rev() {
                match fs::rename(files.path(number), files.path(number + 1)) {
                    Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                    _ => {}
                }
            }
        }
        self.open = None;
        Ok(())
    }
}

fn identity(file: &Metadata) -> (u64, u64) {
    (file.dev(), file.ino())
}

/// Whole lines are written at once.
impl io::Write for RollingFile {
    fn write(&mut self, lines: &[u8]) -> io::Result<usize> {
        self.append(lines).map(|()| lines.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Files {
    /// Opens the newest to append to. What a killed process left of a line gets an end of its own.
    fn begin(&self) -> io::Result<File> {
        match fs::DirBuilder::new().recursive(true).mode(0o700).create(self.dir()) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
            _ => {}
        }
        let mut options = OpenOptions::new();
        let mut file = options.read(true).append(true).create(true).mode(0o600).open(&self.path)?;
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

    fn dir(&self) -> &Path {
        self.path.parent().filter(|dir| !dir.as_os_str().is_empty()).unwrap_or(Path::new("."))
    }

    /// The newest is 0.
    fn path(&self, number: u64) -> PathBuf {
        match (number, self.path.extension()) {
            (0, _) => self.path.clone(),
            (_, None) => self.path.with_extension(number.to_string()),
            (_, Some(ending)) => {
                self.path.with_extension(format!("{number}.{}", ending.to_string_lossy()))
            }
        }
    }

    fn lock(&self) -> io::Result<File> {
        let mut options = OpenOptions::new();
        options.read(true).append(true).create(true).mode(0o600).open(self.lock_path())
    }

    /// Of its own: others may keep files in the directory.
    fn lock_path(&self) -> PathBuf {
        self.path.with_extension("lock")
    }

    /// Opens all, the oldest first. They stay what they are, whatever is rotated later.
    ///
    /// # Errors
    ///
    /// When one is there and cannot be opened.
    pub fn open_all(&self) -> io::Result<Vec<File>> {
        if !self.dir().exists() {
            return Ok(Vec::new());
        }
        // Without a lock nobody has rotated yet, or nobody can here.
        let lock = File::open(self.lock_path()).ok();
        if let Some(lock) = &lock {
            lock.lock_shared()?;
        }
        let mut files = Vec::new();
        for number in (0..self.keep).rev() {
            match File::open(self.path(number)) {
                Ok(file) => files.push(file),
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => return Err(error),
            }
        }
        Ok(files)
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    const FILES: u64 = 8;

    fn files(dir: &Path) -> Files {
        Files { path: dir.join("turns.jsonl"), keep: FILES }
    }

    fn text(dir: &Path) -> String {
        let mut text = String::new();
        for mut file in files(dir).open_all().unwrap() {
            file.read_to_string(&mut text).unwrap();
        }
        text
    }

    #[test]
    fn the_newest_lines_are_kept_and_the_size_is_bounded() {
        let dir = tempfile::tempdir().unwrap();
        let dir = dir.path().join("usage");
        let new = || RollingFile::new(files(&dir), 80 * FILES);
        let (mut one, mut other) = (new(), new());
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
        let (newest, old) = (dir.join("turns.jsonl"), dir.join("turns.3.jsonl"));
        assert_eq!((mode(&dir), mode(&newest), mode(&old)), (0o700, 0o600, 0o600));
    }

    #[test]
    fn what_cannot_be_rotated_grows() {
        let dir = tempfile::tempdir().unwrap();
        let files = Files { path: dir.path().join("log"), keep: 2 };
        let mut file = RollingFile::new(files, 20);
        file.append(b"12345678\n").unwrap();
        // Somebody else's, as in a directory that all may write to.
        fs::create_dir(dir.path().join("log.lock")).unwrap();
        file.append(b"abcdefgh\n").unwrap();
        file.append(b"ijklmnop\n").unwrap();
        assert_eq!(
            fs::read_to_string(dir.path().join("log")).unwrap(),
            "12345678\nabcdefgh\nijklmnop\n"
        );
        fs::remove_dir(dir.path().join("log.lock")).unwrap();
        file.append(b"again\n").unwrap();
        let old = fs::read_to_string(dir.path().join("log.1")).unwrap();
        assert_eq!(old, "12345678\nabcdefgh\nijklmnop\n");
    }

    #[test]
    fn a_torn_line_costs_itself_alone_and_a_deleted_file_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let mut file = RollingFile::new(files(dir.path()), 1 << 20);
        fs::write(dir.path().join("turns.jsonl"), "whole\nhal").unwrap();
        file.append(b"next\n").unwrap();
        assert_eq!(text(dir.path()), "whole\nhal\nnext\n");
        fs::remove_file(dir.path().join("turns.jsonl")).unwrap();
        file.append(b"again\n").unwrap();
        assert_eq!(text(dir.path()), "again\n");
    }
}
