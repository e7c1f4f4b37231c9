//! The transcripts below `tests/wire`: what an upstream really sent, and what it was asked.

use std::{fs, path::PathBuf};

use bytes::Bytes;
use ocx::{
    adapters::{Expect, ResponseHead, Target, adapter},
    callers::Protocol,
    credentials::{CapsuleKey, Credential, Sealer},
    model::{Prompt, ReasoningState},
    registry::{AdapterKind, Quirks},
};
use serde::Deserialize;
use serde_json::Value;

const BASE_URL: &str = "https://up.example/v1";

/// One recorded exchange.
pub struct Transcript {
    /// `openai-chat/text`.
    pub name: String,
    pub dir: PathBuf,
    pub kind: AdapterKind,
    pub head: ResponseHead,
    pub body: Vec<u8>,
    pub call: Bytes,
    pub stream: bool,
    /// The upstream's name of the model; `m` unless about.toml says otherwise.
    pub model: String,
    /// Oddities of the upstream, from about.toml.
    pub quirks: Quirks,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct About {
    source: String,
    date: toml::Value,
    redacted: String,
    note: Option<String>,
    model: Option<String>,
    #[serde(default)]
    quirks: Quirks,
}

/// All of them, in order of their names.
pub fn all() -> Vec<Transcript> {
    let root = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/wire");
    let mut found = Vec::new();
    for kind in AdapterKind::ALL {
        let dir = root.join(kind.name());
        let cases = fs::read_dir(&dir).unwrap_or_else(|e| panic!("{}: {e}", dir.display()));
        found.extend(cases.map(|case| load(kind, case.unwrap().path())));
    }
    found.sort_by(|a, b| a.name.cmp(&b.name));
    assert!(found.len() >= 16, "{} transcripts", found.len());
    found
}

fn load(kind: AdapterKind, dir: PathBuf) -> Transcript {
    let read = |name: &str| {
        fs::read(dir.join(name)).unwrap_or_else(|e| panic!("{}/{name}: {e}", dir.display()))
    };
    let about = String::from_utf8(read("about.toml")).unwrap();
    let about: About =
        toml::from_str(&about).unwrap_or_else(|e| panic!("{}/about.toml: {e}", dir.display()));
    assert!(!about.source.is_empty() && !about.redacted.is_empty() && about.date.is_str());
    let head = String::from_utf8(read("head.txt")).unwrap();
    let mut lines = head.lines();
    let status = lines.next().unwrap().trim().parse().unwrap();
    let content_type = lines
        .find_map(|line| line.strip_prefix("content-type: "))
        .map(|value| value.split(';').next().unwrap().trim().to_owned())
        .unwrap_or_default();
    let streamed = dir.join("body.sse").exists();
    let sealer = CapsuleKey::new([1; 32]).sealer(kind.name(), BASE_URL);
    let mut call: Value = serde_json::from_slice(&read("call.json")).unwrap();
    seal(&mut call, &sealer);
    let call = Bytes::from(call.to_string());
    let case = dir.file_name().unwrap().to_str().unwrap();
    let mut transcript = Transcript {
        name: format!("{}/{case}", kind.name()),
        kind,
        head: ResponseHead { status, content_type, ..ResponseHead::default() },
        body: read(if streamed { "body.sse" } else { "body.json" }),
        call,
        stream: false,
        model: about.model.unwrap_or_else(|| "m".to_owned()),
        quirks: about.quirks,
        dir,
    };
    transcript.stream = transcript.prompt().stream;
    transcript
}

/// Replaces every `{"seal": state}` by its capsule.
fn seal(value: &mut Value, sealer: &Sealer) {
    if let Some(state) = value.get("seal") {
        let state: ReasoningState = serde_json::from_value(state.clone()).unwrap();
        *value = sealer.seal(&state).into();
        return;
    }
    match value {
        Value::Object(object) => object.values_mut().for_each(|inner| seal(inner, sealer)),
        Value::Array(list) => list.iter_mut().for_each(|inner| seal(inner, sealer)),
        _ => {}
    }
}

impl Transcript {
    pub fn prompt(&self) -> Prompt {
        Protocol::Responses.parse(self.call.clone()).unwrap().prompt
    }

    pub fn expect(&self) -> Expect {
        Expect {
            stream: self.stream,
            relay: adapter(self.kind).relays(),
            keeps_reasoning: self.quirks.keeps_reasoning(&self.model),
            ..Expect::default()
        }
    }

    /// The key of the transcripts' capsules is known, so that they can be written by hand: a call may
    /// hold `{"seal": {…}}` where a capsule belongs.
    pub fn sealer(&self) -> Sealer {
        CapsuleKey::new([1; 32]).sealer(self.kind.name(), BASE_URL)
    }

    /// The upstream request for the call: address and body.
    pub fn encode(&self) -> (String, Vec<u8>) {
        let target = Target {
            model: &self.model,
            base_url: BASE_URL,
            quirks: &self.quirks,
            headers: &[],
            credential: &Credential::None,
            sealer: Some(&self.sealer()),
        };
        let encoded = adapter(self.kind).encode(&self.prompt(), &target).unwrap();
        (encoded.request.url, encoded.request.body)
    }
}
