use std::os::unix::fs::PermissionsExt as _;

use serde_json::json;

use super::*;

const CONFIG: &str =
    "# mine\r\nmodel_provider = \"work\" # ours\r\n\r\n[model_providers.work]\r\nname = \"w\"\r\n";

fn gateway(models: &[&str]) -> Gateway {
    Gateway {
        base_url: "http://127.0.0.1:10100/v1".to_owned(),
        models: models.iter().map(|slug| json!({ "slug": slug })).collect(),
        native: vec![json!({"slug": "gpt", "base_instructions": "x"})],
        subagent_models: Vec::new(),
        websockets: false,
        key_variable: None,
    }
}

struct Bench {
    dir: tempfile::TempDir,
    codex: Codex,
}

fn bench() -> Bench {
    let dir = tempfile::tempdir().unwrap();
    let codex = Codex::at(dir.path().join("codex"), &dir.path().join("ocx"));
    Bench { codex, dir }
}

impl Bench {
    fn write(&self, name: &str, text: &str) {
        fs::create_dir_all(&self.codex.home).unwrap();
        fs::write(self.codex.home.join(name), text).unwrap();
    }

    /// All files of Codex's home: names, modes, bytes.
    fn files(&self) -> Vec<(String, u32, Vec<u8>)> {
        let mut files: Vec<_> = fs::read_dir(&self.codex.home)
            .into_iter()
            .flatten()
            .map(|entry| {
                let entry = entry.unwrap();
                let mode = entry.metadata().unwrap().permissions().mode() & 0o777;
                let name = entry.file_name().into_string().unwrap();
                (name, mode, fs::read(entry.path()).unwrap())
            })
            .collect();
        files.sort();
        files
    }

    fn config(&self) -> String {
        fs::read_to_string(self.codex.config()).unwrap()
    }
}

#[test]
fn what_was_there_comes_back_byte_for_byte_and_mode_for_mode() {
    let bench = bench();
    bench.write("config.toml", CONFIG);
    bench.write("models_cache.json", "{\"models\": []}");
    bench.write("other", "stays");
    fs::set_permissions(bench.codex.config(), fs::Permissions::from_mode(0o640)).unwrap();
    let before = bench.files();
    for _ in 0..2 {
        for models in [&["p/a"][..], &["p/a", "p/b"]] {
            let installed = bench.codex.install(&gateway(models)).unwrap();
            assert_eq!((installed.routed, installed.native), (models.len(), 1));
            let status = bench.codex.status().unwrap();
            assert!(status.installed && status.restorable);
            assert_eq!(status.models, models.len() + 1);
            // As Codex does, once it asks us.
            bench.write("models_cache.json", "{\"models\": [{\"slug\": \"p/a\"}]}");
        }
        assert!(bench.config().contains("opencodex"));
        assert!(bench.codex.restore().unwrap());
        assert_eq!(bench.files(), before);
        assert!(!bench.codex.restore().unwrap(), "nothing is left to do");
        let status = bench.codex.status().unwrap();
        assert!(!status.installed && !status.restorable);
    }
}

#[test]
fn where_nothing_was_nothing_is_left() {
    let bench = bench();
    bench.codex.install(&gateway(&["p/a"])).unwrap();
    assert_eq!(bench.files().len(), 3);
    bench.codex.restore().unwrap();
    assert_eq!(bench.files(), []);
}

#[test]
fn what_the_user_changed_meanwhile_stays_also_over_another_install() {
    let bench = bench();
    bench.write("config.toml", CONFIG);
    bench.codex.install(&gateway(&["p/a"])).unwrap();
    let edited = format!("{}[tui]\r\nx = 1\r\n", bench.config());
    bench.write("config.toml", &edited);
    bench.codex.install(&gateway(&["p/b"])).unwrap();
    assert!(bench.config().contains("[tui]"));
    bench.codex.restore().unwrap();
    assert_eq!(bench.config(), format!("{CONFIG}[tui]\r\nx = 1\r\n"));
}

#[test]
fn without_models_or_with_a_config_that_is_none_nothing_is_touched() {
    let bench = bench();
    bench.write("config.toml", "not = [toml");
    let before = bench.files();
    assert!(matches!(bench.codex.install(&gateway(&[])), Err(SetupError::NoModels)));
    let error = bench.codex.install(&gateway(&["p/a"])).unwrap_err().to_string();
    assert!(error.contains("is no TOML") && error.contains("line 1"), "{error}");
    assert_eq!(bench.files(), before);
    assert!(!bench.codex.status().unwrap().restorable);
}

