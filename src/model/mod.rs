//! The vocabulary of a turn: what a caller asks ([`Prompt`]) and what comes back ([`Event`]s),
//! free of any vendor's wire format. Depends on nothing.

mod event;
mod id;
mod loss;
mod price;
mod prompt;
mod tool;

pub use event::{CallKey, Event, FinishReason, Frame, ReasoningState, UpstreamFailure, Usage};
pub use id::{Ids, ModelId, ProviderId};
pub use loss::{LossKind, Losses};
pub use price::Price;
pub use prompt::{
    AssistantPart, Effort, Image, JsonSchemaFormat, Message, OutputFormat, Part, Prompt, Reasoning,
    Sampling, ThinkingWish, ToolCall, ToolResult,
};
pub use tool::{Tool, ToolChoice, ToolKind, ToolName, sanitize_wire_name};
