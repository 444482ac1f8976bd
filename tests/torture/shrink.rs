//! Makes a plan that fails smaller, as long as it fails. What depends on time fails only now and
//! then, so each smaller plan is tried a few times.

use super::plan::{Kind, Plan};
use super::run::run;
use super::world::Violation;

const TRIES: usize = 2;

/// Returns the smallest plan found that fails.
pub fn shrink(plan: &Plan, violation: &Violation) -> Plan {
    let mut best = Plan { requests: plan.requests.min(violation.requests + 200), ..plan.clone() };
    if !fails(&mut best) {
        best = plan.clone();
    }
    while smaller(&best).into_iter().any(|mut next| {
        let found = fails(&mut next);
        if found {
            best = next;
        }
        found
    }) {}
    best
}

/// Plans that are a part of this one.
fn smaller(plan: &Plan) -> Vec<Plan> {
    let mut plans = Vec::new();
    if plan.faults > 0 {
        plans.push(Plan { faults: 0, ..plan.clone() });
    }
    if plan.browsers > 2 {
        plans.push(Plan { browsers: (plan.browsers / 4).max(2), ..plan.clone() });
    }
    if plan.requests > 200 {
        plans.push(Plan { requests: plan.requests / 2, ..plan.clone() });
    }
    if plan.faults > 1 {
        plans.push(Plan { faults: plan.faults / 2, ..plan.clone() });
        plans.extend(halves_of_kinds(plan));
    }
    plans
}

fn halves_of_kinds(plan: &Plan) -> Vec<Plan> {
    let kinds = if plan.kinds.is_empty() { Kind::ALL.map(Kind::name).to_vec() } else { plan.kinds.clone() };
    if kinds.len() < 2 {
        return Vec::new();
    }
    let (first, second) = kinds.split_at(kinds.len() / 2);
    [first, second].map(|kinds| Plan { kinds: kinds.to_vec(), ..plan.clone() }).into()
}

/// Whether a plan fails. If so, it is cut behind the request after which it does.
fn fails(plan: &mut Plan) -> bool {
    for _ in 0..TRIES {
        let report = run(plan);
        if let Some(violation) = report.violations.first() {
            println!("fails too: {plan}\n    {}", violation.text);
            plan.requests = plan.requests.min(violation.requests + 50);
            return true;
        }
    }
    println!("does not fail: {plan}");
    false
}
