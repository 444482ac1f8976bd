//! The pages are true where a test can tell: what they name exists.
#![allow(clippy::unwrap_used, clippy::panic)]

use std::fs;
use std::path::{Path, PathBuf};

use resty_session_core::session::Options;

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn read(page: impl AsRef<Path>) -> String {
    let page = root().join(page);
    fs::read_to_string(&page).unwrap_or_else(|error| panic!("{}: {error}", page.display()))
}

/// All pages: those at the top and those in `docs`.
fn pages() -> Vec<PathBuf> {
    let files = [root().to_owned(), root().join("docs")].into_iter().flat_map(|folder| fs::read_dir(folder).unwrap());
    files.map(|file| file.unwrap().path()).filter(|path| path.extension().is_some_and(|kind| kind == "md")).collect()
}

/// The text between backticks.
fn codes(page: &str) -> impl Iterator<Item = &str> {
    page.split('`').skip(1).step_by(2)
}

/// The pairs of a file and a test in it that a page names, as `` `file` `test` ``.
fn named_tests(page: &str) -> Vec<(&str, &str)> {
    let codes: Vec<&str> = page.split('`').collect();
    // Code stands at the odd places; a file and its test have only a space between them.
    let pairs = codes.windows(3).enumerate().filter(|(at, window)| at % 2 == 1 && window[1] == " ");
    pairs.map(|(_, window)| (window[0], window[2])).collect()
}

#[test]
fn every_difference_is_shown_by_a_test() {
    let page = read("docs/differences.md");
    let rows = page.lines().filter(|line| line.starts_with("| ") && !line.starts_with("| ---")).count();
    let named = named_tests(&page);
    // Each of the four tables has a row of titles.
    assert_eq!(named.len(), rows - 4, "a row without a test, or with two");
    for (file, test) in named {
        let text = read(file);
        let exists = text.contains(&format!("fn {test}(")) || text.contains(&format!("it(\"{test}\""));
        assert!(exists || text.contains(&format!("{test}(")) && text.contains("macro_rules"), "{file} has no {test}");
    }
}

/// The names by which links reach a page's headings.
fn anchors(page: &str) -> Vec<String> {
    let headings = page.lines().filter(|line| line.starts_with('#'));
    let slug = |heading: &str| {
        let text = heading.trim_start_matches('#').trim().to_lowercase().replace(' ', "-");
        text.chars().filter(|c| c.is_alphanumeric() || "-_".contains(*c)).collect()
    };
    headings.map(slug).collect()
}

#[test]
fn every_link_leads_somewhere() {
    let mut count = 0;
    for page in pages() {
        let text = read(&page);
        for link in text.split("](").skip(1).filter_map(|rest| rest.split(')').next()) {
            if link.contains("://") {
                continue;
            }
            let (file, anchor) = link.split_once('#').map_or((link, None), |(file, anchor)| (file, Some(anchor)));
            let target = if file.is_empty() { page.clone() } else { page.parent().unwrap().join(file) };
            assert!(target.exists(), "{}: {link}", page.display());
            let found = anchor.is_none_or(|anchor| anchors(&read(&target)).iter().any(|other| other == anchor));
            assert!(found, "{}: {link}", page.display());
            count += 1;
        }
    }
    assert!(count > 50, "only {count} links were found");
}

#[test]
fn every_file_that_the_map_names_exists() {
    let page = read("CONTRIBUTING.md");
    let folders = ["crates/", "fuzz/", "src/", "lua/", "spec/", "tests/", "docs/", "benches/", "scripts/", "rockspec/"];
    let named = codes(&page).filter(|code| folders.iter().any(|folder| code.starts_with(folder)));
    let named: Vec<&str> = named.filter(|code| !code.contains("NAME")).collect();
    assert!(named.len() > 40, "only {} files were found", named.len());
    for file in named {
        assert!(root().join(file).exists(), "{file}");
    }
}

#[test]
fn every_option_is_in_the_table() {
    let page = read("docs/options.md");
    for name in Options::NAMES {
        assert!(codes(&page).any(|code| code == *name), "{name}");
    }
}
