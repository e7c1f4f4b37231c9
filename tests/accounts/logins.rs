//! Logging in: by browser, by paste, by device.

use std::{
    fs,
    io::{BufRead as _, BufReader, Write as _},
    os::unix::fs::PermissionsExt as _,
    process::{Child, Stdio},
};

use serde_json::{Value, json};
use url::Url;

use crate::{
    Model, account, ask,
    authority::{Authority, get},
    command, config, home,
    support::ocx::Ocx,
    together,
};

struct Login {
    child: Child,
    out: BufReader<std::process::ChildStdout>,
}

impl Login {
    fn start(home: &std::path::Path, args: &[&str]) -> Self {
        let mut child = command(home)
            .args(["login", "acme"])
            .args(args)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let out = BufReader::new(child.stdout.take().unwrap());
        Self { child, out }
    }

    /// The address that the person is told to open.
    fn address(&mut self) -> Url {
        let mut line = String::new();
        loop {
            line.clear();
            assert!(self.out.read_line(&mut line).unwrap() > 0, "no address was told");
            if let Some(address) = line.trim().strip_prefix("Open ") {
                return Url::parse(address).unwrap();
            }
        }
    }

    fn finish(mut self) -> (bool, String) {
        drop(self.child.stdin.take());
        let mut rest = String::new();
        std::io::Read::read_to_string(&mut self.out, &mut rest).unwrap();
        let done = self.child.wait_with_output().unwrap();
        (done.status.success(), rest + &String::from_utf8_lossy(&done.stderr))
    }
}

/// What a browser does: asks, and is sent on to an address.
pub fn browse(address: &Url) -> Url {
    let path = format!("{}?{}", address.path(), address.query().unwrap());
    let answer = get(address.port().unwrap(), "GET", &path, "");
    let location = answer
        .lines()
        .find_map(|line| line.to_ascii_lowercase().starts_with("location: ").then(|| &line[10..]));
    Url::parse(location.unwrap_or_else(|| panic!("{answer}"))).unwrap()
}

pub fn visit(address: &Url) -> String {
    let path = format!("{}?{}", address.path(), address.query().unwrap_or_default());
    get(address.port().unwrap(), "GET", &path, "")
}

fn logged_in(home: &std::path::Path, authority: &Authority) {
    let account = account(home);
    assert_eq!(account["id"], "user1");
    assert_eq!(account["credential"]["email"], "user1@example.com");
    let mode = fs::metadata(home.join("auth.json")).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode, 0o600);
    for agent in authority.seen()["agents"].as_array().unwrap() {
        assert!(agent.as_str().unwrap().starts_with("opencodex/"), "we are ourselves: {agent}");
    }
}

#[test]
fn by_browser_and_no_stray_request_kills_the_login() {
    let _machine = together();
    let (authority, model, home) = (Authority::start(), Model::start(), home("browser"));
    let gateway = Ocx::serve(&home, &config(&authority, &model.upstream.base_url()));
    let (status, refused) = ask(gateway.address);
    assert_eq!(status, 400);
    assert!(refused.contains("ocx login acme"), "{refused}");

    let mut login = Login::start(&home, &["--no-browser"]);
    let back = browse(&login.address());
    let at = |query: &str| {
        let mut url = back.clone();
        url.set_query(Some(query));
        visit(&url)
    };
    assert!(at("code=c&state=wrong").starts_with("HTTP/1.1 400"));
    assert!(at("error=access_denied").starts_with("HTTP/1.1 400"));
    let mut elsewhere = back.clone();
    elsewhere.set_path("/other");
    assert!(visit(&elsewhere).starts_with("HTTP/1.1 404"));
    let thanks = visit(&back);
    assert!(thanks.starts_with("HTTP/1.1 200") && thanks.contains("You are logged in"), "{thanks}");
    let (done, told) = login.finish();
    assert!(done && told.contains("Logged in to acme as user1@example.com"), "{told}");
    logged_in(&home, &authority);
    std::thread::sleep(std::time::Duration::from_millis(1100));
    assert_eq!(ask(gateway.address).0, 200, "the running gateway has it");

    let out = command(&home).args(["accounts"]).output().unwrap();
    assert!(String::from_utf8_lossy(&out.stdout).contains("* acme"), "{out:?}");
    // T-22: whoever edits the config cannot send the token elsewhere.
    let elsewhere = Model::start();
    let moved = Ocx::serve(&home, &config(&authority, &elsewhere.upstream.base_url()));
    let (status, answer) = ask(moved.address);
    assert!(status == 400 && answer.contains("the login is for"), "{answer}");
    assert_eq!(elsewhere.upstream.asked().len(), 0);
    drop(moved);
    fs::write(home.join("config.json"), config(&authority, &model.upstream.base_url()).to_string())
        .unwrap();
    assert!(command(&home).args(["logout", "acme"]).status().unwrap().success());
    std::thread::sleep(std::time::Duration::from_millis(1100));
    ask(gateway.address);
    std::thread::sleep(std::time::Duration::from_millis(200));
    assert_eq!(ask(gateway.address).0, 400, "a login that was ended is not used any more");
}

