use std::os::unix::fs::symlink;

use actix_rt::time::{sleep, timeout};

use super::*;
use crate::{
    actors::{Backoff, SnapshotCell, Start},
    credentials::Vault,
};

struct Bench {
    dir: tempfile::TempDir,
    cell: SnapshotCell,
    metrics: Arc<Metrics>,
    watcher: Addr<ConfigWatcher>,
}

fn config(models: &str) -> String {
    format!(
        r#"{{"providers":{{"kept":{{"adapter":"openai-chat","baseUrl":"http://localhost:1"}},
            "p":{{"adapter":"openai-chat","baseUrl":"http://localhost:1","models":["{models}"]}}}}}}"#
    )
}

async fn bench(prepare: impl FnOnce(&Path) -> PathBuf, settings: WatchSettings) -> Bench {
    let dir = tempfile::tempdir().unwrap();
    let path = prepare(dir.path());
    let loaded = check_file(&path, &process_env).unwrap().unwrap();
    let metrics = Arc::new(Metrics::new());
    let start = Start {
        config: Arc::new(loaded.config),
        arbiter: Arbiter::current(),
        metrics: Arc::clone(&metrics),
        backoff: Backoff::default(),
        vault: Vault::new(std::path::Path::new("/nonexistent")),
        network: crate::upstream::Network::new(Duration::from_secs(5)),
    };
    let cell = ProviderSupervisor::first_snapshot(&start).await.unwrap();
    let supervisor = ProviderSupervisor::new(&start, Arc::clone(&cell)).start();
    let watcher =
        ConfigWatcher::new(path, settings, loaded.digest, supervisor, Arc::clone(&metrics)).start();
    sleep(Duration::from_millis(50)).await;
    Bench { dir, cell, metrics, watcher }
}

/// Hints only, at test speed: the regular look never comes.
fn watching() -> WatchSettings {
    WatchSettings {
        quiet: Duration::from_millis(30),
        second_look: Duration::from_millis(20),
        poll: Duration::from_secs(3600),
        ..WatchSettings::default()
    }
}

impl Bench {
    fn model(&self) -> String {
        self.cell.load().config.providers["p"].models[0].clone()
    }

    async fn until(&self, model: &str, what: &str) {
        let reached = timeout(Duration::from_secs(3), async {
            while self.model() != model {
                sleep(Duration::from_millis(5)).await;
            }
        });
        assert!(reached.await.is_ok(), "{what}: still {}", self.model());
    }

