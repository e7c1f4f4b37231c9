//! Putting ocx into Codex, and taking it out again.
//!
//! `config.toml` is what counts: everything else is written before it and taken away after it. So
//! whoever is killed in between leaves Codex either as it was or set up, and the record says how to go
//! back from either.

use std::{
    collections::HashSet,
    env, fs,
    fs::File,
    io,
    os::unix::fs::DirBuilderExt as _,
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{
    undo::{self, Kept, Record, Undo},
    wiring::{self, Former, Wiring},
};

/// How many of our own earlier writes of a file are known again.
const MAX_WRITTEN: usize = 8;

/// Codex's home on this machine, and where we keep what was in it.
#[derive(Clone, Debug)]
pub struct Codex {
    home: PathBuf,
    undo: Undo,
    lock: PathBuf,
}

/// The gateway that Codex is led to.
#[derive(Clone, Debug)]
pub struct Gateway {
    /// Its address with `/v1`.
    pub base_url: String,
    /// The models that it offers, in Codex's form.
    pub models: Vec<Value>,
    /// Models that Codex knows by itself, from whoever could tell.
    pub native: Vec<Value>,
    /// Whether it serves WebSocket.
    pub websockets: bool,
    /// The variable that holds a key, where it demands one.
    pub key_variable: Option<&'static str>,
}

/// What a set-up wrote.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Installed {
    /// Models of providers in the catalogue.
    pub routed: usize,
    /// Codex's own.
    pub native: usize,
    /// The catalogue.
    pub catalog: PathBuf,
    /// The config.
    pub config: PathBuf,
}

/// How Codex is set up.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Status {
    /// Its home.
    pub codex_home: PathBuf,
    /// Whether its config leads to ocx.
    pub installed: bool,
    /// Whether there is something that `ocx restore` would undo.
    pub restorable: bool,
    /// Models in our catalogue.
    pub models: usize,
    /// Where its config leads to.
    pub base_url: Option<String>,
}

/// Why Codex could not be set up, or not be restored. Nothing is half done then.
#[derive(Debug, thiserror::Error)]
pub enum SetupError {
    /// A file could not be read or written.
    #[error("{}: {error}", path.display())]
    Io {
        /// Which.
        path: PathBuf,
        /// Why.
        error: io::Error,
    },
    /// The user's config is none.
    #[error("{} is no TOML, so nothing was changed: {message}", path.display())]
    Toml {
        /// Which.
        path: PathBuf,
        /// Where it goes wrong.
        message: String,
    },
    /// There is nothing to tell Codex of.
    #[error(
        "the gateway offers no model yet, so nothing was changed; `ocx provider list` says what providers lack"
    )]
    NoModels,
}

fn at(path: &Path) -> impl Fn(io::Error) -> SetupError + '_ {
    |error| SetupError::Io { path: path.to_owned(), error }
}

impl Codex {
    /// The one of this user: `$CODEX_HOME`, else `~/.codex`.
    pub fn find(ocx_home: &Path) -> Self {
        let chosen = env::var_os("CODEX_HOME").filter(|home| !home.is_empty()).map(PathBuf::from);
        let home = chosen.unwrap_or_else(|| env::home_dir().unwrap_or_default().join(".codex"));
        Self::at(home, ocx_home)
    }

    /// The one at a place.
    pub fn at(home: PathBuf, ocx_home: &Path) -> Self {
        let home = std::path::absolute(&home).unwrap_or(home);
        // One user may have several homes of Codex, each with a past of its own.
        let name = undo::digest(home.as_os_str().as_encoded_bytes());
        let dir = ocx_home.join("codex");
        Self { undo: Undo::at(dir.join(&name[..16])), lock: dir.join("lock"), home }
    }

    fn config(&self) -> PathBuf {
        self.home.join("config.toml")
    }

    fn catalog(&self) -> PathBuf {
        self.home.join("opencodex-models.json")
    }

    /// What Codex fetched of models, ours among them once it asks us.
    fn cache(&self) -> PathBuf {
        self.home.join("models_cache.json")
    }

    fn profile(&self) -> PathBuf {
        self.home.join("opencodex.config.toml")
    }

    /// Whether Codex is logged in, by ChatGPT or key.
    pub fn is_logged_in(&self) -> bool {
        self.home.join("auth.json").exists()
    }

    /// Codex's own models, as its files have them: its catalogue, or what it fetched.
    pub fn known_models(&self) -> Vec<Value> {
        let text = fs::read_to_string(self.config()).unwrap_or_default();
        let doc: toml::Table = toml::from_str(&text).unwrap_or_default();
        let catalog =
            doc.get("model_catalog_json").and_then(|path| path.as_str()).map(PathBuf::from);
        let sources = [catalog, Some(self.cache())];
        let models = sources.into_iter().flatten().map(|path| {
            let bytes = fs::read(path).unwrap_or_default();
            native(&bytes)
        });
        models.into_iter().find(|models| !models.is_empty()).unwrap_or_default()
    }

