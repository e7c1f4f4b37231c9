//! What goes wrong on the way: processes that die, servers that answer late or not, disks that refuse.

use std::{
    fs,
    os::unix::{
        fs::{MetadataExt as _, PermissionsExt as _},
        process::CommandExt as _,
    },
    path::Path,
    process::{Child, Command, Stdio},
    sync::atomic::Ordering::SeqCst,
    thread::sleep,
    time::{Duration, Instant},
};

use ocx::credentials::{Intent, now_ms};
use rand::RngExt as _;
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

use crate::{
    Model, account, alone, ask, authority::Authority, command, config, home, support::ocx::Ocx,
    together, write_account,
};

/// How long after the server's commit a death may cost the login, in milliseconds. Our part of it is
/// microseconds; the rest is the server's way of answering, and a machine that has other things to do.
const WINDOW_MS: u64 = 20;

fn refresh(home: &Path) -> Child {
    command(home)
        .args(["accounts", "refresh", "acme"])
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap()
}

/// F-41, F-42. A process that refreshes is killed at 200 random moments. Each time: the file parses, the
/// other account is untouched, and the account can be used again, unless death fell between the
/// server's commit and our journal.
#[test]
fn f42_kill_9_at_200_random_moments_of_a_refresh() {
    let _machine = alone();
    let (authority, home) = (Authority::start(), home("kill"));
    fs::write(home.join("config.json"), config(&authority, "http://127.0.0.1:1/v1").to_string())
        .unwrap();
    write_account(&home, &authority, "u0", 3600);
    // How long a whole one takes, so that the moments are spread over it.
    let whole = (0..5)
        .map(|_| {
            let started = Instant::now();
            assert!(refresh(&home).wait().unwrap().success());
            started.elapsed()
        })
        .max()
        .unwrap();
    let (mut lost, mut ambiguous, mut renewed, mut windows) = (0, 0, 0, Vec::new());
    let mut rng = rand::rng();
    for round in 1..=200 {
        let before = account(&home)["credential"]["generation"].as_u64().unwrap();
        let mut child = refresh(&home);
        sleep(whole.mul_f64(rng.random_range(0.0..1.1)));
        let _ = child.kill();
        let killed = ocx::credentials::now_ms();
        let _ = child.wait();
        let text = fs::read_to_string(home.join("auth.json")).unwrap();
        let store: Value = serde_json::from_str(&text).expect("it always parses");
        let other =
            store["other"].get("accounts").map_or(&store["other"], |list| &list[0]["credential"]);
        assert_eq!(other["refresh"], "other-refresh", "round {round}");
        let mode = fs::metadata(home.join("auth.json")).unwrap().permissions().mode() & 0o777;
        assert!(mode == 0o600 || round < 3, "{mode:o}");
        let name = account(&home)["id"].as_str().unwrap().to_owned();
        let committed = authority.seen()["families"][&name]["generation"].as_u64().unwrap();
        let known = known_generation(&home);
        assert!(known >= before && known <= committed, "{before} {known} {committed}");
        renewed += u64::from(known > before);
        if known < committed {
            // The server has given what nobody has any more: the window that cannot be closed.
            lost += 1;
            let committed = authority.seen()["last_commit_ms"].as_u64().unwrap();
            windows.push(killed.saturating_sub(committed));
            write_account(&home, &authority, &format!("u{round}"), 3600);
            let _ = fs::remove_dir_all(home.join("refresh"));
        } else if fs::read_dir(home.join("refresh"))
            .into_iter()
            .flatten()
            .flatten()
            .any(|file| file.path().extension().is_some_and(|ending| ending == "intent"))
        {
            // Begun and perhaps sent: left alone for half a minute, and then used again.
            ambiguous += 1;
            write_account(&home, &authority, &format!("u{round}"), 3600);
            let _ = fs::remove_dir_all(home.join("refresh"));
        }
    }
    println!(
        "of 200 kills: {renewed} after the renewal, {ambiguous} with an open note, {lost} lost"
    );
    println!("a whole refresh takes {whole:?}; milliseconds from commit to death: {windows:?}");
    assert_eq!(authority.seen()["replays"], 0);
    assert!(renewed >= 5, "the moments are spread over the refresh: {renewed}");
    // Of 24 ms or so, a millisecond: some four of a hundred kills that all fall into a refresh.
    assert!(lost <= 30, "the window is small: {lost} of 200");
    assert!(windows.iter().all(|window| *window <= WINDOW_MS), "{windows:?}");
    let stray = fs::read_dir(&home).unwrap().flatten();
    let stray =
        stray.filter(|file| file.file_name().to_string_lossy().starts_with(".auth-")).count();
    assert!(stray <= 1, "{stray} temporary files were left behind");
}

