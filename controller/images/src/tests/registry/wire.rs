//! Connections that can be cut from inside a request.

use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};

use axum::extract::connect_info::Connected;
use axum::serve::{IncomingStream, Listener};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};

pub struct CuttableListener(pub TcpListener);

/// A connection. After the cut, every read and write fails.
pub struct Connection {
    stream: TcpStream,
    cut: Arc<AtomicBool>,
}

/// Cuts the connection of a request.
#[derive(Clone, Debug)]
pub struct CutHandle(Arc<AtomicBool>);

impl CutHandle {
    pub fn cut(&self) {
        self.0.store(true, Ordering::SeqCst);
    }
}

impl Listener for CuttableListener {
    type Io = Connection;
    type Addr = CutHandle;

    async fn accept(&mut self) -> (Connection, CutHandle) {
        let (stream, _): (TcpStream, SocketAddr) = self.0.accept().await.unwrap();
        let cut = Arc::new(AtomicBool::new(false));
        (Connection { stream, cut: cut.clone() }, CutHandle(cut))
    }

    fn local_addr(&self) -> std::io::Result<CutHandle> {
        Ok(CutHandle(Arc::default()))
    }
}

impl Connected<IncomingStream<'_, CuttableListener>> for CutHandle {
    fn connect_info(stream: IncomingStream<'_, CuttableListener>) -> Self {
        stream.remote_addr().clone()
    }
}

impl Connection {
    fn check(&self) -> std::io::Result<()> {
        if self.cut.load(Ordering::SeqCst) { Err(std::io::ErrorKind::ConnectionReset.into()) } else { Ok(()) }
    }
}

impl AsyncRead for Connection {
    fn poll_read(mut self: Pin<&mut Self>, context: &mut Context, buffer: &mut ReadBuf) -> Poll<std::io::Result<()>> {
        self.check()?;
        Pin::new(&mut self.stream).poll_read(context, buffer)
    }
}

impl AsyncWrite for Connection {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context, bytes: &[u8]) -> Poll<std::io::Result<usize>> {
        self.check()?;
        Pin::new(&mut self.stream).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context) -> Poll<std::io::Result<()>> {
        self.check()?;
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}
