//! `config.toml` of Codex with ocx in it, and without it again. Pure: text in, text out; whatever is not
//! ours stays as it is, down to its line ends.
//!
//! Source: what Codex CLI 0.169.0 reads (sections 1 and 9 of our protocol notes).

use serde::{Deserialize, Serialize};
use toml_edit::{Decor, DocumentMut, Item, Table, TomlError, Value};

/// What Codex knows us by.
pub const PROVIDER: &str = "opencodex";
const ROOT_PROVIDER: &str = "model_provider";
const CATALOG: &str = "model_catalog_json";
const PROVIDERS: &str = "model_providers";
const MARK: &str = "# Written by `ocx codex install`; `ocx restore` takes it away.";
/// Tells in the file itself what a value of ours stands for, should our own record get lost.
const WAS: &str = "# Was: ";

/// What is put into the file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wiring {
    /// Where the gateway is, with `/v1`.
    pub base_url: String,
    /// The model catalogue, an absolute path.
    pub catalog: String,
    /// Whether Codex sends its ChatGPT login; it refuses to run if it has none.
    pub login: bool,
    /// Whether Codex may use WebSocket.
    pub websockets: bool,
    /// The variable that holds a key of ours, where one is demanded.
    pub key_variable: Option<&'static str>,
}

/// Values of the user's that ours stand for, as TOML has them.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Former {
    /// Of `model_provider`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub model_provider: Option<String>,
    /// Of `model_catalog_json`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub model_catalog_json: Option<String>,
}

/// Whether a file without ocx in it has a provider of our name, which is then the user's own.
///
/// # Errors
///
/// When it is no TOML.
pub fn is_taken(text: &str) -> Result<bool, TomlError> {
    let (doc, _) = Lines::parse(text)?;
    Ok(doc.get(PROVIDERS).and_then(|providers| providers.get(PROVIDER)).is_some())
}

fn mark(former: &Former) -> String {
    let was = |key: &str, value: &Option<String>| {
        value.as_ref().map(|value| format!("{WAS}{key} = {value}\n")).unwrap_or_default()
    };
    let (provider, catalog) = (&former.model_provider, &former.model_catalog_json);
    format!("\n{MARK}\n{}{}", was(ROOT_PROVIDER, provider), was(CATALOG, catalog))
}

/// What [`mark`] told, out of the comments before our table; and the comments that are not ours.
fn unmark(prefix: &str) -> (Former, String) {
    let (mut former, mut others) = (Former::default(), String::new());
    for line in prefix.split_inclusive('\n') {
        let was = line.trim_end().strip_prefix(WAS).and_then(|was| was.split_once(" = "));
        match was {
            Some((ROOT_PROVIDER, value)) => former.model_provider = Some(value.to_owned()),
            Some((CATALOG, value)) => former.model_catalog_json = Some(value.to_owned()),
            _ if line.trim_end() == MARK => {}
            _ => others.push_str(line),
        }
    }
    (former, others)
}

/// A file without ocx in it, with it; and what that hides.
///
/// # Errors
///
/// When it is no TOML.
pub fn with(text: &str, wiring: &Wiring) -> Result<(String, Former), TomlError> {
    let (mut doc, lines) = Lines::parse(text)?;
    let former = Former {
        model_provider: put(&mut doc, ROOT_PROVIDER, PROVIDER),
        model_catalog_json: put(&mut doc, CATALOG, &wiring.catalog),
    };
    let mut table = Table::new();
    table.decor_mut().set_prefix(mark(&former));
    table["name"] = toml_edit::value("OpenCodex");
    table["base_url"] = toml_edit::value(&wiring.base_url);
    table["wire_api"] = toml_edit::value("responses");
    if wiring.login {
        table["requires_openai_auth"] = toml_edit::value(true);
    }
    if wiring.websockets {
        table["supports_websockets"] = toml_edit::value(true);
    }
    if let Some(variable) = wiring.key_variable {
        let mut headers = toml_edit::InlineTable::new();
        headers.insert("x-opencodex-api-key", variable.into());
        table["env_http_headers"] = toml_edit::value(headers);
    }
    let providers = doc.entry(PROVIDERS).or_insert_with(|| {
        let mut implicit = Table::new();
        implicit.set_implicit(true);
        Item::Table(implicit)
    });
    match providers.as_table_like_mut() {
        // Written as an inline table, it takes ours as one.
        Some(like) if providers_inline(like) => {
            like.insert(PROVIDER, Item::Value(Value::InlineTable(table.into_inline_table())));
        }
        Some(like) => drop(like.insert(PROVIDER, Item::Table(table))),
        None => {}
    }
    Ok((lines.restore(&doc.to_string()), former))
}

