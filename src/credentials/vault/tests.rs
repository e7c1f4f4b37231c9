use std::os::unix::fs::PermissionsExt as _;

use secrecy::{ExposeSecret as _, SecretString};
use serde_json::{Value, json};

use super::*;

fn account(provider: &str, id: &str, generation: u64) -> Account {
    let token = |kind: &str| SecretString::from(format!("{kind}-{id}-{generation}"));
    Account {
        provider: provider.to_owned(),
        id: id.to_owned(),
        email: Some(format!("{id}@example.com")),
        tokens: Tokens {
            access: token("access"),
            refresh: Some(token("refresh")),
            expires: 1_000 * generation,
            lifetime: 3_600_000,
        },
        generation,
        needs_login: None,
        added_at: 7,
        origin: None,
        issuer: None,
    }
}

fn vault() -> (tempfile::TempDir, Vault) {
    let dir = tempfile::tempdir().unwrap();
    let vault = Vault::new(&dir.path().join("home"));
    (dir, vault)
}

fn log_in(vault: &Vault, account: &Account) {
    vault.change(Repair::Yes, |store| store.log_in(account)).unwrap();
}

fn access(store: &Store, provider: &str) -> Option<String> {
    let accounts = store.accounts(provider);
    accounts.usable().map(|account| account.tokens.access.expose_secret().to_owned())
}

#[test]
fn t50_a_login_is_kept_private_and_read_back() {
    let (_dir, vault) = vault();
    assert!(vault.open().unwrap().store.providers().next().is_none());
    log_in(&vault, &account("xai", "a", 1));
    log_in(&vault, &account("xai", "b", 1));
    let store = vault.open().unwrap().store;
    assert_eq!(access(&store, "xai").as_deref(), Some("access-b-1"), "the newest is active");
    assert_eq!(store.accounts("xai").list.len(), 2);
    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!((mode(&vault.path()), mode(&vault.backup())), (0o600, 0o600));
    assert_eq!(mode(&vault.home), 0o700);
    assert!(!format!("{store:?} {:?}", account("xai", "a", 1)).contains("refresh-a"));
    let activated = vault.change(Repair::Yes, |store| store.activate("xai", "a@example.com"));
    assert!(activated.unwrap());
    assert_eq!(access(&vault.open().unwrap().store, "xai").as_deref(), Some("access-a-1"));
    let gone = vault.change(Repair::Yes, |store| store.log_out("xai", Some("a")));
    assert_eq!(gone.unwrap(), 1);
    assert_eq!(access(&vault.open().unwrap().store, "xai").as_deref(), Some("access-b-1"));
}

#[test]
fn an_account_whose_login_ended_makes_room_for_the_next() {
    let (_dir, vault) = vault();
    let (a, b) = (account("xai", "a", 1), account("xai", "b", 1));
    log_in(&vault, &b);
    log_in(&vault, &a);
    vault.change(Repair::No, |store| store.end_login(&a, "revoked")).unwrap();
    let store = vault.open().unwrap().store;
    assert_eq!(access(&store, "xai").as_deref(), Some("access-b-1"));
    let ended = store.accounts("xai").list.into_iter().find(|account| account.id == "a").unwrap();
    assert_eq!(ended.needs_login.as_deref(), Some("revoked"));
    // A new login of the same account holds, and is newer than what others may remember.
    log_in(&vault, &a);
    let store = vault.open().unwrap().store;
    assert_eq!(
        (access(&store, "xai").as_deref(), store.accounts("xai").usable().unwrap().generation),
        (Some("access-a-1"), 2)
    );
}

