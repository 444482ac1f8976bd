//! What no compiler checks: the types in Lua's comments, the reasons for dependencies, how long
//! files, tuples, lines of text and Lua's lists of parameters are, and that no dependency needs a
//! newer Rust than this repository says.
#![allow(clippy::unwrap_used, clippy::panic)]

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use syn::visit::Visit;

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

fn all_of_rust() -> Vec<(PathBuf, String)> {
    ["src", "crates", "tests", "benches", "fuzz"]
        .map(|folder| files("rs", root().join(folder)))
        .into_iter()
        .flatten()
        .collect()
}

fn all_of_lua() -> Vec<(PathBuf, String)> {
    ["lua", "spec", "types", "examples"].map(|folder| lua_files(root().join(folder))).into_iter().flatten().collect()
}

#[test]
fn no_file_has_more_than_600_lines() {
    let all: Vec<_> = all_of_rust().into_iter().chain(all_of_lua()).collect();
    for (path, text) in &all {
        assert!(text.lines().count() <= 600, "{} has {} lines", path.display(), text.lines().count());
    }
    assert!(all.len() > 150, "only {} files were found", all.len());
}

/// What is wrong with signatures, and how many there are.
#[derive(Default)]
struct Signatures {
    count: usize,
    problems: Vec<String>,
}

impl Signatures {
    fn check(&mut self, what: &str, parts: usize) {
        if parts > 4 {
            self.problems.push(format!("{what} has a tuple of {parts}"));
        }
    }
}

impl<'ast> syn::visit::Visit<'ast> for Signatures {
    fn visit_signature(&mut self, signature: &'ast syn::Signature) {
        self.count += 1;
        let mut tuples = Tuples::default();
        tuples.visit_signature(signature);
        self.check(&signature.ident.to_string(), tuples.longest);
    }

    fn visit_item_type(&mut self, item: &'ast syn::ItemType) {
        let mut tuples = Tuples::default();
        tuples.visit_item_type(item);
        self.check(&item.ident.to_string(), tuples.longest);
    }
}

/// How many parts the longest tuple has.
#[derive(Default)]
struct Tuples {
    longest: usize,
}

impl<'ast> syn::visit::Visit<'ast> for Tuples {
    fn visit_type_tuple(&mut self, tuple: &'ast syn::TypeTuple) {
        self.longest = self.longest.max(tuple.elems.len());
        syn::visit::visit_type_tuple(self, tuple);
    }
}

/// A function that needs more wants a type.
#[test]
fn no_tuple_in_a_signature_has_more_than_4_parts() {
    let mut signatures = Signatures::default();
    for (path, text) in all_of_rust() {
        let file = syn::parse_file(&text).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        signatures.visit_file(&file);
    }
    assert!(signatures.problems.is_empty(), "{:?}", signatures.problems);
    assert!(signatures.count > 2000, "only {} functions were found", signatures.count);
}

/// The lines of a source file's comments, without code, annotations, addresses and rules.
fn comments(text: &str) -> Vec<&str> {
    let mut is_code = false;
    let is_prose = |line: &&str| {
        let is_fence = line.trim_start_matches(['/', '!', '-', ' ']).starts_with("```");
        is_code ^= is_fence;
        let has_no_breaks = ["---@", "---|", "://"].iter().any(|mark| line.contains(mark)) || line.ends_with("---");
        !is_code && !has_no_breaks
    };
    let is_comment = |line: &&str| line.trim_start().starts_with("//") || line.trim_start().starts_with("--");
    text.lines().filter(is_comment).filter(is_prose).collect()
}

/// Comments and pages are read beside code, in narrow windows. A table has no line breaks.
#[test]
fn no_line_of_text_has_more_than_100_characters() {
    let is_long = |line: &&str| line.chars().count() > 100;
    for (path, text) in all_of_rust().into_iter().chain(all_of_lua()) {
        let long: Vec<_> = comments(&text).into_iter().filter(is_long).collect();
        assert!(long.is_empty(), "{}: {long:?}", path.display());
    }
    let pages = fs::read_dir(root()).unwrap().chain(fs::read_dir(root().join("docs")).unwrap());
    let pages: Vec<_> =
        pages.map(|page| page.unwrap().path()).filter(|path| path.extension() == Some("md".as_ref())).collect();
    for path in &pages {
        let text = fs::read_to_string(path).unwrap();
        // Every second part is code.
        let prose = text.split("\n```").step_by(2).flat_map(str::lines).filter(|line| !line.starts_with('|'));
        let long: Vec<_> = prose.filter(is_long).collect();
        assert!(long.is_empty(), "{}: {long:?}", path.display());
    }
    assert!(pages.len() > 15, "only {} pages were found", pages.len());
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
