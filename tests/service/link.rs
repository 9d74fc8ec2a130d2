//! A network between two processes that can be cut: what is sent while it is cut waits, as it does where a switch fails. Owns
//! the ways through; knows nothing of what goes through them.

use std::{net::SocketAddr, sync::Arc};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{
        TcpListener, TcpStream,
        tcp::{OwnedReadHalf, OwnedWriteHalf},
    },
    sync::watch,
    task::JoinHandle,
};

use crate::fleet::Addresses;

/// Carries each connection to the replica whose turn it is, if that one runs.
pub struct Balancer {
    pub address: SocketAddr,
    task: JoinHandle<()>,
}

impl Balancer {
    /// In front of the ingress of these replicas.
    pub async fn before(addresses: Arc<Addresses>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let task = tokio::spawn(async move {
            while let Ok((near, _)) = listener.accept().await {
                if let Some(ingress) = addresses.ingress() {
                    tokio::spawn(carry(near, ingress.port(), watch::Sender::new(false).subscribe()));
                }
            }
        });
        Self { address, task }
    }
}

impl Drop for Balancer {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// The way to one server.
pub struct Link {
    pub address: SocketAddr,
    is_cut: watch::Sender<bool>,
    task: JoinHandle<()>,
}

impl Link {
    /// Makes a way to a server on this port.
    pub async fn to(port: u16) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let is_cut = watch::Sender::new(false);
        let cut = is_cut.clone();
        let task = tokio::spawn(async move {
            while let Ok((near, _)) = listener.accept().await {
                tokio::spawn(carry(near, port, cut.subscribe()));
            }
        });
        Self {
            address,
            is_cut,
            task,
        }
    }

    pub fn set_cut(&self, is_cut: bool) {
        self.is_cut.send_replace(is_cut);
    }
}

impl Drop for Link {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn carry(near: TcpStream, port: u16, mut is_cut: watch::Receiver<bool>) {
    if is_cut.wait_for(|cut| !cut).await.is_err() {
        return;
    }
    let Ok(far) = TcpStream::connect(("127.0.0.1", port)).await else {
        return;
    };
    let (near_read, near_write) = near.into_split();
    let (far_read, far_write) = far.into_split();
    tokio::select! {
        () = one_way(near_read, far_write, is_cut.clone()) => {}
        () = one_way(far_read, near_write, is_cut) => {}
    }
}

/// Ends when either side does.
async fn one_way(mut from: OwnedReadHalf, mut to: OwnedWriteHalf, mut is_cut: watch::Receiver<bool>) {
    let mut buffer = vec![0; 64 * 1024];
    while let Ok(length @ 1..) = from.read(&mut buffer).await {
        if is_cut.wait_for(|cut| !cut).await.is_err() || to.write_all(&buffer[..length]).await.is_err() {
            return;
        }
    }
}
