//! Colours, for a terminal only; `NO_COLOR` and `CLICOLOR_FORCE` are honoured.

use std::{borrow::Cow, fmt};

use anstyle::{AnsiColor, Style};
use serde::Serialize;

/// A text that somebody else wrote, fit for a terminal: it may not move the cursor, nor begin a line.
pub(super) fn plain(text: &str) -> Cow<'_, str> {
    if !text.contains(char::is_control) {
        return Cow::Borrowed(text);
    }
    let shown = text.chars().map(|c| match c.is_control() {
        true => c.escape_default().to_string(),
        false => c.to_string(),
    });
    Cow::Owned(shown.collect())
}

/// How something is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Mark {
    /// As it should be.
    Good,
    /// It may be as it should be.
    Doubt,
    /// It keeps something from working.
    Bad,
}

impl fmt::Display for Mark {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (sign, color) = match self {
            Self::Good => ("✓", AnsiColor::Green),
            Self::Doubt => ("!", AnsiColor::Yellow),
            Self::Bad => ("✗", AnsiColor::Red),
        };
        let style = Style::new().fg_color(Some(color.into()));
        write!(f, "{style}{sign}{style:#}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_others_write_does_not_steer_a_terminal() {
        assert_eq!(plain("qwen3:8b ü"), "qwen3:8b ü");
        assert_eq!(plain("a\u{1b}[31mb\nc"), "a\\u{1b}[31mb\\nc");
    }
}
