//! A JSON pointer → line and column, and keys that are written twice.

use std::collections::HashSet;

use serde_json::value::RawValue;

use crate::wire::{
    json::{RawObject, TextOrList},
    pointer::{escape, unescape},
};

/// A place in a text, both counted from 1; columns in characters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Place {
    pub line: usize,
    pub column: usize,
}

/// Where the value of `pointer` begins; of its nearest parent, if it is not there.
pub(super) fn locate(text: &str, pointer: &str) -> Place {
    let mut offset = text.len() - text.trim_start().len();
    let mut value: Option<&RawValue> = serde_json::from_str(text).ok();
    for segment in pointer.split('/').skip(1) {
        let segment = unescape(segment);
        let Some(child) = value.and_then(|value| child(value, &segment)) else {
            break;
        };
        // Raw values are slices of the text they were read from.
        offset = child.get().as_ptr() as usize - text.as_ptr() as usize;
        value = Some(child);
    }
    place(text, offset)
}

fn child<'t>(value: &'t RawValue, segment: &str) -> Option<&'t RawValue> {
    if value.get().starts_with('{') {
        return serde_json::from_str::<RawObject<'_>>(value.get()).ok()?.get(segment);
    }
    let list: TextOrList<'_, &RawValue> = serde_json::from_str(value.get()).ok()?;
    list.list().get(segment.parse::<usize>().ok()?).copied()
}

fn place(text: &str, offset: usize) -> Place {
    let before = &text[..offset];
    let line_start = before.rfind('\n').map_or(0, |at| at + 1);
    Place {
        line: before.matches('\n').count() + 1,
        column: before[line_start..].chars().count() + 1,
    }
}

/// Pointers of keys that an object holds twice: the parser would silently take the last.
pub(super) fn duplicate_keys(text: &str) -> Vec<String> {
    let mut found = Vec::new();
    if let Ok(root) = serde_json::from_str::<&RawValue>(text) {
        walk(root, String::new(), &mut found);
    }
    found
}

fn walk(value: &RawValue, pointer: String, found: &mut Vec<String>) {
    if let Ok(object) = serde_json::from_str::<RawObject<'_>>(value.get()) {
        let mut seen = HashSet::new();
        for (key, inner) in &object.0 {
            let at = format!("{pointer}/{}", escape(key));
            if !seen.insert(key.as_ref()) {
                found.push(at.clone());
            }
            walk(inner, at, found);
        }
    } else if let Ok(list) = serde_json::from_str::<TextOrList<'_, &RawValue>>(value.get()) {
        for (n, inner) in list.list().iter().enumerate() {
            walk(inner, format!("{pointer}/{n}"), found);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pointers_are_found_in_the_text() {
        let text =
            "{\n  \"é\": {\"a/b\": [1,\n    2]},\n  \"x\": 1, \"x\": {\"y\": 1, \"y\": 2}\n}";
        let at = |pointer: &str| {
            let place = locate(text, pointer);
            (place.line, place.column)
        };
        assert_eq!(at(""), (1, 1));
        assert_eq!(at("/é"), (2, 8));
        assert_eq!(at("/é/a~1b/1"), (3, 5));
        assert_eq!(at("/é/nope"), (2, 8), "the nearest parent");
        assert_eq!(duplicate_keys(text), ["/x", "/x/y"]);
    }
}