/// The generation that whoever opens the vault next finds, journals included.
fn known_generation(home: &Path) -> u64 {
    let opened = ocx::credentials::Vault::new(home).open().unwrap();
    let accounts = opened.store.accounts("acme");
    accounts.list.iter().map(|account| account.generation).max().unwrap()
}

#[test]
fn l06_a_refresh_that_is_on_its_way_is_waited_for_at_the_end() {
    let _machine = together();
    let (authority, model, home) = (Authority::start(), Model::start(), home("terminated"));
    authority.set(json!({"delay": 1}));
    // Due as soon as the gateway is up.
    write_account(&home, &authority, "ann", 60);
    let gateway = Ocx::serve(&home, &config(&authority, &model.upstream.base_url()));
    wait_for(|| has_intent(&home));
    let pid = gateway.id().to_string();
    assert!(Command::new("kill").args(["-s", "TERM", &pid]).status().unwrap().success());
    wait_for(|| account(&home)["credential"]["generation"] == 2);
    assert_eq!(authority.seen()["exchanges"], 1);
    wait_for(|| !Path::new(&format!("/proc/{pid}/fd")).join("0").exists());
}

#[test]
fn l06_the_end_waits_for_a_refresh_of_a_provider_that_left_the_config() {
    let _machine = together();
    let (authority, model, home) = (Authority::start(), Model::start(), home("left"));
    authority.set(json!({"delay": 3}));
    write_account(&home, &authority, "ann", -60);
    let mut gateway = Ocx::serve(&home, &config(&authority, &model.upstream.base_url()));
    wait_for(|| has_intent(&home));
    fs::write(&gateway.config, json!({"providers": {}}).to_string()).unwrap();
    wait_for(|| gateway.metric("ocx_config_generation") >= 2.0);
    assert!(gateway.terminated().success());
    assert_eq!(account(&home)["credential"]["generation"], 2, "what came is written down");
    assert_eq!(authority.seen()["exchanges"], 1);
}

#[test]
fn l06_a_refresh_that_has_not_begun_does_not_begin_at_the_end() {
    let _machine = together();
    let (authority, model, home) = (Authority::start(), Model::start(), home("unbegun"));
    write_account(&home, &authority, "ann", -60);
    let vault = ocx::credentials::Vault::new(&home);
    let held = vault.try_lock("acme", "ann").unwrap().unwrap();
    let mut gateway = Ocx::serve(&home, &config(&authority, &model.upstream.base_url()));
    wait_for(|| gateway.get("/healthz").contains("ok"));
    sleep(Duration::from_millis(500));
    let started = Instant::now();
    assert!(gateway.terminated().success());
    assert!(
        started.elapsed() < Duration::from_secs(5),
        "not as long as the lock may be waited for"
    );
    drop(held);
    assert_eq!(authority.seen()["exchanges"], 0);
}

#[test]
fn f41_a_note_of_the_future_does_not_bind_unless_it_is_of_now() {
    let _machine = together();
    let (authority, home) = (Authority::start(), home("future"));
    fs::write(home.join("config.json"), config(&authority, "http://127.0.0.1:1/v1").to_string())
        .unwrap();
    write_account(&home, &authority, "ann", 3600);
    let token = account(&home)["credential"]["refresh"].as_str().unwrap().to_owned();
    let vault = ocx::credentials::Vault::new(&home);
    let note = |started| {
        let (lock, _) = vault.try_lock("acme", "ann").unwrap().unwrap();
        let refresh_digest = hex::encode(Sha256::digest(token.as_bytes()));
        let intent = Intent { generation: 1, refresh_digest, started, repeated: false };
        vault.begin(&lock, "acme", "ann", &intent).unwrap();
    };
    // A clock that stepped back.
    note(now_ms() + 5_000);
    assert!(!refresh(&home).wait().unwrap().success(), "another may be at it");
    note(now_ms() + 86_400_000);
    assert!(refresh(&home).wait().unwrap().success(), "it would be forbidden for a day");
}

/// Whether a refresh was noted and has not ended.
fn has_intent(home: &Path) -> bool {
    let files = fs::read_dir(home.join("refresh")).into_iter().flatten().flatten();
    files.into_iter().any(|file| file.path().extension().is_some_and(|end| end == "intent"))
}