fn providers_inline(providers: &dyn toml_edit::TableLike) -> bool {
    // Only an inline table has no tables in it; an empty one can take either.
    !providers.is_empty() && providers.iter().all(|(_, item)| item.is_inline_table())
}

/// A file with ocx in it, without it.
///
/// # Errors
///
/// When it is no TOML.
pub fn without(text: &str, catalog: &str, former: Option<&Former>) -> Result<String, TomlError> {
    let (mut doc, lines) = Lines::parse(text)?;
    let mut told = Former::default();
    if let Some(providers) = doc.get_mut(PROVIDERS).and_then(Item::as_table_like_mut) {
        if let Some(Item::Table(ours)) = providers.remove(PROVIDER) {
            let (was, others) = unmark(prefix(ours.decor()));
            told = was;
            keep_comments(&mut doc, &others);
        }
        let implicit = doc[PROVIDERS].as_table().is_some_and(Table::is_implicit);
        if implicit && doc[PROVIDERS].as_table().is_some_and(Table::is_empty) {
            doc.remove(PROVIDERS);
        }
    }
    let former = former.unwrap_or(&told);
    take(&mut doc, ROOT_PROVIDER, PROVIDER, former.model_provider.as_deref());
    take(&mut doc, CATALOG, catalog, former.model_catalog_json.as_deref());
    Ok(lines.restore(&doc.to_string()))
}

/// Comments whose line goes stay at the end of the file.
fn keep_comments(doc: &mut DocumentMut, comments: &str) {
    if comments.contains('#') {
        let end = doc.trailing().as_str().unwrap_or("").to_owned();
        doc.set_trailing(format!("{end}{}", comments.trim_start_matches('\n')));
    }
}

/// Whether anything in a file is ours.
///
/// # Errors
///
/// When it is no TOML.
pub fn is_in(text: &str, catalog: &str) -> Result<bool, TomlError> {
    let (doc, _) = Lines::parse(text)?;
    Ok(text.contains(MARK)
        || is(&doc, CATALOG, catalog)
        || (is(&doc, ROOT_PROVIDER, PROVIDER) && !is_taken(text)?))
}

fn is(doc: &DocumentMut, key: &str, value: &str) -> bool {
    doc.get(key).and_then(Item::as_str) == Some(value)
}

/// Sets a key of the root; what it was before, unless that is the same.
fn put(doc: &mut DocumentMut, key: &str, value: &str) -> Option<String> {
    let former = doc.get(key).and_then(Item::as_value).filter(|_| !is(doc, key, value)).cloned();
    let mut new = Value::from(value);
    if let Some(former) = &former {
        *new.decor_mut() = former.decor().clone();
    }
    set(doc, key, new);
    former.map(|former| former.decorated("", "").to_string())
}

/// Sets a key, and leaves what stands around one that is there.
fn set(doc: &mut DocumentMut, key: &str, value: Value) {
    match doc.get_mut(key) {
        Some(item) => *item = Item::Value(value),
        None => drop(doc.insert(key, Item::Value(value))),
    }
}

/// Gives a key of the root its former value, if it still has ours.
fn take(doc: &mut DocumentMut, key: &str, ours: &str, former: Option<&str>) {
    if !is(doc, key, ours) {
        return;
    }
    match former.and_then(|former| former.parse::<Value>().ok()) {
        Some(mut former) => {
            if let Some(ours) = doc.get(key).and_then(Item::as_value) {
                *former.decor_mut() = ours.decor().clone();
            }
            set(doc, key, former);
        }
        None => remove(doc, key),
    }
}

/// Removes a key, and leaves the comments above it to the next one.
fn remove(doc: &mut DocumentMut, key: &str) {
    let next = doc.iter().map(|(key, _)| key.to_owned()).skip_while(|known| known != key).nth(1);
    let Some((removed, _)) = doc.remove_entry(key) else { return };
    let above = prefix(removed.leaf_decor());
    if !above.contains('#') {
        return;
    }
    let next = next.filter(|next| doc.get(next).is_some_and(Item::is_value));
    match next.as_ref().and_then(|next| doc.as_table_mut().key_mut(next)) {
        Some(mut key) => prepend(key.leaf_decor_mut(), above),
        None => before_first_table(doc, above),
    }
}

/// Puts comments before the first table, or at the end where there is none.
fn before_first_table(doc: &mut DocumentMut, comments: &str) {
    let first = doc
        .iter_mut()
        .filter_map(|(_, item)| item.as_table_mut())
        .find(|table| !table.is_implicit());
    match first {
        Some(table) => prepend(table.decor_mut(), comments),
        None => keep_comments(doc, comments),
    }
}

