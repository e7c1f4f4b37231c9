use proptest::prelude::*;
use serde_json::json;

use super::*;
use crate::registry::{AdapterKind, AuthMode};

fn env(name: &str) -> Option<String> {
    (name == "SET").then(|| "sk-set".to_owned())
}

fn load(text: &str) -> Result<Loaded, ConfigProblems> {
    check(text.as_bytes(), Path::new("c.json"), &env)
}

fn ok(value: Value) -> Loaded {
    load(&value.to_string()).unwrap_or_else(|problems| panic!("{value}: {problems}"))
}

fn problems(text: &str) -> Vec<(String, usize)> {
    let found = load(text).expect_err(text);
    found.problems.into_iter().map(|problem| (problem.pointer, problem.line)).collect()
}

fn refused(value: Value) -> String {
    load(&value.to_string()).expect_err("refused").to_string()
}

#[test]
fn no_file_means_one_forward_provider_on_loopback() {
    let config = Loaded::defaults(&env).config;
    assert_eq!((config.listen.host.to_string().as_str(), config.listen.port), ("127.0.0.1", 10100));
    let (id, spec) = config.providers.first().unwrap();
    assert_eq!((id.as_str(), spec.auth), ("openai", AuthMode::Forward));
    assert_eq!(spec.base_url, "https://chatgpt.com/backend-api/codex");
    assert_eq!(ok(json!({})).config.providers.len(), 1);
}

#[test]
fn a_known_provider_needs_one_line_and_the_user_wins() {
    let loaded = ok(json!({"providers": {
        "deepseek": {"apiKey": "${SET}"},
        "ollama": {},
        "groq": {"baseUrl": "https://proxy.example/v1/", "contextWindow": 9},
        "mine": {"adapter": "openai-chat", "baseUrl": "http://10.0.0.1:8000/v1", "apiKey": "x"},
    }}));
    let providers = loaded.config.providers;
    let deepseek = &providers["deepseek"];
    assert_eq!((deepseek.adapter, deepseek.lacks(&env)), (AdapterKind::OpenAiChat, None));
    assert!(deepseek.quirks.preserve_reasoning_content_models.is_some());
    assert_eq!(providers["ollama"].lacks(&env), None);
    assert_eq!(providers["groq"].base_url, "https://proxy.example/v1");
    assert!(providers["groq"].lacks(&env).unwrap().contains("GROQ_API_KEY"));
    assert_eq!(loaded.config.default_provider.unwrap().as_str(), "deepseek");
}

#[test]
fn every_problem_is_named_with_its_place() {
    let text = r#"{
  "port": 70000,
  "workers": "many",
  "providers": {
    "a": {
      "adapter": "smoke-signals",
      "baseUrl": "ftp://x",
      "noVisionModels": "all",
      "reasoningEffortMap": {"high": 3}
    },
    "b/c": {"adapter": "openai-chat"},
    "d": {"adapter": "openai-chat", "baseUrl": "https://u:p@x/v1", "headers": {"Host": "x", "ok": "1"}}
  },
  "defaultProvider": "zzz",
  "port": 1
}"#;
    assert_eq!(
        problems(text),
        [
            ("/port".to_owned(), 2),
            ("/workers".to_owned(), 3),
            ("/providers/a/adapter".to_owned(), 6),
            ("/providers/a/baseUrl".to_owned(), 7),
            ("/providers/a/noVisionModels".to_owned(), 8),
            ("/providers/a/reasoningEffortMap/high".to_owned(), 9),
            ("/providers/b~1c".to_owned(), 11),
            ("/providers/b~1c".to_owned(), 11),
            ("/providers/d/baseUrl".to_owned(), 12),
            ("/providers/d/headers/Host".to_owned(), 12),
            ("/defaultProvider".to_owned(), 14),
        ]
    );
}

#[test]
fn each_element_of_a_list_keeps_its_number() {
    let text = r#"{"disabledModels": [1, "a/b", 2, "c/d", 3]}"#;
    let pointers: Vec<_> = problems(text).into_iter().map(|(pointer, _)| pointer).collect();
    assert_eq!(pointers, ["/disabledModels/0", "/disabledModels/2", "/disabledModels/4"]);
}

#[test]
fn broken_json_has_a_line_and_column() {
    let found = load("{\n  \"port\": 1,,\n}").unwrap_err();
    assert_eq!((found.problems[0].line, found.problems[0].column), (2, 13));
    assert!(found.to_string().starts_with("c.json: line 2, column 13: not valid JSON"), "{found}");
    for text in ["", "  \n", "\u{feff}", "[", "{\"a\":1} x", "nul"] {
        assert!(load(text).is_err(), "{text:?}");
    }
    assert!(load("\u{feff}{}").is_ok(), "a byte order mark is no error");
}

#[test]
fn unknown_fields_are_kept_and_noted() {
    let loaded =
        ok(json!({"prot": 1, "telegrams": true, "providers": {"ollama": {"apikey": "x", "z": 1}}}));
    assert_eq!(loaded.file.extra["prot"], 1);
    let notes: Vec<_> = loaded
        .warnings
        .iter()
        .map(|note| (note.pointer.as_str(), note.message.contains("did you mean")))
        .collect();
    assert_eq!(
        notes,
        [
            ("/prot", true),
            ("/telegrams", false),
            ("/providers/ollama/apikey", true),
            ("/providers/ollama/z", false)
        ]
    );
}

