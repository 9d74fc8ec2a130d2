//! The table of results. Owns how a measure, its floor and its target are shown, and the statistics behind them.

use std::time::Duration;

/// One measure.
#[derive(Debug)]
pub struct Row {
    /// What was measured.
    pub measure: String,
    /// What the service did, with its unit.
    pub service: String,
    /// What the floor did; empty if there is none.
    pub floor: String,
    /// The service beside its floor, or the number itself where there is no floor.
    pub compared: f64,
    /// What it should be.
    pub target: Target,
}

/// What a measure should be.
#[derive(Clone, Copy, Debug)]
pub enum Target {
    /// At least this.
    AtLeast(f64),
    /// At most this.
    AtMost(f64),
    /// Shown only.
    None,
}

impl Row {
    /// A rate beside its floor.
    pub fn rate(measure: String, unit: &str, service: f64, floor: f64, target: Target) -> Self {
        Self {
            measure,
            service: format!("{} {unit}", thousands(service)),
            floor: format!("{} {unit}", thousands(floor)),
            compared: service / floor,
            target,
        }
    }

    /// A rate by itself.
    pub fn rate_alone(measure: String, unit: &str, rate: f64) -> Self {
        Self {
            measure,
            service: format!("{} {unit}", thousands(rate)),
            floor: String::new(),
            compared: rate,
            target: Target::None,
        }
    }

    /// A duration beside its floor, or by itself in milliseconds.
    pub fn duration(measure: String, service: Duration, floor: Option<Duration>, target: Target) -> Self {
        Self {
            measure,
            service: milliseconds(service),
            floor: floor.map(milliseconds).unwrap_or_default(),
            compared: floor.map_or(service.as_secs_f64() * 1e3, |floor| {
                service.as_secs_f64() / floor.as_secs_f64()
            }),
            target,
        }
    }
}

/// Prints the table as markdown.
pub fn print(rows: &[Row]) {
    println!("\n| measure | service | floor | compared | target | |");
    println!("|---|---:|---:|---:|---:|---|");
    for row in rows {
        let (target, met) = match row.target {
            Target::AtLeast(least) => (format!("≥ {least}"), Some(row.compared >= least)),
            Target::AtMost(most) => (format!("≤ {most}"), Some(row.compared <= most)),
            Target::None => (String::new(), None),
        };
        let met = met.map_or("", |met| if met { "met" } else { "MISSED" });
        println!(
            "| {} | {} | {} | {:.2} | {target} | {met} |",
            row.measure, row.service, row.floor, row.compared
        );
    }
}

/// The middle of some rates.
pub fn median(mut rates: Vec<f64>) -> f64 {
    rates.sort_unstable_by(f64::total_cmp);
    rates[rates.len() / 2]
}

/// The duration below which this share of them lies.
pub fn quantile(durations: &[Duration], share: f64) -> Duration {
    let mut sorted = durations.to_vec();
    sorted.sort_unstable();
    sorted[((sorted.len() - 1) as f64 * share).round() as usize]
}

fn milliseconds(duration: Duration) -> String {
    format!("{:.3} ms", duration.as_secs_f64() * 1e3)
}

fn thousands(number: f64) -> String {
    let digits = format!("{number:.0}");
    let mut grouped = String::new();
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            grouped.push(' ');
        }
        grouped.push(digit);
    }
    grouped
}
