//! Server-sent events: bytes in, frames out, whatever the chunking.
//! Source: WHATWG HTML, "Parsing an event stream" (read 2026-11-25).
//!
//! Lines may end with LF, CRLF or CR; several `data:` lines of a frame are joined with LF; comments
//! make no frame. `id:` and `retry:` are dropped: nothing behind us may set a caller's retry timer.
//! One deviation: what is left at the end of the stream counts as a frame, because real servers
//! forget the last blank line.

use std::{io, ops::Range};

use bytes::BytesMut;
use memchr::memchr2;

/// One event of a stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SseFrame<'a> {
    /// The `event:` field; empty if there was none.
    pub event: &'a str,
    /// The joined `data:` lines.
    pub data: &'a [u8],
}

/// A frame outgrew the limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a server-sent event is longer than {limit} bytes")]
pub struct FrameTooLong {
    /// The limit, in bytes.
    pub limit: usize,
}

/// Splits a byte stream into frames. Holds at most one unfinished frame and one pushed chunk.
///
/// ```
/// # use ocx::wire::sse::SseParser;
/// let mut parser = SseParser::new(1024);
/// parser.push(b"event: x\ndata: 1\n\nda");
/// assert_eq!(parser.next_frame().unwrap().unwrap().data, b"1");
/// assert!(parser.next_frame().is_none());
/// ```
#[derive(Debug)]
pub struct SseParser {
    buffer: Vec<u8>,
    /// First byte that the frame in progress still needs.
    start: usize,
    /// First byte of the line in progress.
    line: usize,
    /// How far that line was searched for its end, so that each byte is looked at once.
    searched: usize,
    event: String,
    data: Data,
    joined: Vec<u8>,
    /// The last call handed out a frame, whose name and data are to be forgotten now.
    emitted: bool,
    after_cr: bool,
    at_stream_start: bool,
    comments: u64,
    limit: usize,
}

/// Where the data of the frame in progress is: one line is read in place, several are joined.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Data {
    None,
    InPlace(Range<usize>),
    Joined,
}

const BOM: &[u8] = b"\xEF\xBB\xBF";

impl SseParser {
    /// A parser that refuses frames longer than `limit` bytes.
    pub fn new(limit: usize) -> Self {
        Self {
            buffer: Vec::new(),
            start: 0,
            line: 0,
            searched: 0,
            event: String::new(),
            data: Data::None,
            joined: Vec::new(),
            emitted: false,
            after_cr: false,
            at_stream_start: true,
            comments: 0,
            limit,
        }
    }

    /// Takes the next bytes; [`next_frame`](Self::next_frame) then yields what they complete.
    pub fn push(&mut self, bytes: &[u8]) {
        self.forget_emitted();
        self.compact();
        self.buffer.extend_from_slice(bytes);
    }

    /// Ends the stream: a last frame without its blank line still counts.
    pub fn finish(&mut self) {
        self.push(b"\n\n");
    }

