//! What a translation could not carry. Every loss is counted; none is silent.

use std::fmt;

/// A kind of content that was left out or weakened.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum LossKind {
    /// A tool that only OpenAI's own servers run (`file_search`, `image_generation`, …).
    HostedTool,
    /// The grammar of a freeform tool; the tool itself is offered as a function.
    ToolGrammar,
    /// An image that the upstream cannot take.
    Image,
    /// A file, of which only the name is told.
    File,
    /// An input item of a type we do not know.
    UnknownItem,
    /// A content part of a type we do not know.
    UnknownPart,
    /// History of a tool that OpenAI ran (`web_search_call`, …).
    HostedItem,
    /// Tool arguments in the history that were not a JSON object.
    ToolArguments,
    /// Reasoning that only its own vendor can read.
    Reasoning,
    /// A restriction in a tool's schema that the upstream does not know.
    ToolSchema,
    /// A tool whose name, made legal, is that of another.
    ToolName,
    /// A request field that has no counterpart upstream.
    Field,
}

impl LossKind {
    /// Every kind, in the order of declaration.
    pub const ALL: [Self; 12] = [
        Self::HostedTool,
        Self::ToolGrammar,
        Self::Image,
        Self::File,
        Self::UnknownItem,
        Self::UnknownPart,
        Self::HostedItem,
        Self::ToolArguments,
        Self::Reasoning,
        Self::ToolSchema,
        Self::ToolName,
        Self::Field,
    ];

    /// The metric label.
    pub fn label(self) -> &'static str {
        match self {
            Self::HostedTool => "hosted_tool",
            Self::ToolGrammar => "tool_grammar",
            Self::Image => "image",
            Self::File => "file",
            Self::UnknownItem => "unknown_item",
            Self::UnknownPart => "unknown_part",
            Self::HostedItem => "hosted_item",
            Self::ToolArguments => "tool_arguments",
            Self::Reasoning => "reasoning",
            Self::ToolSchema => "tool_schema",
            Self::ToolName => "tool_name",
            Self::Field => "field",
        }
    }
}

/// How often each kind of loss happened in one turn.
#[derive(Clone, Copy, Default, PartialEq, Eq)]
pub struct Losses([u32; LossKind::ALL.len()]);

impl Losses {
    /// Counts one loss.
    pub fn add(&mut self, kind: LossKind) {
        self.0[kind as usize] += 1;
    }

    /// Adds the counts of another stage.
    pub fn merge(&mut self, other: &Self) {
        for (mine, theirs) in self.0.iter_mut().zip(other.0) {
            *mine += theirs;
        }
    }

    /// Takes a kind out of the account, for what no longer matters.
    pub fn forget(&mut self, kind: LossKind) {
        self.0[kind as usize] = 0;
    }

    /// Whether a provider that is `strict` must refuse. Not for what no other protocol has by nature:
    /// the grammar of a freeform tool, which is described in words instead, and reasoning of earlier
    /// answers, which models other than its author do not read.
    pub fn weigh(&self) -> bool {
        self.iter().any(|(kind, _)| !matches!(kind, LossKind::ToolGrammar | LossKind::Reasoning))
    }

    /// The kinds that occurred, with their counts.
    pub fn iter(&self) -> impl Iterator<Item = (LossKind, u32)> + '_ {
        LossKind::ALL.into_iter().zip(self.0).filter(|(_, count)| *count > 0)
    }
}

impl fmt::Debug for Losses {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_map().entries(self.iter().map(|(kind, n)| (kind.label(), n))).finish()
    }
}

impl fmt::Display for Losses {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (n, (kind, count)) in self.iter().enumerate() {
            write!(f, "{}{}={count}", if n == 0 { "" } else { "," }, kind.label())?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_has_its_own_slot_and_label() {
        let mut losses = Losses::default();
        for kind in LossKind::ALL {
            losses.add(kind);
        }
        assert_eq!(losses.iter().filter(|(_, count)| *count == 1).count(), LossKind::ALL.len());
        let labels: std::collections::HashSet<_> = LossKind::ALL.map(LossKind::label).into();
        assert_eq!(labels.len(), LossKind::ALL.len());
    }
}
