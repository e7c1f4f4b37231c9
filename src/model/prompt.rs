//! The provider-neutral question of a turn.

use bytes::Bytes;
use serde_json::{Number, value::RawValue};

use super::{Losses, Tool, ToolChoice, ToolKind, ToolName};

/// Everything a model is asked, whichever upstream answers.
#[derive(Clone, Debug)]
pub struct Prompt {
    /// `instructions` and system messages, in order.
    pub system: Vec<String>,
    /// The conversation.
    pub messages: Vec<Message>,
    /// Tools on offer; their wire names are unique.
    pub tools: Vec<Tool>,
    /// What the model must call.
    pub tool_choice: ToolChoice,
    /// Whether several calls may come in one answer.
    pub parallel_tool_calls: Option<bool>,
    /// Temperature and the like.
    pub sampling: Sampling,
    /// How hard to think, and whether to show it.
    pub reasoning: Reasoning,
    /// Free text, or JSON.
    pub output: OutputFormat,
    /// Whether the caller wants a stream.
    pub stream: bool,
    /// An earlier answer that this turn goes on from.
    pub previous_response_id: Option<String>,
    /// Groups turns that share a prefix.
    pub prompt_cache_key: Option<String>,
    /// The caller's `service_tier`.
    pub service_tier: Option<String>,
    /// The caller wants the conversation summarised rather than continued.
    pub compaction: bool,
    /// What parsing could not carry over.
    pub losses: Losses,
    /// The caller's JSON, if it is a Responses body: upstreams that speak the same protocol get it
    /// nearly as it is.
    pub raw: Option<Bytes>,
}

/// A step of the conversation.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Message {
    /// From the person.
    User(Vec<Part>),
    /// From the program around the model (Codex puts its base instructions here).
    Developer(Vec<Part>),
    /// From the model.
    Assistant(Vec<AssistantPart>),
    /// What a tool answered.
    ToolResult(ToolResult),
}

/// A piece of what a person or tool says.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Part {
    /// Text.
    Text(String),
    /// A picture.
    Image(Image),
}

/// A picture by address.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Image {
    /// `https:` or `data:`.
    pub url: String,
    /// `low`, `high` or `auto`.
    pub detail: Option<String>,
}

/// A piece of what the model said.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum AssistantPart {
    /// Visible text.
    Text(String),
    /// What it thought.
    Reasoning {
        /// Readable form; may be empty.
        text: String,
        /// Form that only its vendor reads, or a capsule of ours.
        encrypted: Option<String>,
    },
    /// A tool call.
    Call(ToolCall),
}

/// A call the model made earlier.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct ToolCall {
    /// Pairs the call with its result; may be empty in odd histories.
    pub call_id: String,
    /// What was called.
    pub name: ToolName,
    /// How the caller knows the tool.
    pub kind: ToolKind,
    /// JSON text of an object.
    pub arguments: String,
}

/// What a tool answered.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct ToolResult {
    /// The call it answers.
    pub call_id: String,
    /// The tool, where a call before it named one.
    pub name: Option<ToolName>,
    /// The answer.
    pub content: Vec<Part>,
    /// Whether the tool failed, where the caller says so.
    pub failed: bool,
}

/// Sampling parameters, as the caller wrote the numbers.
#[derive(Clone, Debug, Default)]
pub struct Sampling {
    /// At most this many tokens.
    pub max_output_tokens: Option<u64>,
    /// Temperature.
    pub temperature: Option<Number>,
    /// Nucleus.
    pub top_p: Option<Number>,
    /// Presence penalty.
    pub presence_penalty: Option<Number>,
    /// Frequency penalty.
    pub frequency_penalty: Option<Number>,
    /// Texts that end the answer.
    pub stop: Vec<String>,
}

/// How hard the model should think.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Effort {
    /// Not at all.
    None,
    /// Hardly.
    Minimal,
    /// A little.
    Low,
    /// Normally.
    Medium,
    /// Much.
    High,
    /// Very much.
    XHigh,
    /// As much as it can.
    Max,
}

impl Effort {
    /// The wire label.
    pub fn label(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Minimal => "minimal",
            Self::Low => "low",
            Self::Medium => "medium",
            Self::High => "high",
            Self::XHigh => "xhigh",
            Self::Max => "max",
        }
    }

    /// The effort that a budget of thinking tokens amounts to.
    pub fn of_budget(tokens: u64) -> Self {
        match tokens {
            0..=2_048 => Self::Minimal,
            2_049..=6_144 => Self::Low,
            6_145..=12_288 => Self::Medium,
            12_289..=20_480 => Self::High,
            20_481..=28_672 => Self::XHigh,
            _ => Self::Max,
        }
    }

    /// Reads a wire label; `ultra` is `max`, anything unknown is nothing.
    pub fn parse(label: &str) -> Option<Self> {
        Some(match label {
            "none" => Self::None,
            "minimal" => Self::Minimal,
            "low" => Self::Low,
            "medium" => Self::Medium,
            "high" => Self::High,
            "xhigh" => Self::XHigh,
            "max" | "ultra" => Self::Max,
            _ => return None,
        })
    }
}

/// What a caller says of thinking itself.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ThinkingWish {
    /// As the effort says; the way of everybody but Anthropic.
    #[default]
    AsEffort,
    /// Nothing: the model does what it does by default.
    Unstated,
    /// None; an effort beside it is about the answer.
    Off,
}

/// The caller's `reasoning`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Reasoning {
    /// How hard to work, if stated.
    pub effort: Option<Effort>,
    /// Whether an effort means thinking, which Anthropic alone tells apart.
    pub thinking: ThinkingWish,
    /// Whether the caller wants to see reasoning (`summary` is there and not `none`).
    pub show: bool,
    /// Tokens of thinking, where the caller counted them (Anthropic's budget).
    pub budget_tokens: Option<u64>,
}

impl Reasoning {
    /// The effort that was stated, or the one that the caller's budget amounts to.
    pub fn wanted(&self) -> Option<Effort> {
        if self.thinking == ThinkingWish::Off {
            return Some(Effort::None);
        }
        self.effort.or_else(|| self.budget_tokens.map(Effort::of_budget))
    }

    /// Whether the caller asks for thinking, of whatever length.
    pub fn is_wanted(&self) -> bool {
        self.wanted().is_some_and(|effort| effort != Effort::None)
    }
}

/// The caller's `text.format`.
#[derive(Clone, Debug, Default)]
pub enum OutputFormat {
    /// Free text.
    #[default]
    Text,
    /// Some JSON object.
    JsonObject,
    /// JSON that a schema describes.
    JsonSchema(JsonSchemaFormat),
}

/// A schema the answer must follow.
#[derive(Clone, Debug)]
pub struct JsonSchemaFormat {
    /// Its name; `response` if the caller gave none.
    pub name: String,
    /// Told to the model.
    pub description: Option<String>,
    /// JSON Schema.
    pub schema: Box<RawValue>,
    /// Whether deviations are impossible.
    pub strict: Option<bool>,
}

impl Prompt {
    /// The tool with this wire name.
    pub fn tool(&self, wire_name: &str) -> Option<&Tool> {
        self.tools.iter().find(|tool| tool.wire_name == wire_name)
    }
}
