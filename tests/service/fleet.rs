//! Replicas on servers of a cluster, with a network between all of them that can be cut: the whole that faults are done to. Owns the
//! faults; knows nothing of the load, which finds a replica by [`Addresses`].

use std::{
    collections::HashMap,
    net::SocketAddr,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use jiff::Timestamp;
use rand::{RngExt, rngs::StdRng};
use tempfile::TempDir;

use crate::{
    cluster::{replica_through, with_endpoint},
    harness::{Client, Hookstream, until},
    link::Link,
    nats::Nats,
    port::Port,
};

const REPLICAS: usize = 2;
const SERVERS: usize = 3;

/// Where the replicas are that run: what a balancer knows.
#[derive(Debug, Default)]
pub struct Addresses {
    /// Ingress and gRPC.
    replicas: Mutex<Vec<Option<(SocketAddr, SocketAddr)>>>,
    turn: AtomicUsize,
}

impl Addresses {
    /// One process, which is all there is.
    pub fn of(service: &Hookstream) -> Self {
        let addresses = Self::default();
        addresses.set(0, Some(service));
        addresses
    }

    /// Where a replica is from now on, if it runs.
    pub fn set(&self, number: usize, service: Option<&Hookstream>) {
        let mut replicas = self.replicas.lock().unwrap();
        if replicas.len() <= number {
            replicas.resize(number + 1, None);
        }
        replicas[number] = service.map(|service| (service.ingress, service.grpc));
    }

    fn next(&self) -> Option<(SocketAddr, SocketAddr)> {
        let replicas = self.replicas.lock().unwrap();
        let turn = self.turn.fetch_add(1, Ordering::Relaxed);
        replicas.get(turn % replicas.len().max(1)).copied().flatten()
    }

    /// The ingress whose turn it is; `None` if that replica does not run.
    pub fn ingress(&self) -> Option<SocketAddr> {
        self.next().map(|(ingress, _)| ingress)
    }

    /// A client of the replica whose turn it is; `None` if that one cannot be reached.
    pub async fn client(&self) -> Option<Client> {
        let (_, grpc) = self.next()?;
        let endpoint = tonic::transport::Endpoint::from_shared(format!("http://{grpc}")).unwrap();
        Some(Client::new(endpoint.connect().await.ok()?))
    }
}

/// The whole.
pub struct Fleet {
    pub addresses: Arc<Addresses>,
    nats: Nats,
    /// From each replica to each server.
    to_servers: Vec<Vec<Link>>,
    /// From one server to another.
    between_servers: Vec<(usize, usize, Link)>,
    replicas: Vec<Option<Hookstream>>,
    /// What the replicas logged that no longer run.
    logs: Vec<String>,
}

impl Fleet {
    /// Starts all of it, with the endpoint that all replicas have.
    pub async fn start() -> Self {
        let routes: Vec<_> = (0..SERVERS).map(|_| Port::reserve()).collect();
        let mut between_servers = Vec::new();
        for from in 0..SERVERS {
            for to in (0..SERVERS).filter(|&to| to != from) {
                let port = routes[to].address().port();
                between_servers.push((from, to, Link::to(port).await));
            }
        }
        let way = |from, to| {
            let link = between_servers.iter().find(|way| (way.0, way.1) == (from, to));
            link.unwrap().2.address
        };
        let nats = tokio::task::block_in_place(|| Nats::start_between(routes, way, "", ""));
        let mut fleet = Self {
            addresses: Arc::default(),
            nats,
            to_servers: Vec::new(),
            between_servers,
            replicas: Vec::new(),
            logs: Vec::new(),
        };
        for number in 0..REPLICAS {
            let mut to_servers = Vec::new();
            for server in 0..SERVERS {
                to_servers.push(Link::to(fleet.nats.port_of(server)).await);
            }
            fleet.to_servers.push(to_servers);
            fleet.replicas.push(None);
            fleet.start_replica(number, Arc::new(tempfile::tempdir().unwrap()));
            with_endpoint(fleet.replicas[number].as_ref().unwrap()).await;
        }
        fleet
    }

    /// The replicas that run: all of them, except within a fault.
    pub fn replicas(&self) -> impl Iterator<Item = &Hookstream> {
        self.replicas.iter().flatten()
    }

    fn start_replica(&mut self, number: usize, directory: Arc<TempDir>) {
        let service = tokio::task::block_in_place(|| replica_through(&self.to_servers[number], directory));
        self.addresses.set(number, Some(&service));
        self.replicas[number] = Some(service);
    }

    /// Does something that happens to machines and networks, and undoes it. What it was.
    pub async fn fault(&mut self, random: &mut StdRng) -> &'static str {
        let lasts = Duration::from_millis(random.random_range(0..2000));
        let server = random.random_range(0..SERVERS);
        match random.random_range(0..9) {
            0..=2 => {
                self.stop_replica(random.random_range(0..REPLICAS), Hookstream::kill, lasts)
                    .await;
                "a replica is killed"
            }
            3 => {
                self.stop_replica(random.random_range(0..REPLICAS), Hookstream::drain, lasts)
                    .await;
                "a replica is restarted in order"
            }
            4 => {
                let links = &self.to_servers[random.random_range(0..REPLICAS)];
                cut(links, 2 * lasts).await;
                "a replica is cut off from all servers"
            }
            5 => {
                let links = &self.to_servers[random.random_range(0..REPLICAS)];
                cut([&links[server]], 2 * lasts).await;
                "a replica is cut off from one server"
            }
            6 => {
                let links = self.between_servers.iter();
                let links = links.filter(|(from, to, _)| *from == server || *to == server);
                cut(links.map(|(.., link)| link), 2 * lasts).await;
                self.until_ready().await;
                "a server is cut off from the others"
            }
            7 => {
                self.nats.fill_disk_of(server);
                tokio::time::sleep(2 * lasts).await;
                // Once there is room, it has to be told.
                self.restart_server(server, Duration::ZERO).await;
                "the disk of a server is full"
            }
            _ => {
                self.restart_server(server, lasts).await;
                "a server is killed"
            }
        }
    }

    /// Restarts everything, one after the other, as an upgrade does.
    pub async fn restart_in_turn(&mut self) {
        for server in 0..SERVERS {
            self.restart_server(server, Duration::ZERO).await;
        }
        for number in 0..REPLICAS {
            self.stop_replica(number, Hookstream::drain, Duration::ZERO).await;
            self.until_ready().await;
        }
    }

    async fn restart_server(&mut self, server: usize, lasts: Duration) {
        self.nats.kill_server(server);
        tokio::time::sleep(lasts).await;
        tokio::task::block_in_place(|| self.nats.start_server(server));
        self.until_ready().await;
    }

    /// What any replica said too often: more than once a second over ten lines.
    pub fn said_too_often(&self) -> Vec<String> {
        let running = self.replicas().map(Hookstream::output);
        let logs = self.logs.iter().cloned().chain(running);
        logs.flat_map(|log| said_too_often(&log)).collect()
    }

    async fn stop_replica(
        &mut self,
        number: usize,
        stop: impl FnOnce(Hookstream) -> Arc<TempDir>,
        lasts: Duration,
    ) {
        let service = self.replicas[number].take().unwrap();
        self.addresses.set(number, None);
        self.logs.push(service.output());
        let directory = tokio::task::block_in_place(|| stop(service));
        tokio::time::sleep(lasts).await;
        self.start_replica(number, directory);
    }

    /// A majority has to be there before the next server goes.
    async fn until_ready(&self) {
        let all_ready = async || {
            for replica in self.replicas() {
                if replica.admin("/readyz").await.0 != 200 {
                    return false;
                }
            }
            true
        };
        until("all replicas are ready", all_ready).await;
        tokio::time::sleep(Duration::from_secs(2)).await;
    }

    /// Kills all replicas; the directory of one.
    pub fn kill(mut self) -> (Nats, Arc<TempDir>) {
        let mut directories = self.replicas.drain(..).flatten().map(Hookstream::kill);
        let first = directories.next().unwrap();
        directories.for_each(drop);
        (self.nats, first)
    }
}

