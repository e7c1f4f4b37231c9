//! What the fuzz targets check: the oracles of the property tests, not only that nothing panics.

#![allow(clippy::unwrap_used, reason = "what does not hold ends the fuzzer")]

#[path = "../../support/chat_rules.rs"]
mod chat_rules;
#[path = "../../support/google_rules.rs"]
mod google_rules;
#[path = "../../support/messages_rules.rs"]
mod messages_rules;
#[path = "../../support/oracles.rs"]
mod oracles;

use bytes::Bytes;
use ocx::{
    adapters::{Expect, ResponseHead, Target, adapter},
    callers::Protocol,
    credentials::{CapsuleKey, Credential},
    http::decompress,
    model::{Prompt, ReasoningState},
    registry::{AdapterKind, Quirks},
    wire::sse::{SseParser, write_raw_frame},
};

/// Bytes of an upstream. The first two choose how they are read and split.
pub fn stream(kind: AdapterKind, data: &[u8]) {
    let [flags, size, bytes @ ..] = data else { return };
    let flag = |bit: u8| flags & (1 << bit) != 0;
    let content_type = match flags >> 6 {
        0 => "",
        1 => "application/json",
        _ => "text/event-stream",
    };
    let head = ResponseHead { content_type: content_type.into(), ..ResponseHead::default() };
    let expect = Expect {
        stream: flag(0),
        relay: flag(1),
        eof_tolerant: flag(2),
        keeps_reasoning: flag(3),
        escapes_tool_names: flag(4),
    };
    let checked = oracles::check_answer(kind, &head, expect, bytes, usize::from(*size) + 1);
    assert_eq!(checked, Ok(()));
}

/// P-01 to P-03: splits do not matter, and what is written reads back.
pub fn sse(data: &[u8]) {
    let [size, bytes @ ..] = data else { return };
    const LIMIT: usize = 4096;
    let frames = |pieces: &mut dyn Iterator<Item = &[u8]>| {
        let mut parser = SseParser::new(LIMIT);
        let mut found = Vec::new();
        for piece in pieces {
            parser.push(piece);
            while let Some(frame) = parser.next_frame() {
                let Ok(frame) = frame else { return (found, true) };
                found.push((frame.event.to_owned(), frame.data.to_vec()));
            }
        }
        parser.finish();
        while let Some(frame) = parser.next_frame() {
            let Ok(frame) = frame else { return (found, true) };
            found.push((frame.event.to_owned(), frame.data.to_vec()));
        }
        (found, false)
    };
    let (whole, too_long) = frames(&mut [bytes].into_iter());
    let (pieces, split_too_long) = frames(&mut bytes.chunks(usize::from(*size) + 1));
    if too_long || split_too_long {
        // The limit may be exceeded by one push, so it strikes earlier where pushes are small.
        let common = whole.len().min(pieces.len());
        assert_eq!(whole[..common], pieces[..common]);
        assert!(bytes.len() > LIMIT, "nothing is too long");
        return;
    }
    assert_eq!(whole, pieces);
    for (event, data) in whole.iter().filter(|(event, _)| !event.contains(['\n', '\r'])) {
        let mut out = bytes::BytesMut::new();
        write_raw_frame(&mut out, event, data);
        let (again, _) = frames(&mut [&out[..]].into_iter());
        assert!(again.len() <= 1, "one frame is never two");
    }
}

const BASE_URL: &str = "https://up.example";

/// P-13: whatever a caller writes, what goes upstream is sound for the vendor, goes where the
/// config says and is the same every time.
pub fn request(data: &[u8]) {
    let [which, body @ ..] = data else { return };
    let protocol = Protocol::ALL[usize::from(*which) % Protocol::ALL.len()];
    let Ok(call) = protocol.parse(Bytes::copy_from_slice(body)) else { return };
    for kind in AdapterKind::ALL {
        encode(kind, &call.prompt);
    }
}

fn encode(kind: AdapterKind, prompt: &Prompt) {
    let sealer = CapsuleKey::new([1; 32]).sealer(kind.name(), BASE_URL);
    let quirks = Quirks::default();
    let target = Target {
        // Models that are strict about what comes back.
        model: match kind {
            AdapterKind::Google => "gemini-3-pro",
            _ => "claude-sonnet-4-5",
        },
        base_url: BASE_URL,
        quirks: &quirks,
        headers: &[],
        credential: &Credential::None,
        sealer: Some(&sealer),
    };
    let Ok(encoded) = adapter(kind).encode(prompt, &target) else { return };
    let again = adapter(kind).encode(prompt, &target).expect("what went once goes again");
    assert_eq!(encoded.request.body, again.request.body);
    assert!(encoded.request.url.starts_with("https://up.example/"), "{}", encoded.request.url);
    let body: serde_json::Value = serde_json::from_slice(&encoded.request.body).expect("JSON");
    let wrong = match kind {
        AdapterKind::OpenAiChat => chat_rules::violations(&body),
        AdapterKind::Anthropic => messages_rules::violations(&body),
        AdapterKind::Google => google_rules::violations(&body),
        AdapterKind::OpenAiResponses | AdapterKind::AzureOpenAi => Vec::new(),
    };
    // Who says nothing, or wants no token, is refused by the vendor, and should be.
    let callers = |rule: &String| {
        rule == "no messages"
            || (rule == "no max_tokens" && prompt.sampling.max_output_tokens == Some(0))
    };
    let wrong: Vec<String> = wrong.into_iter().filter(|rule| !callers(rule)).collect();
    assert_eq!(wrong, Vec::<String>::new(), "{body}");
}

/// What is sealed opens, and nothing else does.
pub fn capsule(data: &[u8]) {
    let sealer = CapsuleKey::new([1; 32]).sealer("anthropic", BASE_URL);
    let text = String::from_utf8_lossy(data);
    assert_eq!(sealer.open(&text), None);
    assert_eq!(sealer.open(&format!("ocxr1:{text}")), None);
    let state = ReasoningState {
        text: text.clone().into_owned(),
        signature: (data.len() % 2 == 0).then(|| text.clone().into_owned()),
        redacted: (data.len() % 3 == 0).then(|| text.into_owned()),
    };
    assert_eq!(sealer.open(&sealer.seal(&state)), Some(state));
}

/// Compressed bodies stay within their limit.
pub fn body(data: &[u8]) {
    let [which, bytes @ ..] = data else { return };
    const LIMIT: usize = 1 << 16;
    let encodings = ["zstd", "gzip", "deflate", "br", "gzip, zstd", "br,identity,x-gzip"];
    let encoding = encodings[usize::from(*which) % encodings.len()];
    if let Ok(body) = decompress(Bytes::copy_from_slice(bytes), encoding, LIMIT) {
        assert!(body.len() <= LIMIT);
    }
}