#[test]
fn by_paste_on_a_machine_without_a_browser() {
    let _machine = together();
    let (authority, home) = (Authority::start(), home("paste"));
    fs::write(home.join("config.json"), config(&authority, "http://127.0.0.1:1/v1").to_string())
        .unwrap();
    let mut login = Login::start(&home, &["--paste"]);
    let back = browse(&login.address());
    let mut input = login.child.stdin.take().unwrap();
    writeln!(input, "nonsense with blanks").unwrap();
    writeln!(input, "http://h/?code=c&state=other").unwrap();
    writeln!(input, "{back}").unwrap();
    login.child.stdin = Some(input);
    let (done, told) = login.finish();
    assert!(done, "{told}");
    logged_in(&home, &authority);
    assert!(authority.seen()["formats"].as_array().unwrap().contains(&json!("form")));
}

#[test]
fn by_paste_of_a_code_with_its_state_to_a_server_that_wants_json() {
    let _machine = together();
    let (authority, home) = (Authority::start(), home("json"));
    let mut config = config(&authority, "http://127.0.0.1:1/v1");
    config["providers"]["acme"]["login"]["tokenFormat"] = "json".into();
    fs::write(home.join("config.json"), config.to_string()).unwrap();
    let mut login = Login::start(&home, &["--paste"]);
    let back = browse(&login.address());
    let field = |name: &str| back.query_pairs().find(|(n, _)| n == name).unwrap().1.into_owned();
    let mut input = login.child.stdin.take().unwrap();
    writeln!(input, "{}#{}", field("code"), field("state")).unwrap();
    login.child.stdin = Some(input);
    let (done, told) = login.finish();
    assert!(done, "{told}");
    logged_in(&home, &authority);
}

#[test]
fn by_device_code() {
    let _machine = together();
    let (authority, home) = (Authority::start(), home("device"));
    let mut config = config(&authority, "http://127.0.0.1:1/v1");
    let login = &mut config["providers"]["acme"]["login"];
    login["deviceUrl"] = authority.url("/device").into();
    login["tokenUrl"] = authority.url("/token").into();
    fs::write(home.join("config.json"), config.to_string()).unwrap();
    let mut login = Login::start(&home, &[]);
    assert!(login.address().as_str().ends_with("/confirm?code=ABCD-EFGH"));
    let (done, told) = login.finish();
    assert!(done && told.contains("ABCD-EFGH"), "{told}");
    logged_in(&home, &authority);
}

#[test]
fn what_has_no_login_says_what_to_do() {
    let _machine = together();
    let home = home("none");
    let refused = |provider: &str| {
        let out = command(&home).args(["login", provider]).output().unwrap();
        assert!(!out.status.success());
        String::from_utf8_lossy(&out.stderr).into_owned()
    };
    assert!(refused("groq").contains("console.groq.com/keys"));
    let told = refused("nobody");
    assert!(told.contains("anthropic, kimi, xai"), "{told}");
    let listed = command(&home).args(["provider", "list", "--json"]).output().unwrap();
    let rows: Value = serde_json::from_slice(&listed.stdout).unwrap();
    let row =
        |id: &str| rows.as_array().unwrap().iter().find(|row| row["id"] == id).unwrap().clone();
    assert!(rows.as_array().unwrap().len() >= 78);
    assert_eq!(row("groq")["keyPage"], "https://console.groq.com/keys");
    assert_eq!(
        (&row("xai")["authMode"], &row("xai")["configured"]),
        (&json!("oauth"), &json!(false))
    );
}