fn said_too_often(log: &str) -> Vec<String> {
    let mut times: HashMap<String, Vec<Timestamp>> = HashMap::new();
    for line in log.lines() {
        // What is no log line is said once, at an end.
        let Ok(line) = serde_json::from_str::<serde_json::Value>(line) else {
            continue;
        };
        let cause = line["message"].as_str().unwrap().to_owned();
        let time = line["timestamp"].as_str().unwrap().parse().unwrap();
        times.entry(cause).or_default().push(time);
    }
    let too_often = times.into_iter().filter(|(_, times)| {
        let mut tens = times.windows(10);
        tens.any(|ten| ten[9].duration_since(ten[0]).as_secs() < 9)
    });
    too_often
        .map(|(cause, times)| format!("{cause}: {times:?}"))
        .collect()
}

#[test]
fn what_is_said_more_than_once_a_second_is_found() {
    let line = |second: u32, message: &str| {
        format!("{{\"timestamp\":\"2026-01-01T00:00:{second:02}Z\",\"message\":\"{message}\"}}\n")
    };
    let once_a_second: String = (0..30).map(|second| line(second, "calm")).collect();
    assert_eq!(said_too_often(&once_a_second), Vec::<String>::new());
    let twice_a_second: String = (0..30).map(|second| line(second / 2, "hectic")).collect();
    assert!(said_too_often(&(once_a_second + &twice_a_second))[0].starts_with("hectic"));
}

async fn cut<'a>(links: impl IntoIterator<Item = &'a Link>, lasts: Duration) {
    let links: Vec<_> = links.into_iter().collect();
    links.iter().for_each(|link| link.set_cut(true));
    tokio::time::sleep(lasts).await;
    links.iter().for_each(|link| link.set_cut(false));
}
