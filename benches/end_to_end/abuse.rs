//! Under attack: real deliveries at a steady rate and a stream that receives them, while others hold connections that say
//! nothing, send bodies a byte at a time, or flood the ingress with bad signatures. The floor is the same service left in
//! peace. It runs in a process of its own, because both ends of so many connections are too many files for one.

use std::{
    io::{BufRead, BufReader},
    net::SocketAddr,
    path::Path,
    process::{Child, Command, Stdio},
    time::Duration,
};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    task::JoinSet,
};

use crate::{
    Effort, deliveries, latency, stage,
    table::{Row, Target, quantile},
};

const SILENT_CONNECTIONS: usize = 10_000;
const SLOW_BODIES: usize = 1_000;
const FLOODING_CONNECTIONS: usize = 64;
const SECONDS: usize = 20;
/// Until an attack is in full swing: longer than the service waits for a connection's first byte.
const RUN_UP: Duration = Duration::from_secs(15);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Attack {
    None,
    Silent,
    SlowBodies,
    /// From this machine, whose failures are not limited.
    BadSignatures,
    /// Through a trusted proxy, which tells addresses apart.
    BadSignaturesOfOneAddress,
}

/// Measures it.
pub async fn measure(effort: Effort) -> Vec<Row> {
    let attacks = [
        ("in peace", Attack::None),
        ("beside 10 000 silent connections", Attack::Silent),
        ("beside 1 000 slow bodies", Attack::SlowBodies),
        ("in a flood of bad signatures", Attack::BadSignatures),
        (
            "in a flood from one limited address",
            Attack::BadSignaturesOfOneAddress,
        ),
    ];
    let (mut rows, mut peace) = (Vec::new(), None);
    for (name, attack) in attacks {
        let ways = under(attack, name, effort).await;
        let at = [0.5, 0.99].map(|share| quantile(&ways, share));
        let floor: &[Duration; 2] = peace.get_or_insert(at);
        for (index, share) in ["p50", "p99"].into_iter().enumerate() {
            let measure = format!("delivery to subscriber at {}/s {name}, {share}", latency::RATE);
            rows.push(Row::duration(
                measure,
                at[index],
                Some(floor[index]),
                Target::None,
            ));
        }
    }
    rows
}

async fn under(attack: Attack, name: &str, effort: Effort) -> Vec<Duration> {
    let directory = stage::directory();
    let mut service = Process::start(directory.path());
    stage::create_endpoint(service.grpc).await;
    let mut attackers = JoinSet::new();
    let ingress = service.ingress;
    for number in 0..attack.size() {
        attackers.spawn(async move {
            // Not all in the same moment: then most connections would be lost on the way.
            tokio::time::sleep(Duration::from_millis(number as u64 / 2)).await;
            loop {
                // An attacker does not care how a connection ends.
                let _ = attack.once(ingress).await;
            }
        });
    }
    if attack != Attack::None {
        tokio::time::sleep(RUN_UP).await;
    }
    let before = service.refused().await;
    let started = std::time::Instant::now();
    let count = effort.of(latency::RATE * SECONDS);
    let (ways, _) = latency::through(service.ingress, service.grpc, count).await;
    let elapsed = started.elapsed().as_secs_f64();
    let refused = (service.refused().await - before) / elapsed;
    let metrics = deliveries::fetch(service.admin, "/metrics").await;
    let value = |name: &str| {
        let line = metrics.lines().find_map(|line| line.strip_prefix(name));
        line.unwrap_or_default().trim().to_owned()
    };
    println!(
        "{name}: {} of {count} events received, {refused:.0} deliveries of attackers refused a second, {} connections open, {} \
         deliveries in flight, {} MiB resident",
        ways.len(),
        value("hookstream_connections{listener=\"ingress\"}"),
        value("hookstream_deliveries_in_flight"),
        service.resident_mib(),
    );
    attackers.shutdown().await;
    service.child.kill().unwrap();
    service.child.wait().unwrap();
    ways
}

