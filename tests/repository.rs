//! What no compiler checks: the types in Lua's comments, the reasons for dependencies, how long
//! files and Lua's lists of parameters are, and that no dependency needs a newer Rust than this
//! repository says.
#![allow(clippy::unwrap_used, clippy::panic)]

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// The texts of the files under a folder whose names end in `.extension`, with their paths.
fn files(extension: &str, folder: PathBuf) -> Vec<(PathBuf, String)> {
    let paths = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    let found = paths.flat_map(|path| match path.is_dir() {
        true => files(extension, path),
        false if path.extension().is_some_and(|own| own == extension) => {
            vec![(path.clone(), fs::read_to_string(&path).unwrap())]
        }
        false => Vec::new(),
    });
    found.collect()
}

/// The texts of the Lua files under a folder, with their paths.
fn lua_files(folder: PathBuf) -> Vec<(PathBuf, String)> {
    files("lua", folder)
}

/// The crates that stand under `[dependencies]` in a manifest, without the workspace's own.
fn dependencies(manifest: &str) -> Vec<String> {
    let text = fs::read_to_string(root().join(manifest)).unwrap();
    let section = text.split("\n[dependencies]\n").nth(1).unwrap().split("\n[").next().unwrap();
    let names = section.lines().filter_map(|line| Some(line.split_once(" = ")?.0.to_owned()));
    names.filter(|name| !name.starts_with("resty-session")).collect()
}

#[test]
fn every_dependency_has_a_reason() {
    let page = fs::read_to_string(root().join("docs/dependencies.md")).unwrap();
    let (reasons, _) = page.split_once("## Where unsafe").unwrap();
    let rows = reasons.lines().filter_map(|line| line.strip_prefix("| ")?.split_once(" |"));
    let listed: BTreeSet<String> = rows.flat_map(|(names, _)| names.split(", ").map(str::to_owned)).collect();
    let manifests = ["Cargo.toml", "crates/core/Cargo.toml", "crates/storages/Cargo.toml"];
    let needed: BTreeSet<String> = manifests.into_iter().flat_map(dependencies).collect();
    let missing: Vec<_> = needed.difference(&listed).collect();
    assert!(missing.is_empty() && needed.len() > 30, "{missing:?} of {}", needed.len());
    let gone: Vec<_> = listed.difference(&needed).filter(|name| !["crate", "---"].contains(&name.as_str())).collect();
    assert!(gone.is_empty(), "{gone:?} are listed and not needed");
}

#[test]
fn no_file_has_more_than_600_lines() {
    let folders = ["src", "crates", "tests", "benches", "fuzz"].map(|folder| files("rs", root().join(folder)));
    let lua = ["lua", "spec", "types", "examples"].map(|folder| lua_files(root().join(folder)));
    let all: Vec<_> = folders.into_iter().chain(lua).flatten().collect();
    for (path, text) in &all {
        assert!(text.lines().count() <= 600, "{} has {} lines", path.display(), text.lines().count());
    }
    assert!(all.len() > 150, "only {} files were found", all.len());
}

/// Clippy counts those of Rust's functions.
#[test]
fn no_function_in_lua_has_more_than_6_parameters() {
    let mut functions = 0;
    for (path, text) in lua_files(root().join("lua")) {
        for declaration in text.lines().filter_map(|line| line.split_once("function")) {
            let Some((name, parameters)) = declaration.1.split_once('(') else { continue };
            let parameters = parameters.split(')').next().unwrap_or_default();
            // lua-resty-session has fixed those of this one.
            if !name.trim().ends_with(":set") || !parameters.contains("stale_ttl") {
                assert!(parameters.split(',').count() <= 6, "{}:{name}({parameters})", path.display());
            }
            functions += 1;
        }
    }
    assert!(functions > 150, "only {functions} functions were found");
}

/// The annotations of a text, as tag and the rest of the line.
fn annotations(text: &str) -> impl Iterator<Item = (&str, &str)> {
    text.lines().filter_map(|line| line.split_once("---@")?.1.split_once(' '))
}

/// What an annotation says after the name that it may have: a type, and often a text.
fn types<'a>(tag: &str, rest: &'a str) -> Option<&'a str> {
    match tag {
        "param" | "field" => Some(rest.split_once(' ')?.1),
        "return" | "type" => Some(rest),
        "alias" => Some(rest.split_once(' ')?.1),
        // A class has a colon and a parent, or it has none.
        "class" => rest.split_once(' ').filter(|(name, _)| name.ends_with(':')).map(|(_, parent)| parent),
        _ => None,
    }
}

/// The names of the types in the first word, without those in a function's type or a table's
/// fields.
fn names(types: &str) -> Vec<&str> {
    let word = types.split([' ', '{']).next().unwrap_or_default().split("fun(").next().unwrap_or_default();
    word.split(['|', '?', '[', ']', '<', '>', ',', '(', ')']).filter(|name| !name.is_empty()).collect()
}

const BUILT_IN: [&str; 14] = [
    "any",
    "boolean",
    "function",
    "integer",
    "lightuserdata",
    "nil",
    "number",
    "self",
    "string",
    "table",
    "thread",
    "true",
    "false",
    "userdata",
];

#[test]
fn every_type_in_luas_comments_is_defined() {
    let files: Vec<_> = ["lua", "types"].iter().flat_map(|folder| lua_files(root().join(folder))).collect();
    let words = |rest: &str| rest.split([' ', ':']).next().unwrap_or_default().to_owned();
    let of_files = files.iter().flat_map(|(_, text)| annotations(text));
    let defined: BTreeSet<String> =
        of_files.filter(|(tag, _)| matches!(*tag, "class" | "alias")).map(|(_, rest)| words(rest)).collect();
    let mut checked = 0;
    for (path, text) in &files {
        for (tag, rest) in annotations(text) {
            for name in types(tag, rest).map(names).unwrap_or_default() {
                let is_literal = name.starts_with('"');
                let is_known = is_literal || BUILT_IN.contains(&name) || defined.contains(name) || name == "...";
                assert!(is_known, "{}: ---@{tag} {rest}: there is no type {name}", path.display());
                checked += 1;
            }
            // Ours, wherever they stand.
            for name in rest.split(|character: char| !character.is_alphanumeric() && !"._".contains(character)) {
                let is_ours = name.starts_with("resty.session.") && tag != "module";
                assert!(!is_ours || defined.contains(name), "{}: there is no type {name}", path.display());
            }
        }
    }
    assert!(checked > 200, "only {checked} types were found");
}

/// `1.89` as numbers.
fn version(text: &str) -> Vec<u32> {
    text.split('.').map(|number| number.parse().unwrap()).collect()
}

/// Clippy warns of functions of the standard library that are newer, but not of dependencies.
#[test]
fn no_dependency_needs_a_newer_rust() {
    // For one platform Cargo needs no more crates than a build does.
    let arguments = ["metadata", "--locked", "--filter-platform=x86_64-unknown-linux-gnu", "--format-version=1"];
    let output = Command::new(env!("CARGO")).current_dir(root()).args(arguments).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let metadata: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    let packages: Vec<(&str, &str)> = metadata["packages"]
        .as_array()
        .unwrap()
        .iter()
        .filter_map(|package| Some((package["name"].as_str()?, package["rust_version"].as_str()?)))
        .collect();
    let own = packages.iter().find(|(name, _)| *name == "resty-session").unwrap().1;
    for (name, needed) in &packages {
        assert!(
            version(needed) <= version(&format!("{own}.0")),
            "{name} needs Rust {needed}, and Cargo.toml says {own}"
        );
    }
    assert!(packages.len() > 50);
}
