//! Rates, with the processor time behind them: where others share the machine, the time tells more than the rate.

use std::time::{Duration, Instant};

use crate::table::{Row, Target, median};

/// Measures one round.
pub struct Meter {
    started: Instant,
    cpu: Duration,
}

/// What a round came to.
#[derive(Clone, Copy, Debug)]
pub struct Round {
    per_second: f64,
    cpu_us: f64,
}

/// Rounds of the service and of its floor, taken in turn.
#[derive(Debug, Default)]
pub struct Rounds {
    /// Of the service.
    pub service: Vec<Round>,
    /// Of the floor.
    pub floor: Vec<Round>,
}

impl Meter {
    /// Starts now.
    pub fn start() -> Self {
        Self {
            started: Instant::now(),
            cpu: cpu_time(),
        }
    }

    /// Ends now, when so many were done.
    pub fn end(self, done: usize) -> Round {
        let (took, cpu) = (self.started.elapsed(), cpu_time().saturating_sub(self.cpu));
        Round {
            per_second: done as f64 / took.as_secs_f64(),
            cpu_us: cpu.as_secs_f64() * 1e6 / done as f64,
        }
    }
}

impl Round {
    /// By itself, without a floor.
    pub fn row(&self, measure: String) -> Row {
        println!("{measure}: {:.0}/s {:.1} µs CPU", self.per_second, self.cpu_us);
        Row::rate_alone(measure, "/s", self.per_second)
    }
}

impl Rounds {
    /// The medians as a row; all rounds are printed at once.
    pub fn row(&self, measure: String, target: Target) -> Row {
        for (side, rounds) in [("service", &self.service), ("floor", &self.floor)] {
            let all: Vec<_> = rounds
                .iter()
                .map(|round| format!("{:.0}/s {:.1} µs CPU", round.per_second, round.cpu_us))
                .collect();
            println!("{measure}, {side}: {}", all.join(" · "));
        }
        let rate = |rounds: &[Round]| median(rounds.iter().map(|round| round.per_second).collect());
        Row::rate(measure, "/s", rate(&self.service), rate(&self.floor), target)
    }
}

/// User and system time of this process, client and server together.
fn cpu_time() -> Duration {
    /// `USER_HZ`, the same on every Linux.
    const TICK: Duration = Duration::from_millis(10);
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap();
    let (_, fields) = stat.rsplit_once(") ").unwrap();
    let ticks = fields
        .split(' ')
        .skip(11)
        .take(2)
        .map(|field| field.parse::<u32>().unwrap());
    TICK * ticks.sum::<u32>()
}
