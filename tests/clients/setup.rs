//! `ocx codex install` and `ocx restore`, with the real Codex and its own files.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
    thread,
    time::{Duration, Instant},
};

use rand::RngExt as _;
use serde_json::{Value, json};

use crate::{
    installed, run,
    support::{
        chat,
        ocx::Ocx,
        scratch,
        upstream::{Reply, Upstream},
    },
};

/// A user's own files: line ends of Windows, comments, a provider and a profile of their own.
const CONFIG: &str = "# my Codex\r\nmodel_provider = \"work\" # the company's\r\n\r\n\
    [model_providers.work]\r\nname = \"Work\"\r\nbase_url = \"http://127.0.0.1:9/v1\"\r\n\
    wire_api = \"responses\"\r\n\r\n[profiles.deep]\r\nmodel_reasoning_effort = \"high\"\r\n\r\n\
    [features]\r\nplugins = false\r\n";
const CACHE: &str = "{\"fetched_at\":\"2020-01-01T00:00:00Z\",\"models\":[]}";

struct Bench {
    dir: PathBuf,
    ocx: Ocx,
    upstream: Upstream,
}

impl Bench {
    fn new(name: &str) -> Self {
        let dir = scratch(&format!("setup-{name}"));
        let upstream = Upstream::start(|asked| {
            if asked.line.starts_with("GET /v1/models") {
                let models = json!([{"id": "big", "context_length": 262_144},
                    {"id": "small", "context_length": 32_768}]);
                return Reply::json(200, &json!({"data": models}));
            }
            Reply::chat(&[vec![chat::text("Hello from ocx.")], chat::end("stop")].concat())
        });
        let config = json!({"subagentModels": ["chat/small", "gpt-6-luna", "gone/model"],
            "providers": {"chat": {"adapter": "openai-chat", "authMode": "local",
                "baseUrl": upstream.base_url()}}});
        let ocx = Ocx::serve(&dir, &config);
        fs::create_dir_all(dir.join("codex")).unwrap();
        fs::create_dir_all(dir.join("work")).unwrap();
        Self { dir, ocx, upstream }
    }

    fn home(&self) -> PathBuf {
        self.dir.join("codex")
    }

    fn ocx(&self, args: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_ocx"));
        command.args(args).env("OPENCODEX_HOME", &self.dir).env("CODEX_HOME", self.home());
        // Where `codex` is found.
        let bin = installed("node_modules/.bin");
        let path = format!("{}:{}", bin.display(), std::env::var("PATH").unwrap());
        command.env("PATH", path).stdin(Stdio::null());
        command
    }

    fn install(&self) -> Command {
        let port = self.ocx.address.port().to_string();
        self.ocx(&["codex", "install", "--port", &port])
    }

    fn codex(&self, args: &[&str]) -> Command {
        let mut command = Command::new(installed("node_modules/.bin/codex"));
        command.args(args).env("CODEX_HOME", self.home());
        command
    }
}

fn succeeds(command: &mut Command) -> Output {
    let output = command.output().unwrap();
    assert!(output.status.success(), "{command:?}: {output:?}");
    output
}

/// Names and bytes of the files that are the user's, without Codex's own state.
fn files(home: &Path) -> Vec<(String, Vec<u8>)> {
    let ours =
        |name: &str| name.ends_with(".toml") || name.contains("models") || name.starts_with(".ocx");
    let mut files: Vec<_> = fs::read_dir(home)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| ours(path.file_name().unwrap().to_str().unwrap()))
        .map(|path| {
            (path.file_name().unwrap().to_str().unwrap().to_owned(), fs::read(&path).unwrap())
        })
        .collect();
    files.sort();
    files
}

