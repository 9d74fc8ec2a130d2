//! One run from one seed: the network, the disk, the clock, and what goes wrong with them. Owns the schedule of faults and
//! the history of the run; everything that happens follows from the seed.

use std::{
    collections::BTreeSet,
    fmt::Write,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicI64, AtomicUsize, Ordering},
    },
    time::Duration,
};

use futures_util::FutureExt;
use hookstream::{clock::Clock, tasks};
use jiff::Timestamp;
use mad_turmoil::{rand::set_rng, time::SimClocksGuard};
use parking_lot::Mutex;
use rand::{RngExt, SeedableRng, rngs::StdRng, seq::IndexedRandom};
use serde::{Deserialize, Serialize};
use tempfile::TempDir;
use tokio::sync::Notify;
use turmoil::{Builder, Sim};

use crate::{
    clients::{
        heygen,
        reader::Reader,
        waiter,
        worker::{self, Settled},
    },
    disk::{Disk, Health, contents},
    history::{History, violations},
    network::SERVER,
    service::{self, DRAIN_DEADLINE},
};

/// How much of simulated time passes in a step.
const STEP: Duration = Duration::from_millis(10);
/// Within this time every client must have what it wants, whatever went wrong before.
const DEADLINE: Duration = Duration::from_secs(15 * 60);
/// 2026-01-01, where simulated time begins.
const BEGIN_SECOND: i64 = 1_767_225_600;

/// What all parts of a run see.
pub struct Shared {
    pub history: Mutex<History>,
    /// Bodies that somebody else signed.
    pub forged: Mutex<BTreeSet<Vec<u8>>>,
    /// Breaches that whoever saw them reports.
    pub broken: Mutex<Vec<String>>,
    /// What was seen, and when.
    trace: Mutex<String>,
    now_ms: AtomicI64,
    skew_ms: AtomicI64,
    /// Senders that still have something to deliver.
    pub sending: AtomicUsize,
    pub all_sent: Notify,
    pub drain: Notify,
    /// How often the service has started.
    pub lives: AtomicUsize,
    prepared: AtomicBool,
}

impl Shared {
    /// The service's clock, which faults move.
    pub fn clock(self: &Arc<Self>) -> Clock {
        let shared = Arc::clone(self);
        Clock::new(move || {
            let ms = shared.now_ms.load(Ordering::SeqCst) + shared.skew_ms.load(Ordering::SeqCst);
            Timestamp::from_millisecond(BEGIN_SECOND * 1000 + ms).unwrap()
        })
    }

    /// Adds to the history.
    pub fn saw(&self, what: &str) {
        let ms = self.now_ms.load(Ordering::SeqCst);
        writeln!(self.trace.lock(), "{ms:>8} {what}").unwrap();
    }

    /// Something that must never happen.
    pub fn breach(&self, what: String) {
        self.saw(&what);
        self.broken.lock().push(what);
    }

    pub async fn until_all_sent(&self) {
        loop {
            let sent = self.all_sent.notified();
            if self.sending.load(Ordering::SeqCst) == 0 {
                return;
            }
            sent.await;
        }
    }
}

/// What a run was like.
#[derive(Debug, Deserialize, PartialEq, Eq, Serialize)]
pub struct Run {
    /// What it broke; empty if everything holds.
    pub violations: Vec<String>,
    /// All that happened, line by line, with the millisecond.
    pub trace: String,
    /// Events that were stored.
    pub stored: usize,
}

/// One thing that goes wrong, and for how long.
#[derive(Clone, Copy, Debug)]
enum Fault {
    /// The process is killed.
    Kill,
    /// The process is asked to end, and started again.
    Restart,
    /// What a client and the server send each other is lost.
    Cut(usize),
    /// It is held back, and arrives late.
    Hold(usize),
    DiskFull,
    /// A sync fails; somebody then restarts the process.
    SyncFails,
    /// The wall clock jumps, back as well as forth (ms).
    ClockJump(i64),
}

struct Plan {
    at: Duration,
    lasts: Duration,
    fault: Fault,
}