    /// The next complete frame that has data.
    ///
    /// # Errors
    ///
    /// When a frame, finished or not, is longer than the limit. The stream is of no use then.
    pub fn next_frame(&mut self) -> Option<Result<SseFrame<'_>, FrameTooLong>> {
        self.forget_emitted();
        loop {
            if self.pending() > self.limit.saturating_add(self.unread()) {
                return Some(Err(FrameTooLong { limit: self.limit }));
            }
            let Some(line) = self.next_line() else {
                let too_long = self.pending() > self.limit;
                return too_long.then_some(Err(FrameTooLong { limit: self.limit }));
            };
            if !line.is_empty() {
                self.field(line);
            } else if self.data == Data::None {
                self.event.clear();
                self.start = self.line;
            } else {
                return Some(self.emit());
            }
        }
    }

    /// Comment lines seen so far: a sign of life that makes no frame.
    pub fn comments(&self) -> u64 {
        self.comments
    }

    /// Bytes held for the frame in progress.
    pub fn pending(&self) -> usize {
        let joined = if self.data == Data::Joined { self.joined.len() } else { 0 };
        self.buffer.len() - self.start + joined
    }

    fn unread(&self) -> usize {
        self.buffer.len() - self.line
    }

    fn emit(&mut self) -> Result<SseFrame<'_>, FrameTooLong> {
        self.emitted = true;
        self.start = self.line;
        let data = match &self.data {
            Data::InPlace(range) => &self.buffer[range.clone()],
            Data::Joined | Data::None => &self.joined,
        };
        if data.len() > self.limit {
            return Err(FrameTooLong { limit: self.limit });
        }
        Ok(SseFrame { event: &self.event, data })
    }

    fn forget_emitted(&mut self) {
        if std::mem::take(&mut self.emitted) {
            self.event.clear();
            self.data = Data::None;
            self.joined.clear();
        }
    }

    /// Drops what finished frames leave behind, so that the buffer does not grow.
    fn compact(&mut self) {
        let gone = self.start;
        if gone == 0 {
            return;
        }
        self.buffer.drain(..gone);
        self.start = 0;
        self.line -= gone;
        self.searched = self.searched.saturating_sub(gone);
        if let Data::InPlace(range) = &mut self.data {
            *range = range.start - gone..range.end - gone;
        }
    }

    /// The next complete line, without its end, as a range of the buffer.
    fn next_line(&mut self) -> Option<Range<usize>> {
        if self.after_cr && self.line < self.buffer.len() {
            self.after_cr = false;
            if self.buffer[self.line] == b'\n' {
                let unneeded = self.start == self.line;
                self.line += 1;
                if unneeded {
                    self.start = self.line;
                }
            }
        }
        let from = self.searched.max(self.line);
        let Some(offset) = memchr2(b'\n', b'\r', &self.buffer[from..]) else {
            self.searched = self.buffer.len();
            return None;
        };
        let (mut start, end) = (self.line, from + offset);
        if std::mem::take(&mut self.at_stream_start) && self.buffer[start..end].starts_with(BOM) {
            start += BOM.len();
        }
        self.after_cr = self.buffer[end] == b'\r';
        self.line = end + 1;
        self.searched = self.line;
        Some(start..end)
    }

    fn field(&mut self, line: Range<usize>) {
        let text = &self.buffer[line.clone()];
        let (name, value) = match memchr::memchr(b':', text) {
            Some(at) => {
                let space = usize::from(text.get(at + 1) == Some(&b' '));
                (&text[..at], line.start + at + 1 + space..line.end)
            }
            None => (text, line.end..line.end),
        };
        match name {
            b"data" => self.add_data(value),
            b"event" => {
                self.event.clear();
                self.event.push_str(&String::from_utf8_lossy(&self.buffer[value]));
            }
            b"" => self.comments += 1,
            _ => {}
        }
        if !matches!(self.data, Data::InPlace(_)) {
            self.start = self.line;
        }
    }

    fn add_data(&mut self, value: Range<usize>) {
        match std::mem::replace(&mut self.data, Data::Joined) {
            Data::None => self.data = Data::InPlace(value),
            Data::InPlace(first) => {
                self.joined.extend_from_slice(&self.buffer[first]);
                self.join(value);
            }
            Data::Joined => self.join(value),
        }
    }

    fn join(&mut self, value: Range<usize>) {
        self.joined.push(b'\n');
        self.joined.extend_from_slice(&self.buffer[value]);
    }
}

/// Appends one frame whose data is JSON from a serialiser. Raw JSON of others in it may be of several
/// lines, which become one.
pub fn write_frame<T: serde::Serialize>(out: &mut BytesMut, event: &str, data: &T) {
    start_frame(out, event);
    let from = out.len();
    // Writing into memory cannot fail, and our own types serialise.
    let written = serde_json::to_writer(Sink(out), data);
    debug_assert!(written.is_ok(), "{written:?}");
    join_lines(&mut out[from..]);
    out.extend_from_slice(b"\n\n");
}

