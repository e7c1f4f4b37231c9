//! The rules of the house that a compiler does not check.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on should stop")]

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
};

use ocx::{registry, telemetry::Metrics};
use regex::Regex;

/// Modules from the bottom up: each may use what stands in a lower row, and nothing beside it.
const ROWS: [&[&str]; 12] = [
    &["model", "wire"],
    &["registry", "credentials", "telemetry"],
    &["callers", "adapters"],
    &["config"],
    &["routing", "upstream", "codex"],
    &["oauth"],
    &["actors"],
    &["error"],
    &["exchange"],
    &["turn"],
    &["http"],
    &["cli"],
];

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn files(dir: &str, ending: &str) -> Vec<PathBuf> {
    fn walk(dir: &Path, ending: &str, found: &mut Vec<PathBuf>) {
        for entry in fs::read_dir(dir).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                walk(&path, ending, found);
            } else if path.to_str().unwrap().ends_with(ending) {
                found.push(path);
            }
        }
    }
    let mut found = Vec::new();
    walk(&root().join(dir), ending, &mut found);
    assert!(!found.is_empty(), "{dir}/**{ending}");
    found
}

/// The module of a source file, and its lines before any test of its own.
fn module(path: &Path) -> (String, String) {
    let relative = path.strip_prefix(root().join("src")).unwrap();
    let first = relative.iter().next().unwrap().to_str().unwrap();
    let text = fs::read_to_string(path).unwrap();
    let code = text.split("#[cfg(test)]").next().unwrap().to_owned();
    (first.trim_end_matches(".rs").to_owned(), code)
}

fn row(module: &str) -> Option<usize> {
    ROWS.iter().position(|row| row.contains(&module))
}

fn sources() -> Vec<(PathBuf, String, String)> {
    files("src", ".rs")
        .into_iter()
        .filter(|path| !path.ends_with("tests.rs"))
        .map(|path| {
            let (module, code) = module(&path);
            (path, module, code)
        })
        .collect()
}

