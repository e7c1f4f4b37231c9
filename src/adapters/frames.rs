//! Framing, once for all adapters: server-sent events, or one JSON document.

use serde::de::IgnoredAny;

use super::{DecodeError, Decoder, Expect, MAX_FRAME, ResponseHead, Step};
use crate::{
    model::Event,
    wire::sse::{FrameTooLong, SseFrame, SseParser},
};

/// What an adapter has to write: frames in, events out.
pub trait FrameDecoder: Send {
    /// Reads one frame of a stream.
    ///
    /// # Errors
    ///
    /// As [`Decoder::push`].
    fn frame(&mut self, frame: SseFrame<'_>, events: &mut Vec<Event>) -> Result<Step, DecodeError>;

    /// Decides what the end of the stream means.
    ///
    /// # Errors
    ///
    /// As [`Decoder::finish`].
    fn end(&mut self, events: &mut Vec<Event>) -> Result<(), DecodeError>;

    /// Reads a whole answer that is no stream; it ends with [`Event::Finished`].
    ///
    /// # Errors
    ///
    /// As [`Decoder::push`].
    fn document(&mut self, body: &[u8], events: &mut Vec<Event>) -> Result<(), DecodeError>;
}

/// A decoder with the framing that the head announces. Servers that announce nothing, or plain
/// text, to a request for a stream do stream.
pub(super) fn decoder<F: FrameDecoder + 'static>(
    head: &ResponseHead,
    expect: Expect,
    frames: F,
) -> Box<dyn Decoder> {
    if head.is_event_stream() || (expect.stream && !head.is_json()) {
        Box::new(SseDecoder::new(frames))
    } else {
        Box::new(JsonDecoder::new(frames))
    }
}

/// Splits a stream into frames and hands them on.
pub struct SseDecoder<F> {
    parser: SseParser,
    frames: F,
    state: State,
}

#[derive(PartialEq)]
enum State {
    Empty,
    Reading,
    Done,
}

impl<F: FrameDecoder> SseDecoder<F> {
    /// Reads with the default limit.
    pub fn new(frames: F) -> Self {
        Self { parser: SseParser::new(MAX_FRAME), frames, state: State::Empty }
    }

    fn drain(&mut self, events: &mut Vec<Event>) -> Result<Step, DecodeError> {
        while let Some(frame) = self.parser.next_frame() {
            if self.frames.frame(frame?, events)? == Step::Done {
                self.state = State::Done;
                return Ok(Step::Done);
            }
        }
        Ok(Step::More)
    }
}

impl<F: FrameDecoder> Decoder for SseDecoder<F> {
    fn push(&mut self, bytes: &[u8], events: &mut Vec<Event>) -> Result<Step, DecodeError> {
        if self.state == State::Done {
            return Ok(Step::Done);
        }
        if !bytes.is_empty() {
            self.state = State::Reading;
        }
        self.parser.push(bytes);
        self.drain(events)
    }

    fn finish(&mut self, events: &mut Vec<Event>) -> Result<(), DecodeError> {
        match self.state {
            State::Done => return Ok(()),
            State::Empty => return Err(DecodeError::Empty),
            State::Reading => {}
        }
        self.parser.finish();
        match self.drain(events) {
            Ok(Step::Done) => Ok(()),
            Ok(Step::More) => self.frames.end(events),
            // Half a frame, which a closing connection left behind.
            Err(DecodeError::Malformed(_)) => Err(DecodeError::Truncated),
            Err(error) => Err(error),
        }
    }
}

/// Collects a document and hands it on when it is complete.
pub struct JsonDecoder<F> {
    body: Vec<u8>,
    frames: F,
}

impl<F: FrameDecoder> JsonDecoder<F> {
    /// Reads with the default limit.
    pub fn new(frames: F) -> Self {
        Self { body: Vec::new(), frames }
    }
}

impl<F: FrameDecoder> Decoder for JsonDecoder<F> {
    fn push(&mut self, bytes: &[u8], _: &mut Vec<Event>) -> Result<Step, DecodeError> {
        if self.body.len() + bytes.len() > MAX_FRAME {
            return Err(FrameTooLong { limit: MAX_FRAME }.into());
        }
        self.body.extend_from_slice(bytes);
        Ok(Step::More)
    }

    fn finish(&mut self, events: &mut Vec<Event>) -> Result<(), DecodeError> {
        if self.body.trim_ascii().is_empty() {
            return Err(DecodeError::Empty);
        }
        self.frames.document(&self.body, events)
    }
}

/// The object that a frame holds. Some servers keep the line alive with `null`, a number or an
/// empty frame: a sign of life, and nothing to read.
pub(super) fn object<'f>(frame: &SseFrame<'f>) -> Result<Option<&'f [u8]>, DecodeError> {
    let data = frame.data.trim_ascii();
    if data.first() == Some(&b'{') {
        return Ok(Some(data));
    }
    if data.is_empty() || serde_json::from_slice::<IgnoredAny>(data).is_ok() {
        return Ok(None);
    }
    Err(DecodeError::Malformed("a frame that is no JSON".to_owned()))
}

/// Explains why a frame was not read.
pub(super) fn malformed(error: serde_json::Error) -> DecodeError {
    DecodeError::Malformed(error.to_string())
}

/// Explains why a document was not read: one that just stops was cut.
pub(super) fn json_error(error: serde_json::Error) -> DecodeError {
    if error.is_eof() { DecodeError::Truncated } else { malformed(error) }
}