fn plan(random: &mut StdRng, clients: usize) -> Vec<Plan> {
    let millis = |random: &mut StdRng, range| Duration::from_millis(random.random_range(range));
    let mut plans: Vec<_> = (0..random.random_range(0..12))
        .map(|_| {
            let client = random.random_range(0..clients);
            let fault = match random.random_range(0..9) {
                0..=2 => Fault::Kill,
                3 => Fault::Restart,
                4 => Fault::Cut(client),
                5 => Fault::Hold(client),
                6 => Fault::DiskFull,
                7 => Fault::SyncFails,
                _ => Fault::ClockJump(random.random_range(-3_600_000..3_600_000)),
            };
            Plan {
                at: millis(random, 0..40_000),
                lasts: millis(random, 0..6_000),
                fault,
            }
        })
        .collect();
    plans.sort_by_key(|plan| plan.at);
    plans
}

/// What is to be put right, and when.
struct Repair {
    at: Duration,
    fault: Fault,
}

/// A directory in memory, where the system has a file system in it: what is stored there is not what is tested.
pub fn directory() -> TempDir {
    let memory = Path::new("/dev/shm");
    let place = if memory.is_dir() {
        memory.to_owned()
    } else {
        std::env::temp_dir()
    };
    tempfile::tempdir_in(place).unwrap()
}

/// Runs a seed, in a thread of its own and once in the life of a process: some of what draws on chance does so only the first
/// time.
pub fn simulate(seed: u64, lies: bool, directory: &Path) -> Run {
    set_rng(StdRng::seed_from_u64(seed));
    let clocks = SimClocksGuard::init();
    tasks::block_in_place();
    let mut random = StdRng::seed_from_u64(seed);
    let disk = Arc::new(Disk::new(lies));
    let senders = random.random_range(1..=3);
    let readers = random.random_range(1..=4);
    let workers = random.random_range(0..=2);
    let shared = Arc::new(Shared {
        history: Mutex::default(),
        forged: Mutex::default(),
        broken: Mutex::default(),
        trace: Mutex::default(),
        now_ms: AtomicI64::new(0),
        skew_ms: AtomicI64::new(0),
        sending: AtomicUsize::new(senders),
        all_sent: Notify::new(),
        drain: Notify::new(),
        lives: AtomicUsize::new(0),
        prepared: AtomicBool::new(false),
    });
    let latency_max = [1, 20, 100, 300].choose(&mut random).copied().unwrap();
    let mut sim = Builder::new()
        .rng_seed(seed)
        .tick_duration(STEP)
        .min_message_latency(Duration::ZERO)
        .max_message_latency(Duration::from_millis(latency_max))
        .simulation_duration(DEADLINE)
        .tcp_capacity(4096)
        .enable_random_order()
        .build();
    sim.host(SERVER, {
        let (shared, disk) = (Arc::clone(&shared), Arc::clone(&disk));
        let directory = directory.to_owned();
        move || {
            let (shared, disk, directory) = (Arc::clone(&shared), Arc::clone(&disk), directory.clone());
            async move {
                if !shared.prepared.load(Ordering::SeqCst) {
                    service::prepare(&directory, shared.clock()).await;
                    shared.prepared.store(true, Ordering::SeqCst);
                }
                shared.saw("the service starts");
                service::live(Arc::clone(&shared), disk, &directory).await;
                shared.saw("the service has ended");
                Ok(())
            }
        }
    });
    let mut names = Vec::new();
    let mut name = |kind: &str, number: usize| {
        names.push(format!("{kind}-{number}"));
        format!("{kind}-{number}")
    };
    for number in 0..senders {
        sim.client(name("sender", number), heygen::send(Arc::clone(&shared), number));
    }
    let mut seen = Vec::new();
    for number in 0..readers {
        let reader = Reader::new(number, Arc::clone(&shared));
        seen.push((reader.wants(), reader.received()));
        sim.client(name("reader", number), reader.read());
    }
    let settled = Settled::default();
    for number in 0..workers {
        let worker = worker::work(Arc::clone(&shared), number, Arc::clone(&settled));
        sim.client(name("worker", number), worker);
    }
    sim.client(name("awaiter", 0), waiter::wait(Arc::clone(&shared)));

    let plans = plan(&mut random, names.len());
    let ended = go_through(&mut sim, &shared, &disk, plans, &names);
    if let Err(error) = ended {
        let unfinished = names.iter().filter(|name| sim.is_host_running(&***name));
        let unfinished = unfinished.cloned().collect::<Vec<_>>().join(", ");
        shared.breach(format!("the run does not end for {unfinished}: {error}"));
    }
    drop(sim);
    drop(clocks);

    let stored = found(&disk);
    let mut history = std::mem::take(&mut *shared.history.lock());
    history.stored.push(stored.clone());
    let mut broken = std::mem::take(&mut *shared.broken.lock());
    if stored.iter().any(|(_, body)| shared.forged.lock().contains(body)) {
        broken.push("I2: a forged delivery is stored".to_owned());
    }
    for (number, (wants, received)) in seen.into_iter().enumerate() {
        let wanted = stored.iter().filter(|(_, body)| wants.includes(body)).cloned();
        let of_reader = History {
            received: received.lock().clone(),
            stored: vec![wanted.collect()],
            ..History::default()
        };
        let violations = violations(&of_reader);
        broken.extend(
            violations
                .into_iter()
                .map(|violation| format!("reader {number}: {violation}")),
        );
    }
    // Its readers were judged one by one.
    history.received.clone_from(&stored);
    broken.extend(violations(&history));
    if workers > 0 && broken.is_empty() && settled.lock().len() != stored.len() {
        broken.push(format!(
            "I9: {} of {} events were settled",
            settled.lock().len(),
            stored.len()
        ));
    }
    let trace = std::mem::take(&mut *shared.trace.lock());
    Run {
        violations: broken,
        trace,
        stored: stored.len(),
    }
}

