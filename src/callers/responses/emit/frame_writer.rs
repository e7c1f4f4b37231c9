//! The numbers of a stream's frames.

use bytes::BytesMut;
use serde::Serialize;

use crate::wire::sse::write_frame;

/// Numbers frames and writes them. A document's frames are numbered and not written, so that it
/// goes the same way as a stream.
#[derive(Debug)]
pub(super) struct FrameWriter {
    stream: bool,
    /// The number of the next frame, from 0.
    next: u64,
}

impl FrameWriter {
    pub fn new(stream: bool) -> Self {
        Self { stream, next: 0 }
    }

    /// Whether frames are written at all.
    pub fn streams(&self) -> bool {
        self.stream
    }

    /// Takes the number of a frame.
    pub fn take_number(&mut self) -> u64 {
        let number = self.next;
        self.next += 1;
        number
    }

    /// The number of the next frame, which stays free.
    pub fn next_number(&self) -> u64 {
        self.next
    }

    /// An upstream's own frame of this number passed through.
    pub fn passed(&mut self, number: u64) {
        self.next = number.saturating_add(1);
    }

    /// Writes a frame, which `data` makes of its kind and number.
    pub fn write<T: Serialize>(
        &mut self,
        out: &mut BytesMut,
        kind: &'static str,
        data: impl FnOnce(&'static str, u64) -> T,
    ) {
        let number = self.take_number();
        if self.stream {
            write_frame(out, kind, &data(kind, number));
        }
    }
}
