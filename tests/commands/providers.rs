//! `ocx provider add`, `remove` and `test`.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Output},
};

use serde_json::{Value, json};

use crate::{
    support::{
        scratch,
        upstream::{Reply, Upstream},
    },
    text,
};

struct House(PathBuf);

impl House {
    fn new(name: &str, config: &str) -> Self {
        let home = scratch(&format!("providers-{name}"));
        fs::write(home.join("config.json"), config).unwrap();
        Self(home)
    }

    fn run(&self, args: &[&str]) -> Output {
        let mut command = Command::new(env!("CARGO_BIN_EXE_ocx"));
        command.arg("provider").args(args).env("OPENCODEX_HOME", &self.0);
        command.env("GOOD_KEY", "sk-good").env("BAD_KEY", "sk-bad").output().unwrap()
    }

    fn config(&self) -> String {
        fs::read_to_string(path(&self.0)).unwrap()
    }
}

fn path(home: &Path) -> PathBuf {
    home.join("config.json")
}

#[test]
fn one_is_added_with_a_key_that_is_taken_and_removed_and_every_other_byte_stays() {
    let upstream = Upstream::keyed("sk-good");
    let before = "{\n  \"providers\": {\n    \"openai\": {},\n    \"ollama\": { }\n  }\n}\n";
    let house = House::new("add", before);
    let add = |name: &str, key: &str| {
        let url = upstream.base_url();
        house.run(&["add", name, "--base-url", &url, "--key-env", key, "--model", "m"])
    };
    let refused = add("mine", "BAD_KEY");
    assert!(!refused.status.success() && house.config() == before, "{}", text(&refused));
    let added = add("mine", "GOOD_KEY");
    assert!(added.status.success(), "{}", text(&added));
    let config: Value = serde_json::from_str(&house.config()).unwrap();
    assert_eq!(config["providers"]["mine"]["apiKey"], "${GOOD_KEY}");
    assert!(!add("mine", "GOOD_KEY").status.success(), "it is there");
    let removed = house.run(&["remove", "mine"]);
    assert!(removed.status.success(), "{}", text(&removed));
    assert_eq!(house.config(), before);
    let removed = house.run(&["remove", "mine"]);
    assert!(!removed.status.success() && text(&removed).contains("no provider `mine`"));
    let account = house.run(&["add", "kimi"]);
    assert!(
        account.status.success() && text(&account).contains("ocx login kimi"),
        "{}",
        text(&account)
    );
}

#[test]
fn one_that_something_else_needs_is_not_removed() {
    let config = "{\"providers\": {\"openai\": {}, \"ollama\": {}}, \
        \"combos\": {\"best\": {\"targets\": [\"ollama/m\"]}}}";
    let house = House::new("needed", config);
    let refused = house.run(&["remove", "ollama"]);
    assert!(!refused.status.success(), "{}", text(&refused));
    assert!(text(&refused).contains("/combos/best/targets/0"), "{}", text(&refused));
    assert_eq!(house.config(), config);
    // What breaks the config can be taken out of it.
    let broken = "{\"providers\": {\"ollama\": {}, \"mine\": {\"adapter\": \"none\"}}}";
    let house = House::new("broken", broken);
    let out = house.run(&["add", "lm-studio"]);
    assert!(!out.status.success() && text(&out).contains("mend this first"), "{}", text(&out));
    let out = house.run(&["remove", "mine"]);
    assert!(out.status.success(), "{}", text(&out));
    assert_eq!(house.config(), "{\"providers\": {\"ollama\": {}}}");
}

#[test]
fn keys_are_tested_and_the_answer_is_valid_invalid_or_unknown() {
    let upstream = Upstream::start(|asked| match asked.header("authorization") {
        Some("Bearer sk-good") => Reply::json(200, &json!({"data": [{"id": "m"}]})),
        Some("Bearer sk-odd") => Reply::json(500, &json!({})),
        _ => Reply::json(401, &json!({"error": {"message": "no"}})),
    });
    let config = json!({"providers": {
        "mine": {"adapter": "openai-chat", "baseUrl": upstream.base_url(),
            "apiKeys": ["${GOOD_KEY}", "${BAD_KEY}", "sk-odd", "${OCX_SURELY_UNSET}"]},
        "openai": {},
        "openrouter": {"apiKey": "k"}}});
    let house = House::new("test", &config.to_string());
    let tested = house.run(&["test", "--json"]);
    assert_eq!(tested.status.code(), Some(1), "one of them is refused");
    let rows: Value = serde_json::from_slice(&tested.stdout).unwrap();
    let row = |row: &Value| ["provider", "credential", "detail"].map(|field| row[field].clone());
    let rows: Vec<_> = rows.as_array().unwrap().iter().map(row).collect();
    let expected = [
        ["mine", "key 1", "valid"],
        ["mine", "key 2", "invalid: it answers 401"],
        ["mine", "key 3", "unknown: it answers 500"],
        ["mine", "key 4", "unknown: the variable OCX_SURELY_UNSET is not set"],
        ["openai", "login", "unknown: callers bring their own ChatGPT login"],
        // Nobody is asked: this vendor would answer anybody.
        ["openrouter", "key 1", "unknown: its model list is open to everybody"],
    ];
    assert_eq!(rows, expected.map(|row| row.map(|text| json!(text))));
    let said = text(&house.run(&["test", "mine"]));
    assert!(said.contains("key 2        invalid") && !said.contains("sk-"), "{said}");
    assert!(house.run(&["check", "openai"]).status.success(), "unknown is no failure");
}