#[test]
fn a_record_that_is_lost_does_not_keep_ocx_in() {
    let bench = bench();
    bench.write("config.toml", "model = \"m\"\n");
    bench.codex.install(&gateway(&["p/a"])).unwrap();
    fs::remove_dir_all(bench.dir.path().join("ocx")).unwrap();
    assert!(bench.codex.status().unwrap().restorable);
    assert!(bench.codex.restore().unwrap());
    assert_eq!(bench.config(), "model = \"m\"\n");
}

#[test]
fn a_symlink_stays_one() {
    let bench = bench();
    let dotfiles = bench.dir.path().join("dotfiles.toml");
    fs::write(&dotfiles, CONFIG).unwrap();
    fs::create_dir_all(&bench.codex.home).unwrap();
    std::os::unix::fs::symlink(&dotfiles, bench.codex.config()).unwrap();
    bench.codex.install(&gateway(&["p/a"])).unwrap();
    assert!(fs::symlink_metadata(bench.codex.config()).unwrap().is_symlink());
    assert!(fs::read_to_string(&dotfiles).unwrap().contains("opencodex"));
    bench.codex.restore().unwrap();
    assert!(fs::symlink_metadata(bench.codex.config()).unwrap().is_symlink());
    assert_eq!(fs::read_to_string(&dotfiles).unwrap(), CONFIG);
}

#[test]
fn only_complete_models_of_codex_are_taken_over() {
    let document = json!({"models": [
        {"slug": "gpt", "base_instructions": "x"},
        {"slug": "tpl", "model_messages": {"instructions_template": "x"}},
        {"slug": "half"},
        {"slug": "p/routed", "base_instructions": "x"},
    ]});
    let slugs: Vec<Value> = native(document.to_string().as_bytes())
        .into_iter()
        .map(|row| row["slug"].clone())
        .collect();
    assert_eq!(slugs, ["gpt", "tpl"]);
    assert_eq!(native(b"{"), Vec::<Value>::new());
}

#[test]
fn a_config_that_is_broken_since_keeps_the_record() {
    let bench = bench();
    bench.write("config.toml", CONFIG);
    bench.codex.install(&gateway(&["p/a"])).unwrap();
    let wired = bench.config();
    bench.write("config.toml", &format!("{wired}[tui\r\n"));
    let error = bench.codex.restore().unwrap_err().to_string();
    assert!(error.contains("is no TOML"), "{error}");
    bench.write("config.toml", &format!("{wired}[tui]\r\n"));
    bench.codex.restore().unwrap();
    assert_eq!(bench.config(), format!("{CONFIG}[tui]\r\n"));
    assert_eq!(bench.files().len(), 1);
}

#[test]
fn an_edit_that_is_taken_back_is_taken_back_in_the_end_too() {
    let bench = bench();
    bench.write("config.toml", "a = 1\n");
    bench.codex.install(&gateway(&["p/a"])).unwrap();
    let first = bench.config();
    bench.write("config.toml", &format!("{first}\n[tui]\nx = 1\n"));
    bench.codex.install(&gateway(&["p/a"])).unwrap();
    bench.write("config.toml", &first);
    bench.codex.restore().unwrap();
    assert_eq!(bench.config(), "a = 1\n");
}

#[test]
fn a_provider_of_our_name_and_a_profile_are_the_users() {
    let bench = bench();
    let own = "[model_providers.opencodex]\nname = \"mine\"\n";
    bench.write("config.toml", own);
    assert!(matches!(bench.codex.install(&gateway(&["p/a"])), Err(SetupError::Taken(_))));
    assert!(!bench.codex.restore().unwrap());
    assert_eq!(bench.config(), own);
    bench.write("config.toml", "");
    bench.write("opencodex.config.toml", "keep = 1\n");
    bench.codex.install(&gateway(&["p/a"])).unwrap();
    bench.write("opencodex.config.toml", "keep = 2\n");
    bench.codex.install(&gateway(&["p/a"])).unwrap();
    bench.codex.restore().unwrap();
    assert_eq!(
        bench.files(),
        [
            ("config.toml".to_owned(), 0o644, Vec::new()),
            ("opencodex.config.toml".to_owned(), 0o644, b"keep = 2\n".to_vec())
        ]
    );
}

