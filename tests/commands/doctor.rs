//! `ocx doctor` finds faults that were planted, each by its name, and says what to do.

use std::{
    fs, net::TcpListener, os::unix::fs::PermissionsExt as _, path::PathBuf, process::Command,
};

use serde_json::{Value, json};

use crate::{
    free_port,
    support::{
        certificates::CertificateAuthority,
        ocx::Ocx,
        scratch,
        upstream::{Reply, Upstream},
    },
};

struct Patient {
    home: PathBuf,
    env: Vec<(&'static str, String)>,
}

impl Patient {
    fn new(name: &str, config: &Value) -> Self {
        let home = scratch(&format!("doctor-{name}"));
        fs::set_permissions(&home, fs::Permissions::from_mode(0o700)).unwrap();
        let path = home.join("config.json");
        fs::write(&path, config.to_string()).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
        Self { home, env: Vec::new() }
    }

    fn private(&self, name: &str, text: &str) -> PathBuf {
        let path = self.home.join(name);
        fs::write(&path, text).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
        path
    }

    fn codex(&self) -> PathBuf {
        self.home.join("codex-home")
    }

    fn command(&self) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_ocx"));
        command.env("OPENCODEX_HOME", &self.home).env("CODEX_HOME", self.codex());
        for name in ["HTTPS_PROXY", "HTTP_PROXY", "ALL_PROXY", "https_proxy", "http_proxy"] {
            command.env_remove(name);
        }
        command.envs(self.env.iter().map(|(name, value)| (name, value)));
        command
    }

    /// Exit code and findings.
    fn examined(&self) -> (i32, Vec<Value>) {
        let out = self.command().args(["doctor", "--json"]).output().unwrap();
        let findings = serde_json::from_slice(&out.stdout).unwrap_or_else(|error| {
            panic!(
                "{error}: {}{}",
                String::from_utf8_lossy(&out.stdout),
                String::from_utf8_lossy(&out.stderr)
            )
        });
        (out.status.code().unwrap(), findings)
    }

    /// Asserts that this is found to be bad, with something to do.
    fn is_told(&self, area: &str, what: &str, todo: &str) {
        let (code, findings) = self.examined();
        let found = findings.iter().any(|finding| {
            let text = |field: &str| finding[field].as_str().unwrap_or_default();
            text("area") == area
                && text("state") == "bad"
                && text("what").contains(what)
                && text("todo").contains(todo)
        });
        assert!(found, "{area}: {what}: {findings:#?}");
        assert_eq!(code, 1);
    }
}

fn answers(status: u16, headers: &'static [(&'static str, &'static str)]) -> Upstream {
    Upstream::start(move |_| {
        let list = json!({"object": "list", "data": [{"id": "m"}]}).to_string();
        let headers = [&[("content-type", "application/json")], headers].concat();
        Reply::with_headers(status, &headers, list.as_bytes())
    })
}

fn one(name: &str, base_url: &str, more: Value) -> Value {
    let mut provider =
        json!({"adapter": "openai-chat", "baseUrl": base_url, "apiKey": "sk-planted-key"});
    provider.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    json!({"port": free_port(), "providers": {name: provider}})
}

#[test]
fn a_sound_home_is_called_so_and_no_secret_is_shown() {
    let upstream = answers(200, &[]);
    let config = one("mine", &upstream.base_url(), json!({}));
    let patient = Patient::new("sound", &config);
    let mut config = config;
    config["port"] = json!(free_port());
    let _ocx = Ocx::serve(&patient.home, &config);
    let (code, findings) = patient.examined();
    assert_eq!(code, 0, "{findings:#?}");
    assert!(findings.iter().all(|finding| finding["state"] == "good"), "{findings:#?}");
    for area in ["config", "files", "gateway", "codex", "mine"] {
        assert!(findings.iter().any(|finding| finding["area"] == area), "{area}: {findings:#?}");
    }
    assert!(!serde_json::to_string(&findings).unwrap().contains("sk-planted-key"));
    let out = patient.command().arg("doctor").output().unwrap();
    let text = String::from_utf8_lossy(&out.stdout).into_owned();
    assert!(text.ends_with("Nothing is wrong.\n"), "{text}");
    assert!(!text.contains('\u{1b}'), "colours are for terminals: {text:?}");
}

#[test]
fn fault_01_a_config_that_does_not_check() {
    let patient = Patient::new("config", &json!({"port": "many"}));
    patient.is_told("config", "/port", "mend it");
}

#[test]
fn fault_02_secrets_that_others_may_read() {
    let patient = Patient::new("modes", &one("mine", "http://127.0.0.1:9", json!({})));
    let config = patient.home.join("config.json");
    fs::set_permissions(&config, fs::Permissions::from_mode(0o644)).unwrap();
    patient.is_told("files", "config.json holds secrets", "chmod 600");
    let token = patient.private("admin-token", "t");
    fs::set_permissions(token, fs::Permissions::from_mode(0o640)).unwrap();
    patient.is_told("files", "admin-token holds secrets", "chmod 600");
    fs::set_permissions(&patient.home, fs::Permissions::from_mode(0o755)).unwrap();
    patient.is_told("files", "may read or change it (755)", "chmod 700");
}

#[test]
fn fault_03_a_broken_key_and_broken_logins() {
    let patient = Patient::new("broken", &json!({"port": free_port(), "providers": {}}));
    patient.private("capsule-key", "not hexadecimal\n");
    patient.is_told("files", "capsule-key is not 64", "delete it");
    patient.private("auth.json", "{\"version\": 1, \"accou");
    patient.is_told("files", "auth.json", "ocx login");
}

