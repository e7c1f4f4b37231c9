//! Changes to `config.json` that commands make: as small as can be, everything else byte for byte.

use std::{
    fs::{self, File},
    io::{self, Write as _},
    os::unix::fs::{DirBuilderExt as _, PermissionsExt as _},
    path::{Path, PathBuf},
};

use serde_json::value::RawValue;
use tempfile::NamedTempFile;

use crate::wire::json::RawObject;

/// How often a change that somebody else makes at the same time is met before we give up.
const MAX_TRIES: usize = 5;

/// Who may read a config file that was changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Readers {
    /// Those who might before; of a new file its owner.
    AsBefore,
    /// Its owner alone: it holds a key now.
    Owner,
}

/// Changes a config file: `change` gets its text, and gives what it should be, or nothing to leave it.
/// Commands do so one after the other, and what an editor saves meanwhile is changed, not replaced.
/// Tells whether it was changed.
///
/// # Errors
///
/// When `change` fails, or the file cannot be read or written; in words.
pub fn edit(
    path: &Path,
    readers: Readers,
    mut change: impl FnMut(&str) -> Result<Option<String>, String>,
) -> Result<bool, String> {
    let told = |error: io::Error| format!("{}: {error}", path.display());
    let path = &target(path);
    let dir = path.parent().filter(|dir| !dir.as_os_str().is_empty()).unwrap_or(Path::new("."));
    match fs::DirBuilder::new().recursive(true).mode(0o700).create(dir) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(told(error)),
        _ => {}
    }
    // The directory, so that no other file is left in it.
    let lock = File::open(dir).map_err(told)?;
    lock.lock().map_err(told)?;
    for _ in 0..MAX_TRIES {
        let before = text(path).map_err(told)?;
        let whole = before.as_deref().unwrap_or(NEW);
        // Some editors write one; it stays.
        let (mark, rest) = match whole.strip_prefix(BOM) {
            Some(rest) => (BOM, rest),
            None => ("", whole),
        };
        let Some(after) = change(rest)? else { return Ok(false) };
        let written = prepared(path, dir, readers, &format!("{mark}{after}")).map_err(told)?;
        if text(path).map_err(told)? == before {
            written.persist(path).map_err(|error| told(error.error))?;
            return Ok(true);
        }
    }
    Err(format!("{} changes while it is being changed; try again", path.display()))
}

/// The byte order mark.
const BOM: &str = "\u{feff}";

/// Links that lead to links.
const MAX_LINKS: usize = 16;

/// The file that a link leads to, which need not exist: a link stays one.
fn target(path: &Path) -> PathBuf {
    let mut path = path.to_owned();
    for _ in 0..MAX_LINKS {
        let Ok(next) = fs::read_link(&path) else { break };
        path = path.parent().unwrap_or(Path::new(".")).join(next);
    }
    path
}

/// What a config is that nobody wrote yet.
const NEW: &str = "{\n}\n";