#[test]
fn the_shape_before_and_foreign_entries_are_kept() {
    let (_dir, vault) = vault();
    fs::create_dir_all(&vault.home).unwrap();
    let text = json!({
        "kimi": {"access": "at", "refresh": "rt", "expires": 5, "email": "e", "tier": "pro"},
        "other": {"something": ["else"]},
        "xai": {"activeAccountId": "a", "later": 1, "accounts": [
            {"id": "a", "credential": {"access": "at2", "refresh": "r", "expires": 9, "scope": "s"}, "color": "red"},
            {"id": "b", "credential": "unreadable"}]}});
    fs::write(vault.path(), text.to_string()).unwrap();
    let store = vault.open().unwrap().store;
    assert_eq!(access(&store, "kimi").as_deref(), Some("at"));
    assert_eq!(access(&store, "xai").as_deref(), Some("at2"));
    log_in(&vault, &account("anthropic", "c", 1));
    let written: Value = serde_json::from_str(&fs::read_to_string(vault.path()).unwrap()).unwrap();
    assert_eq!(written["other"], text["other"]);
    assert_eq!(written["kimi"]["accounts"][0]["credential"]["tier"], "pro");
    assert_eq!(written["xai"]["later"], 1);
    assert_eq!(written["xai"]["accounts"][0]["color"], "red");
    assert_eq!(written["xai"]["accounts"][0]["credential"]["scope"], "s");
    assert_eq!(written["xai"]["accounts"][1], text["xai"]["accounts"][1]);
}

#[test]
fn f40_a_file_cut_at_any_byte_costs_no_account_that_another_copy_knows() {
    let (_dir, vault) = vault();
    for provider in ["anthropic", "kimi", "xai"] {
        log_in(&vault, &account(provider, "a", 1));
    }
    // The same again, so that the copy knows all three.
    log_in(&vault, &account("xai", "a", 1));
    let whole = fs::read(vault.path()).unwrap();
    let end = whole.iter().rposition(|byte| *byte == b'}').unwrap();
    for cut in 0..end {
        fs::write(vault.path(), &whole[..cut]).unwrap();
        let opened = vault.open().unwrap();
        assert!(opened.damage.is_some(), "{cut}");
        for provider in ["anthropic", "kimi", "xai"] {
            assert!(access(&opened.store, provider).is_some(), "{provider} at {cut}");
        }
        let refused = vault.change(Repair::No, |store| store.log_out("xai", None));
        assert!(matches!(refused, Err(VaultError::Damaged { .. })), "{cut}");
        assert_eq!(fs::read(vault.path()).unwrap(), whole[..cut], "it is left as it is");
    }
    log_in(&vault, &account("anthropic", "a", 1));
    let opened = vault.open().unwrap();
    assert!(opened.damage.is_none(), "a login repairs it");
    assert!(access(&opened.store, "kimi").is_some());
    let kept = fs::read_dir(&vault.home).unwrap().flatten();
    assert!(kept.into_iter().any(|file| file.file_name().to_string_lossy().contains("corrupt")));
}

#[test]
fn f40_without_a_copy_the_whole_entries_of_a_broken_file_are_found() {
    let (_dir, vault) = vault();
    for provider in ["anthropic", "kimi", "xai"] {
        log_in(&vault, &account(provider, "a", 1));
    }
    let whole = fs::read_to_string(vault.path()).unwrap();
    fs::remove_file(vault.backup()).unwrap();
    let mut found = 0;
    for at in 0..whole.len() {
        let mut bytes = whole.clone().into_bytes();
        bytes[at] ^= 0x1f;
        fs::write(vault.path(), &bytes).unwrap();
        let opened = vault.open().unwrap();
        if opened.damage.is_some() {
            let left = ["anthropic", "kimi", "xai"]
                .iter()
                .filter(|provider| access(&opened.store, provider).is_some())
                .count();
            assert!(left >= 2, "byte {at}: {left}");
            found += 1;
        }
    }
    assert!(found > 100, "most flips break the file");
    for odd in ["[]", "null", "7", "", "{\"xai\":"] {
        fs::write(vault.path(), odd).unwrap();
        assert!(vault.open().unwrap().damage.is_some(), "{odd}");
    }
}

fn lock(vault: &Vault) -> AccountLock {
    vault.try_lock("xai", "a").unwrap().unwrap().0
}

fn journal(vault: &Vault, account: &Account) {
    fs::create_dir_all(vault.refresh_dir()).unwrap();
    journal::write(&vault.refresh_file("xai", "a", "journal"), account).unwrap();
}

