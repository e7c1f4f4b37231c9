//! Renewing tokens: ahead of time, once for all who wait, once for all processes.

use std::{
    io::Write as _,
    sync::{Arc, Barrier, atomic::Ordering::SeqCst},
    thread,
    time::{Duration, Instant},
};

use serde_json::json;

use crate::{
    Model, account, alone, ask, ask_model,
    authority::Authority,
    command, config, home,
    support::{
        ocx::Ocx,
        upstream::{Reply, Upstream},
    },
    together, write_account,
};

#[test]
fn a_token_is_renewed_ahead_of_its_end_without_a_request() {
    let _machine = together();
    let (authority, model, home) = (Authority::start(), Model::start(), home("ahead"));
    // Lives four seconds; half of it is left when it is renewed.
    authority.set(json!({"expires_in": 4}));
    write_account(&home, &authority, "ann", 1);
    let gateway = Ocx::serve(&home, &config(&authority, &model.upstream.base_url()));
    let started = Instant::now();
    while account(&home)["credential"]["generation"].as_u64() < Some(4) {
        assert!(started.elapsed() < Duration::from_secs(20), "{:?}", account(&home));
        thread::sleep(Duration::from_millis(50));
    }
    assert!(started.elapsed() > Duration::from_secs(2), "not in the token's youth");
    assert_eq!(model.upstream.asked().len(), 0);
    assert_eq!(ask(gateway.address).0, 200);
    let seen = authority.seen();
    assert_eq!(seen["replays"], 0);
    assert!(gateway.metric("ocx_oauth_refresh_total{provider=\"acme\",result=\"ok\"}") >= 3.0);
}

#[test]
fn a_hundred_requests_on_a_token_that_ended_make_one_refresh() {
    let _machine = alone();
    let (authority, model, home) = (Authority::start(), Model::start(), home("hundred"));
    authority.set(json!({"delay": 0.3}));
    write_account(&home, &authority, "ann", -60);
    let gateway = Ocx::serve(&home, &config(&authority, &model.upstream.base_url()));
    model.required.store(2, SeqCst);
    let statuses = in_parallel(100, |_| ask(gateway.address).0);
    assert!(statuses.iter().all(|status| *status == 200), "{statuses:?}");
    let seen = authority.seen();
    assert_eq!((&seen["exchanges"], &seen["replays"]), (&json!(1), &json!(0)));
    assert_eq!(model.upstream.asked().len(), 100, "nothing was sent with the old token");
}

#[test]
fn a_refused_token_is_renewed_once_and_the_call_goes_on() {
    let _machine = together();
    let (authority, model, home) = (Authority::start(), Model::start(), home("refused"));
    write_account(&home, &authority, "ann", 3600);
    let gateway = Ocx::serve(&home, &config(&authority, &model.upstream.base_url()));
    assert_eq!(ask(gateway.address).0, 200);
    model.required.store(2, SeqCst);
    let statuses = in_parallel(20, |_| ask(gateway.address).0);
    assert!(statuses.iter().all(|status| *status == 200), "{statuses:?}");
    assert_eq!(authority.seen()["exchanges"], 1);
    // A provider that refuses whatever comes is not asked for ever.
    model.required.store(1000, SeqCst);
    let before = model.upstream.asked().len();
    let (status, answer) = ask(gateway.address);
    assert_eq!(status, 400, "what cannot succeed is not repeated: {answer}");
    assert_eq!(model.upstream.asked().len() - before, 2);
    assert_eq!(authority.seen()["exchanges"], 2);
    let id = answer.lines().find_map(|line| line.strip_prefix("x-request-id: ")).unwrap();
    let explained = command(&home).args(["explain", id]).output().unwrap();
    let said = String::from_utf8(explained.stdout).unwrap();
    for words in ["acme/m with the account ann", "then: the account's token was renewed", "try 2"] {
        assert!(said.contains(words), "{words} in {said}");
    }
    assert!(!said.contains("at-ann"), "no token is shown: {said}");
}

/// A server may think that the token which the provider refuses is still good.
#[test]
fn a_server_that_gives_the_refused_token_again_is_not_asked_on_and_on() {
    let _machine = together();
    let (authority, model, home) = (Authority::start(), Model::start(), home("same"));
    authority.set(json!({"fault": "same_access"}));
    write_account(&home, &authority, "ann", 3600);
    let gateway = Ocx::serve(&home, &config(&authority, &model.upstream.base_url()));
    model.required.store(1000, SeqCst);
    let started = Instant::now();
    for _ in 0..20 {
        let (status, answer) = ask(gateway.address);
        assert!(matches!(status, 400 | 503), "{status}: {answer}");
    }
    let exchanges = authority.seen()["exchanges"].as_u64().unwrap();
    // At once, then after one second, two, four.
    let most = 2 + u64::from(started.elapsed().as_secs() > 0) * 3;
    assert!((1..=most).contains(&exchanges), "{exchanges} exchanges in {:?}", started.elapsed());
    assert_eq!(authority.seen()["replays"], 0);
}