#[test]
fn dependencies_point_down() {
    let single = Regex::new(r"crate::([a-z_]+)").unwrap();
    let group = Regex::new(r"use crate::\{([^;]*)\};").unwrap();
    let mut wrong = Vec::new();
    for (path, from, code) in sources() {
        if from == "lib" || from == "main" {
            continue;
        }
        let own = row(&from).unwrap_or_else(|| panic!("{from} is in no row of ROWS"));
        let code: String = code
            .lines()
            .filter(|line| !line.trim_start().starts_with("//"))
            .collect::<Vec<_>>()
            .join("\n");
        let mut used: BTreeSet<String> =
            single.captures_iter(&code).map(|found| found[1].to_owned()).collect();
        for found in group.captures_iter(&code) {
            used.extend(top_level(&found[1]));
        }
        for to in used.into_iter().filter(|to| *to != from) {
            let target =
                row(&to).unwrap_or_else(|| panic!("{}: {to} is in no row", path.display()));
            if target >= own {
                wrong.push(format!("{}: {from} uses {to}", path.display()));
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

/// The first names of a grouped `use`, without what is inside nested braces.
fn top_level(group: &str) -> Vec<String> {
    let (mut depth, mut names, mut name) = (0, Vec::new(), String::new());
    for c in group.chars() {
        match c {
            '{' => depth += 1,
            '}' => depth -= 1,
            ',' if depth == 0 => names.push(std::mem::take(&mut name)),
            c if depth == 0 => name.push(c),
            _ => {}
        }
    }
    names.push(name);
    names
        .iter()
        .map(|name| name.trim().split("::").next().unwrap().to_owned())
        .filter(|name| !name.is_empty())
        .collect()
}

#[test]
fn each_library_is_named_where_it_belongs() {
    for (name, homes) in [
        ("awc::", &["upstream"][..]),
        ("actix_web::", &["http", "cli"]),
        ("actix::", &["actors", "http", "cli"]),
        ("notify::", &["actors"]),
        ("prometheus::", &["telemetry", "http"]),
    ] {
        for (path, module, code) in sources() {
            let named = code.lines().any(|line| {
                let line = line.trim_start();
                !line.starts_with("//")
                    && (line.starts_with(&format!("use {name}"))
                        || line.contains(&format!(" {name}")))
            });
            assert!(!named || homes.contains(&module.as_str()), "{} names {name}", path.display());
        }
    }
}

#[test]
fn nothing_is_unsafe_and_no_profile_aborts() {
    let manifest = fs::read_to_string(root().join("Cargo.toml")).unwrap();
    assert!(!manifest.contains("\"abort\"") || manifest.contains("never \"abort\""));
    assert!(Regex::new("panic *= *\"abort\"").unwrap().find(&manifest).is_none());
    for (path, _, code) in sources() {
        assert!(!code.contains("unsafe {") && !code.contains("unsafe fn"), "{}", path.display());
        assert!(
            !code.contains("todo!(") && !code.contains("unimplemented!("),
            "{}",
            path.display()
        );
    }
}

#[test]
fn dashboards_name_only_metrics_that_exist() {
    // Every metric, also those without a series yet, has its name in the source of their one module.
    let declared = fs::read_to_string(root().join("src/telemetry/metrics/mod.rs")).unwrap();
    let names = Regex::new(r"\bocx_[a-z_]+").unwrap();
    let declared: BTreeSet<&str> = names.find_iter(&declared).map(|found| found.as_str()).collect();
    let rendered = String::from_utf8(Metrics::new().render()).unwrap();
    assert!(rendered.contains("ocx_build_info"));
    for path in files("dashboards", ".json") {
        let text = fs::read_to_string(&path).unwrap();
        let dashboard: serde_json::Value = serde_json::from_str(&text).unwrap();
        assert!(dashboard["panels"].as_array().is_some_and(|panels| panels.len() >= 4));
        let mut named = 0;
        for found in names.find_iter(&text) {
            let name = found.as_str();
            let base = ["_bucket", "_sum", "_count"].iter().find_map(|end| name.strip_suffix(end));
            assert!(
                declared.contains(base.unwrap_or(name)) || declared.contains(name),
                "{}: {name}",
                path.display()
            );
            named += 1;
        }
        assert!(named > 5, "{}", path.display());
    }
}

#[test]
fn the_readme_lists_the_providers_of_the_registry() {
    let readme = fs::read_to_string(root().join("README.md")).unwrap();
    let list = readme.split("The catalogue:").nth(1).and_then(|rest| rest.split("**").next());
    let named = Regex::new("`([a-z0-9-]+)`").unwrap();
    let listed: Vec<&str> =
        named.captures_iter(list.unwrap()).map(|found| found.get(1).unwrap().as_str()).collect();
    let known: Vec<&str> = registry::entries().map(|(id, _)| id).collect();
    assert_eq!(listed, known);
}

#[test]
fn the_readme_names_the_commands_that_exist() {
    let readme = fs::read_to_string(root().join("README.md")).unwrap();
    for command in ["cargo run --release -- serve", "bash tests/all.sh"] {
        assert!(readme.contains(command), "{command}");
    }
    assert!(root().join("tests/all.sh").exists());
    let ci = fs::read_to_string(root().join(".ci/run")).unwrap();
    assert!(ci.contains("tests/all.sh"), "CI runs the test command of the README");
}

#[test]
fn the_top_level_holds_what_it_may() {
    let allowed = [
        "Cargo.toml",
        "Cargo.lock",
        "LICENSE",
        "README.md",
        "config.example.json",
        "src",
        "tests",
        "dashboards",
        "target",
    ];
    for entry in fs::read_dir(root()).unwrap() {
        let name = entry.unwrap().file_name().into_string().unwrap();
        assert!(name.starts_with('.') || allowed.contains(&name.as_str()), "{name}");
    }
}
