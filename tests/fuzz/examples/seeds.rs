//! Writes the seeds of each target, made of the transcripts and of a few bodies, to the folder named
//! by the argument.

use std::{fs, path::Path};

fn main() {
    let out = std::env::args().nth(1).expect("a folder to write to");
    let tests = Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("tests/fuzz is in tests");
    let write = |target: &str, name: &str, bytes: Vec<u8>| {
        let dir = Path::new(&out).join(target);
        fs::create_dir_all(&dir).expect("a folder");
        fs::write(dir.join(name), bytes).expect("a seed");
    };
    let wire = tests.join("wire");
    for adapter in folders(&wire) {
        for case in folders(&wire.join(&adapter)) {
            let dir = wire.join(&adapter).join(&case);
            let name = format!("{adapter}-{case}");
            let target = format!("stream_{}", adapter.replace('-', "_"));
            let (flags, body) = match fs::read(dir.join("body.sse")) {
                Ok(body) => (0b1000_0001, body),
                Err(_) => (0b0100_0000, fs::read(dir.join("body.json")).expect("a body")),
            };
            write("sse", &name, [&[7][..], &body].concat());
            // Relayed, translated, and with everything kept.
            for (n, more) in [0b10, 0b01_1100].into_iter().enumerate() {
                write(&target, &format!("{name}-{n}"), [&[flags | more, 7][..], &body].concat());
            }
            let call = fs::read(dir.join("call.json")).expect("a call");
            write("request", &name, [&[0][..], &call].concat());
        }
    }
    let bodies: [(&str, u8, &str); 2] = [
        ("chat", 1, r#"{"model":"m","messages":[{"role":"system","content":"s"},{"role":"user","content":[{"type":"text","text":"t"},{"type":"image_url","image_url":{"url":"data:image/png;base64,eA=="}}]},{"role":"assistant","content":null,"tool_calls":[{"id":"c","type":"function","function":{"name":"f","arguments":"{}"}}]},{"role":"tool","tool_call_id":"c","content":"r"}],"tools":[{"type":"function","function":{"name":"f","parameters":{"type":"object"}}}]}"#),
        ("messages", 2, r#"{"model":"m","max_tokens":9,"system":"s","thinking":{"type":"enabled","budget_tokens":2000},"messages":[{"role":"user","content":"t"},{"role":"assistant","content":[{"type":"thinking","thinking":"h","signature":"x"},{"type":"tool_use","id":"t","name":"f","input":{}}]},{"role":"user","content":[{"type":"tool_result","tool_use_id":"t","content":"r","is_error":true}]}],"tools":[{"name":"f","input_schema":{"type":"object"}}]}"#),
    ];
    for (name, which, body) in bodies {
        write("request", name, [&[which][..], body.as_bytes()].concat());
    }
    write("capsule", "text", b"eyJ0IjoiaG0ifQ".to_vec());
    // `hello`, compressed with brotli -c and gzip -c.
    write("body", "br", vec![3, 0x0b, 0x02, 0x80, b'h', b'e', b'l', b'l', b'o', 0x03]);
    write("body", "gzip", vec![1, 0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 3, 0xcb, 0x48, 0xcd, 0xc9, 0xc9, 7, 0, 0x86, 0xa6, 0x10, 0x36, 5, 0, 0, 0]);
}

fn folders(dir: &Path) -> Vec<String> {
    let entries = fs::read_dir(dir).unwrap_or_else(|error| panic!("{}: {error}", dir.display()));
    entries.map(|entry| entry.expect("an entry").file_name().into_string().expect("text")).collect()
}