fn known(vault: &Vault) -> Option<String> {
    access(&vault.open().unwrap().store, "xai")
}

#[test]
fn a_refresh_is_seen_from_its_journal_on_and_written_once() {
    let (_dir, vault) = vault();
    let (old, new) = (account("xai", "a", 1), account("xai", "a", 2));
    log_in(&vault, &old);
    let held = lock(&vault);
    assert!(vault.try_lock("xai", "a").unwrap().is_none(), "one at a time");
    let intent = Intent { generation: 1, refresh_digest: "d".into(), started: 3, repeated: false };
    vault.begin(&held, "xai", "a", &intent).unwrap();
    assert_eq!(vault.intent("xai", "a"), Some(intent));
    journal(&vault, &new);
    assert_eq!(known(&vault).as_deref(), Some("access-a-2"));
    assert!(matches!(vault.keep(held, &new), Kept::OnDisk));
    assert_eq!(vault.intent("xai", "a"), None);
    assert!(!vault.refresh_file("xai", "a", "journal").exists());
    assert_eq!(known(&vault).as_deref(), Some("access-a-2"));
    // What is older, or of an account that is gone, changes nothing.
    vault.keep(lock(&vault), &old);
    assert_eq!(known(&vault).as_deref(), Some("access-a-2"));
    assert_eq!(vault.log_out("xai", None).unwrap(), 1);
    vault.keep(lock(&vault), &account("xai", "a", 3));
    assert!(known(&vault).is_none());
}

#[test]
fn f42_what_a_dead_process_left_is_not_lost_by_a_refresh_that_fails() {
    let (_dir, vault) = vault();
    log_in(&vault, &account("xai", "a", 1));
    journal(&vault, &account("xai", "a", 2));
    let held = lock(&vault);
    vault.forget(&held, "xai", "a");
    assert_eq!(known(&vault).as_deref(), Some("access-a-2"), "nothing was sent: nothing is lost");
    vault.fold(&held, "xai", "a");
    assert!(!vault.refresh_file("xai", "a", "journal").exists());
    let text = fs::read_to_string(vault.path()).unwrap();
    assert!(text.contains("access-a-2"), "it is in the file now");
}

#[test]
fn a_new_login_is_not_overruled_by_what_an_earlier_one_left() {
    let (_dir, vault) = vault();
    log_in(&vault, &account("xai", "a", 1));
    journal(&vault, &account("xai", "a", 5));
    let again = Account { added_at: 8, ..account("xai", "a", 1) };
    log_in(&vault, &again);
    assert_eq!(known(&vault).as_deref(), Some("access-a-1"));
    vault.fold(&lock(&vault), "xai", "a");
    assert_eq!(known(&vault).as_deref(), Some("access-a-1"));
}

#[test]
fn what_is_logged_out_is_nowhere_any_more() {
    let (_dir, vault) = vault();
    log_in(&vault, &account("xai", "a", 1));
    log_in(&vault, &account("xai", "b", 1));
    journal(&vault, &account("xai", "a", 2));
    assert_eq!(vault.log_out("xai", Some("a")).unwrap(), 1);
    for file in [vault.path(), vault.backup()] {
        let text = fs::read_to_string(&file).unwrap();
        assert!(!text.contains("refresh-a") && text.contains("refresh-b"), "{}", file.display());
    }
    assert!(!vault.refresh_file("xai", "a", "journal").exists());
}

#[test]
fn what_is_logged_out_of_a_damaged_file_does_not_come_back_from_its_backup() {
    let (_dir, vault) = vault();
    log_in(&vault, &account("xai", "a", 1));
    log_in(&vault, &account("xai", "b", 1));
    vault.change(Repair::No, |store| store.activate("xai", "a")).unwrap();
    let damage = || {
        let text = fs::read_to_string(vault.path()).unwrap();
        fs::write(vault.path(), &text[..text.len() - 3]).unwrap();
    };
    damage();
    assert_eq!(vault.log_out("xai", Some("a")).unwrap(), 1);
    assert!(!fs::read_to_string(vault.backup()).unwrap().contains("refresh-a"));
    assert_eq!(vault.broken_copies().len(), 1, "which a person is told of");
    damage();
    let left: Vec<String> =
        vault.open().unwrap().store.accounts("xai").list.into_iter().map(|a| a.id).collect();
    assert_eq!(left, ["b"]);
}

