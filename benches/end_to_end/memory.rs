//! The memory of idle streams: how much the process grows when they are opened by a client in another process. Owns that
//! client as well: this program, run again in another role.

use std::{
    io::{BufRead, BufReader, Read, Write},
    net::SocketAddr,
    process::{Child, Command, Stdio},
    time::Duration,
};

use hookstream::grpc::proto::SubscribeEventsRequest;

use crate::{
    Effort, stage,
    table::{Row, Target},
};

/// The role of the client.
pub const CLIENT: &str = "idle-streams";
const READY: &str = "ready";

/// Measures it.
pub async fn measure(effort: Effort) -> Vec<Row> {
    let directory = stage::directory();
    let service = stage::service(directory.path()).await;
    // What the first streams allocate once and for all is no part of a stream.
    let mut clients = vec![open(service.grpc_address, stage::STREAMS_PER_CONNECTION).await];
    let before = resident_bytes();
    let mut rows = Vec::new();
    let mut opened = 0;
    for streams in [1000, 5000] {
        let streams = effort.of(streams);
        clients.push(open(service.grpc_address, streams - opened).await);
        opened = streams;
        let grown = resident_bytes().saturating_sub(before);
        let each = grown as f64 / streams as f64 / 1024.0;
        rows.push(Row {
            measure: format!("memory of one of {streams} idle streams"),
            service: format!("{each:.1} KiB"),
            floor: String::new(),
            compared: each,
            target: Target::AtMost(30.0),
        });
    }
    for mut client in clients {
        drop(client.stdin.take());
        client.wait().unwrap();
    }
    service.drain().await;
    rows
}

/// Starts a client and waits until its streams are open and the process has come to rest.
async fn open(address: SocketAddr, streams: usize) -> Child {
    let start = move || {
        let mut client = Command::new(std::env::current_exe().unwrap())
            .args([CLIENT, &address.to_string(), &streams.to_string()])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = String::new();
        let output = client.stdout.as_mut().unwrap();
        BufReader::new(output).read_line(&mut line).unwrap();
        assert_eq!(line.trim_end(), READY);
        client
    };
    let client = tokio::task::spawn_blocking(start).await.unwrap();
    tokio::time::sleep(Duration::from_secs(1)).await;
    client
}

/// The client: opens idle streams, says so, and holds them until its input ends.
pub fn hold_idle_streams(address: &str, count: usize) {
    let address: SocketAddr = address.parse().unwrap();
    stage::run(async move {
        let _streams = stage::streams(address, count, &SubscribeEventsRequest::default()).await;
        println!("{READY}");
        std::io::stdout().flush().unwrap();
        let wait = || std::io::stdin().read_to_end(&mut Vec::new());
        tokio::task::spawn_blocking(wait).await.unwrap().unwrap();
    });
}

/// The resident memory of this process.
pub fn resident_bytes() -> usize {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).unwrap();
    let kib = line.split_whitespace().nth(1).unwrap();
    kib.parse::<usize>().unwrap() * 1024
}
