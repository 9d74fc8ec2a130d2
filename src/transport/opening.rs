//! The first bytes of a connection. Owns the wait for them: until it is clear whether HTTP/1 or HTTP/2 is spoken, hyper runs
//! no timer, and a caller can run one here. Refuses to know what comes after.

use std::{
    io::{self, IoSlice},
    pin::Pin,
    task::{Context, Poll},
};

use bytes::{Buf, BytesMut};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, ReadBuf};

const HTTP2_PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// Reads until it is clear which version is spoken. It takes as long as the peer likes.
pub async fn open<IO: AsyncRead + Unpin>(mut io: IO) -> io::Result<Opened<IO>> {
    let mut first = BytesMut::with_capacity(HTTP2_PREFACE.len());
    while first.len() < HTTP2_PREFACE.len() && HTTP2_PREFACE.starts_with(&first) {
        if io.read_buf(&mut first).await? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
    }
    Ok(Opened { first, io })
}

/// A connection whose first bytes have been looked at, and are read again.
#[derive(Debug)]
pub struct Opened<IO> {
    first: BytesMut,
    io: IO,
}

impl<IO: AsyncRead + Unpin> AsyncRead for Opened<IO> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.first.is_empty() {
            return Pin::new(&mut self.io).poll_read(cx, buf);
        }
        let length = self.first.len().min(buf.remaining());
        buf.put_slice(&self.first.copy_to_bytes(length));
        Poll::Ready(Ok(()))
    }
}

impl<IO: AsyncWrite + Unpin> AsyncWrite for Opened<IO> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        parts: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write_vectored(cx, parts)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncWriteExt, duplex};

    use super::*;

    /// Whether a connection counts as open after these bytes.
    async fn is_clear(bytes: &[u8]) -> bool {
        let (mut peer, io) = duplex(1024);
        peer.write_all(bytes).await.unwrap();
        let opening = open(io);
        tokio::select! {
            biased;
            opened = opening => opened.is_ok(),
            () = tokio::task::yield_now() => false,
        }
    }

    #[tokio::test]
    async fn the_version_is_clear_at_the_first_byte_that_is_not_the_prefaces_or_at_its_last() {
        for end in 1..HTTP2_PREFACE.len() {
            assert!(!is_clear(&HTTP2_PREFACE[..end]).await, "{end}");
        }
        assert!(!is_clear(b"").await);
        assert!(is_clear(HTTP2_PREFACE).await);
        assert!(is_clear(b"G").await);
        assert!(is_clear(b"PUT").await);
        assert!(is_clear(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r ").await);
    }

    #[tokio::test]
    async fn what_was_looked_at_is_read_again_once_and_in_order() {
        let (mut peer, io) = duplex(1024);
        let sent = [HTTP2_PREFACE, b"and more"].concat();
        peer.write_all(&sent).await.unwrap();
        drop(peer);
        let mut opened = open(io).await.unwrap();
        let mut read = vec![0; 10];
        opened.read_exact(&mut read).await.unwrap();
        opened.read_to_end(&mut read).await.unwrap();
        assert_eq!(read, sent);
    }

    #[tokio::test]
    async fn a_connection_that_ends_too_early_is_none() {
        let (mut peer, io) = duplex(1024);
        peer.write_all(b"PRI").await.unwrap();
        drop(peer);
        assert_eq!(open(io).await.unwrap_err().kind(), io::ErrorKind::UnexpectedEof);
    }
}
