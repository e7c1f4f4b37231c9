//! Colours, for a terminal only; `NO_COLOR` and `CLICOLOR_FORCE` are honoured.

use std::fmt;

use anstyle::{AnsiColor, Style};
use serde::Serialize;

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
