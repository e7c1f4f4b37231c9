//! JSON pointers. Source: RFC 6901.

use serde_path_to_error::{Path, Segment};

/// A key as a segment of a pointer.
pub fn escape(key: &str) -> String {
    key.replace('~', "~0").replace('/', "~1")
}

/// The key that a segment of a pointer names.
pub fn unescape(segment: &str) -> String {
    segment.replace("~1", "/").replace("~0", "~")
}

/// The pointer of the place where serde stopped; empty for the whole document.
pub fn of_path(path: &Path) -> String {
    path.iter()
        .map(|segment| match segment {
            Segment::Seq { index } => format!("/{index}"),
            Segment::Map { key } => format!("/{}", escape(key)),
            Segment::Enum { variant } => format!("/{variant}"),
            Segment::Unknown => String::new(),
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_key_survives_a_pointer() {
        for key in ["", "a/b", "~", "~1", "~0/~01", "é"] {
            let segment = escape(key);
            assert!(!segment.contains('/'), "{segment}");
            assert_eq!(unescape(&segment), key);
        }
    }
}