/// What a file says; nothing if there is none, or nobody wrote anything into it.
fn text(path: &Path) -> io::Result<Option<String>> {
    match fs::read_to_string(path) {
        Ok(text) => Ok(Some(text).filter(|text| !text.trim().is_empty())),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

/// A file beside another, to replace it whole: old or new, never a half. A new one is private.
fn prepared(path: &Path, dir: &Path, readers: Readers, text: &str) -> io::Result<NamedTempFile> {
    let mut file = tempfile::Builder::new().prefix(".config-").tempfile_in(dir)?;
    file.write_all(text.as_bytes())?;
    if let Ok(meta) = fs::metadata(path) {
        // A file of its own begins private, as one that may hold keys should.
        let mode = meta.permissions().mode();
        let mode = if readers == Readers::Owner { mode & 0o600 } else { mode };
        file.as_file().set_permissions(fs::Permissions::from_mode(mode))?;
    }
    file.as_file().sync_data()?;
    Ok(file)
}

/// Adds a provider that the registry knows, unless the file has one of this name. Tells whether it was
/// added.
///
/// # Errors
///
/// When the file is there and is no config, or cannot be written; in words.
pub fn add_provider(path: &Path, id: &str) -> Result<bool, String> {
    edit(path, Readers::AsBefore, |text| {
        with_provider(text, id, "{}").map_err(|error| error.to_string())
    })
}

/// The text of a config file with a provider of these fields (a JSON object); nothing if there is one of
/// this name already.
///
/// # Errors
///
/// When the text is no config.
pub fn with_provider(
    text: &str,
    id: &str,
    fields: &str,
) -> Result<Option<String>, serde_json::Error> {
    let root = object(text)?;
    let entry = format!("{}: {fields}", serde_json::to_string(id)?);
    let Some(providers) = root.get("providers") else {
        // Without the field there is `openai`, which should stay.
        let also = if id == "openai" { "" } else { "\"openai\": {}, " };
        let field = format!("\"providers\": {{ {also}{entry} }}");
        return Ok(Some(spliced(text, text, &root, &field)));
    };
    let known = object(providers.get())?;
    if known.get(id).is_some() {
        return Ok(None);
    }
    Ok(Some(spliced(text, providers.get(), &known, &entry)))
}

/// The text of a config file as [`edit`] would give it; for a look before a change.
///
/// # Errors
///
/// When it cannot be read.
pub fn current(path: &Path) -> io::Result<String> {
    let text = text(path)?.unwrap_or_else(|| NEW.to_owned());
    Ok(text.strip_prefix(BOM).map(str::to_owned).unwrap_or(text))
}

fn object(json: &str) -> Result<RawObject<'_>, serde_json::Error> {
    serde_json::from_str(json)
}

/// The text of a config file without a provider; nothing if there is none of this name.
///
/// # Errors
///
/// When the text is no config.
pub fn without_provider(text: &str, id: &str) -> Result<Option<String>, serde_json::Error> {
    let Some(providers) = object(text)?.get("providers") else { return Ok(None) };
    let entries = object(providers.get())?.0;
    let Some(n) = entries.iter().position(|(name, _)| name == id) else { return Ok(None) };
    // From the end of what is before it, comma and space included, so that what follows stays as it is.
    let end = ends(text, entries[n].1);
    let open = at(text, providers.get()) + 1;
    let (start, end) = match (n.checked_sub(1), entries.get(n + 1)) {
        (Some(before), _) => (ends(text, entries[before].1), end),
        (None, Some(_)) => (open, end + text[end..].find(',').map_or(0, |comma| comma + 1)),
        (None, None) => (open, end),
    };
    Ok(Some(format!("{}{}", &text[..start], &text[end..])))
}

/// The text of a config file with a field of a provider set to a JSON value; nothing if there is no
/// such provider.
///
/// # Errors
///
/// When the text is no config.
pub fn with_provider_field(
    text: &str,
    id: &str,
    field: &str,
    value: &str,
) -> Result<Option<String>, serde_json::Error> {
    let Some(providers) = object(text)?.get("providers") else { return Ok(None) };
    let Some(provider) = object(providers.get())?.get(id) else { return Ok(None) };
    let fields = object(provider.get())?;
    let Some(old) = fields.get(field) else {
        let added = format!("{}: {value}", serde_json::to_string(field)?);
        return Ok(Some(spliced(text, provider.get(), &fields, &added)));
    };
    let start = at(text, old.get());
    Ok(Some(format!("{}{value}{}", &text[..start], &text[start + old.get().len()..])))
}

/// Where a raw value ends.
fn ends(text: &str, value: &RawValue) -> usize {
    at(text, value.get()) + value.get().len()
}

/// Where a raw value begins: it is a slice of the text that it was read from.
fn at(text: &str, raw: &str) -> usize {
    raw.as_ptr() as usize - text.as_ptr() as usize
}

/// The text with a field added at the end of one of its objects, whose entries these are: order means
/// something in a config. It is laid out as the field before it.
fn spliced(text: &str, object: &str, entries: &RawObject<'_>, field: &str) -> String {
    let start = at(text, object);
    let (open, close) =
        (object.find('{').unwrap_or_default(), object.rfind('}').unwrap_or_default());
    let inside = object.get(open + 1..close).unwrap_or_default();
    let end = start + open + 1 + inside.trim_end().len();
    let (comma, before, after) = match entries.0.as_slice() {
        [] => {
            let (before, after) = layout(text, inside);
            ("", before, after)
        }
        [_] => (",", space(inside).to_owned(), ""),
        [.., last, _] => {
            let rest = text.get(ends(text, last.1)..).unwrap_or_default();
            let rest = rest.trim_start().strip_prefix(',').unwrap_or_default();
            (",", space(rest).to_owned(), "")
        }
    };
    format!("{}{comma}{before}{field}{after}{}", &text[..end], &text[end..])
}

/// The white space that a text begins with.
fn space(text: &str) -> &str {
    &text[..text.len() - text.trim_start().len()]
}

/// What goes before and after the first field of an object, from what is between its braces.
fn layout(text: &str, inside: &str) -> (String, &'static str) {
    let Some((_, outer)) = inside.rsplit_once('\n') else {
        return (" ".to_owned(), if inside.is_empty() { " " } else { "" });
    };
    let end = if inside.contains("\r\n") { "\r\n" } else { "\n" };
    let indent = if text.contains("\n\t") { "\t" } else { "  " };
    (format!("{end}{outer}{indent}"), "")
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_provider_is_added_and_every_other_byte_stays() {
        let with = |text: &str| with_provider(text, "xai", "{}").unwrap();
        let text = "{\n  \"port\": 1,\n  \"providers\": {\n    \"ollama\": {}\n  }\n}\n";
        let expected =
            "{\n  \"port\": 1,\n  \"providers\": {\n    \"ollama\": {},\n    \"xai\": {}\n  }\n}\n";
        assert_eq!(with(text).as_deref(), Some(expected));
        assert_eq!(with(expected), None, "it is there");
        for text in ["{}", "{\"port\": 1}", "{\"providers\": {}}", "{\n}\n"] {
            let changed = with(text).unwrap();
            let value: serde_json::Value = serde_json::from_str(&changed).unwrap();
            assert_eq!(value["providers"]["xai"], serde_json::json!({}), "{changed}");
            assert_eq!(value["providers"].get("openai").is_some(), !text.contains("providers"));
        }
        assert!(with_provider("[]", "xai", "{}").is_err());
        for (text, laid_out) in [
            ("{\n}\n", "{\n  \"providers\": { \"openai\": {}, \"xai\": {} }\n}\n"),
            ("{\"port\": 1}", "{\"port\": 1,\"providers\": { \"openai\": {}, \"xai\": {} }}"),
            (
                "{\r\n\t\"port\": 1,\r\n\t\"providers\": {\r\n\t}\r\n}",
                "{\r\n\t\"port\": 1,\r\n\t\"providers\": {\r\n\t\t\"xai\": {}\r\n\t}\r\n}",
            ),
            (
                "{ \"providers\": { \"a\": {}, \"b\": {} } }",
                "{ \"providers\": { \"a\": {}, \"b\": {}, \"xai\": {} } }",
            ),
        ] {
            assert_eq!(with(text).as_deref(), Some(laid_out));
        }
    }

    #[test]
    fn a_provider_is_taken_out_and_every_other_byte_stays() {
        let text = |inside: &str| format!("{{\r\n  \"providers\": {{{inside}}}, \"port\": 1 }}");
        let all = "\r\n    \"a\": {\"x\": \",}\"} ,\r\n\t\"b\\u0062\" : {},\r\n    \"c\": {}\r\n  ";
        let gone = |from: &str, id: &str| without_provider(from, id).unwrap();
        for (id, left) in [
            ("a", "\r\n\t\"b\\u0062\" : {},\r\n    \"c\": {}\r\n  "),
            ("bb", "\r\n    \"a\": {\"x\": \",}\"},\r\n    \"c\": {}\r\n  "),
            ("c", "\r\n    \"a\": {\"x\": \",}\"} ,\r\n\t\"b\\u0062\" : {}\r\n  "),
        ] {
            assert_eq!(gone(&text(all), id), Some(text(left)), "{id}");
        }
        assert_eq!(gone(&text(" \"a\": {} "), "a"), Some(text(" ")));
        assert_eq!(gone(&text(all), "d"), None);
        assert_eq!(gone("{}", "a"), None);
    }

    #[test]
    fn a_field_of_a_provider_is_set_in_its_place() {
        let with = |text: &str| with_provider_field(text, "p", "f", "[1]").unwrap();
        let text =
            |provider: &str| format!("{{\"providers\": {{\"o\": {{}}, \"p\": {provider}}}}}\n");
        for (before, after) in [
            ("{}", "{ \"f\": [1] }"),
            (
                "{\r\n\t\"a\": 1,\r\n\t\"b\": 2\r\n}",
                "{\r\n\t\"a\": 1,\r\n\t\"b\": 2,\r\n\t\"f\": [1]\r\n}",
            ),
            ("{ \"a\": 1 }", "{ \"a\": 1, \"f\": [1] }"),
            ("{ \"f\": [ ], \"a\": 1 }", "{ \"f\": [1], \"a\": 1 }"),
        ] {
            assert_eq!(with(&text(before)), Some(text(after)));
        }
        assert_eq!(with("{\"providers\": {}}"), None);
    }

    #[test]
    fn changes_at_once_are_all_made_and_an_editors_too() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("config.json");
        std::thread::scope(|scope| {
            for n in 0..8 {
                let path = &path;
                scope.spawn(move || assert!(add_provider(path, &format!("p{n}")).unwrap()));
            }
        });
        let text = fs::read_to_string(&path).unwrap();
        assert!((0..8).all(|n| text.contains(&format!("\"p{n}\""))), "{text}");
        // Somebody saves between our look and our write.
        let mut looked = 0;
        let changed = edit(&path, Readers::AsBefore, |text| {
            looked += 1;
            if looked == 1 {
                fs::write(&path, "{\"port\": 7}").unwrap();
            }
            with_provider(text, "xai", "{}").map_err(|error| error.to_string())
        });
        assert_eq!((changed, looked), (Ok(true), 2));
        let text = fs::read_to_string(&path).unwrap();
        assert!(
            text.contains("\"port\": 7") && text.contains("xai") && !text.contains("p0"),
            "{text}"
        );
    }

    #[test]
    fn t50_a_new_file_is_private_and_an_old_one_keeps_its_mode() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("home").join("config.json");
        assert!(add_provider(&path, "kimi").unwrap());
        let mode = || fs::metadata(&path).unwrap().permissions().mode() & 0o777;
        assert_eq!(mode(), 0o600);
        fs::set_permissions(&path, fs::Permissions::from_mode(0o640)).unwrap();
        assert!(add_provider(&path, "xai").unwrap());
        assert!(!add_provider(&path, "xai").unwrap());
        assert_eq!(mode(), 0o640);
        let keyed = edit(&path, Readers::Owner, |text| {
            with_provider(text, "keyed", "{}").map_err(|error| error.to_string())
        });
        assert_eq!((keyed, mode()), (Ok(true), 0o600));
        let home = fs::metadata(path.parent().unwrap()).unwrap().permissions().mode() & 0o777;
        assert_eq!(home, 0o700);
        let (dangling, behind) = (dir.path().join("dangling.json"), dir.path().join("behind.json"));
        std::os::unix::fs::symlink("behind.json", &dangling).unwrap();
        assert!(add_provider(&dangling, "xai").unwrap());
        assert!(fs::symlink_metadata(&dangling).unwrap().is_symlink() && behind.exists());
        fs::write(&behind, "\u{feff}{\"providers\": {\"a\": {}}}").unwrap();
        assert!(add_provider(&behind, "xai").unwrap());
        let text = fs::read_to_string(&behind).unwrap();
        assert_eq!(text, "\u{feff}{\"providers\": {\"a\": {},\"xai\": {}}}");
        let link = dir.path().join("link.json");
        std::os::unix::fs::symlink(&path, &link).unwrap();
        assert!(add_provider(&link, "anthropic").unwrap());
        assert!(fs::symlink_metadata(&link).unwrap().is_symlink());
        assert!(fs::read_to_string(&path).unwrap().contains("anthropic"));
    }

    proptest! {
        #[test]
        fn p_what_is_added_can_be_taken_out_again_whatever_the_layout(
            space in proptest::collection::vec("[ \t\r\n]{0,3}", 8),
            names in proptest::collection::btree_set("[a-y]{1,4}", 0..4),
            value in r#"\{("a": "[},{ü ]{0,4}")?\}"#,
        ) {
            let entry = |(n, name): (usize, &String)| {
                let around = |k: usize| &space[(n + k) % space.len()];
                format!("{}\"{name}\"{}:{}{value}{}", around(0), around(1), around(2), around(3))
            };
            let entries: Vec<String> = names.iter().enumerate().map(entry).collect();
            let text = format!(
                "{}{{{}\"port\"{}: 1,{}\"providers\":{}{{{}}}{}}}",
                space[0], space[1], space[2], space[3], space[4], entries.join(","), space[5]
            );
            let read = |text: &str| serde_json::from_str::<serde_json::Value>(text).unwrap();
            let with = with_provider(&text, "zz", &value).unwrap().unwrap();
            let mut expected = read(&text);
            expected["providers"]["zz"] = read(&value);
            prop_assert_eq!(read(&with), expected);
            let keys = |text: &str| {
                let read = read(text);
                read["providers"].as_object().unwrap().keys().cloned().collect::<Vec<_>>()
            };
            let last = keys(&with).pop();
            prop_assert_eq!(last.as_deref(), Some("zz"), "order counts");
            let without = without_provider(&with, "zz").unwrap().unwrap();
            prop_assert_eq!(read(&without), read(&text));
            if !names.is_empty() {
                prop_assert_eq!(without, text.clone(), "every other byte stays");
            }
            let set = with_provider_field(&with, "zz", "f", "[1]").unwrap().unwrap();
            prop_assert_eq!(&read(&set)["providers"]["zz"]["f"], &serde_json::json!([1]));
        }
    }
}
