//! Connections, as many as are allowed at once.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use futures::Stream;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream, UnixListener, UnixStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tonic::transport::server::Connected;

/// A connection and its place among those that are allowed.
#[derive(Debug)]
pub(super) struct Admitted<C> {
    connection: C,
    _place: OwnedSemaphorePermit,
}

pub(super) fn admitted_unix(
    listener: UnixListener,
    places: Arc<Semaphore>,
) -> impl Stream<Item = io::Result<Admitted<UnixStream>>> {
    futures::stream::unfold((listener, places), async |(listener, places)| {
        let place = Arc::clone(&places).acquire_owned().await.ok()?;
        let accepted = listener.accept().await.map(|(connection, _)| Admitted {
            connection,
            _place: place,
        });
        Some((accepted, (listener, places)))
    })
}

pub(super) fn admitted_tcp(
    listener: TcpListener,
    places: Arc<Semaphore>,
) -> impl Stream<Item = io::Result<Admitted<TcpStream>>> {
    futures::stream::unfold((listener, places), async |(listener, places)| {
        let place = Arc::clone(&places).acquire_owned().await.ok()?;
        let accepted = match listener.accept().await {
            Ok((connection, _)) => connection.set_nodelay(true).map(|()| Admitted {
                connection,
                _place: place,
            }),
            Err(e) => Err(e),
        };
        Some((accepted, (listener, places)))
    })
}

impl<C> Connected for Admitted<C> {
    type ConnectInfo = ();

    fn connect_info(&self) {}
}

impl<C: AsyncRead + Unpin> AsyncRead for Admitted<C> {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().connection).poll_read(cx, buffer)
    }
}

impl<C: AsyncWrite + Unpin> AsyncWrite for Admitted<C> {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().connection).poll_write(cx, bytes)
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().connection).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().connection).poll_shutdown(cx)
    }
}
