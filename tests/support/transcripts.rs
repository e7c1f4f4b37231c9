//! The transcripts below `tests/wire`: what an upstream really sent, and what it was asked.

use std::{fs, path::PathBuf};

use bytes::Bytes;
use ocx::{
    adapters::{Expect, ResponseHead, Target, adapter},
    credentials::Credential,
    model::Prompt,
    registry::{AdapterKind, Quirks},
    responses,
};

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
    for field in ["source = \"", "date = \"", "redacted = \""] {
        assert!(about.contains(field), "{}: about.toml says no {field}", dir.display());
    }
    let head = String::from_utf8(read("head.txt")).unwrap();
    let mut lines = head.lines();
    let status = lines.next().unwrap().trim().parse().unwrap();
    let content_type = lines
        .find_map(|line| line.strip_prefix("content-type: "))
        .map(|value| value.split(';').next().unwrap().trim().to_owned())
        .unwrap_or_default();
    let streamed = dir.join("body.sse").exists();
    let call = Bytes::from(read("call.json"));
    let case = dir.file_name().unwrap().to_str().unwrap();
    let mut transcript = Transcript {
        name: format!("{}/{case}", kind.name()),
        kind,
        head: ResponseHead { status, content_type, ..ResponseHead::default() },
        body: read(if streamed { "body.sse" } else { "body.json" }),
        call,
        stream: false,
        dir,
    };
    transcript.stream = transcript.prompt().stream;
    transcript
}

impl Transcript {
    pub fn prompt(&self) -> Prompt {
        responses::parse(self.call.clone()).unwrap().prompt
    }

    pub fn expect(&self) -> Expect {
        Expect { stream: self.stream, eof_tolerant: false }
    }

    /// The upstream request for the call: address and body.
    pub fn encode(&self) -> (String, Vec<u8>) {
        let target = Target {
            model: "m",
            base_url: "https://up.example/v1",
            quirks: &Quirks::default(),
            headers: &[],
            credential: &Credential::None,
        };
        let encoded = adapter(self.kind).encode(&self.prompt(), &target).unwrap();
        (encoded.request.url, encoded.request.body)
    }
}
