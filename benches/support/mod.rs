//! What the benches in nginx share: measuring in turns, and showing the ratios.

use std::fs;
use std::process::Command;

use plotters::prelude::*;

use resty_session_testing::server::{self, Nginx, root};

#[allow(dead_code)]
pub mod process;

pub const ROUNDS: usize = 5;
pub const SECONDS: usize = 2;
pub const CONNECTIONS: usize = 32;

/// One line of the table.
pub struct Row {
    pub what: &'static str,
    pub value: f64,
    pub unit: &'static str,
    pub budget: Option<f64>,
    /// Whether the budget is the least that is allowed, or the most.
    pub at_least: bool,
}

impl Row {
    fn holds(&self) -> bool {
        self.budget.is_none_or(|budget| if self.at_least { self.value >= budget } else { self.value <= budget })
    }

    fn bound(&self) -> String {
        let sign = if self.at_least { "≥" } else { "≤" };
        self.budget.map_or_else(String::new, |budget| format!("{sign} {budget}{}", self.unit))
    }
}

/// The body of a response that may take minutes.
#[allow(dead_code)]
pub fn get(nginx: &Nginx, path: &str, cookie: &str) -> String {
    let agent: ureq::Agent = ureq::Agent::config_builder().timeout_global(None).build().into();
    agent.get(nginx.url(path)).header("Cookie", cookie).call().unwrap().body_mut().read_to_string().unwrap()
}

/// The first cookie that a response sets, as a request sends it.
#[allow(dead_code)]
pub fn sign_in(nginx: &Nginx, path: &str) -> String {
    let response = ureq::get(nginx.url(path)).call().unwrap();
    let line = response.headers().get("set-cookie").unwrap().to_str().unwrap();
    line.split(';').next().unwrap().to_owned()
}

/// Requests per second.
pub fn wrk(nginx: &Nginx, path: &str, cookie: &str) -> f64 {
    let output = Command::new("wrk")
        .args(["-t1", &format!("-c{CONNECTIONS}"), &format!("-d{SECONDS}"), "-H", &format!("Cookie: {cookie}")])
        .arg(nginx.url(path))
        .output()
        .expect("wrk");
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(!text.contains("Non-2xx"), "{path}: {text}");
    let line = text.lines().find(|line| line.starts_with("Requests/sec:")).unwrap_or_else(|| panic!("{text}"));
    line.split_whitespace().last().unwrap().parse().unwrap()
}

/// The 99th percentile of the latency, in milliseconds.
#[allow(dead_code)]
pub fn p99(nginx: &Nginx, path: &str, cookie: &str) -> f64 {
    let output = Command::new("wrk")
        .args(["-t1", &format!("-c{CONNECTIONS}"), &format!("-d{SECONDS}"), "--latency"])
        .args(["-H", &format!("Cookie: {cookie}")])
        .arg(nginx.url(path))
        .output()
        .expect("wrk");
    let text = String::from_utf8(output.stdout).unwrap();
    let value =
        text.lines().find_map(|line| line.trim().strip_prefix("99%")).unwrap_or_else(|| panic!("{text}")).trim();
    let (number, factor) = match value {
        _ if value.ends_with("us") => (value.trim_end_matches("us"), 0.001),
        _ if value.ends_with("ms") => (value.trim_end_matches("ms"), 1.0),
        _ => (value.trim_end_matches('s'), 1000.0),
    };
    number.parse::<f64>().unwrap() * factor
}

/// Ticks that a process has had of the processor.
#[allow(dead_code)]
pub fn ticks(process: i32) -> f64 {
    let stat = fs::read_to_string(format!("/proc/{process}/stat")).unwrap();
    let fields: Vec<&str> = stat.rsplit(')').next().unwrap().split_whitespace().collect();
    fields[11].parse::<f64>().unwrap() + fields[12].parse::<f64>().unwrap()
}

pub fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

fn machine() -> String {
    let cpu = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = cpu.lines().find_map(|line| line.strip_prefix("model name")).unwrap_or(": unknown");
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let version = Command::new(server::binary()).arg("-v").output().unwrap();
    let nginx = String::from_utf8_lossy(&version.stderr).replace("nginx version: ", "");
    format!("{}, {cores} cores; {}", model.trim_start_matches([' ', '\t', ':']), nginx.trim())
}

fn draw(rows: &[Row], machine: &str, picture: &str) -> Result<(), Box<dyn std::error::Error>> {
    let height = 70 + 34 * rows.len() as u32;
    let path = root().join("docs").join(picture);
    let area = SVGBackend::new(&path, (860, height)).into_drawing_area();
    area.fill(&WHITE)?;
    let font = |size: u32| ("sans-serif", size).into_font();
    area.draw(&Text::new("Measured, as a share of the budget", (10, 10), font(18)))?;
    area.draw(&Text::new(machine.to_owned(), (10, 34), font(12)))?;
    let (left, width) = (330, 380);
    for (number, row) in rows.iter().filter(|row| row.budget.is_some()).enumerate() {
        let top = 64 + 34 * number as i32;
        let budget = row.budget.unwrap_or(row.value);
        let share = (row.value / budget).min(2.0);
        let colour = if row.holds() { RGBColor(74, 138, 90) } else { RGBColor(180, 70, 60) };
        let bar = [(left, top), (left + (share / 2.0 * f64::from(width)) as i32, top + 20)];
        area.draw(&Rectangle::new(bar, colour.filled()))?;
        area.draw(&Text::new(row.what, (10, top + 3), font(14)))?;
        let value = format!("{:.2}{} ({})", row.value, row.unit, row.bound());
        area.draw(&Text::new(value, (left + width + 8, top + 3), font(12)))?;
    }
    let middle = left + width / 2;
    area.draw(&PathElement::new([(middle, 56), (middle, height as i32 - 6)], BLACK.stroke_width(1)))?;
    area.present()?;
    Ok(())
}

/// Prints the rows as a table, and draws them into a picture in `docs`.
#[allow(dead_code)]
pub fn show(rows: &[Row], empty: f64, picture: &str) {
    print(rows, empty);
    draw(rows, &machine(), picture).unwrap();
}

/// Prints the rows as a table.
pub fn print(rows: &[Row], empty: f64) {
    let machine = machine();
    println!(
        "{machine}\nempty handler: {empty:.0} requests/s; {ROUNDS} rounds of {SECONDS} s, {CONNECTIONS} connections\n"
    );
    println!("| what | measured | budget | |\n| --- | --- | --- | --- |");
    for row in rows {
        let verdict = if row.holds() { "" } else { "missed" };
        println!("| {} | {:.2}{} | {} | {verdict} |", row.what, row.value, row.unit, row.bound());
    }
}