#[test]
fn t10_beyond_loopback_takes_both_keys() {
    for (extra, sound) in [
        (json!({}), false),
        (json!({"apiKeys": ["k1"]}), false),
        (json!({"adminToken": "t"}), false),
        (json!({"apiKeys": [], "adminToken": "t"}), false),
        (json!({"apiKeys": [""], "adminToken": "t"}), false),
        (json!({"apiKeys": ["   "], "adminToken": "t"}), false),
        (json!({"apiKeys": ["${UNSET}"], "adminToken": "t"}), false),
        (json!({"apiKeys": ["same"], "adminToken": "same"}), false),
        (json!({"apiKeys": ["${SET}"], "adminToken": "t"}), true),
    ] {
        let mut config = json!({"hostname": "0.0.0.0"});
        config.as_object_mut().unwrap().extend(extra.as_object().unwrap().clone());
        assert_eq!(load(&config.to_string()).is_ok(), sound, "{config}");
    }
    let access = ok(json!({"apiKeys": ["k1"]})).config.access;
    assert!(access.data_keys[0].matches("k1") && !access.data_keys[0].matches("k2"));
}

#[test]
fn logins_are_forwarded_to_chatgpt_only_unless_told_otherwise() {
    let provider = |fields: Value| {
        let mut provider = json!({"adapter": "openai-responses", "authMode": "forward"});
        provider.as_object_mut().unwrap().extend(fields.as_object().unwrap().clone());
        json!({"providers": {"p": provider}})
    };
    let evil = provider(json!({"baseUrl": "https://evil.example/backend-api/codex"}));
    assert!(refused(evil).contains("callers' logins go to https://chatgpt.com only"));
    let path = provider(json!({"baseUrl": "https://chatgpt.com/other"}));
    assert!(refused(path).contains("/backend-api/codex"));
    ok(provider(json!({"baseUrl": "http://127.0.0.1:9/x", "forwardOrigin": "http://127.0.0.1:9"})));
}

#[test]
fn addresses_are_checked() {
    let with = |url: &str| {
        load(&json!({"providers": {"p": {"adapter": "openai-chat", "baseUrl": url}}}).to_string())
    };
    for good in
        ["https://x.example/v1", "http://localhost:1", "http://192.168.1.2/v1", "http://box.local"]
    {
        assert!(with(good).is_ok(), "{good}");
    }
    for bad in ["http://x.example", "x", "https://", "https://x?key=1", "https://x#f", "file:///x"]
    {
        assert!(with(bad).is_err(), "{bad}");
    }
    let placeholder = with("https://{account}.example/v1").unwrap();
    assert_eq!(placeholder.warnings.len(), 1);
    assert!(placeholder.config.providers["p"].lacks(&env).unwrap().contains("placeholder"));
}

#[test]
fn equal_entries_have_equal_fingerprints() {
    let print = |provider: Value| {
        ok(json!({"providers": {"ollama": provider}})).config.providers["ollama"].fingerprint
    };
    assert_eq!(
        print(json!({"models": ["a"], "liveModels": false})),
        print(json!({"liveModels": false, "models": ["a"], "unknown": 1}))
    );
    assert_ne!(print(json!({"models": ["a"]})), print(json!({"models": ["b"]})));
}

#[test]
fn the_example_loads_without_a_word() {
    let text = include_str!("../../../config.example.json");
    let loaded = check(text.as_bytes(), Path::new("config.example.json"), &env).unwrap();
    assert_eq!(loaded.warnings, []);
    assert!(loaded.config.providers.len() >= 3);
}

#[test]
fn saving_what_was_loaded_changes_nothing() {
    let text = json!({"port": 7, "future": {"b": 1, "a": 2}, "providers": {"z": {"adapter": "openai-chat",
        "baseUrl": "http://localhost:1", "apiKey": "$SET", "contextWindow": 5, "odd": []}, "ollama": {}}});
    let first = ok(text.clone()).file;
    assert_eq!(serde_json::to_value(&first).unwrap(), text);
}

#[test]
fn the_schema_describes_every_field() {
    let schema = schema();
    let properties = schema["properties"].as_object().unwrap();
    for (name, property) in properties {
        assert!(property["description"].is_string(), "{name} has no description");
    }
    let provider = schema["$defs"]["ProviderFile"]["properties"].as_object().unwrap();
    assert!(provider.contains_key("apiKey") && provider.contains_key("noVisionModels"));
}

proptest! {
    #[test]
    fn p09_arbitrary_bytes_are_an_error_or_a_config(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        let _ = check(&bytes, Path::new("c.json"), &env);
    }

    #[test]
    fn p09_the_example_cut_anywhere_is_refused(cut in any::<prop::sample::Index>()) {
        let text = include_str!("../../../config.example.json").trim_end();
        let cut = cut.index(text.len());
        prop_assert!(check(&text.as_bytes()[..cut], Path::new("c.json"), &env).is_err());
    }
}