#[test]
fn the_real_codex_is_set_up_and_gets_its_own_files_back() {
    let bench = Bench::new("real");
    fs::write(bench.home().join("config.toml"), CONFIG).unwrap();
    fs::write(bench.home().join("models_cache.json"), CACHE).unwrap();
    let before = files(&bench.home());

    // A provider that nobody knew before, checked, saved, and Codex led to it: one command.
    let config: Value = serde_json::from_slice(&fs::read(&bench.ocx.config).unwrap()).unwrap();
    let provider = &config["providers"]["chat"];
    let bare = json!({"subagentModels": config["subagentModels"], "providers": {"openai": {}}});
    fs::write(&bench.ocx.config, bare.to_string()).unwrap();
    let base_url = provider["baseUrl"].as_str().unwrap();
    let installed = succeeds(&mut bench.ocx(&[
        "init",
        "--yes",
        "--provider",
        "chat",
        "--base-url",
        base_url,
        "--no-key",
        "--codex",
    ]));
    let told = String::from_utf8(installed.stderr).unwrap();
    assert!(told.contains("names `gone/model`, which is no model"), "{told}");
    let said = String::from_utf8(installed.stdout).unwrap();
    assert!(
        said.contains("2 models of providers") && said.contains("codex -m chat/small"),
        "{said}"
    );
    let wired = fs::read_to_string(bench.home().join("config.toml")).unwrap();
    assert_eq!(wired.matches('\n').count(), wired.matches("\r\n").count(), "{wired:?}");
    let listed = succeeds(&mut bench.codex(&["debug", "models"])).stdout;
    let listed: Value = serde_json::from_slice(&listed).unwrap();
    let window = |slug: &str| {
        let rows = listed["models"].as_array().unwrap();
        let row = rows.iter().find(|row| row["slug"] == slug);
        row.unwrap_or_else(|| panic!("{slug}"))["context_window"].clone()
    };
    assert_eq!((window("chat/big"), window("chat/small")), (262_144.into(), 32_768.into()));
    assert!(window("gpt-6-astra").is_number(), "Codex's own models are there, too");
    let mut rows: Vec<&Value> = listed["models"].as_array().unwrap().iter().collect();
    rows.sort_by_key(|row| row["priority"].as_i64());
    let first: Vec<_> = rows.iter().take(2).map(|row| row["slug"].as_str().unwrap()).collect();
    assert_eq!(first, ["chat/small", "gpt-6-luna"], "what sub-agents are offered comes first");

    let work = bench.dir.join("work");
    let mut exec = bench.codex(&["exec", "--json", "--skip-git-repo-check", "-m", "chat/big"]);
    exec.arg("-C").arg(work).arg("Say hello.");
    let ran = run(&mut exec, &bench.dir);
    assert!(ran.ok && ran.out.contains("Hello from ocx."), "{}{}", ran.out, ran.err);
    assert!(!ran.err.contains("metadata"), "{}", ran.err);
    let asked = bench.upstream.asked().last().unwrap().json();
    let tools = asked["tools"].as_array().unwrap().iter().map(|tool| &tool["function"]);
    let spawn = tools.clone().find(|tool| tool["name"] == "multi_agent_v1__spawn_agent");
    let offered = spawn.unwrap()["description"].as_str().unwrap();
    let at =
        |name: &str| offered.find(&format!("- `{name}`")).unwrap_or_else(|| panic!("{offered}"));
    assert!(at("chat/small") < at("gpt-6-luna") && at("gpt-6-luna") < at("gpt-6.1-sol"));

    let port = bench.ocx.address.port().to_string();
    let printed = succeeds(&mut bench.ocx(&["models", "chat", "--port", &port])).stdout;
    assert_eq!(String::from_utf8(printed).unwrap(), "chat/big\nchat/small\n");
    assert!(!bench.ocx(&["models", "nobody", "--port", &port]).status().unwrap().success());
    succeeds(&mut bench.ocx(&["sync", "--port", &port]));
    let status = succeeds(&mut bench.ocx(&["codex", "status", "--json"])).stdout;
    let status: Value = serde_json::from_slice(&status).unwrap();
    assert_eq!((&status["installed"], &status["restorable"]), (&true.into(), &true.into()));
    succeeds(&mut bench.ocx(&["restore"]));
    assert_eq!(files(&bench.home()), before, "byte for byte");
    let again = succeeds(&mut bench.ocx(&["restore"]));
    assert!(String::from_utf8(again.stdout).unwrap().contains("nothing to undo"));
}

#[test]
fn a_gateway_that_is_down_changes_nothing_and_says_what_helps() {
    let mut bench = Bench::new("down");
    fs::write(bench.home().join("config.toml"), CONFIG).unwrap();
    let before = files(&bench.home());
    bench.ocx.terminated();
    let output = bench.install().output().unwrap();
    assert!(!output.status.success());
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(said.contains("`ocx start`") && said.contains("Nothing was changed"), "{said}");
    assert_eq!(files(&bench.home()), before);
}

/// Kills a command at a random moment of its life.
fn kill_at_random(mut command: Command, longest: Duration) {
    let mut child = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    thread::sleep(longest.mul_f64(rand::rng().random_range(0.0..1.1)));
    let _ = child.kill();
    child.wait().unwrap();
}

#[test]
fn kill_9_at_fifty_moments_of_install_and_of_restore_costs_no_byte() {
    let bench = Bench::new("killed");
    fs::write(bench.home().join("config.toml"), CONFIG).unwrap();
    fs::write(bench.home().join("models_cache.json"), CACHE).unwrap();
    let before = files(&bench.home());
    let started = Instant::now();
    succeeds(&mut bench.install());
    let installing = started.elapsed();
    let started = Instant::now();
    succeeds(&mut bench.ocx(&["restore"]));
    let restoring = started.elapsed();
    let (mut half_in, mut half_out) = (0, 0);
    for _ in 0..50 {
        kill_at_random(bench.install(), installing);
        let config = fs::read_to_string(bench.home().join("config.toml")).unwrap();
        let wired = config.contains("model_providers.opencodex");
        assert!(wired || config == CONFIG, "old or new: {config}");
        half_in += u32::from(files(&bench.home()) != before);
        succeeds(&mut bench.ocx(&["restore"]));
        assert_eq!(files(&bench.home()), before);

        succeeds(&mut bench.install());
        kill_at_random(bench.ocx(&["restore"]), restoring);
        half_out += u32::from(files(&bench.home()) != before);
        succeeds(&mut bench.ocx(&["restore"]));
        assert_eq!(files(&bench.home()), before);
    }
    println!("{half_in} of 50 installs and {} of 50 restores left something", half_out);
}