/// The comments and blank lines before something.
fn prefix(decor: &Decor) -> &str {
    decor.prefix().and_then(|prefix| prefix.as_str()).unwrap_or("")
}

fn prepend(decor: &mut Decor, comments: &str) {
    let all = format!("{comments}{}", prefix(decor));
    decor.set_prefix(all);
}

/// How the lines of a file end: toml_edit knows only one way.
struct Lines {
    bom: bool,
    /// The lines, without their ends, and whether each ends as on Windows.
    lines: Vec<(String, bool)>,
}

impl Lines {
    fn parse(text: &str) -> Result<(DocumentMut, Self), TomlError> {
        let (bom, text) = match text.strip_prefix('\u{feff}') {
            Some(text) => (true, text),
            None => (false, text),
        };
        let line = |line: &str| match line.strip_suffix('\r') {
            Some(line) => (line.to_owned(), true),
            None => (line.to_owned(), false),
        };
        let lines = text.split('\n').map(line).collect();
        Ok((text.replace("\r\n", "\n").parse()?, Self { bom, lines }))
    }

    /// Gives each line of a changed text the end that it had; new lines end as most do.
    fn restore(&self, text: &str) -> String {
        let windows = self.lines.iter().filter(|(_, windows)| *windows).count();
        let mostly = windows * 2 > self.lines.len().saturating_sub(1);
        let (before, after): (Vec<&str>, Vec<&str>) = (
            self.lines.iter().map(|(line, _)| line.as_str()).collect(),
            text.split('\n').collect(),
        );
        let mut ends = vec![mostly; after.len()];
        for change in similar::capture_diff_slices(similar::Algorithm::Myers, &before, &after) {
            // What is equal, and what stands for another line, ends as that did.
            let (_, old, new) = change.as_tag_tuple();
            for (old, new) in old.zip(new) {
                // What is after the last end has none.
                if old + 1 < self.lines.len() {
                    ends[new] = self.lines[old].1;
                }
            }
        }
        let mut restored = String::with_capacity(text.len() + windows + 3);
        if self.bom {
            restored.push('\u{feff}');
        }
        for (n, line) in after.iter().enumerate() {
            restored.push_str(line);
            if n + 1 < after.len() {
                restored.push_str(if ends[n] { "\r\n" } else { "\n" });
            }
        }
        restored
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const CATALOG_PATH: &str = "/home/you/.codex/opencodex-models.json";

    fn wiring() -> Wiring {
        Wiring {
            base_url: "http://127.0.0.1:10100/v1".to_owned(),
            catalog: CATALOG_PATH.to_owned(),
            login: true,
            websockets: false,
            key_variable: None,
        }
    }

    fn read(text: &str) -> toml::Table {
        toml::from_str(text.trim_start_matches('\u{feff}'))
            .unwrap_or_else(|e| panic!("{e}: {text}"))
    }

    const FILES: [&str; 9] = [
        "",
        "model = \"gpt-6-astra\"\n",
        "# mine\nmodel = 'm' # why\n\n[features]\nplugins = false # off\n",
        "model_provider = \"work\" # the company's\nmodel_catalog_json = '/else.json'\n\n[model_providers.work]\nname = \"w\"\nbase_url = \"https://w/v1\"\n\n[profiles.x]\nmodel_provider = \"work\"\n",
        "[model_providers]\n\n[model_providers.opencodex_backup]\nname = \"b\"\n",
        "model_providers.a = { name = \"a\", base_url = \"http://a/v1\" }\n[tui]\nx = 1\n# the end",
        "model_providers = { a = { name = \"a\" } }\n",
        "\u{feff}a = 1\n\n\n# comment before a table\n[b]\nc = 2\n",
        "[[mcp]]\nname = \"x\"\n[[mcp]]\nname = \"y\"",
    ];

    fn ends(text: &str, ends: &[bool]) -> String {
        let mut n = 0;
        text.split_inclusive('\n')
            .map(|line| {
                n += 1;
                match line.strip_suffix('\n') {
                    Some(line) if ends[n % ends.len()] => format!("{line}\r\n"),
                    _ => line.to_owned(),
                }
            })
            .collect()
    }

    #[test]
    fn it_goes_in_and_out_again_byte_for_byte() {
        for text in FILES {
            for pattern in [&[false][..], &[true], &[true, false], &[false, false, true]] {
                let text = ends(text, pattern);
                let (wired, former) = with(&text, &wiring()).unwrap();
                let doc = read(&wired);
                assert_eq!(doc["model_provider"].as_str(), Some(PROVIDER), "{wired}");
                assert_eq!(doc["model_catalog_json"].as_str(), Some(CATALOG_PATH));
                let ours = &doc["model_providers"][PROVIDER];
                assert_eq!(ours["base_url"].as_str(), Some("http://127.0.0.1:10100/v1"));
                assert_eq!(ours["requires_openai_auth"].as_bool(), Some(true));
                assert!(
                    is_in(&wired, CATALOG_PATH).unwrap() && !is_in(&text, CATALOG_PATH).unwrap()
                );
                let lost = without(&wired, CATALOG_PATH, None).unwrap();
                assert_eq!(read(&lost), read(&text), "the file itself tells, too: {wired}");
                let out = without(&wired, CATALOG_PATH, Some(&former)).unwrap();
                assert_eq!(read(&out), read(&text), "{out}");
                let stripped = |text: &str| text.trim_end_matches(['\r', '\n']).to_owned();
                assert_eq!(stripped(&out), stripped(&text), "{wired:?}");
                for line in text.lines().filter(|line| !line.contains("model_provider = ")) {
                    let lost = !line.contains("catalog") && !wired.contains(line);
                    assert!(!lost || line.starts_with("model_providers ="), "{line}: {wired}");
                }
            }
        }
    }

    #[test]
    fn what_the_user_changed_since_stays() {
        let (wired, former) = with(FILES[3], &wiring()).unwrap();
        let edited = wired.replace("[profiles.x]", "[profiles.new]\nmodel = \"n\"\n\n[profiles.x]");
        let out = without(&edited, CATALOG_PATH, Some(&former)).unwrap();
        let expected =
            FILES[3].replace("[profiles.x]", "[profiles.new]\nmodel = \"n\"\n\n[profiles.x]");
        assert_eq!(out, expected);
        // Another provider was chosen: that choice is the newer one.
        let chosen = wired.replace("model_provider = \"opencodex\"", "model_provider = \"other\"");
        assert!(without(&chosen, CATALOG_PATH, Some(&former)).unwrap().contains("\"other\""));
    }

    #[test]
    fn comments_that_the_user_put_above_our_lines_stay() {
        let (wired, former) = with("[tui]\nx = 1\n", &wiring()).unwrap();
        let edited = format!("# my notes\n{wired}")
            .replace("model_catalog_json", "# approval\nmodel_catalog_json")
            .replace(MARK, &format!("# other\n{MARK}"));
        let out = without(&edited, CATALOG_PATH, Some(&former)).unwrap();
        for comment in ["# my notes", "# approval", "# other"] {
            assert!(out.contains(comment), "{comment}: {out}");
        }
        assert!(!out.contains("opencodex") && !out.contains(MARK), "{out}");
        assert_eq!(read(&out), read("[tui]\nx = 1\n"));
    }

    #[test]
    fn what_is_not_ours_is_told_apart() {
        let own = "[model_providers.opencodex]\nname = \"mine\"\n";
        assert!(is_taken(own).unwrap() && !is_in(own, CATALOG_PATH).unwrap());
        let half = format!("model_catalog_json = {CATALOG_PATH:?}\n");
        assert!(is_in(&half, CATALOG_PATH).unwrap());
        assert_eq!(without(&half, CATALOG_PATH, None).unwrap(), "");
        assert!(is_in("[half", CATALOG_PATH).is_err());
    }

    proptest! {
        #[test]
        fn any_file_of_simple_parts_survives(
            parts in proptest::collection::vec(
                prop_oneof![
                    "# [a-z \"=]{0,12}", Just(String::new()), "\\[[a-z]{3}[0-9]{3}\\]",
                    "k[a-z0-9]{6} = [0-9]{1,3}( # [a-z]{1,5})?", "s[a-z0-9]{6} = '[a-z\\\\]{0,5}'",
                ], 0..12),
            // Where both kinds are mixed, an empty line of the user's and one of ours can be taken for
            // each other; the copy of the whole file is for that.
            windows in any::<bool>(),
        ) {
            let text = ends(&(parts.join("\n") + "\n"), &[windows]);
            prop_assume!(text.replace("\r\n", "\n").parse::<DocumentMut>().is_ok());
            let (wired, former) = with(&text, &wiring()).unwrap();
            let out = without(&wired, CATALOG_PATH, Some(&former)).unwrap();
            let stripped = |text: &str| text.trim_end_matches(['\r', '\n']).to_owned();
            prop_assert_eq!(stripped(&out), stripped(&text));
        }
    }
}