/// F-44. Whoever holds the lock is stopped in the middle of its request: the others wait, and when it goes
/// on they take what it brought.
#[test]
fn f44_a_holder_of_the_lock_that_is_stopped_makes_others_wait_and_nobody_repeat() {
    let _machine = together();
    let (authority, home) = (Authority::start(), home("stopped"));
    fs::write(home.join("config.json"), config(&authority, "http://127.0.0.1:1/v1").to_string())
        .unwrap();
    write_account(&home, &authority, "ann", 3600);
    authority.set(json!({"delay": 1}));
    let signal = |child: &Child, name: &str| {
        let pid = child.id().to_string();
        assert!(Command::new("kill").args(["-s", name, &pid]).status().unwrap().success());
    };
    let mut holder = refresh(&home);
    wait_for(|| {
        fs::read_dir(home.join("refresh")).is_ok_and(|files| {
            files
                .flatten()
                .any(|file| file.path().extension().is_some_and(|ending| ending == "intent"))
        })
    });
    signal(&holder, "STOP");
    let mut waiting = refresh(&home);
    sleep(Duration::from_millis(2500));
    assert!(waiting.try_wait().unwrap().is_none(), "it waits for the lock");
    signal(&holder, "CONT");
    assert!(holder.wait().unwrap().success() && waiting.wait().unwrap().success());
    let seen = authority.seen();
    assert_eq!((&seen["exchanges"], &seen["replays"]), (&json!(1), &json!(0)));
    assert_eq!(account(&home)["credential"]["generation"], 2);
}

/// F-45. The server commits and its answer is lost: the old token serves on, nothing is sent twice.
#[test]
fn f45_an_answer_that_is_lost_is_not_asked_for_again_while_the_old_token_serves() {
    let _machine = together();
    for fault in ["error_after", "html_after"] {
        let (authority, model, home) =
            (Authority::start(), Model::start(), home(&format!("lost-{fault}")));
        authority.set(json!({"fault": fault, "fault_count": 1}));
        // Due to be renewed, and still good.
        write_account(&home, &authority, "ann", 60);
        let gateway = Ocx::serve(&home, &config(&authority, &model.upstream.base_url()));
        let ambiguous = "ocx_oauth_refresh_total{provider=\"acme\",result=\"ambiguous\"}";
        wait_for(|| gateway.metric(ambiguous) > 0.0);
        for _ in 0..5 {
            assert_eq!(ask(gateway.address).0, 200, "{fault}: the old token is good");
        }
        let seen = authority.seen();
        assert_eq!((&seen["exchanges"], &seen["replays"]), (&json!(1), &json!(0)), "{fault}");
        // Another process knows of it too.
        let refused = refresh(&home).wait_with_output().unwrap();
        let told = String::from_utf8_lossy(&refused.stderr).into_owned();
        assert!(!refused.status.success() && told.contains("no known outcome"), "{told}");
        assert_eq!(authority.seen()["replays"], 0);
    }
}

#[test]
fn a_server_that_fails_before_it_does_anything_costs_nothing() {
    let _machine = together();
    for fault in ["throttle", "error_before"] {
        let (authority, model, home) =
            (Authority::start(), Model::start(), home(&format!("before-{fault}")));
        authority.set(json!({"fault": fault, "fault_count": 1}));
        write_account(&home, &authority, "ann", 60);
        let gateway = Ocx::serve(&home, &config(&authority, &model.upstream.base_url()));
        assert_eq!(ask(gateway.address).0, 200);
        if fault == "throttle" {
            // It said that it did nothing.
            wait_for(|| account(&home)["credential"]["generation"] == 2);
        } else {
            // A server error may hide a success: the old token serves, and nothing is sent meanwhile.
            sleep(Duration::from_secs(2));
            assert_eq!(account(&home)["credential"]["generation"], 1);
            assert_eq!(authority.seen()["exchanges"], 0);
            assert_eq!(ask(gateway.address).0, 200);
        }
        assert_eq!(authority.seen()["replays"], 0);
    }
}