#[test]
fn a_profile_of_ours_that_the_user_changed_stays() {
    let bench = bench();
    bench.codex.install(&gateway(&["p/a"])).unwrap();
    bench.write("opencodex.config.toml", "model = \"p/a\"\n");
    bench.codex.install(&gateway(&["p/a"])).unwrap();
    bench.codex.restore().unwrap();
    let names: Vec<String> = bench.files().into_iter().map(|(name, ..)| name).collect();
    assert_eq!(names, ["opencodex.config.toml"]);
}

#[test]
fn an_install_that_fails_leaves_nothing_to_undo() {
    // Modes bind nobody who is root.
    let bench = bench();
    bench.write("config.toml", "a = 1\n");
    // In the way of the catalogue.
    fs::create_dir_all(bench.codex.catalog().join("x")).unwrap();
    assert!(bench.codex.install(&gateway(&["p/a"])).is_err());
    assert!(!bench.codex.status().unwrap().restorable);
    assert_eq!(bench.config(), "a = 1\n");
}

#[test]
fn one_home_has_one_past_however_it_is_called() {
    let bench = bench();
    bench.write("config.toml", CONFIG);
    bench.codex.install(&gateway(&["p/a"])).unwrap();
    let link = bench.dir.path().join("link");
    std::os::unix::fs::symlink(bench.dir.path().join("codex"), &link).unwrap();
    let slashed = PathBuf::from(format!("{}/", link.display()));
    assert!(Codex::at(slashed, &bench.dir.path().join("ocx")).restore().unwrap());
    assert_eq!(bench.config(), CONFIG);
    assert!(!bench.codex.status().unwrap().restorable);
    // Also from another home of ours the user's provider comes back: the file itself tells.
    bench.codex.install(&gateway(&["p/a"])).unwrap();
    let other = Codex::at(bench.dir.path().join("codex"), &bench.dir.path().join("other"));
    assert!(other.restore().unwrap());
    assert_eq!(bench.config(), CONFIG);
    assert_eq!(bench.files().len(), 1);
}

#[test]
fn a_link_to_nowhere_stays_one_and_so_does_a_mode_that_was_tightened() {
    let bench = bench();
    let dotfiles = bench.dir.path().join("dotfiles.toml");
    fs::create_dir_all(&bench.codex.home).unwrap();
    std::os::unix::fs::symlink("../dotfiles.toml", bench.codex.config()).unwrap();
    bench.codex.install(&gateway(&["p/a"])).unwrap();
    assert!(fs::read_to_string(&dotfiles).unwrap().contains("opencodex"));
    bench.codex.restore().unwrap();
    assert!(fs::symlink_metadata(bench.codex.config()).unwrap().is_symlink());
    assert!(!dotfiles.exists());
    fs::write(&dotfiles, CONFIG).unwrap();
    bench.codex.install(&gateway(&["p/a"])).unwrap();
    fs::set_permissions(&dotfiles, fs::Permissions::from_mode(0o600)).unwrap();
    bench.codex.restore().unwrap();
    assert_eq!(fs::metadata(&dotfiles).unwrap().permissions().mode() & 0o777, 0o600);
    assert_eq!(fs::read_to_string(&dotfiles).unwrap(), CONFIG);
}

#[test]
fn codexs_own_models_are_those_it_had_without_us() {
    let bench = bench();
    let row = |slug: &str| json!({"slug": slug, "base_instructions": "x"});
    let slugs = || -> Vec<String> {
        let models = bench.codex.known_models().into_iter();
        models.map(|row| row["slug"].as_str().unwrap().to_owned()).collect()
    };
    bench.write("config.toml", "");
    bench.write("models_cache.json", &json!({"models": [row("gpt")]}).to_string());
    assert_eq!(slugs(), ["gpt"]);
    bench.codex.install(&gateway(&["p/a", "combo"])).unwrap();
    let fetched = json!({"models": [row("gpt"), row("combo"), row("p/a")]});
    bench.write("models_cache.json", &fetched.to_string());
    assert_eq!(slugs(), ["gpt"], "what Codex has from us is not its own");
    bench.codex.restore().unwrap();
    // A catalogue of the user's own, relative to Codex's home.
    bench.write("config.toml", "model_catalog_json = \"cat.json\"\n");
    bench.write("cat.json", &json!({"models": [row("acme/own")]}).to_string());
    assert_eq!(slugs(), ["acme/own"]);
    bench.codex.install(&gateway(&["p/a"])).unwrap();
    assert_eq!(slugs(), ["acme/own"]);
}
