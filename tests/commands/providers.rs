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

fn keyed() -> Upstream {
    Upstream::start(|asked| match asked.header("authorization") {
        Some("Bearer sk-good") => Reply::json(200, &json!({"data": [{"id": "m"}]})),
        _ => Reply::json(401, &json!({"error": {"message": "no"}})),
    })
}

#[test]
fn one_is_added_with_a_key_that_is_taken_and_removed_and_every_other_byte_stays() {
    let upstream = keyed();
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
}

#[test]
fn keys_are_tested_and_the_answer_is_one_for_programs_too() {
    let upstream = keyed();
    let provider = |key: &str| json!({"adapter": "openai-chat", "baseUrl": upstream.base_url(), "apiKey": key});
    let config = json!({"providers": {"good": provider("${GOOD_KEY}"), "bad": provider("${BAD_KEY}"),
        "unset": provider("${NO_SUCH_KEY}")}});
    let house = House::new("test", &config.to_string());
    let tested = house.run(&["test", "--json"]);
    assert_eq!(tested.status.code(), Some(1), "one is refused");
    let rows: Value = serde_json::from_slice(&tested.stdout).unwrap();
    let verdict = |name: &str| {
        let rows = rows.as_array().unwrap();
        let row = rows.iter().find(|row| row["provider"] == name);
        row.unwrap()["verdict"].as_str().unwrap().to_owned()
    };
    assert_eq!(["good", "bad", "unset"].map(verdict), ["valid", "invalid", "unknown"]);
    assert!(house.run(&["test", "good"]).status.success());
    assert!(!text(&tested).contains("sk-"), "{}", text(&tested));
}