/// Appends one frame with JSON from elsewhere, on one line.
pub fn write_raw_frame(out: &mut BytesMut, event: &str, json: &[u8]) {
    start_frame(out, event);
    let from = out.len();
    out.extend_from_slice(json);
    join_lines(&mut out[from..]);
    out.extend_from_slice(b"\n\n");
}

/// A line break in JSON can only be white space between tokens, so it becomes a blank: nobody can
/// smuggle a second field into the stream.
fn join_lines(json: &mut [u8]) {
    let mut rest = json;
    while let Some(at) = memchr2(b'\n', b'\r', rest) {
        rest[at] = b' ';
        rest = &mut rest[at + 1..];
    }
}

/// Protocols whose frames have no name pass `""`.
fn start_frame(out: &mut BytesMut, event: &str) {
    if !event.is_empty() {
        for piece in ["event: ", event, "\n"] {
            out.extend_from_slice(piece.as_bytes());
        }
    }
    out.extend_from_slice(b"data: ");
}

/// Writes whole pieces at once; the writer that `bytes` offers goes through a loop for each.
struct Sink<'a>(&'a mut BytesMut);

impl io::Write for Sink<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn write_all(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.0.extend_from_slice(bytes);
        Ok(())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const LIMIT: usize = 4096;

    fn parse<'a>(pieces: impl IntoIterator<Item = &'a [u8]>) -> Vec<(String, Vec<u8>)> {
        let mut parser = SseParser::new(LIMIT);
        let mut frames = Vec::new();
        let drain = |parser: &mut SseParser, frames: &mut Vec<_>| {
            while let Some(frame) = parser.next_frame() {
                let frame = frame.expect("within the limit");
                frames.push((frame.event.to_owned(), frame.data.to_vec()));
            }
        };
        for piece in pieces {
            parser.push(piece);
            drain(&mut parser, &mut frames);
        }
        parser.finish();
        drain(&mut parser, &mut frames);
        frames
    }

    /// The WHATWG algorithm in its plainest form: whole text in, frames out.
    fn reference(bytes: &[u8]) -> Vec<(String, Vec<u8>)> {
        let bytes = bytes.strip_prefix(BOM).unwrap_or(bytes);
        let mut lines = vec![Vec::new()];
        let mut rest = bytes.iter().peekable();
        while let Some(byte) = rest.next() {
            match byte {
                b'\r' => {
                    rest.next_if(|next| **next == b'\n');
                    lines.push(Vec::new());
                }
                b'\n' => lines.push(Vec::new()),
                other => lines.last_mut().expect("never empty").push(*other),
            }
        }
        lines.push(Vec::new());
        let (mut event, mut data, mut frames) = (String::new(), None::<Vec<u8>>, Vec::new());
        for line in lines {
            if line.is_empty() {
                if let Some(data) = data.take() {
                    frames.push((std::mem::take(&mut event), data));
                }
                event.clear();
                continue;
            }
            let at = line.iter().position(|byte| *byte == b':').unwrap_or(line.len());
            let value = line.get(at + 1..).unwrap_or_default();
            let value = value.strip_prefix(b" ").unwrap_or(value);
            match &line[..at] {
                b"data" => match &mut data {
                    None => data = Some(value.to_vec()),
                    Some(data) => {
                        data.push(b'\n');
                        data.extend_from_slice(value);
                    }
                },
                b"event" => event = String::from_utf8_lossy(value).into_owned(),
                _ => {}
            }
        }
        frames
    }

    fn noise() -> impl Strategy<Value = Vec<u8>> {
        let token = prop_oneof![
            Just(b"data:".to_vec()),
            Just(b"data: ".to_vec()),
            Just(b"event: ".to_vec()),
            Just(b": hi".to_vec()),
            Just(b"id: 7".to_vec()),
            Just(b"\n".to_vec()),
            Just(b"\r".to_vec()),
            Just(b"\r\n".to_vec()),
            Just(b"\n\n".to_vec()),
            Just(BOM.to_vec()),
            Just("Grüße 😀".as_bytes().to_vec()),
            proptest::collection::vec(any::<u8>(), 0..6),
        ];
        proptest::collection::vec(token, 0..60).prop_map(|tokens| tokens.concat())
    }

    proptest! {
        #[test]
        fn p01_p03_any_chunking_agrees_with_the_reference(bytes in noise(), cuts in proptest::collection::vec(any::<prop::sample::Index>(), 0..8)) {
            let mut cuts: Vec<usize> = cuts.iter().map(|cut| cut.index(bytes.len() + 1)).collect();
            cuts.extend([0, bytes.len()]);
            cuts.sort_unstable();
            let pieces: Vec<&[u8]> = cuts.windows(2).map(|pair| &bytes[pair[0]..pair[1]]).collect();
            let expected = reference(&bytes);
            prop_assert_eq!(parse(pieces), expected.clone());
            prop_assert_eq!(parse(bytes.chunks(1)), expected);
        }

        #[test]
        fn p02_the_buffer_stays_within_limit_and_push(bytes in proptest::collection::vec(any::<u8>(), 0..20_000), size in 1usize..700) {
            let mut parser = SseParser::new(256);
            'stream: for piece in bytes.chunks(size) {
                parser.push(piece);
                prop_assert!(parser.pending() <= 256 + size, "{}", parser.pending());
                while let Some(frame) = parser.next_frame() {
                    if frame.is_err() { break 'stream }
                }
            }
        }

        #[test]
        fn p03_p04_raw_json_of_several_lines_is_one_frame(breaks in "[ \n\r]{0,9}", text in any::<String>()) {
            let raw = serde_json::to_string(&text).unwrap();
            let raw = serde_json::value::RawValue::from_string(format!("[{breaks}{raw}{breaks}]")).unwrap();
            let mut out = BytesMut::new();
            write_frame(&mut out, "e", &raw);
            let frames = parse([&out[..]]);
            prop_assert_eq!(frames.len(), 1);
            prop_assert_eq!(serde_json::from_slice::<[String; 1]>(&frames[0].1).unwrap(), [text]);
        }

        #[test]
        fn p03_p04_what_we_write_is_read_back_as_one_frame(text in any::<String>()) {
            let mut out = BytesMut::new();
            write_frame(&mut out, "response.x", &text);
            let frames = parse([&out[..]]);
            prop_assert_eq!(frames.len(), 1);
            prop_assert_eq!(&frames[0].0, "response.x");
            prop_assert_eq!(serde_json::from_slice::<String>(&frames[0].1).unwrap(), text);
        }
    }

    #[test]
    fn a_frame_over_the_limit_is_refused_whether_finished_or_not() {
        for (tail, joined) in [("", false), ("\n\n", false), ("\n\n", true)] {
            let mut parser = SseParser::new(100);
            let half = "x".repeat(70);
            let text = if joined {
                format!("data: {half}\ndata: {half}{tail}")
            } else {
                format!("data: {half}{half}{tail}")
            };
            parser.push(text.as_bytes());
            assert_eq!(parser.next_frame(), Some(Err(FrameTooLong { limit: 100 })), "{text}");
        }
    }

    #[test]
    fn many_small_frames_in_one_large_push_are_within_the_limit() {
        let mut parser = SseParser::new(16);
        parser.push("data: 1234\n\n".repeat(1000).as_bytes());
        let mut frames = 0;
        while let Some(frame) = parser.next_frame() {
            assert_eq!(frame.expect("small").data, b"1234");
            frames += 1;
        }
        assert_eq!(frames, 1000);
    }

    #[test]
    fn endless_comments_hold_no_memory() {
        let mut parser = SseParser::new(64);
        for _ in 0..1000 {
            parser.push(b": keep-alive\n");
            assert!(parser.next_frame().is_none());
        }
        assert_eq!(parser.comments(), 1000);
        assert!(parser.pending() <= 16, "{}", parser.pending());
    }

    #[test]
    fn a_raw_frame_cannot_smuggle_a_field() {
        let mut out = BytesMut::new();
        write_raw_frame(&mut out, "e", b"{\"a\":1,\n\ndata: {\r}");
        assert_eq!(&out[..], b"event: e\ndata: {\"a\":1,  data: { }\n\n");
    }
}