fn found(disk: &Disk) -> Vec<(u64, Vec<u8>)> {
    let found = async { contents(&disk.found().await).await };
    found.now_or_never().expect("a log in memory answers at once")
}

/// Lets time pass and things go wrong, until every client has what it wants.
fn go_through(
    sim: &mut Sim<'_>,
    shared: &Shared,
    disk: &Disk,
    plans: Vec<Plan>,
    names: &[String],
) -> turmoil::Result {
    let mut plans = plans.into_iter().peekable();
    let mut repairs: Vec<Repair> = Vec::new();
    let mut draining_since = None;
    loop {
        let now = sim.elapsed();
        shared
            .now_ms
            .store(i64::try_from(now.as_millis()).unwrap(), Ordering::SeqCst);
        while let Some(plan) = plans.next_if(|plan| plan.at <= now) {
            let running = sim.is_host_running(SERVER);
            let Plan { lasts, fault, .. } = plan;
            shared.saw(&format!("fault: {fault:?} for {} ms", lasts.as_millis()));
            match fault {
                Fault::Kill | Fault::SyncFails | Fault::Restart if !running => continue,
                Fault::Kill => sim.crash(SERVER),
                Fault::Restart => {
                    shared.drain.notify_one();
                    draining_since = Some((now, shared.lives.load(Ordering::SeqCst)));
                }
                Fault::Cut(client) => sim.partition(&*names[client], SERVER),
                Fault::Hold(client) => sim.hold(&*names[client], SERVER),
                Fault::DiskFull => disk.set_health(Health::Full),
                Fault::SyncFails => disk.set_health(Health::Failing),
                Fault::ClockJump(by_ms) => shared.skew_ms.store(by_ms, Ordering::SeqCst),
            }
            repairs.push(Repair {
                at: now + lasts,
                fault,
            });
        }
        let lives = shared.lives.load(Ordering::SeqCst);
        if draining_since.is_some_and(|(_, life)| !sim.is_host_running(SERVER) || life != lives) {
            draining_since = None;
        }
        if draining_since.is_some_and(|(since, _)| now > since + DRAIN_DEADLINE + Duration::from_secs(1)) {
            shared.breach("I8: the service still runs after its drain deadline".to_owned());
            draining_since = None;
        }
        repairs.retain(|repair| {
            let is_ending = matches!(repair.fault, Fault::Restart) && draining_since.is_some();
            let due = repair.at <= now && !is_ending;
            if due {
                shared.saw(&format!("put right: {:?}", repair.fault));
                put_right(sim, disk, repair.fault, names);
            }
            !due
        });
        if sim.step()? {
            return Ok(());
        }
    }
}

fn put_right(sim: &mut Sim<'_>, disk: &Disk, fault: Fault, names: &[String]) {
    match fault {
        Fault::Kill | Fault::Restart => {
            if !sim.is_host_running(SERVER) {
                sim.bounce(SERVER);
            }
        }
        Fault::SyncFails => {
            disk.set_health(Health::Good);
            sim.bounce(SERVER);
        }
        Fault::DiskFull => disk.set_health(Health::Good),
        Fault::Cut(client) => sim.repair(&*names[client], SERVER),
        Fault::Hold(client) => sim.release(&*names[client], SERVER),
        Fault::ClockJump(_) => {}
    }
}