#[test]
fn fault_04_a_variable_that_is_not_set() {
    let config = one("mine", "http://127.0.0.1:9", json!({"apiKey": "${OCX_TEST_NOWHERE}"}));
    Patient::new("variable", &config).is_told("mine", "OCX_TEST_NOWHERE is not set", "give it");
}

#[test]
fn a_variable_that_only_the_gateway_has_is_no_fault() {
    let config = one("mine", "http://127.0.0.1:9", json!({"apiKey": "${OCX_TEST_SOMEWHERE}"}));
    let patient = Patient::new("elsewhere", &config);
    let mut serve = Command::new(env!("CARGO_BIN_EXE_ocx"));
    serve.env("OCX_TEST_SOMEWHERE", "sk-planted-key");
    let _ocx = Ocx::serve_by(&patient.home, &config, serve);
    let (code, findings) = patient.examined();
    let mine = findings.iter().find(|finding| finding["area"] == "mine").unwrap();
    assert_eq!((code, &mine["state"]), (0, &json!("doubt")), "{findings:#?}");
    assert!(mine["what"].as_str().unwrap().contains("the gateway that runs has it"), "{mine}");
}

#[test]
fn fault_05_a_key_that_is_refused() {
    let upstream = answers(401, &[]);
    let patient = Patient::new("refused", &one("mine", &upstream.base_url(), json!({})));
    patient.is_told("mine", "invalid: it answers 401", "new key");
}

#[test]
fn fault_06_nobody_is_logged_in() {
    let patient = Patient::new("login", &json!({"port": free_port(), "providers": {"kimi": {}}}));
    patient.is_told("kimi", "nobody is logged in", "ocx login kimi");
}

#[test]
fn fault_07_a_clock_that_is_wrong() {
    let upstream = answers(200, &[("date", "Thu, 01 Jan 2026 00:00:00 GMT")]);
    let patient = Patient::new("clock", &one("mine", &upstream.base_url(), json!({})));
    patient.is_told("clock", "s early", "set it");
}

#[test]
fn fault_08_a_proxy_that_is_dead() {
    let proxy = format!("http://127.0.0.1:{}", free_port());
    let config = one("mine", "https://provider.test/v1", json!({"proxy": proxy}));
    Patient::new("proxy", &config).is_told("mine", "proxy", "the proxy (`HTTPS_PROXY`");
    // The one of the environment, likewise.
    let mut patient =
        Patient::new("proxy-env", &one("mine", "https://provider.test/v1", json!({})));
    patient.env.push(("HTTPS_PROXY", proxy));
    patient.is_told("mine", "proxy", "the proxy (`HTTPS_PROXY`");
}

#[test]
fn fault_09_a_certificate_that_nobody_trusts() {
    let port = CertificateAuthority::new("a stranger").serve_apart("localhost").port();
    let base_url = format!("https://localhost:{port}/v1");
    let patient = Patient::new("tls", &one("mine", &base_url, json!({})));
    patient.is_told("mine", "TLS", "caFile");
    let mut config = one("mine", "http://127.0.0.1:9", json!({}));
    config["caFile"] = json!("/nowhere/ca.pem");
    Patient::new("ca", &config).is_told("config", "caFile", "PEM");
}

#[test]
fn fault_10_a_provider_that_is_not_there() {
    let config = one("mine", &format!("http://127.0.0.1:{}/v1", free_port()), json!({}));
    Patient::new("gone", &config).is_told("mine", "cannot be reached", "baseUrl");
}

#[test]
fn fault_11_a_port_that_another_program_has() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port();
    let patient = Patient::new("port", &json!({"port": port, "providers": {}}));
    patient.private("admin-token", "t");
    // It never answers: a stranger is not waited for long.
    std::thread::spawn(move || taken.incoming().for_each(drop));
    patient.is_told("gateway", "another program has 127.0.0.1:", "another `port`");
}

#[test]
fn fault_12_a_codex_that_is_led_to_nowhere_or_has_lost_its_models() {
    let patient = Patient::new("codex", &json!({"port": free_port(), "providers": {}}));
    let wired = |text: &str| {
        fs::create_dir_all(patient.codex()).unwrap();
        fs::write(patient.codex().join("config.toml"), text).unwrap();
    };
    wired(
        "model_provider = \"opencodex\"\n[model_providers.opencodex]\nbase_url = \"http://127.0.0.1:9/v1\"\n",
    );
    patient.is_told("codex", "no gateway of this home runs", "ocx restore");
    patient.is_told("codex", "models that Codex is told of are gone", "ocx sync");
    wired("model = \n");
    patient.is_told("codex", "is no TOML", "mend it");
}

#[test]
fn fault_13_a_gateway_whose_config_was_changed_into_one_that_does_not_run() {
    let patient = Patient::new("diverged", &json!({}));
    let ocx = Ocx::serve(&patient.home, &json!({"watch": "poll", "providers": {}}));
    fs::write(&ocx.config, "{\"providers\": {\"mine\": {\"adapter\": \"none\"}}}").unwrap();
    let asked = patient.command().arg("reload").output().unwrap();
    assert!(!asked.status.success());
    patient.is_told("gateway", "was changed, and what it says now does not run", "ocx reload");
}

#[test]
fn fault_14_a_base_url_that_is_a_web_page() {
    let upstream = Upstream::start(|_| Reply::body(200, "text/html", b"<html>"));
    let patient = Patient::new("page", &one("mine", &upstream.base_url(), json!({})));
    patient.is_told("mine", "answers with a web page", "/v1");
}

#[test]
fn fault_15_an_open_door() {
    let config = json!({"port": free_port(), "hostname": "0.0.0.0", "providers": {}});
    let patient = Patient::new("door", &config);
    patient.is_told("config", "listening on 0.0.0.0, beyond loopback, takes", "mend it");
}
