//! Listening: a port that can be closed and opened again, and what is done with a connection.

use std::{io, net::SocketAddr, sync::Arc, time::Duration};

use tokio::{
    net::{TcpListener, TcpSocket, TcpStream},
    sync::watch,
};

use super::{cluster::Cluster, faults::Door};

/// The pause of a listener that could not accept.
const PAUSE: Duration = Duration::from_millis(20);

/// The queue of connections that wait to be accepted.
const BACKLOG: u32 = 1024;

/// A port that is listened on, or is to be again.
pub(super) struct Port {
    address: SocketAddr,
    send_buffer: Option<u32>,
    listener: Option<TcpListener>,
}

impl Port {
    /// Listens on an address. What it accepts has a send buffer of so many bytes (which the kernel doubles, for its own
    /// use), or of what the kernel thinks right.
    pub fn bind(address: SocketAddr, send_buffer: Option<u32>) -> io::Result<Self> {
        let mut port = Self { address, send_buffer, listener: None };
        let listener = port.listen()?;
        port.address = listener.local_addr()?;
        port.listener = Some(listener);
        Ok(port)
    }

    pub fn address(&self) -> SocketAddr {
        self.address
    }

    fn listen(&self) -> io::Result<TcpListener> {
        let socket = if self.address.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }?;
        socket.set_reuseaddr(true)?;
        if let Some(bytes) = self.send_buffer {
            // Accepted sockets inherit it.
            socket.set_send_buffer_size(bytes)?;
        }
        socket.bind(self.address)?;
        socket.listen(BACKLOG)
    }

    async fn accept(&self, door: Door) -> io::Result<(TcpStream, SocketAddr)> {
        match &self.listener {
            Some(listener) => listener.accept().await,
            None if door == Door::Closed => std::future::pending().await,
            // The port is not free yet.
            None => Err(io::ErrorKind::AddrInUse.into()),
        }
    }
}

/// Accepts connections until the cluster stops, as the door lets them.
pub(super) async fn accept(
    cluster: Arc<Cluster>,
    mut port: Port,
    mut door: watch::Receiver<Door>,
    serve: impl Fn(TcpStream, SocketAddr),
) {
    // Connections that hang.
    let mut held = Vec::new();
    loop {
        let state = *door.borrow_and_update();
        if state != Door::Hangs {
            held.clear();
        }
        if state == Door::Closed {
            port.listener = None;
        } else if port.listener.is_none() {
            port.listener = port.listen().ok();
        }
        tokio::select! {
            () = cluster.stop.cancelled() => return,
            // A door that nobody can move any more has no news: the branch is off then, and does not spin.
            Ok(()) = door.changed() => {}
            accepted = port.accept(state) => match (accepted, state) {
                (Ok((stream, peer)), Door::Open) => serve(stream, peer),
                (Ok((stream, _)), Door::Hangs) => held.push(stream),
                // Reset when it is dropped.
                (Ok((stream, _)), _) => _ = stream.set_zero_linger(),
                // The client has gone, or there are no file descriptors left: neither ends the listener, and a pause keeps the
                // latter from turning into a busy loop.
                (Err(_), _) => tokio::time::sleep(PAUSE).await,
            },
        }
    }
}
