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
    catalog,
    undo::{self, Kept, Record, Undo},
    wiring::{self, Wiring},
};

/// How often a change of the user's that comes in between is met before we give up.
const MAX_TRIES: usize = 5;

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
    /// Models that sub-agents are offered, the first one first.
    pub subagent_models: Vec<String>,
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
    /// Whether its config lets it bring its ChatGPT login.
    pub login: bool,
    /// Whether this home of ocx is what keeps Codex's own files.
    pub recorded: bool,
    /// Models in our catalogue.
    pub models: usize,
    /// Where its config leads to.
    pub base_url: Option<String>,
    /// Why its config cannot be read.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub problem: Option<String>,
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
    /// The user has a provider of our name.
    #[error("{} has a provider `opencodex` of your own, so nothing was changed; give it another name", .0.display())]
    Taken(PathBuf),
    /// Somebody changes the file all the time.
    #[error("{} changes while it is being changed; try again", .0.display())]
    Busy(PathBuf),
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
        let home = one_name(&home);
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

    /// Codex's own models, as its files had them without us: its catalogue, or what it fetched.
    pub fn known_models(&self) -> Vec<Value> {
        let record = self.record().ok().flatten();
        let text = fs::read_to_string(self.config()).unwrap_or_default();
        let doc: toml::Table =
            toml::from_str(text.trim_start_matches('\u{feff}')).unwrap_or_default();
        let written = doc.get("model_catalog_json").and_then(|path| path.as_str());
        let former = record.as_ref().and_then(|record| record.former.model_catalog_json.as_deref());
        let former =
            former.and_then(|value| toml::from_str::<toml::Table>(&format!("v = {value}")).ok());
        let former = former.as_ref().and_then(|value| value.get("v")?.as_str());
        // Codex takes a relative one from its home.
        let catalog = former.or(written).map(|path| self.home.join(path));
        let catalog = catalog.filter(|path| *path != self.catalog());
        let own = catalog.map(|path| complete(&fs::read(path).unwrap_or_default()));
        if let Some(own) = own.filter(|own| !own.is_empty()) {
            return own;
        }
        let cache = match record.as_ref().and_then(|record| record.of(&self.cache())) {
            // What is in it now, Codex may have from us.
            Some(kept) => self.original(kept).ok().flatten().map(|(bytes, _)| bytes),
            None => fs::read(self.cache()).ok(),
        };
        native(&cache.unwrap_or_default())
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
        self.sweep();
        for _ in 0..MAX_TRIES {
            if let Some(installed) = self.try_install(gateway)? {
                return Ok(installed);
            }
        }
        Err(SetupError::Busy(self.config()))
    }

    /// Nothing if the user changed the config meanwhile.
    fn try_install(&self, gateway: &Gateway) -> Result<Option<Installed>, SetupError> {
        let before = self.record()?;
        let plan = self.plan(gateway, before.as_ref())?;
        self.undo.write(&plan.record).map_err(at(self.undo.dir()))?;
        match self.carry_out(&plan) {
            Ok(true) => Ok(Some(Installed {
                routed: gateway.models.len(),
                native: plan.native,
                catalog: self.catalog(),
                config: self.config(),
            })),
            Ok(false) => Ok(None),
            Err(error) => {
                if before.is_none() {
                    // As if nothing had been tried; what does not work now, `restore` does.
                    let others = plan.others.iter().filter_map(|(path, _)| plan.record.of(path));
                    let undone: Result<Vec<_>, _> =
                        others.map(|kept| self.put_back(kept)).collect();
                    drop(undone.map(|_| self.undo.forget()));
                }
                Err(error)
            }
        }
    }

    /// What is to be written, and the record of what there is. Copies of that are kept; nothing of Codex's
    /// is touched.
    fn plan(&self, gateway: &Gateway, before: Option<&Record>) -> Result<Plan, SetupError> {
        let Base { read, without } = self.base(before)?;
        let text = match &without {
            Some((bytes, _)) => self.text(bytes)?,
            None => "",
        };
        if wiring::is_taken(text).map_err(|error| self.no_toml(&error))? {
            return Err(SetupError::Taken(self.config()));
        }
        let wiring = Wiring {
            base_url: gateway.base_url.clone(),
            catalog: self.catalog().display().to_string(),
            login: self.is_logged_in(),
            websockets: gateway.websockets,
            key_variable: gateway.key_variable,
        };
        let (wired, former) = wiring::with(text, &wiring).map_err(|error| self.no_toml(&error))?;
        // What is there now becomes the same again without us, be it that we die right after.
        let now = read.as_ref().map(|(bytes, _)| undo::digest(bytes));
        let written = [now, Some(undo::digest(wired.as_bytes()))];
        let mut files = vec![self.kept(&self.config(), without, written)?];
        let (models, native) = merged(gateway);
        let mut others = Vec::new();
        for (path, bytes) in [(self.catalog(), models), (self.profile(), profile().into_bytes())] {
            if let Some(kept) = self.kept_of_ours(&path, &bytes, before)? {
                files.push(kept);
                others.push((path, bytes));
            }
        }
        let cache = match before.and_then(|before| before.of(&self.cache())) {
            Some(known) => self.original(known)?,
            None => undo::read(&self.cache()).map_err(at(&self.cache()))?,
        };
        files.push(self.kept(&self.cache(), cache, [None, None])?);
        Ok(Plan { read, wired, others, native, record: Record { former, files } })
    }

    /// What the record says of a file that is to hold these bytes; nothing if it is the user's.
    fn kept_of_ours(
        &self,
        path: &Path,
        bytes: &[u8],
        before: Option<&Record>,
    ) -> Result<Option<Kept>, SetupError> {
        let known = before.and_then(|before| before.of(path));
        let there = undo::read(path).map_err(at(path))?;
        let now = there.as_ref().map(|(bytes, _)| undo::digest(bytes));
        let ours = now.filter(|now| known.is_some_and(|known| known.written.contains(now)));
        // A profile that the user wrote, or changed, is the user's.
        if ours.is_none() && there.is_some() && path == self.profile() {
            return Ok(None);
        }
        let original = match known {
            Some(known) => self.original(known)?,
            None => there,
        };
        self.kept(path, original, [ours, Some(undo::digest(bytes))]).map(Some)
    }

    /// Writes it all, the config last, since it is what counts; `false` if that changed meanwhile.
    fn carry_out(&self, plan: &Plan) -> Result<bool, SetupError> {
        for (path, bytes) in &plan.others {
            self.put(path, bytes)?;
        }
        let config = self.config();
        if undo::read(&config).map_err(at(&config))? != plan.read {
            return Ok(false);
        }
        self.put(&config, plan.wired.as_bytes()).map(|()| true)
    }

    fn put(&self, path: &Path, bytes: &[u8]) -> Result<(), SetupError> {
        let mode = undo::read(path).ok().flatten().map_or(0o600, |(_, mode)| mode);
        undo::replace(path, bytes, mode).map_err(at(path))
    }

    /// Takes ocx out of Codex: its files are as they were, but for what the user changed since. Tells
    /// whether there was anything to do.
    ///
    /// # Errors
    ///
    /// When that is not possible; it can be tried again.
    pub fn restore(&self) -> Result<bool, SetupError> {
        let _lock = self.hold()?;
        self.sweep();
        let record = self.record()?;
        let mut changed = None;
        for _ in 0..MAX_TRIES {
            let Base { read, without } = match self.base(record.as_ref()) {
                // It is not ours to say what is wrong with a file that we are not in.
                Err(SetupError::Toml { .. }) if record.is_none() => return Ok(false),
                base => base?,
            };
            // First: from here on Codex is without us.
            let config = self.config();
            if undo::read(&config).map_err(at(&config))? == read {
                changed = Some(write_back(&config, without)?);
                break;
            }
        }
        let changed = changed.ok_or_else(|| SetupError::Busy(self.config()))?;
        let had_record = record.is_some();
        match record {
            Some(record) => {
                for kept in record.files.iter().filter(|kept| kept.path != self.config()) {
                    self.put_back(kept)?;
                }
            }
            // Our record is lost; what is by its name ours goes.
            None if changed => {
                undo::remove(&self.catalog()).map_err(at(&self.catalog()))?;
                if fs::read(self.profile()).is_ok_and(|bytes| bytes == profile().as_bytes()) {
                    undo::remove(&self.profile()).map_err(at(&self.profile()))?;
                }
            }
            None => {}
        }
        self.undo.forget().map_err(at(self.undo.dir()))?;
        Ok(changed || had_record)
    }

    /// Makes a file what it was, unless the user changed it since.
    fn put_back(&self, kept: &Kept) -> Result<bool, SetupError> {
        let there = undo::read(&kept.path).map_err(at(&kept.path))?;
        let is_ours = there.as_ref().is_none_or(|(bytes, _)| {
            kept.written.is_empty() || kept.written.contains(&undo::digest(bytes))
        });
        if is_ours { write_back(&kept.path, self.original(kept)?) } else { Ok(false) }
    }

    fn sweep(&self) {
        undo::sweep(&self.home);
        // A config that is a link is written where it leads to.
        if let Some(dir) = undo::target(&self.config()).parent() {
            undo::sweep(dir);
        }
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
        let doc = toml::from_str::<toml::Table>(text.trim_start_matches('\u{feff}'));
        let problem = doc.as_ref().err().map(|error| {
            format!("{} is no TOML: {}", config.display(), error.to_string().trim_end())
        });
        let doc = doc.unwrap_or_default();
        let ours = doc.get("model_providers").and_then(|all| all.get(wiring::PROVIDER));
        let base_url = ours.and_then(|ours| ours.get("base_url")).and_then(|url| url.as_str());
        let catalog = fs::read(self.catalog()).unwrap_or_default();
        Ok(Status {
            codex_home: self.home.clone(),
            installed: doc.get("model_provider").and_then(|it| it.as_str())
                == Some(wiring::PROVIDER)
                && ours.is_some(),
            login: ours.and_then(|ours| ours.get("requires_openai_auth"))
                == Some(&toml::Value::Boolean(true)),
            recorded: self.record()?.is_some(),
            restorable: self.record()?.is_some() || self.is_in(&text).unwrap_or(false),
            models: rows(&catalog).len(),
            base_url: base_url.map(str::to_owned),
            problem,
        })
    }

    fn record(&self) -> Result<Option<Record>, SetupError> {
        self.undo.read().map_err(at(self.undo.dir()))
    }

    fn is_in(&self, text: &str) -> Result<bool, SetupError> {
        let catalog = self.catalog().display().to_string();
        wiring::is_in(text, &catalog).map_err(|error| self.no_toml(&error))
    }

    /// `config.toml` as it is, and without us: with whatever the user changed since.
    fn base(&self, record: Option<&Record>) -> Result<Base, SetupError> {
        let path = self.config();
        let read = undo::read(&path).map_err(at(&path))?;
        let Some((bytes, mode)) = read.clone() else {
            return Ok(Base { read, without: None });
        };
        if let Some(kept) = record.and_then(|record| record.of(&path)) {
            let original = self.original(kept)?;
            let is_original = original.as_ref().is_some_and(|(original, _)| *original == bytes);
            if is_original || kept.written.contains(&undo::digest(&bytes)) {
                return Ok(Base { read, without: original });
            }
        }
        let text = self.text(&bytes)?;
        if !self.is_in(text)? {
            return Ok(Base { without: read.clone(), read });
        }
        let former = record.map(|record| &record.former);
        let catalog = self.catalog().display().to_string();
        let without = wiring::without(text, &catalog, former);
        let without = without.map_err(|error| self.no_toml(&error))?.into_bytes();
        Ok(Base { read, without: Some((without, mode)) })
    }

    fn original(&self, kept: &Kept) -> Result<Option<(Vec<u8>, u32)>, SetupError> {
        let copy = kept.copy.as_ref().map(|copy| self.undo.copy(copy)).transpose();
        Ok(copy.map_err(at(self.undo.dir()))?.map(|bytes| (bytes, kept.mode)))
    }

    /// What the record says of a file: what it was, and what we write into it.
    fn kept(
        &self,
        path: &Path,
        original: Option<(Vec<u8>, u32)>,
        written: [Option<String>; 2],
    ) -> Result<Kept, SetupError> {
        let mode = original.as_ref().map_or(0o600, |(_, mode)| *mode);
        let copy = original.map(|(bytes, _)| self.undo.keep(&bytes)).transpose();
        let copy = copy.map_err(at(self.undo.dir()))?;
        let written = written.into_iter().flatten().collect();
        Ok(Kept { path: path.to_owned(), copy, mode, written })
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

/// What an install writes.
struct Plan {
    /// `config.toml` as it was read.
    read: Option<(Vec<u8>, u32)>,
    /// And as it will be.
    wired: String,
    /// The other files.
    others: Vec<(PathBuf, Vec<u8>)>,
    /// Codex's own models in the catalogue.
    native: usize,
    record: Record,
}

/// `config.toml`, bytes and mode, as it is and as it is without us.
struct Base {
    read: Option<(Vec<u8>, u32)>,
    without: Option<(Vec<u8>, u32)>,
}

fn profile() -> String {
    format!(
        "# Written by `ocx codex install`: for `codex --profile {0}`.\nmodel_provider = \"{0}\"\n",
        wiring::PROVIDER
    )
}

/// A directory by one name, however it is written and whether it is there or not.
fn one_name(dir: &Path) -> PathBuf {
    let dir = std::path::absolute(dir).unwrap_or_else(|_| dir.to_owned());
    for known in dir.ancestors() {
        if let (Ok(real), Ok(rest)) = (fs::canonicalize(known), dir.strip_prefix(known)) {
            return real.join(rest).components().collect();
        }
    }
    dir
}

/// Makes a file what it was; whether that changed anything. A mode that the user changed stays.
fn write_back(path: &Path, original: Option<(Vec<u8>, u32)>) -> Result<bool, SetupError> {
    let now = undo::read(path).map_err(at(path))?;
    let same = |one: &Option<(Vec<u8>, u32)>| one.as_ref().map(|(bytes, _)| bytes.clone());
    if same(&now) == same(&original) {
        return Ok(false);
    }
    match (original, now) {
        (Some((bytes, _)), Some((_, mode))) | (Some((bytes, mode)), None) => {
            undo::replace(path, &bytes, mode)
        }
        (None, _) => undo::remove(path),
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

/// The complete models of a document: one that is not makes Codex reject the whole catalogue.
fn complete(document: &[u8]) -> Vec<Value> {
    let is_complete = |row: &Value| {
        row["slug"].is_string()
            && (row["base_instructions"].is_string()
                || row["model_messages"]["instructions_template"].is_string())
    };
    rows(document).into_iter().filter(is_complete).collect()
}

/// Those that Codex knows by itself, and not from a gateway.
pub fn native(document: &[u8]) -> Vec<Value> {
    let models = complete(document).into_iter();
    models.filter(|row| row["slug"].as_str().is_some_and(|slug| !slug.contains('/'))).collect()
}

/// The catalogue: Codex's own models first, then those of the gateway. And how many are Codex's own.
fn merged(gateway: &Gateway) -> (Vec<u8>, usize) {
    let slugs: HashSet<&str> =
        gateway.models.iter().filter_map(|row| row["slug"].as_str()).collect();
    let native: Vec<Value> = gateway
        .native
        .iter()
        .filter(|row| row["slug"].as_str().is_some_and(|slug| !slugs.contains(slug)))
        .map(|row| {
            let mut row = row.clone();
            let slug = row["slug"].as_str().unwrap_or_default();
            if let Some(priority) = catalog::featured(slug, &gateway.subagent_models) {
                row["priority"] = priority.into();
            }
            row
        })
        .collect();
    let count = native.len();
    let models: Vec<&Value> = native.iter().chain(&gateway.models).collect();
    (serde_json::json!({ "models": models }).to_string().into_bytes(), count)
}

#[cfg(test)]
mod tests;