/// F-43. Each round the upstream demands newer tokens: whoever comes first renews, in whichever process,
/// and nobody uses a refresh token twice.
#[test]
fn f43_two_processes_with_fifty_tasks_each_renew_once_per_generation() {
    let _machine = alone();
    let rounds = 200;
    let (authority, model, home) = (Authority::start(), Model::start(), home("two"));
    write_account(&home, &authority, "ann", 3600);
    let config = config(&authority, &model.upstream.base_url());
    let gateways = [Ocx::serve(&home, &config), Ocx::serve(&home, &config)];
    let (barrier, required) = (Barrier::new(100), Arc::clone(&model.required));
    let failed: u32 = in_parallel(100, |task| {
        let mut failed = 0;
        for round in 1..=rounds {
            if barrier.wait().is_leader() {
                required.store(round + 1, SeqCst);
            }
            barrier.wait();
            let (status, answer) = ask(gateways[task % 2].address);
            if status != 200 {
                eprintln!("round {round}: {answer}");
                failed += 1;
            }
        }
        failed
    })
    .into_iter()
    .sum();
    let seen = authority.seen();
    assert_eq!(failed, 0, "{seen}");
    assert_eq!((&seen["exchanges"], &seen["replays"]), (&json!(rounds), &json!(0)), "{seen}");
    assert_eq!(account(&home)["credential"]["generation"], rounds + 1);
    let adopted: f64 = gateways
        .iter()
        .map(|gateway| {
            gateway.metric("ocx_oauth_refresh_total{provider=\"acme\",result=\"adopted\"}")
        })
        .sum();
    println!("{} exchanges, {adopted} adopted", seen["exchanges"]);
    assert!(adopted > 0.0, "both processes took part");
}

fn in_parallel<T: Send>(count: usize, work: impl Fn(usize) -> T + Sync) -> Vec<T> {
    thread::scope(|scope| {
        let handles: Vec<_> = (0..count)
            .map(|task| {
                let work = &work;
                thread::Builder::new()
                    .stack_size(256 << 10)
                    .spawn_scoped(scope, move || work(task))
                    .unwrap()
            })
            .collect();
        handles.into_iter().map(|handle| handle.join().unwrap()).collect()
    })
}

#[test]
fn who_hangs_up_while_a_token_is_renewed_takes_no_slot() {
    let _machine = together();
    let (authority, model, home) = (Authority::start(), Model::start(), home("hung-up"));
    authority.set(json!({"delay": 2}));
    write_account(&home, &authority, "ann", -60);
    let mut config = config(&authority, &model.upstream.base_url());
    config["providers"]["acme"]["maxConcurrency"] = 1.into();
    let gateway = Ocx::serve(&home, &config);
    let body = json!({"model": "acme/m", "input": "hi"}).to_string();
    for _ in 0..3 {
        let mut socket = std::net::TcpStream::connect(gateway.address).unwrap();
        write!(
            socket,
            "POST /v1/responses HTTP/1.1\r\nhost: {}\r\ncontent-type: application/json\r\n\
             content-length: {}\r\n\r\n{body}",
            gateway.address,
            body.len()
        )
        .unwrap();
        thread::sleep(Duration::from_millis(100));
    }
    assert_eq!(ask(gateway.address).0, 200, "the slot is for who is still there");
    assert_eq!(model.upstream.asked().len(), 1);
}

#[test]
fn a_login_that_another_process_made_for_another_address_is_not_sent() {
    let _machine = together();
    let (authority, model, home) = (Authority::start(), Model::start(), home("adopted"));
    write_account(&home, &authority, "ann", -60);
    let vault = ocx::credentials::Vault::new(&home);
    let held = vault.try_lock("acme", "ann").unwrap().unwrap();
    let gateway = Ocx::serve(&home, &config(&authority, &model.upstream.base_url()));
    let address = gateway.address;
    let asking = thread::spawn(move || ask(address));
    let waits = "ocx_oauth_refresh_waiters_total{provider=\"acme\"}";
    while gateway.metric(waits) < 1.0 {
        thread::sleep(Duration::from_millis(20));
    }
    thread::sleep(Duration::from_millis(300));
    let credential = json!({"access": "at-ann-9-x", "refresh": "rt-x", "lifetime": 3_600_000,
        "expires": ocx::credentials::now_ms() + 3_600_000, "generation": 1, "accountId": "ann",
        "origin": "https://elsewhere.example"});
    let other = json!({"acme": {"activeAccountId": "ann",
        "accounts": [{"id": "ann", "addedAt": 9, "credential": credential}]}});
    std::fs::write(home.join("auth.json"), other.to_string()).unwrap();
    drop(held);
    let (status, answer) = asking.join().unwrap();
    assert!(status == 400 && answer.contains("the login is for"), "{status}: {answer}");
    assert_eq!(model.upstream.asked().len(), 0);
}

#[test]
fn an_account_that_is_all_there_is_is_asked_also_while_it_is_left_alone() {
    let _machine = together();
    let (authority, home) = (Authority::start(), home("forced"));
    let broken = Upstream::start(|_| Reply::json(500, &json!({"error": {"message": "x"}})));
    let mut config = config(&authority, &broken.base_url());
    let acme = &mut config["providers"]["acme"];
    (acme["circuit"], acme["models"]) = (true.into(), json!(["m", "n"]));
    config["maxRetries"] = 0.into();
    config["combos"] = json!({"best": {"targets": ["acme/m", "acme/n"]}});
    write_account(&home, &authority, "ann", 3600);
    let gateway = Ocx::serve(&home, &config);
    for _ in 0..5 {
        ask(gateway.address);
    }
    let before = broken.asked().len();
    let (status, answer) = ask_model(gateway.address, "best");
    assert_eq!(broken.asked().len(), before + 1, "{status}: {answer}");
    assert!(!answer.contains("left alone"), "{answer}");
}
