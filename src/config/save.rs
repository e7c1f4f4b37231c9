//! Changes to `config.json` that commands make: as small as can be, everything else byte for byte.

use std::{
    fs, io,
    io::Write as _,
    os::unix::fs::{DirBuilderExt as _, PermissionsExt as _},
    path::Path,
};

use serde_json::value::RawValue;

use super::paths::tighten;
use crate::wire::json::RawObject;

/// Adds a provider that the registry knows, unless the file has one of this name. Tells whether it was
/// added.
///
/// # Errors
///
/// When the file is there and is no config, or cannot be written.
pub fn add_provider(path: &Path, id: &str) -> io::Result<bool> {
    match with_provider(path, id, "{}")? {
        Some(changed) => save(path, &changed).map(|()| true),
        None => Ok(false),
    }
}

/// The text of a config file with a provider of these fields (a JSON object); nothing if there is one of
/// this name already. Nothing is written.
///
/// # Errors
///
/// When the file is there and is no config.
pub fn with_provider(path: &Path, id: &str, fields: &str) -> io::Result<Option<String>> {
    let text = match fs::read_to_string(path) {
        // Nobody wrote anything into it yet.
        Ok(text) if text.trim().is_empty() => "{\n}\n".to_owned(),
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => "{\n}\n".to_owned(),
        Err(error) => return Err(error),
    };
    added(&text, id, fields).map_err(io::Error::other)
}

/// The text of a config file without a provider; nothing if there is none of this name. Nothing is
/// written.
///
/// # Errors
///
/// When the file cannot be read or is no config.
pub fn without_provider(path: &Path, id: &str) -> io::Result<Option<String>> {
    let text = fs::read_to_string(path)?;
    removed(&text, id).map_err(io::Error::other)
}

/// The text of a config file with a field of a provider set to a JSON value; nothing if there is no
/// such provider. Nothing is written.
///
/// # Errors
///
/// When the file cannot be read or is no config.
pub fn with_provider_field(
    path: &Path,
    id: &str,
    field: &str,
    value: &str,
) -> io::Result<Option<String>> {
    let text = fs::read_to_string(path)?;
    set(&text, id, field, value).map_err(io::Error::other)
}

fn object(json: &str) -> Result<RawObject<'_>, serde_json::Error> {
    serde_json::from_str(json)
}

fn removed(text: &str, id: &str) -> Result<Option<String>, serde_json::Error> {
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

fn set(
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

fn added(text: &str, id: &str, fields: &str) -> Result<Option<String>, serde_json::Error> {
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

/// Replaces a config file whole: old or new, never a half. A new one is private.
///
/// # Errors
///
/// When it cannot be written.
pub fn save(path: &Path, text: &str) -> io::Result<()> {
    // A link stays one: what it leads to is written.
    let path = &fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
    let dir = path.parent().filter(|dir| !dir.as_os_str().is_empty()).unwrap_or(Path::new("."));
    match fs::DirBuilder::new().recursive(true).mode(0o700).create(dir) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
        _ => {}
    }
    let mut file = tempfile::Builder::new().prefix(".config-").tempfile_in(dir)?;
    file.write_all(text.as_bytes())?;
    if let Ok(meta) = fs::metadata(path) {
        // A file of its own begins private, as one that may hold keys should.
        file.as_file().set_permissions(fs::Permissions::from_mode(meta.permissions().mode()))?;
    }
    file.as_file().sync_data()?;
    file.persist(path).map_err(|error| error.error)?;
    Ok(())
}

/// Takes away whatever others than its owner may do with a file: it holds a key now.
///
/// # Errors
///
/// When its mode cannot be changed.
pub fn make_private(path: &Path) -> io::Result<()> {
    tighten(path, 0o600)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_provider_is_added_and_every_other_byte_stays() {
        let with = |text: &str| added(text, "xai", "{}").unwrap();
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
        assert!(added("[]", "xai", "{}").is_err());
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
        let gone = |from: &str, id: &str| removed(from, id).unwrap();
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
        let with = |text: &str| set(text, "p", "f", "[1]").unwrap();
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
        make_private(&path).unwrap();
        assert_eq!(mode(), 0o600);
        let home = fs::metadata(path.parent().unwrap()).unwrap().permissions().mode() & 0o777;
        assert_eq!(home, 0o700);
        let link = dir.path().join("link.json");
        std::os::unix::fs::symlink(&path, &link).unwrap();
        assert!(add_provider(&link, "anthropic").unwrap());
        assert!(fs::symlink_metadata(&link).unwrap().is_symlink());
        assert!(fs::read_to_string(&path).unwrap().contains("anthropic"));
    }
}
