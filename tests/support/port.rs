//! Ports that a process can be told to listen on, and come back to. Knows nothing of who listens.

use std::net::SocketAddr;

use tokio::net::TcpSocket;

/// A port of loopback that is nobody else's for as long as this lives. A port that was merely free a moment ago can be given to
/// another by the time it is listened on; this one stays bound here, and as nobody listens here, another process can.
pub struct Port {
    address: SocketAddr,
    _socket: TcpSocket,
}

impl Port {
    pub fn reserve() -> Self {
        let socket = TcpSocket::new_v4().unwrap();
        socket.set_reuseaddr(true).unwrap();
        socket.bind(([127, 0, 0, 1], 0).into()).unwrap();
        Self {
            address: socket.local_addr().unwrap(),
            _socket: socket,
        }
    }

    pub fn address(&self) -> SocketAddr {
        self.address
    }
}
