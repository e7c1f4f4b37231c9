//! Bytes → [`Config`], or every problem with its place.

use std::{collections::BTreeMap, fmt, fs, io, path::Path};

use serde::{Deserialize, Serialize, de::DeserializeOwned};
use serde_json::{Map, Value};
use sha2::{Digest as _, Sha256};

use super::{
    Config, ConfigFile, Env,
    build::{self, Findings},
    locate::{duplicate_keys, locate},
};
use crate::{
    registry::Quirks,
    wire::pointer::{self, escape},
};

/// The largest config we read, in bytes.
pub const MAX_FILE: u64 = 4 << 20;

/// After this many problems the rest are consequences.
const MAX_PROBLEMS: usize = 50;

/// A config that may run.
#[derive(Clone, Debug)]
pub struct Loaded {
    /// As used.
    pub config: Config,
    /// As written.
    pub file: ConfigFile,
    /// Digest of the bytes; `None` for the defaults, which no file holds.
    pub digest: Option<[u8; 32]>,
    /// What is odd but harmless, each with its place.
    pub warnings: Vec<ConfigProblem>,
}

/// One thing that is wrong with a config. The management API tells it in this form.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct ConfigProblem {
    /// JSON pointer; empty for the whole file.
    pub pointer: String,
    /// From 1; 0 if the file could not be read.
    pub line: usize,
    /// From 1, in characters; 0 if the file could not be read.
    pub column: usize,
    /// What is wrong and what to do.
    pub message: String,
}

/// Everything that is wrong with a config.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub struct ConfigProblems {
    /// The file, as it was named to us.
    pub path: String,
    /// At least one.
    pub problems: Vec<ConfigProblem>,
    unparsed: bool,
}

impl fmt::Display for ConfigProblem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.line > 0 {
            write!(f, "line {}, column {}", self.line, self.column)?;
            if !self.pointer.is_empty() {
                write!(f, ", at {}", self.pointer)?;
            }
            f.write_str(": ")?;
        }
        f.write_str(&self.message)
    }
}

impl fmt::Display for ConfigProblems {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (n, problem) in self.problems.iter().enumerate() {
            let end = if n == 0 { "" } else { "\n" };
            write!(f, "{end}{}: {problem}", self.path)?;
        }
        Ok(())
    }
}

impl ConfigProblems {
    fn unread(path: &Path, message: String) -> Self {
        let problem = ConfigProblem { message, ..ConfigProblem::default() };
        Self { path: path.display().to_string(), problems: vec![problem], unparsed: true }
    }

    /// Whether the file is no JSON, or could not be read at all, rather than a wrong config.
    pub fn is_syntax(&self) -> bool {
        self.unparsed
    }
}

/// Reads and checks a file. `Ok(None)` means that there is none.
///
/// # Errors
///
/// When the file cannot be read or may not run.
pub fn check_file(path: &Path, env: &Env<'_>) -> Result<Option<Loaded>, ConfigProblems> {
    let bytes = match read(path) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => {
            return Err(ConfigProblems::unread(path, format!("cannot be read: {error}")));
        }
    };
    check(&bytes, path, env).map(Some)
}

/// Reads a regular file of bounded size.
fn read(path: &Path) -> io::Result<Vec<u8>> {
    let meta = fs::metadata(path)?;
    if !meta.is_file() {
        return Err(io::Error::other("it is not a file"));
    }
    if meta.len() > MAX_FILE {
        return Err(io::Error::other(format!("it is larger than {MAX_FILE} bytes")));
    }
    fs::read(path)
}

/// Checks the bytes of a config; `path` only names them in messages.
///
/// # Errors
///
/// Every problem that keeps the config from running.
pub fn check(bytes: &[u8], path: &Path, env: &Env<'_>) -> Result<Loaded, ConfigProblems> {
    let named = |problems, unparsed| ConfigProblems {
        path: path.display().to_string(),
        problems,
        unparsed,
    };
    let text = std::str::from_utf8(bytes).map_err(|error| {
        ConfigProblems::unread(path, format!("is not UTF-8 after byte {}", error.valid_up_to()))
    })?;
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    if text.trim().is_empty() {
        return Err(ConfigProblems::unread(path, "is empty".to_owned()));
    }
    let root: Value = serde_json::from_str(text).map_err(|error| {
        let problem = ConfigProblem {
            line: error.line(),
            column: error.column(),
            message: format!("not valid JSON: {}", without_place(&error)),
            ..ConfigProblem::default()
        };
        named(vec![problem], true)
    })?;

    let mut findings = Findings::default();
    for pointer in duplicate_keys(text) {
        findings.problem(pointer, "this key is written twice; keep one");
    }
    let file = read_typed(root, &mut findings);
    warn_unknown(&file, &mut findings);
    let config = build::build(&file, env, &mut findings);

    let place = |(pointer, message): (String, String)| {
        let place = locate(text, &pointer);
        ConfigProblem { pointer, line: place.line, column: place.column, message }
    };
    let mut problems: Vec<_> = findings.problems.into_iter().map(place).collect();
    let mut warnings: Vec<_> = findings.warnings.into_iter().map(place).collect();
    problems.sort_by_key(|problem| (problem.line, problem.column));
    warnings.sort_by_key(|warning| (warning.line, warning.column));
    if !problems.is_empty() {
        return Err(named(problems, false));
    }
    Ok(Loaded { config, file, digest: Some(Sha256::digest(bytes).into()), warnings })
}

