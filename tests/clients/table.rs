//! Which client works over which adapter. The README's table is this test's outcome.

use std::{fs, path::Path, process::Command};

use serde_json::{Value, json};

use crate::{
    codex::Bench,
    installed, run,
    support::{
        ocx::Ocx,
        scratch,
        scripted::{Question, Say, Scripted, Wire, call, text, think},
    },
};

/// What every client asks for: a greeting, the weather by its own tool, or a file by the client's.
fn script(question: &Question) -> Vec<Say> {
    let offers = |tool: &str| question.tools.iter().any(|name| name == tool);
    if !question.results.is_empty() {
        return vec![text("It is sunny in Rome.")];
    }
    let write = "printf client > out.txt";
    if offers("get_weather") {
        vec![think("Let me look."), call("get_weather", json!({"city": "Rome"}))]
    } else if offers("Bash") {
        vec![think("I write."), call("Bash", json!({"command": write, "description": "Writes it"}))]
    } else if offers("exec_command") {
        vec![think("I write."), call("exec_command", json!({ "cmd": write }))]
    } else {
        vec![text("Hello from the upstream.")]
    }
}

struct Setting {
    dir: std::path::PathBuf,
    ocx: Ocx,
    scripted: Scripted,
    model: String,
}

fn setting(client: &str, wire: Wire) -> Setting {
    let dir = scratch(&format!("client-{client}-{}", wire.adapter()));
    let scripted = Scripted::start(script);
    let config = json!({"providers": {"up": wire.provider(&scripted.upstream)}});
    let ocx = Ocx::serve(&dir, &config);
    Setting { dir, ocx, scripted, model: format!("up/{}", wire.thinking_model()) }
}

/// Runs a script of `tests/clients` with the installed SDKs.
fn sdk(script: &str, wire: Wire) -> Result<(), String> {
    let setting = setting(script, wire);
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/clients").join(script);
    let mut command = Command::new(installed("venv/bin/python"));
    command.arg(path).arg(format!("http://{}/v1", setting.ocx.address)).arg(&setting.model);
    let ran = run(&mut command, &setting.dir);
    setting.scripted.assert_rules_kept();
    if ran.ok && ran.out.trim_end().ends_with("ok") { Ok(()) } else { Err(ran.err) }
}

fn claude_code(wire: Wire) -> Result<(), String> {
    let setting = setting("claude-code", wire);
    let work = setting.dir.join("work");
    fs::create_dir_all(&work).unwrap();
    let ran = run(
        Command::new(installed("node_modules/.bin/claude"))
            .args(["-p", "write the file", "--allowedTools", "Bash", "--output-format", "json"])
            .current_dir(&work)
            .env("HOME", &setting.dir)
            .env("CLAUDE_CONFIG_DIR", setting.dir.join("claude"))
            .env("ANTHROPIC_BASE_URL", format!("http://{}", setting.ocx.address))
            .env("ANTHROPIC_API_KEY", "sk-unused")
            .env("ANTHROPIC_MODEL", &setting.model)
            .env("ANTHROPIC_DEFAULT_HAIKU_MODEL", &setting.model)
            .env("CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC", "1")
            .env("DISABLE_AUTOUPDATER", "1"),
        &setting.dir,
    );
    setting.scripted.assert_rules_kept();
    let result: Value = serde_json::from_str(&ran.out).unwrap_or_default();
    let written = fs::read_to_string(work.join("out.txt")).unwrap_or_default();
    if result["result"] == "It is sunny in Rome." && written == "client" {
        return Ok(());
    }
    Err(format!("{}\n{}", ran.out, ran.err))
}

fn codex(wire: Wire) -> Result<(), String> {
    let (bench, _) = Bench::over("table", wire, json!({}), script);
    let run = bench.codex("write the file");
    bench.assert_rules_kept();
    let written = fs::read_to_string(bench.work("out.txt")).unwrap_or_default();
    if run.ok && run.said() == "It is sunny in Rome." && written == "client" {
        return Ok(());
    }
    Err(format!("{:#?}\n{}", run.events, run.stderr))
}

type Check = fn(Wire) -> Result<(), String>;

/// Clients as the README names them.
fn clients() -> Vec<(String, Check)> {
    let requirements = include_str!("requirements.txt");
    let version = |package: &str| {
        let line =
            requirements.lines().find_map(|line| line.strip_prefix(package)?.strip_prefix("=="));
        line.unwrap_or_else(|| panic!("{package} is pinned")).to_owned()
    };
    let codex_version = include_str!("codex-version.txt").trim();
    let claude_version = include_str!("claude-code-version.txt").trim();
    vec![
        (format!("Codex CLI {codex_version}"), codex),
        (format!("Claude Code {claude_version}"), claude_code),
        (format!("OpenAI Python SDK {}", version("openai")), |wire| sdk("openai_sdk.py", wire)),
        (format!("OpenAI Agents SDK {}", version("openai-agents")), |wire| {
            sdk("agents_sdk.py", wire)
        }),
        (format!("Anthropic Python SDK {}", version("anthropic")), |wire| {
            sdk("anthropic_sdk.py", wire)
        }),
    ]
}

#[test]
fn the_readmes_table_is_what_works() {
    let head = Wire::ALL.map(|wire| format!("`{}`", wire.adapter())).join(" | ");
    let mut table = format!("| client | {head} |\n|{}\n", "---|".repeat(Wire::ALL.len() + 1));
    let mut failures = Vec::new();
    for (name, check) in clients() {
        let runs = Wire::ALL.map(|wire| (wire, std::thread::spawn(move || check(wire))));
        let cells = runs.map(|(wire, run)| {
            match run.join().unwrap_or_else(|_| Err("it broke a rule of the vendor".to_owned())) {
                Ok(()) => "works",
                Err(error) => {
                    failures.push(format!("{name} over {}:\n{error}", wire.adapter()));
                    "fails"
                }
            }
        });
        table.push_str(&format!("| {name} | {} |\n", cells.join(" | ")));
    }
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("README.md");
    let readme = fs::read_to_string(&path).unwrap();
    let (begin, end) =
        ("<!-- clients: written by the test `clients` -->\n", "<!-- clients end -->");
    let (before, rest) = readme.split_once(begin).expect("README.md has the table's place");
    let (known, after) = rest.split_once(end).expect("README.md has the table's end");
    if std::env::var_os("OCX_UPDATE_README").is_some() {
        fs::write(&path, format!("{before}{begin}{table}{end}{after}")).unwrap();
    } else {
        assert_eq!(known, table, "run with OCX_UPDATE_README=1");
    }
    assert!(failures.is_empty(), "{}", failures.join("\n"));
}