impl Attack {
    fn size(self) -> usize {
        match self {
            Self::None => 0,
            Self::Silent => SILENT_CONNECTIONS,
            Self::SlowBodies => SLOW_BODIES,
            Self::BadSignatures | Self::BadSignaturesOfOneAddress => FLOODING_CONNECTIONS,
        }
    }

    /// One connection up to its end.
    async fn once(self, ingress: SocketAddr) -> std::io::Result<()> {
        const BODY: &str = r#"{"event_type":"avatar_video.success","event_data":{}}"#;
        let mut connection = TcpStream::connect(ingress).await?;
        let head = |length: usize, more: &str| {
            let endpoint = deliveries::ENDPOINT;
            format!("POST /webhooks/{endpoint} HTTP/1.1\r\nHost: x\r\nContent-Length: {length}\r\n{more}\r\n")
        };
        let mut answer = [0; 1024];
        match self {
            Self::None => {}
            Self::Silent => {
                let _end = connection.read(&mut answer).await?;
            }
            Self::SlowBodies => {
                connection.write_all(head(1000, "").as_bytes()).await?;
                let (mut reading, mut writing) = connection.split();
                let drip = async {
                    loop {
                        tokio::time::sleep(Duration::from_millis(500)).await;
                        writing.write_all(b"x").await?;
                    }
                };
                let _: std::io::Result<()> = tokio::select! {
                    read = reading.read(&mut answer) => read.map(drop),
                    end = drip => end,
                };
            }
            Self::BadSignatures | Self::BadSignaturesOfOneAddress => {
                let mut headers = format!("Signature: {}\r\n", "0".repeat(64));
                if self == Self::BadSignaturesOfOneAddress {
                    headers.push_str("X-Forwarded-For: 198.51.100.1\r\n");
                }
                let request = head(BODY.len(), &headers) + BODY;
                loop {
                    connection.write_all(request.as_bytes()).await?;
                    if connection.read(&mut answer).await? == 0 {
                        break;
                    }
                    assert!(answer.starts_with(b"HTTP/1.1 4"), "an answer comes whole");
                }
            }
        }
        Ok(())
    }
}

/// `hookstream serve`, killed at its end.
struct Process {
    child: Child,
    ingress: SocketAddr,
    grpc: SocketAddr,
    admin: SocketAddr,
}

impl Process {
    fn start(directory: &Path) -> Self {
        let mut command = Command::new(env!("CARGO_BIN_EXE_hookstream"));
        command.args([
            "serve",
            "--log-format",
            "json",
            "--trusted-proxies",
            "127.0.0.1",
            "--data-dir",
        ]);
        command.arg(directory);
        for listener in ["--ingress-listen", "--grpc-listen", "--admin-listen"] {
            command.args([listener, "127.0.0.1:0"]);
        }
        let mut child = command
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let ready = lines.by_ref().map_while(Result::ok).find_map(|line| {
            let line: serde_json::Value = serde_json::from_str(&line).unwrap();
            (line["message"] == "ready").then_some(line)
        });
        // What it says later must not fill the pipe.
        std::thread::spawn(move || lines.for_each(drop));
        let ready = ready.expect("the service starts");
        let address = |name: &str| ready[name].as_str().unwrap().parse().unwrap();
        Self {
            child,
            ingress: address("ingress"),
            grpc: address("grpc"),
            admin: address("admin"),
        }
    }

    /// Deliveries that were not stored.
    async fn refused(&self) -> f64 {
        let metrics = deliveries::fetch(self.admin, "/metrics").await;
        let counts = metrics
            .lines()
            .filter(|line| line.starts_with("hookstream_deliveries_total{") && !line.contains("\"stored\""));
        counts
            .map(|line| line.rsplit(' ').next().unwrap().parse::<f64>().unwrap())
            .sum()
    }

    fn resident_mib(&self) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id())).unwrap();
        let line = status.lines().find(|line| line.starts_with("VmRSS:")).unwrap();
        line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() / 1024
    }
}