    /// One at a time.
    fn hold(&self) -> Result<File, SetupError> {
        let dir = self.lock.parent().unwrap_or(Path::new("."));
        make(dir)?;
        let lock = File::create(&self.lock).map_err(at(&self.lock))?;
        lock.lock().map_err(at(&self.lock))?;
        Ok(lock)
    }

    /// Leads Codex to a gateway, or again to it with new models.
    ///
    /// # Errors
    ///
    /// When that is not possible; Codex is then as it was before.
    pub fn install(&self, gateway: &Gateway) -> Result<Installed, SetupError> {
        if gateway.models.is_empty() {
            return Err(SetupError::NoModels);
        }
        let _lock = self.hold()?;
        make(&self.home)?;
        undo::sweep(&self.home);
        let before = self.record()?;
        let base = self.base(before.as_ref())?;
        let text = match &base {
            Some((bytes, _)) => self.text(bytes)?,
            None => "",
        };
        let catalog = self.catalog().display().to_string();
        let wiring = Wiring {
            base_url: gateway.base_url.clone(),
            catalog,
            login: self.is_logged_in(),
            websockets: gateway.websockets,
            key_variable: gateway.key_variable,
        };
        let (wired, former) = wiring::with(text, &wiring).map_err(|error| self.no_toml(&error))?;
        let (models, native) = merged(gateway);
        let profile = format!(
            "# Written by `ocx codex install`: for `codex --profile {0}`.\nmodel_provider = \"{0}\"\n",
            wiring::PROVIDER
        );
        let mut files =
            vec![self.kept(before.as_ref(), &self.config(), base, Some(wired.as_bytes()))?];
        for (path, bytes) in [
            (self.catalog(), Some(models.as_slice())),
            (self.profile(), Some(profile.as_bytes())),
            (self.cache(), None),
        ] {
            let known = before.as_ref().and_then(|before| before.of(&path));
            let original = match known {
                Some(known) => self.original(known)?,
                None => undo::read(&path).map_err(at(&path))?,
            };
            files.push(self.kept(before.as_ref(), &path, original, bytes)?);
        }
        self.undo.write(&Record { former, files }).map_err(at(&self.home))?;
        let mode = |path: &Path| undo::read(path).ok().flatten().map_or(0o600, |(_, mode)| mode);
        for (path, bytes) in [
            (self.catalog(), models.as_slice()),
            (self.profile(), profile.as_bytes()),
            // Last: it is what counts.
            (self.config(), wired.as_bytes()),
        ] {
            undo::replace(&path, bytes, mode(&path)).map_err(at(&path))?;
        }
        Ok(Installed {
            routed: gateway.models.len(),
            native,
            catalog: self.catalog(),
            config: self.config(),
        })
    }

    /// Takes ocx out of Codex: its files are as they were, but for what the user changed since. Tells
    /// whether there was anything to do.
    ///
    /// # Errors
    ///
    /// When that is not possible; it can be tried again.
    pub fn restore(&self) -> Result<bool, SetupError> {
        let _lock = self.hold()?;
        undo::sweep(&self.home);
        let record = self.record()?;
        let base = self.base(record.as_ref())?;
        // First: from here on Codex is without us.
        let changed = put_back(&self.config(), base)?;
        let Some(record) = record else { return Ok(changed) };
        for kept in &record.files {
            if kept.path != self.config() {
                put_back(&kept.path, self.original(kept)?)?;
            }
        }
        self.undo.forget().map_err(at(&self.home))?;
        Ok(true)
    }

    /// How Codex is set up.
    ///
    /// # Errors
    ///
    /// When its files cannot be read.
    pub fn status(&self) -> Result<Status, SetupError> {
        let config = self.config();
        let bytes = undo::read(&config).map_err(at(&config))?.map(|(bytes, _)| bytes);
        let text = String::from_utf8_lossy(&bytes.unwrap_or_default()).into_owned();
        let doc: toml::Table =
            toml::from_str(text.trim_start_matches('\u{feff}')).unwrap_or_default();
        let ours = doc.get("model_providers").and_then(|all| all.get(wiring::PROVIDER));
        let base_url = ours.and_then(|ours| ours.get("base_url")).and_then(|url| url.as_str());
        let catalog = fs::read(self.catalog()).unwrap_or_default();
        Ok(Status {
            codex_home: self.home.clone(),
            installed: doc.get("model_provider").and_then(|it| it.as_str())
                == Some(wiring::PROVIDER)
                && ours.is_some(),
            restorable: self.record()?.is_some() || wiring::is_in(&text),
            models: rows(&catalog).len(),
            base_url: base_url.map(str::to_owned),
        })
    }

    fn record(&self) -> Result<Option<Record>, SetupError> {
        self.undo.read().map_err(at(&self.home))
    }