/// serde_json repeats the place, which we print in our own way.
fn without_place(error: &serde_json::Error) -> String {
    let text = error.to_string();
    text.split(" at line ").next().unwrap_or(&text).to_owned()
}

impl Loaded {
    /// What runs without any file.
    pub fn defaults(env: &Env<'_>) -> Self {
        let (file, mut findings) = (ConfigFile::default(), Findings::default());
        let config = build::build(&file, env, &mut findings);
        Self { config, file, digest: None, warnings: Vec::new() }
    }
}

/// Reads the typed file out of JSON. A value of the wrong type is noted and taken out, and the rest
/// is read again, so that one pass over a file names all that is wrong in it.
fn read_typed(mut root: Value, findings: &mut Findings) -> ConfigFile {
    let quirk_names = properties(&schemars::schema_for!(Quirks));
    if let Some(providers) = root.get_mut("providers").and_then(Value::as_object_mut) {
        for (id, provider) in providers.iter_mut() {
            let Some(fields) = provider.as_object_mut() else {
                continue;
            };
            let prefix = format!("/providers/{}", escape(id));
            check_quirks(fields, &quirk_names, &prefix, findings);
        }
    }
    strike_out(&mut root, "", findings)
}

/// Quirks are flattened into the provider, which hides their paths from serde; so they are read on
/// their own first.
fn check_quirks(
    fields: &mut Map<String, Value>,
    names: &[String],
    prefix: &str,
    findings: &mut Findings,
) {
    let quirks: Map<String, Value> = fields
        .iter()
        .filter(|(name, _)| names.contains(name))
        .map(|(name, value)| (name.clone(), value.clone()))
        .collect();
    let before: Vec<String> = quirks.keys().cloned().collect();
    let mut value = Value::Object(quirks);
    let _: Quirks = strike_out(&mut value, prefix, findings);
    for name in before {
        match value.get(&name) {
            Some(kept) => fields[&name] = kept.clone(),
            None => {
                fields.shift_remove(&name);
            }
        }
    }
}

fn strike_out<T: DeserializeOwned + Default>(
    value: &mut Value,
    prefix: &str,
    findings: &mut Findings,
) -> T {
    // Elements taken out of lists, by the list's pointer, so that later ones keep their number.
    let mut gone: BTreeMap<String, Vec<usize>> = BTreeMap::new();
    while findings.problems.len() < MAX_PROBLEMS {
        match serde_path_to_error::deserialize::<_, T>(&*value) {
            Ok(read) => return read,
            Err(error) => {
                let pointer = pointer::of_path(error.path());
                let last = error.path().iter().next_back();
                let written = match last {
                    Some(serde_path_to_error::Segment::Seq { index }) => {
                        as_written(&pointer, *index, &mut gone)
                    }
                    _ => pointer.clone(),
                };
                findings.problem(format!("{prefix}{written}"), error.inner().to_string());
                if pointer.is_empty() || !remove(value, &pointer) {
                    break;
                }
            }
        }
    }
    T::default()
}

/// The pointer, as the file has it, of an element of a list that lost some; it is lost next.
fn as_written(pointer: &str, index: usize, gone: &mut BTreeMap<String, Vec<usize>>) -> String {
    let list = pointer.rsplit_once('/').map_or("", |(list, _)| list);
    let gone = gone.entry(list.to_owned()).or_default();
    let mut written = index;
    for before in gone.iter() {
        written += usize::from(*before <= written);
    }
    gone.push(written);
    gone.sort_unstable();
    format!("{list}/{written}")
}

/// Takes out what a pointer names.
fn remove(value: &mut Value, pointer: &str) -> bool {
    let Some((parent, last)) = pointer.rsplit_once('/') else {
        return false;
    };
    let last = pointer::unescape(last);
    match value.pointer_mut(parent) {
        Some(Value::Object(object)) => object.shift_remove(&last).is_some(),
        Some(Value::Array(list)) => match last.parse::<usize>() {
            Ok(index) if index < list.len() => {
                list.remove(index);
                true
            }
            _ => false,
        },
        _ => false,
    }
}

fn warn_unknown(file: &ConfigFile, findings: &mut Findings) {
    let known = properties(&schemars::schema_for!(ConfigFile));
    for name in file.extra.keys() {
        findings.warning(format!("/{}", escape(name)), unknown(name, &known));
    }
    let known = properties(&schemars::schema_for!(super::ProviderFile));
    for (id, provider) in file.providers.iter().flatten() {
        for name in provider.extra.keys() {
            let pointer = format!("/providers/{}/{}", escape(id), escape(name));
            findings.warning(pointer, unknown(name, &known));
        }
    }
}

fn unknown(name: &str, known: &[String]) -> String {
    let best = known
        .iter()
        .map(|known| (strsim::damerau_levenshtein(name, known), known))
        .min_by_key(|(distance, _)| *distance);
    match best {
        Some((distance, known)) if distance <= 3 && distance < name.len() => {
            format!("unknown field, kept and ignored; did you mean `{known}`?")
        }
        _ => "unknown field, kept and ignored".to_owned(),
    }
}

/// The names of an object's fields, from its schema.
fn properties(schema: &schemars::Schema) -> Vec<String> {
    schema
        .get("properties")
        .and_then(Value::as_object)
        .map(|properties| properties.keys().cloned().collect())
        .unwrap_or_default()
}

/// The JSON Schema of `config.json`, for editors.
pub fn schema() -> Value {
    schemars::schema_for!(ConfigFile).to_value()
}

#[cfg(test)]
mod tests;
