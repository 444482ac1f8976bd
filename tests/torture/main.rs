//! Browsers use sessions while their storage, the network and nginx's workers fail, and see nothing
//! that they must not: `make torture STORAGE=redis SEED=1`. What happens follows from the seed.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod browser;
mod client;
mod errors;
mod leaks;
mod model;
mod plan;
mod run;
mod servers;
mod shrink;
mod site;
mod visit;
mod world;

use std::process::ExitCode;

use plan::{Plan, faults_for};

fn variable<T: std::str::FromStr>(name: &str, default: T) -> T {
    let text = std::env::var(name).ok().filter(|text| !text.is_empty());
    text.map_or(default, |text| text.parse().unwrap_or_else(|_| panic!("{name}={text} is not valid")))
}

/// Names that are separated by commas.
fn names(variable_name: &str) -> Vec<String> {
    let names: String = variable(variable_name, String::new());
    names.split(',').filter(|name| !name.is_empty()).map(str::to_owned).collect()
}

fn plan() -> Plan {
    let requests = variable("REQUESTS", 20_000);
    let before: String = variable("BEFORE", String::new());
    Plan {
        storage: variable("STORAGE", "redis".to_owned()),
        seed: variable("SEED", 1),
        requests,
        browsers: variable("BROWSERS", 240),
        faults: variable("FAULTS", faults_for(requests, !before.is_empty())),
        kinds: names("KINDS"),
        before,
        actions: names("ACTIONS"),
    }
}

fn main() -> ExitCode {
    let plan = plan();
    println!("{plan}");
    let report = run::run(&plan);
    println!("{report}");
    let Some(violation) = report.violations.first() else { return ExitCode::SUCCESS };
    if variable("SHRINK", 1) == 1 {
        let smallest = shrink::shrink(&plan, violation);
        println!("the smallest plan that fails too: {smallest}");
    }
    ExitCode::FAILURE
}