    fn file(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn reloads(&self, result: &str) -> u64 {
        ["watch", "poll", "signal", "api"]
            .iter()
            .map(|trigger| self.metrics.reloads.with_label_values(&[trigger, result]).get())
            .sum()
    }
}

fn plain(dir: &Path) -> PathBuf {
    fs::write(dir.join("config.json"), config("v0")).unwrap();
    dir.join("config.json")
}

#[actix::test]
async fn f31_every_way_to_save_a_file_is_noticed() {
    let bench = bench(plain, watching()).await;
    let path = bench.file("config.json");
    fs::write(&path, config("in-place")).unwrap();
    bench.until("in-place", "written in place").await;
    for n in 0..3 {
        let model = format!("renamed-{n}");
        fs::write(bench.file("tmp"), config(&model)).unwrap();
        fs::rename(bench.file("tmp"), &path).unwrap();
        bench.until(&model, "renamed over").await;
    }
    fs::remove_file(&path).unwrap();
    sleep(Duration::from_millis(120)).await;
    assert_eq!(bench.model(), "renamed-2", "a missing file changes nothing");
    assert_eq!(bench.metrics.diverged.get(), 1);
    fs::write(&path, config("recreated")).unwrap();
    bench.until("recreated", "deleted and created again").await;
    assert_eq!(bench.metrics.diverged.get(), 0);
    for n in 0..50 {
        fs::write(&path, config(&format!("burst-{n}"))).unwrap();
    }
    bench.until("burst-49", "a burst").await;
    assert!(bench.reloads("applied") <= 8, "a burst is few changes");
}

#[actix::test]
async fn f32_kubernetes_and_symlinked_files_are_followed() {
    let k8s = bench(
        |dir| {
            fs::create_dir(dir.join("..1")).unwrap();
            fs::write(dir.join("..1/config.json"), config("v1")).unwrap();
            symlink("..1", dir.join("..data")).unwrap();
            symlink("..data/config.json", dir.join("config.json")).unwrap();
            dir.join("config.json")
        },
        watching(),
    )
    .await;
    for n in 2..5 {
        let (real, model) = (format!("..{n}"), format!("v{n}"));
        fs::create_dir(k8s.file(&real)).unwrap();
        fs::write(k8s.file(&real).join("config.json"), config(&model)).unwrap();
        symlink(&real, k8s.file("..data_tmp")).unwrap();
        fs::rename(k8s.file("..data_tmp"), k8s.file("..data")).unwrap();
        fs::remove_dir_all(k8s.file(&format!("..{}", n - 1))).unwrap();
        k8s.until(&model, "a swap").await;
    }
    let dotfiles = bench(
        |dir| {
            fs::create_dir(dir.join("dotfiles")).unwrap();
            fs::create_dir(dir.join("etc")).unwrap();
            fs::write(dir.join("dotfiles/ocx.json"), config("v1")).unwrap();
            symlink("../dotfiles/ocx.json", dir.join("etc/config.json")).unwrap();
            dir.join("etc/config.json")
        },
        watching(),
    )
    .await;
    fs::write(dotfiles.file("dotfiles/ocx.json"), config("v2")).unwrap();
    dotfiles.until("v2", "the target written in place").await;
    fs::write(dotfiles.file("dotfiles/x"), config("v3")).unwrap();
    fs::rename(dotfiles.file("dotfiles/x"), dotfiles.file("dotfiles/ocx.json")).unwrap();
    dotfiles.until("v3", "the target replaced").await;
}

#[actix::test]
async fn f61_without_inotify_the_regular_look_finds_the_change() {
    let settings = WatchSettings { hints: false, poll: Duration::from_millis(40), ..watching() };
    let bench = bench(plain, settings).await;
    fs::write(bench.file("config.json"), config("polled")).unwrap();
    bench.until("polled", "polling").await;
    fs::write(bench.file("config.json"), "{").unwrap();
    sleep(Duration::from_millis(400)).await;
    assert_eq!(bench.reloads("parse_error"), 1, "one refusal is reported once");
}

#[actix::test]
async fn f30_what_does_not_check_changes_nothing() {
    let bench = bench(plain, watching()).await;
    let path = bench.file("config.json");
    let before = bench.cell.load_full();
    let ask = async || bench.watcher.send(Reload(Trigger::Api)).await.unwrap();
    for broken in ["", "{", "[]", "{\"port\":\"x\"}", "{\"defaultProvider\":\"zzz\"}"] {
        fs::write(&path, broken).unwrap();
        assert!(matches!(ask().await, ReloadOutcome::Refused(_)), "{broken}");
    }
    fs::write(&path, config("v1").replacen('{', "{\"port\":1,\"workers\":3,", 1)).unwrap();
    assert_eq!(ask().await, ReloadOutcome::RestartRequired(vec!["port", "workers"]));
    assert!(Arc::ptr_eq(&before, &bench.cell.load_full()), "not even the pointer moved");
    let told = || (bench.metrics.diverged.get(), bench.metrics.reload_successful.get());
    assert_eq!(told(), (1, 1), "the file is good, and a start would take it");
    fs::write(&path, "{").unwrap();
    assert!(matches!(ask().await, ReloadOutcome::Refused(_)));
    assert_eq!(told(), (1, 0));
    fs::write(&path, config("v0")).unwrap();
    assert_eq!(ask().await, ReloadOutcome::Unchanged);
    assert_eq!(told(), (0, 1));
}

#[actix::test]
async fn unchanged_providers_keep_their_actor_and_changed_ones_get_a_new_one() {
    let bench = bench(plain, watching()).await;
    let before = bench.cell.load_full();
    fs::write(bench.file("config.json"), config("v1")).unwrap();
    let outcome = bench.watcher.send(Reload(Trigger::Api)).await.unwrap();
    assert_eq!(outcome, ReloadOutcome::Applied(Applied { generation: 2 }));
    let after = bench.cell.load_full();
    assert!(after.providers["kept"].is_same(&before.providers["kept"]));
    assert!(!after.providers["p"].is_same(&before.providers["p"]));
    assert!(before.providers["p"].is_alive(), "the old one serves whoever holds it");
    drop(after);
    drop(before);
}

#[actix::test]
async fn a_change_during_a_reload_is_not_lost() {
    let bench = bench(plain, watching()).await;
    let path = bench.file("config.json");
    for n in 0..20 {
        fs::write(&path, config(&format!("a{n}"))).unwrap();
        let first = bench.watcher.send(Reload(Trigger::Api));
        let model = format!("b{n}");
        fs::write(&path, config(&model)).unwrap();
        let second = bench.watcher.send(Reload(Trigger::Signal));
        let _ = tokio::join!(first, second);
        assert_eq!(bench.model(), model, "the last file is what runs");
    }
}
