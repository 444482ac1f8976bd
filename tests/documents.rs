//! The documentation names tests: each of them exists.
#![allow(clippy::unwrap_used, clippy::panic)]

use std::fs;
use std::path::Path;

/// The pairs of a file and a test in it that a page names, as `` `file` `test` ``.
fn named_tests(page: &str) -> Vec<(&str, &str)> {
    let codes: Vec<&str> = page.split('`').collect();
    // Code stands at the odd places; a file and its test have only a space between them.
    let pairs = codes.windows(3).enumerate().filter(|(at, window)| at % 2 == 1 && window[1] == " ");
    pairs.map(|(_, window)| (window[0], window[2])).collect()
}

#[test]
fn every_difference_is_shown_by_a_test() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let page = fs::read_to_string(root.join("docs/differences.md")).unwrap();
    let rows = page.lines().filter(|line| line.starts_with("| ") && !line.starts_with("| ---")).count();
    let named = named_tests(&page);
    // Each of the four tables has a row of titles.
    assert_eq!(named.len(), rows - 4, "a row without a test, or with two");
    for (file, test) in named {
        let text = fs::read_to_string(root.join(file)).unwrap_or_else(|error| panic!("{file}: {error}"));
        let exists = text.contains(&format!("fn {test}(")) || text.contains(&format!("it(\"{test}\""));
        assert!(exists || text.contains(&format!("{test}(")) && text.contains("macro_rules"), "{file} has no {test}");
    }
}