    /// `config.toml` without us, with whatever the user changed since; and its mode.
    fn base(&self, record: Option<&Record>) -> Result<Option<(Vec<u8>, u32)>, SetupError> {
        let path = self.config();
        let Some((bytes, mode)) = undo::read(&path).map_err(at(&path))? else {
            return Ok(None);
        };
        let kept = record.and_then(|record| record.of(&path));
        if let Some(kept) = kept {
            let (digest, original) = (undo::digest(&bytes), self.original(kept)?);
            if kept.written.contains(&digest) {
                return Ok(original);
            }
            if original.as_ref().is_some_and(|(original, _)| *original == bytes) {
                return Ok(original);
            }
        }
        let text = self.text(&bytes)?;
        if !wiring::is_in(text.trim_start_matches('\u{feff}')) {
            return Ok(Some((bytes, mode)));
        }
        let former = record.map_or_else(Former::default, |record| record.former.clone());
        let catalog = self.catalog().display().to_string();
        let without = wiring::without(text, &catalog, &former);
        Ok(Some((without.map_err(|error| self.no_toml(&error))?.into_bytes(), mode)))
    }

    fn original(&self, kept: &Kept) -> Result<Option<(Vec<u8>, u32)>, SetupError> {
        let copy = kept.copy.as_ref().map(|copy| self.undo.copy(copy)).transpose();
        Ok(copy.map_err(at(&self.home))?.map(|bytes| (bytes, kept.mode)))
    }

    /// What the record says of a file.
    fn kept(
        &self,
        before: Option<&Record>,
        path: &Path,
        original: Option<(Vec<u8>, u32)>,
        written: Option<&[u8]>,
    ) -> Result<Kept, SetupError> {
        let mut digests: Vec<String> = before
            .and_then(|before| before.of(path))
            .map(|kept| kept.written.clone())
            .unwrap_or_default();
        digests.extend(written.map(undo::digest));
        let excess = digests.len().saturating_sub(MAX_WRITTEN);
        digests.drain(..excess);
        let mode = original.as_ref().map_or(0o600, |(_, mode)| *mode);
        let copy = original.map(|(bytes, _)| self.undo.keep(&bytes)).transpose();
        let copy = copy.map_err(at(&self.home))?;
        Ok(Kept { path: path.to_owned(), copy, mode, written: digests })
    }

    fn text<'b>(&self, bytes: &'b [u8]) -> Result<&'b str, SetupError> {
        std::str::from_utf8(bytes).map_err(|error| SetupError::Toml {
            path: self.config(),
            message: format!("it is not UTF-8 after byte {}", error.valid_up_to()),
        })
    }

    fn no_toml(&self, error: &toml_edit::TomlError) -> SetupError {
        SetupError::Toml { path: self.config(), message: error.to_string() }
    }
}

impl Record {
    fn of(&self, path: &Path) -> Option<&Kept> {
        self.files.iter().find(|kept| kept.path == path)
    }
}

fn make(dir: &Path) -> Result<(), SetupError> {
    match fs::DirBuilder::new().recursive(true).mode(0o700).create(dir) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => Err(at(dir)(error)),
        _ => Ok(()),
    }
}

/// Makes a file what it was; whether that changed anything.
fn put_back(path: &Path, original: Option<(Vec<u8>, u32)>) -> Result<bool, SetupError> {
    let now = undo::read(path).map_err(at(path))?;
    if now == original {
        return Ok(false);
    }
    match original {
        Some((bytes, mode)) => undo::replace(path, &bytes, mode),
        None => undo::remove(path),
    }
    .map_err(at(path))?;
    Ok(true)
}

/// `{"models": […]}`, or nothing.
fn rows(document: &[u8]) -> Vec<Value> {
    #[derive(Deserialize)]
    struct Document {
        models: Vec<Value>,
    }
    serde_json::from_slice::<Document>(document).map(|document| document.models).unwrap_or_default()
}

/// The models of a document that Codex knows by itself: complete ones, since one that is not makes
/// Codex reject the whole catalogue.
pub fn native(document: &[u8]) -> Vec<Value> {
    let is_native = |row: &Value| {
        let slug = row["slug"].as_str().is_some_and(|slug| !slug.contains('/'));
        slug && (row["base_instructions"].is_string()
            || row["model_messages"]["instructions_template"].is_string())
    };
    rows(document).into_iter().filter(is_native).collect()
}

/// The catalogue: Codex's own models first, then those of the gateway. And how many are Codex's own.
fn merged(gateway: &Gateway) -> (Vec<u8>, usize) {
    let slugs: HashSet<&str> =
        gateway.models.iter().filter_map(|row| row["slug"].as_str()).collect();
    let native: Vec<&Value> = gateway
        .native
        .iter()
        .filter(|row| row["slug"].as_str().is_some_and(|slug| !slugs.contains(slug)))
        .collect();
    let count = native.len();
    let models: Vec<&Value> = native.into_iter().chain(&gateway.models).collect();
    (serde_json::json!({ "models": models }).to_string().into_bytes(), count)
}

#[cfg(test)]
mod tests;