#[test]
fn a_file_that_is_away_for_a_moment_costs_no_journal() {
    let (_dir, vault) = vault();
    log_in(&vault, &account("xai", "a", 1));
    journal(&vault, &account("xai", "a", 2));
    let aside = vault.home().join("aside");
    fs::rename(vault.path(), &aside).unwrap();
    vault.fold(&lock(&vault), "xai", "a");
    fs::rename(&aside, vault.path()).unwrap();
    assert_eq!(known(&vault).as_deref(), Some("access-a-2"));
    vault.fold(&lock(&vault), "xai", "a");
    assert!(!vault.refresh_file("xai", "a", "journal").exists(), "and then it is of no more use");
}

#[test]
fn a_damaged_file_keeps_a_refresh_in_its_journal() {
    let (_dir, vault) = vault();
    log_in(&vault, &account("xai", "a", 1));
    let text = fs::read_to_string(vault.path()).unwrap();
    fs::write(vault.path(), &text[..text.len() - 3]).unwrap();
    assert!(matches!(vault.keep(lock(&vault), &account("xai", "a", 2)), Kept::OnDisk));
    assert_eq!(known(&vault).as_deref(), Some("access-a-2"));
    let held = lock(&vault);
    vault.fold(&held, "xai", "a");
    vault.forget(&held, "xai", "a");
    assert_eq!(known(&vault).as_deref(), Some("access-a-2"), "it stays until the file is sound");
}

#[test]
fn f48_what_the_disk_does_not_take_stays_in_memory_with_its_lock() {
    let (_dir, vault) = vault();
    log_in(&vault, &account("xai", "a", 1));
    let held = lock(&vault);
    // Nothing can be renamed over a directory that is not empty, nor read as a file.
    let aside = vault.home.join("aside");
    fs::rename(vault.path(), &aside).unwrap();
    fs::create_dir_all(vault.path().join("full")).unwrap();
    fs::remove_dir_all(vault.refresh_dir()).unwrap();
    fs::write(vault.refresh_dir(), "no directory").unwrap();
    let kept = vault.keep(held, &account("xai", "a", 2));
    assert!(matches!(kept, Kept::InMemory(_)), "{kept:?}");
    assert!(vault.has_unsaved("xai") && !vault.has_unsaved("x") && !vault.save("xai"));
    fs::remove_dir_all(vault.path()).unwrap();
    fs::rename(&aside, vault.path()).unwrap();
    fs::remove_file(vault.refresh_dir()).unwrap();
    assert_eq!(known(&vault).as_deref(), Some("access-a-2"), "clones of the vault see it");
    assert!(
        Vault::new(&vault.home).try_lock("xai", "a").is_ok(),
        "the lock's own file is gone here"
    );
    let (_lock, unsaved) = vault.try_lock("xai", "a").unwrap().unwrap();
    assert_eq!(unsaved.map(|account| account.generation), Some(2), "who goes on gets both");
    assert!(!vault.has_unsaved("xai"));
}

#[test]
fn new_tokens_are_not_lost_while_the_file_is_away_for_a_moment() {
    let (dir, vault) = vault();
    log_in(&vault, &account("xai", "a", 1));
    let (held, aside) = (lock(&vault), dir.path().join("aside"));
    fs::rename(vault.path(), &aside).unwrap();
    assert!(matches!(vault.keep(held, &account("xai", "a", 2)), Kept::OnDisk), "in the journal");
    fs::rename(&aside, vault.path()).unwrap();
    assert_eq!(known(&vault).as_deref(), Some("access-a-2"));
    let held = lock(&vault);
    vault.fold(&held, "xai", "a");
    assert!(!vault.refresh_file("xai", "a", "journal").exists(), "it is in the file now");
    assert_eq!(known(&vault).as_deref(), Some("access-a-2"));
}
