//! NATS servers with JetStream for tests: real processes on loopback ports of their own. Owns their start, their deaths and
//! their files; knows nothing of hookstream.

use std::{
    fs,
    net::{SocketAddr, TcpStream},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use tempfile::TempDir;

use super::port::Port;

/// Servers of one cluster, or one by itself. They end with this.
pub struct Nats {
    servers: Vec<Server>,
    directory: TempDir,
}

struct Server {
    port: Port,
    /// Where the others of the cluster reach it.
    _route: Port,
    config: PathBuf,
    log: PathBuf,
    process: Option<Child>,
}

/// The program: `HOOKSTREAM_NATS_SERVER`, or the one that `tests/run` installs, or the one that is installed.
#[allow(clippy::disallowed_methods, reason = "tests are told where it is")]
fn program() -> PathBuf {
    if let Some(path) = std::env::var_os("HOOKSTREAM_NATS_SERVER") {
        return path.into();
    }
    let installed = PathBuf::from(concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/target/tools-nats/bin/nats-server"
    ));
    if installed.exists() {
        installed
    } else {
        "nats-server".into()
    }
}

impl Nats {
    /// Starts so many servers, a cluster if more than one. `jetstream` is more of their `jetstream` block, `settings` are more
    /// lines of their configuration.
    pub fn start(count: usize, jetstream: &str, settings: &str) -> Self {
        let routes: Vec<_> = (0..count).map(|_| Port::reserve()).collect();
        let addresses: Vec<_> = routes.iter().map(Port::address).collect();
        Self::start_between(routes, |_, to| addresses[to], jetstream, settings)
    }

    /// Starts a server for each of these ports, where the others reach it: by the way that `way` says from one to another.
    pub fn start_between(
        routes: Vec<Port>,
        way: impl Fn(usize, usize) -> SocketAddr,
        jetstream: &str,
        settings: &str,
    ) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let count = routes.len();
        let servers = routes.into_iter().enumerate().map(|(number, route)| {
            let port = Port::reserve();
            let store = directory.path().join(format!("store{number}"));
            let config = directory.path().join(format!("server{number}.conf"));
            let mut text = format!(
                "server_name: n{number}\nlisten: {}\njetstream {{ store_dir: {store:?}, {jetstream} }}\n{settings}\n",
                port.address()
            );
            if count > 1 {
                let others = (0..count).filter(|&other| other != number);
                let ways: Vec<_> = others.map(|other| format!("nats://{}", way(number, other))).collect();
                text += &format!(
                    "cluster {{ name: c, listen: {}, routes: [{}], no_advertise: true }}\n",
                    route.address(),
                    ways.join(", ")
                );
            }
            fs::write(&config, text).unwrap();
            Server {
                port,
                _route: route,
                config,
                log: directory.path().join(format!("server{number}.log")),
                process: None,
            }
        });
        let mut nats = Self {
            servers: servers.collect(),
            directory,
        };
        (0..count).for_each(|number| nats.start_server(number));
        nats
    }

    /// The servers as a client takes them.
    pub fn url(&self) -> String {
        let urls: Vec<_> = (0..self.servers.len())
            .map(|number| self.url_of(number))
            .collect();
        urls.join(",")
    }

    /// One server.
    pub fn url_of(&self, number: usize) -> String {
        format!("nats://{}", self.servers[number].port.address())
    }

    /// The port of one server.
    #[allow(dead_code, reason = "not all who start servers put something in between")]
    pub fn port_of(&self, number: usize) -> u16 {
        self.servers[number].port.address().port()
    }

    /// Where they keep what they keep.
    #[allow(dead_code, reason = "not all who start servers look at their files")]
    pub fn directory(&self) -> &Path {
        self.directory.path()
    }

    /// Starts one that was killed.
    pub fn start_server(&mut self, number: usize) {
        let server = &mut self.servers[number];
        let log = fs::OpenOptions::new()
            .create(true)
            .append(true)
            .open(&server.log)
            .unwrap();
        let program = program();
        let process = Command::new(&program)
            .arg("-c")
            .arg(&server.config)
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn()
            .unwrap_or_else(|error| {
                panic!(
                    "{} cannot be run ({error}): tests/run installs it",
                    program.display()
                )
            });
        let process = server.process.insert(process);
        let deadline = Instant::now() + Duration::from_secs(20);
        while TcpStream::connect(server.port.address()).is_err() {
            assert!(
                Instant::now() < deadline && process.try_wait().unwrap().is_none(),
                "nats-server does not listen: {}",
                fs::read_to_string(&server.log).unwrap_or_default()
            );
            thread::sleep(Duration::from_millis(10));
        }
    }

    /// From now on one can write nothing that makes a file longer, as on a full disk, until it is started again.
    #[allow(dead_code, reason = "not all who start servers fill their disks")]
    pub fn fill_disk_of(&self, number: usize) {
        let process = self.servers[number].process.as_ref().unwrap();
        let limited = Command::new("prlimit")
            .args(["--fsize=1", "--pid", &process.id().to_string()])
            .status();
        assert!(limited.unwrap().success());
    }

    /// Kills one without warning.
    pub fn kill_server(&mut self, number: usize) {
        if let Some(mut process) = self.servers[number].process.take() {
            let _ = process.kill();
            let _ = process.wait();
        }
    }
}

impl Drop for Nats {
    fn drop(&mut self) {
        (0..self.servers.len()).for_each(|number| self.kill_server(number));
    }
}
