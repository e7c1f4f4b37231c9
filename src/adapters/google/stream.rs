//! generateContent answers → events. There is no last frame: an answer is over when the upstream
//! closes after a `finishReason`.
//! Source: ai.google.dev/api/generate-content#generatecontentresponse.

use serde::Deserialize;
use serde_json::{Value, value::RawValue};

use super::super::{
    DecodeError, FrameDecoder, Step,
    frames::{json_error, malformed, object},
    refusal,
};
use crate::{
    model::{CallKey, Event, FinishReason, ReasoningState, UpstreamFailure, Usage},
    wire::{
        json::{Count, Obj, Str, TextOrList},
        sse::SseFrame,
    },
};

#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Chunk<'a> {
    #[serde(borrow)]
    candidates: TextOrList<'a, Obj<Candidate<'a>>>,
    #[serde(borrow)]
    prompt_feedback: Obj<Feedback<'a>>,
    usage_metadata: Obj<WireUsage>,
    #[serde(borrow)]
    error: Option<&'a RawValue>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Candidate<'a> {
    #[serde(borrow)]
    content: Obj<Content<'a>>,
    #[serde(borrow)]
    finish_reason: Str<'a>,
    #[serde(borrow)]
    finish_message: Str<'a>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Content<'a> {
    #[serde(borrow)]
    parts: TextOrList<'a, Obj<Part<'a>>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Part<'a> {
    #[serde(borrow)]
    text: Str<'a>,
    thought: Option<bool>,
    #[serde(borrow)]
    thought_signature: Str<'a>,
    #[serde(borrow)]
    function_call: Obj<FunctionCall<'a>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct FunctionCall<'a> {
    #[serde(borrow)]
    id: Str<'a>,
    #[serde(borrow)]
    name: Str<'a>,
    #[serde(borrow)]
    args: Option<&'a RawValue>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Feedback<'a> {
    #[serde(borrow)]
    block_reason: Str<'a>,
}

#[derive(Clone, Copy, Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct WireUsage {
    prompt_token_count: Count,
    candidates_token_count: Count,
    thoughts_token_count: Count,
    cached_content_token_count: Count,
    tool_use_prompt_token_count: Count,
}

impl From<WireUsage> for Usage {
    fn from(wire: WireUsage) -> Self {
        let reasoning = wire.thoughts_token_count.or_zero();
        Self {
            input: wire
                .prompt_token_count
                .or_zero()
                .saturating_add(wire.tool_use_prompt_token_count.or_zero()),
            cached: wire.cached_content_token_count.or_zero(),
            cache_write: 0,
            // Gemini counts thinking beside the answer; everybody else inside it.
            output: wire.candidates_token_count.or_zero().saturating_add(reasoning),
            reasoning,
        }
    }
}

/// Tool calls of one answer; more is an attack.
const MAX_CALLS: CallKey = 256;

/// Reads one answer.
#[derive(Default)]
pub(super) struct GoogleStream {
    calls: CallKey,
    finish: Option<FinishReason>,
}

impl GoogleStream {
    fn chunk(&mut self, data: &[u8], events: &mut Vec<Event>) -> Result<(), DecodeError> {
        let chunk: Chunk<'_> = serde_json::from_slice(data).map_err(malformed)?;
        if let Some(error) = chunk.error {
            let body: Value = serde_json::from_str(error.get()).map_err(malformed)?;
            return Err(DecodeError::Upstream(refusal::from_json(&body)));
        }
        if let Some(usage) = chunk.usage_metadata.0 {
            events.push(Event::Usage(usage.into()));
        }
        if chunk
            .prompt_feedback
            .0
            .is_some_and(|feedback| feedback.block_reason.non_empty().is_some())
        {
            self.finish = Some(FinishReason::Filtered);
        }
        if let Some(Obj(Some(candidate))) = chunk.candidates.list().first() {
            self.candidate(candidate, events)?;
        }
        Ok(())
    }

    fn candidate(
        &mut self,
        candidate: &Candidate<'_>,
        events: &mut Vec<Event>,
    ) -> Result<(), DecodeError> {
        if let Some(content) = &candidate.content.0 {
            for part in content.parts.list().iter().filter_map(|part| part.0.as_ref()) {
                self.part(part, events)?;
            }
        }
        self.finish = match candidate.finish_reason.non_empty() {
            None => return Ok(()),
            Some("MAX_TOKENS") => Some(FinishReason::Length),
            Some("STOP") => Some(FinishReason::Stop),
            Some(
                "SAFETY"
                | "RECITATION"
                | "BLOCKLIST"
                | "PROHIBITED_CONTENT"
                | "SPII"
                | "IMAGE_SAFETY"
                | "IMAGE_PROHIBITED_CONTENT"
                | "IMAGE_RECITATION"
                | "LANGUAGE",
            ) => Some(FinishReason::Filtered),
            // `MALFORMED_FUNCTION_CALL`, `OTHER` and all that is to come: not a good end.
            Some(reason) => {
                let told = candidate.finish_message.non_empty().unwrap_or("the answer is unusable");
                return Err(DecodeError::Upstream(UpstreamFailure {
                    code: Some(reason.to_owned()),
                    message: format!("{told} ({reason})"),
                    ..UpstreamFailure::default()
                }));
            }
        };
        Ok(())
    }

    fn part(&mut self, part: &Part<'_>, events: &mut Vec<Event>) -> Result<(), DecodeError> {
        // Before what it signs: that is where the caller keeps it.
        if let Some(signature) = part.thought_signature.non_empty() {
            let signature = Some(signature.to_owned());
            events.push(Event::State(ReasoningState { signature, ..ReasoningState::default() }));
        }
        if let Some(text) = part.text.non_empty() {
            let text = text.to_owned();
            events.push(if part.thought == Some(true) {
                Event::ReasoningDelta(text)
            } else {
                Event::TextDelta(text)
            });
        }
        let Some(function) = &part.function_call.0 else {
            return Ok(());
        };
        let name = function
            .name
            .non_empty()
            .ok_or_else(|| DecodeError::Malformed("a tool call without a name".to_owned()))?;
        if self.calls == MAX_CALLS {
            return Err(DecodeError::Malformed(format!("more than {MAX_CALLS} tool calls")));
        }
        let call = self.calls;
        self.calls += 1;
        let (call_id, name) = (function.id.or_empty().to_owned(), name.to_owned());
        events.push(Event::CallStarted { call, call_id, name });
        if let Some(args) = function.args.filter(|args| args.get() != "null") {
            let arguments = args.get().to_owned();
            events.push(Event::CallDelta { call, arguments });
        }
        events.push(Event::CallEnded { call });
        Ok(())
    }

    fn finish(&mut self, events: &mut Vec<Event>) -> Result<(), DecodeError> {
        let reason = self.finish.take().ok_or(DecodeError::Truncated)?;
        events.push(Event::Finished(reason));
        Ok(())
    }
}

impl FrameDecoder for GoogleStream {
    fn frame(&mut self, frame: SseFrame<'_>, events: &mut Vec<Event>) -> Result<Step, DecodeError> {
        if let Some(chunk) = object(&frame)? {
            self.chunk(chunk, events)?;
        }
        Ok(Step::More)
    }

    fn end(&mut self, events: &mut Vec<Event>) -> Result<(), DecodeError> {
        self.finish(events)
    }

    fn document(&mut self, body: &[u8], events: &mut Vec<Event>) -> Result<(), DecodeError> {
        // Without `alt=sse`, or for an error, some proxies send a list of chunks.
        let chunks: TextOrList<'_, &RawValue> = serde_json::from_slice(body).map_err(json_error)?;
        match &chunks {
            TextOrList::List(chunks) => {
                for chunk in chunks {
                    self.chunk(chunk.get().as_bytes(), events)?;
                }
            }
            _ => self.chunk(body, events)?,
        }
        self.finish(events)
            .map_err(|_| DecodeError::Malformed("an answer without an end".to_owned()))
    }
}

#[cfg(test)]
mod tests;
