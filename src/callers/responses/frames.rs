//! The items and frames of a Responses stream, as they stand on the wire.
//! Source: what OpenAI sends and Codex 0.169.0 reads, section 5 of our protocol notes.

use serde::Serialize;
use serde_json::value::RawValue;

use crate::model::Usage;

#[derive(Debug, Serialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub(super) enum Item {
    Message {
        id: String,
        status: &'static str,
        role: &'static str,
        content: Vec<OutputText>,
    },
    Reasoning {
        id: String,
        summary: Vec<SummaryText>,
        #[serde(skip_serializing_if = "Option::is_none")]
        encrypted_content: Option<String>,
    },
    FunctionCall {
        id: String,
        call_id: String,
        name: String,
        #[serde(skip_serializing_if = "Option::is_none")]
        namespace: Option<String>,
        arguments: String,
        status: &'static str,
    },
    CustomToolCall {
        id: String,
        call_id: String,
        name: String,
        input: String,
        status: &'static str,
    },
    ToolSearchCall {
        id: String,
        call_id: String,
        execution: &'static str,
        arguments: Box<RawValue>,
        status: &'static str,
    },
    Compaction {
        id: String,
        encrypted_content: String,
    },
    LocalShellCall {
        id: String,
        call_id: String,
        action: Box<RawValue>,
        status: &'static str,
    },
}

#[derive(Debug, Serialize)]
pub(super) struct OutputText {
    #[serde(rename = "type")]
    pub kind: &'static str,
    pub text: String,
    pub annotations: [(); 0],
    pub logprobs: [(); 0],
}

impl OutputText {
    pub fn new(text: String) -> Self {
        Self { kind: "output_text", text, annotations: [], logprobs: [] }
    }
}

#[derive(Debug, Serialize)]
pub(super) struct SummaryText {
    #[serde(rename = "type")]
    pub kind: &'static str,
    pub text: String,
}

#[derive(Serialize)]
pub(super) struct Response<'a> {
    pub id: &'a str,
    pub object: &'static str,
    pub created_at: u64,
    pub status: &'static str,
    pub error: Option<ErrorField<'a>>,
    pub incomplete_details: Option<IncompleteDetails>,
    pub instructions: Option<()>,
    pub metadata: EmptyObject,
    pub model: &'a str,
    pub output: &'a [Item],
    pub parallel_tool_calls: bool,
    pub store: bool,
    pub tool_choice: &'static str,
    pub tools: [(); 0],
    pub usage: Option<UsageField>,
}

#[derive(Serialize)]
pub(super) struct EmptyObject {}

#[derive(Clone, Copy, Serialize)]
pub(super) struct ErrorField<'a> {
    pub code: &'a str,
    pub message: &'a str,
}

#[derive(Serialize)]
pub(super) struct IncompleteDetails {
    pub reason: &'static str,
}

/// Both details objects are always there: clients refuse usage without them.
#[derive(Serialize)]
pub(super) struct UsageField {
    pub input_tokens: u64,
    pub input_tokens_details: InputDetails,
    pub output_tokens: u64,
    pub output_tokens_details: OutputDetails,
    pub total_tokens: u64,
}

#[derive(Serialize)]
pub(super) struct InputDetails {
    pub cached_tokens: u64,
    pub cache_write_tokens: u64,
}

#[derive(Serialize)]
pub(super) struct OutputDetails {
    pub reasoning_tokens: u64,
}

impl From<Usage> for UsageField {
    fn from(usage: Usage) -> Self {
        Self {
            input_tokens: usage.input,
            input_tokens_details: InputDetails {
                cached_tokens: usage.cached,
                cache_write_tokens: usage.cache_write,
            },
            output_tokens: usage.output,
            output_tokens_details: OutputDetails { reasoning_tokens: usage.reasoning },
            total_tokens: usage.input.saturating_add(usage.output),
        }
    }
}

/// Declares the frames of the stream: `type` and `sequence_number` first, then their own fields.
macro_rules! frames {
    ($($name:ident$(<$life:lifetime>)? { $($field:ident: $type:ty),* $(,)? })*) => {$(
        #[derive(Serialize)]
        pub(super) struct $name$(<$life>)? {
            #[serde(rename = "type")]
            pub kind: &'static str,
            pub sequence_number: u64,
            $(pub $field: $type,)*
        }
    )*};
}

frames! {
    Plain {}
    Lifecycle<'a> { response: Response<'a> }
    ItemEvent<'a> { output_index: usize, item: &'a Item }
    PartEvent<'a> { item_id: &'a str, output_index: usize, content_index: u32, part: &'a OutputText }
    TextDelta<'a> { item_id: &'a str, output_index: usize, content_index: u32, delta: &'a str, logprobs: [(); 0] }
    TextDone<'a> { item_id: &'a str, output_index: usize, content_index: u32, text: &'a str, logprobs: [(); 0] }
    SummaryPartEvent<'a> { item_id: &'a str, output_index: usize, summary_index: u32, part: &'a SummaryText }
    SummaryDelta<'a> { item_id: &'a str, output_index: usize, summary_index: u32, delta: &'a str }
    SummaryDone<'a> { item_id: &'a str, output_index: usize, summary_index: u32, text: &'a str }
    ArgumentsDelta<'a> { item_id: &'a str, output_index: usize, delta: &'a str }
    ArgumentsDone<'a> { item_id: &'a str, output_index: usize, arguments: &'a str }
    InputDelta<'a> { item_id: &'a str, output_index: usize, delta: &'a str }
    InputDone<'a> { item_id: &'a str, output_index: usize, input: &'a str }
}