/// F-46. A login that the vendor ended is told to people and not asked about again.
#[test]
fn f46_a_login_that_ended_says_so_and_is_left_alone() {
    let _machine = together();
    let (authority, model, home) = (Authority::start(), Model::start(), home("ended"));
    write_account(&home, &authority, "ann", -60);
    authority.set(json!({"fault": "revoke", "fault_count": 1}));
    let gateway = Ocx::serve(&home, &config(&authority, &model.upstream.base_url()));
    for _ in 0..5 {
        let (status, answer) = ask(gateway.address);
        assert_eq!(status, 400);
        assert!(answer.contains("ocx login acme") && answer.contains("invalid_grant"), "{answer}");
        assert!(!answer.contains("rt-ann"), "no token is told");
    }
    assert_eq!(authority.seen()["refused"], json!(["invalid_grant"]), "asked once");
    assert_eq!(account(&home)["needsReauth"], true);
    let out = command(&home).args(["accounts"]).output().unwrap();
    assert!(String::from_utf8_lossy(&out.stdout).contains("log in again: invalid_grant"));
    let log = fs::read_to_string(home.join("ocx.log")).unwrap();
    assert!(!log.contains("rt-ann") && !log.contains("at-ann"), "no token is logged");
    // Another account takes over.
    let tokens = authority.admin(&json!({"mint": "bob"}));
    let mut store: Value =
        serde_json::from_str(&fs::read_to_string(home.join("auth.json")).unwrap()).unwrap();
    let credential = json!({"access": tokens["access_token"], "refresh": tokens["refresh_token"],
        "expires": ocx::credentials::now_ms() + 3_600_000, "accountId": "bob"});
    store["acme"]["accounts"]
        .as_array_mut()
        .unwrap()
        .push(json!({"id": "bob", "credential": credential}));
    fs::write(home.join("auth.json"), store.to_string()).unwrap();
    sleep(Duration::from_millis(1100));
    wait_for(|| ask(gateway.address).0 == 200);
}

/// F-48. The disk takes nothing: the new token serves from memory, and is written as soon as it can be.
/// First nothing can be created (a read-only directory), then nothing can be written (a full disk, which
/// the limit of file sizes stands in for).
#[test]
fn f48_a_disk_that_refuses_loses_no_token() {
    let _machine = together();
    for kind in ["read-only", "full"] {
        let (authority, model, home) = (Authority::start(), Model::start(), home(kind));
        write_account(&home, &authority, "ann", 3600);
        let config = config(&authority, &model.upstream.base_url());
        give_to_nobody(&home);
        // A full disk is an error, a limit by default a signal.
        let mut command = Command::new("env");
        command.args(["--ignore-signal=XFSZ", env!("CARGO_BIN_EXE_ocx")]);
        as_nobody(&mut command);
        let gateway = Ocx::serve_by(&home, &config, command);
        assert_eq!(ask(gateway.address).0, 200);
        // The first refresh makes the files that it needs.
        model.required.store(2, SeqCst);
        assert_eq!(ask(gateway.address).0, 200, "{kind}");
        match kind {
            "full" => limit_files(&gateway, "0"),
            _ => set_mode(&home, 0o500),
        }
        model.required.store(3, SeqCst);
        let (status, answer) = ask(gateway.address);
        assert_eq!(status, 200, "{kind}: the new token is in memory: {answer}");
        assert_eq!(account(&home)["credential"]["generation"], 2, "{kind}: not on the disk");
        assert_eq!(ask(gateway.address).0, 200);
        let held = ocx::credentials::Vault::new(&home).try_lock("acme", "ann");
        assert!(
            held.is_ok_and(|lock| lock.is_none()),
            "{kind}: nobody else uses the old one meanwhile"
        );
        match kind {
            "full" => limit_files(&gateway, "unlimited"),
            _ => set_mode(&home, 0o700),
        }
        wait_for(|| account(&home)["credential"]["generation"] == 3);
        let seen = authority.seen();
        assert_eq!((&seen["exchanges"], &seen["replays"]), (&json!(2), &json!(0)), "{kind}");
    }
}

/// Modes bind nobody who is root, as CI is.
const NOBODY: u32 = 65_534;

fn is_root() -> bool {
    fs::metadata("/proc/self").unwrap().uid() == 0
}

fn give_to_nobody(home: &Path) {
    if is_root() {
        for path in [home.to_owned(), home.join("auth.json")] {
            std::os::unix::fs::chown(path, Some(NOBODY), Some(NOBODY)).unwrap();
        }
    }
}

fn as_nobody(command: &mut Command) {
    if is_root() {
        command.uid(NOBODY).gid(NOBODY);
    }
}

/// Limits how large files may become that the process writes.
fn limit_files(gateway: &Ocx, limit: &str) {
    let pid = gateway.id().to_string();
    let soft = format!("--fsize={limit}:");
    let mut command = Command::new("prlimit");
    as_nobody(command.args(["--pid", &pid, &soft]));
    assert!(command.status().unwrap().success());
}

fn set_mode(path: &Path, mode: u32) {
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
}

fn wait_for(mut done: impl FnMut() -> bool) {
    let started = Instant::now();
    while !done() {
        assert!(started.elapsed() < Duration::from_secs(30), "it did not happen");
        sleep(Duration::from_millis(50));
    }
}
