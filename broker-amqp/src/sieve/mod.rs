//! What stands between RabbitMQ and the client: frames pass, and what the client could not read is
//! made readable on the way.
//!
//! RabbitMQ takes whatever somebody publishes as names of headers and short texts, and arrays in
//! arrays without end. lapin gives up its connection on a text that is not UTF-8, and again after
//! each reconnection, because the message stays first in its queue. And a header of some hundred
//! arrays in arrays, two kilobytes, overflows the stack of its thread, which ends the process.
//!
//! So the frames that carry such things are looked at before lapin sees them, and are changed where
//! they stand: no length changes. What is changed says [`tame`].

mod reactor;
mod tame;

use std::io::{self, ErrorKind};
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use futures_util::{AsyncRead, AsyncWrite};

pub(crate) use reactor::connect;
pub(crate) use tame::Tame;

/// Type, channel and size before the payload of a frame, and the mark behind it.
const HEAD: usize = 7;
const END: usize = 1;

/// How much is read at a time.
const READ: usize = 64 * 1024;

/// The largest frame with texts or tables that is taken. RabbitMQ's limit for frames is 128 KiB where
/// its operator says nothing else.
const LARGEST: usize = 16 * 1024 * 1024;

/// A stream from the broker whose frames can be read without harm.
#[derive(Debug)]
pub(crate) struct Sieve<S> {
    inner: S,
    held: Vec<u8>,
    /// How much of what is held was given on, may be given on, and is there.
    given: usize,
    looked: usize,
    end: usize,
    /// How many bytes pass behind those: the rest of the payload of a message.
    passing: usize,
    /// The size of the frame that is held in part, as far as it is known.
    partial: usize,
}

impl<S> Sieve<S> {
    pub(crate) fn new(inner: S) -> Self {
        Self { inner, held: Vec::new(), given: 0, looked: 0, end: 0, passing: 0, partial: 0 }
    }

    /// Looks at all frames that are there as a whole.
    fn look(&mut self) -> io::Result<()> {
        self.partial = 0;
        loop {
            let rest = &mut self.held[self.looked..self.end];
            let Some(head) = rest.first_chunk::<HEAD>() else { return Ok(()) };
            let size = u32::from_be_bytes([head[3], head[4], head[5], head[6]]) as usize;
            let total = HEAD + size + END;
            let kind = head[0];
            if !Tame::wants(kind) {
                // A payload; or no frame at all, which is the client's to say.
                let here = total.min(rest.len());
                self.looked += here;
                self.passing = total - here;
            } else if total > LARGEST {
                let text = format!("a frame of {total} bytes, the limit is {LARGEST}");
                return Err(io::Error::new(ErrorKind::InvalidData, text));
            } else if total <= rest.len() {
                Tame::new(&mut rest[HEAD..HEAD + size]).payload(kind);
                self.looked += total;
            } else {
                self.partial = total;
                return Ok(());
            }
        }
    }

    /// Makes room behind what is held, of which everything was given on that may be: what is left is a
    /// part of one frame.
    fn make_room(&mut self) {
        self.held.copy_within(self.given..self.end, 0);
        self.end -= self.given;
        (self.given, self.looked) = (0, 0);
        let wanted = self.partial.max(READ);
        if self.held.len() != wanted {
            self.held.resize(wanted, 0);
            self.held.shrink_to(wanted);
        }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Sieve<S> {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        out: &mut [u8],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        loop {
            if this.given < this.looked {
                let size = out.len().min(this.looked - this.given);
                out[..size].copy_from_slice(&this.held[this.given..][..size]);
                this.given += size;
                return Poll::Ready(Ok(size));
            }
            if this.passing > 0 {
                let most = out.len().min(this.passing);
                let read = ready!(Pin::new(&mut this.inner).poll_read(cx, &mut out[..most]))?;
                this.passing -= read;
                return Poll::Ready(Ok(read));
            }
            this.make_room();
            let room = &mut this.held[this.end..];
            match ready!(Pin::new(&mut this.inner).poll_read(cx, room))? {
                // A part of a frame is of no use to anybody.
                0 => return Poll::Ready(Ok(0)),
                read => this.end += read,
            }
            this.look()?;
        }
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Sieve<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.inner).poll_write(cx, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.inner).poll_write_vectored(cx, slices)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_flush(cx)
    }

    fn poll_close(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_close(cx)
    }
}

#[cfg(test)]
mod tests;
