//! Reads a body while it arrives, with a reader that blocks for each byte.
//!
//! Such a reader needs a thread. In return it is faster than one that may be suspended at each byte, and a page of a thousand
//! instances does not block other tasks.

use std::io::{self, BufRead, Read};
use std::panic::resume_unwind;

use http_body_util::BodyExt;
use hyper::body::{Body, Buf, Bytes};
use tokio::sync::mpsc;

/// The part of a body that has arrived: the reader's side.
pub struct Arriving {
    chunks: mpsc::Receiver<io::Result<Bytes>>,
    chunk: Bytes,
}

/// Returns what `read` makes of `body`. The body's own errors are for `read` to report. If this is dropped half-way, the body
/// ends there for `read`, so that its thread ends too.
pub async fn read_arriving<B, T>(mut body: B, read: impl FnOnce(Arriving) -> T + Send + 'static) -> T
where
    B: Body<Data = Bytes, Error = io::Error> + Unpin,
    T: Send + 'static,
{
    // One chunk waits while another is read: a page is never in memory as a whole.
    let (sender, chunks) = mpsc::channel(1);
    let reading = tokio::task::spawn_blocking(move || read(Arriving { chunks, chunk: Bytes::new() }));
    let next = async |body: &mut B| {
        tokio::select! {
            frame = body.frame() => frame,
            () = sender.closed() => None, // the reader has made up its mind
        }
    };
    while let Some(frame) = next(&mut body).await {
        let chunk = frame.map(|frame| frame.into_data().unwrap_or_default());
        if sender.send(chunk).await.is_err() {
            break;
        }
    }
    drop(sender);
    // Panics on the caller's side, as if it had read the body itself.
    reading.await.unwrap_or_else(|panicked| resume_unwind(panicked.into_panic()))
}

impl Read for Arriving {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let read = self.fill_buf()?.read(into)?;
        self.consume(read);
        Ok(read)
    }
}

impl BufRead for Arriving {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        while self.chunk.is_empty() {
            match self.chunks.blocking_recv() {
                Some(chunk) => self.chunk = chunk?,
                None => break,
            }
        }
        Ok(&self.chunk)
    }

    fn consume(&mut self, amount: usize) {
        self.chunk.advance(amount);
    }
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;
    use std::pin::Pin;
    use std::task::{Context, Poll};
    use std::time::Duration;

    use hyper::body::Frame;

    use super::*;

    /// Arrives piece by piece; after the last one nothing comes, and no end either, when it `stalls`.
    struct Pieces {
        left: VecDeque<io::Result<Bytes>>,
        stalls: bool,
    }

    impl Pieces {
        fn of(pieces: impl IntoIterator<Item = io::Result<&'static str>>) -> Self {
            Self { left: pieces.into_iter().map(|piece| piece.map(Bytes::from)).collect(), stalls: false }
        }
    }

    impl Body for Pieces {
        type Data = Bytes;
        type Error = io::Error;

        fn poll_frame(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<io::Result<Frame<Bytes>>>> {
            match self.left.pop_front() {
                None if self.stalls => Poll::Pending,
                piece => Poll::Ready(piece.map(|piece| piece.map(Frame::data))),
            }
        }
    }

    /// Not finished in a minute, it hangs.
    fn run<T>(work: impl Future<Output = T>) -> T {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        runtime.block_on(async { tokio::time::timeout(Duration::from_secs(60), work).await }).expect("an end")
    }

    #[test]
    fn pieces_are_one_text_and_an_empty_one_is_no_end() {
        let body = Pieces::of([Ok("one "), Ok(""), Ok("tw"), Ok("o")]);
        assert_eq!(run(read_arriving(body, io::read_to_string)).unwrap(), "one two");
    }

    #[test]
    fn a_body_that_breaks_is_no_end() {
        let body = Pieces::of([Ok("one "), Err(io::Error::other("reset")), Ok("two")]);
        assert_eq!(run(read_arriving(body, io::read_to_string)).unwrap_err().to_string(), "reset");
    }

    #[test]
    fn a_reader_that_has_enough_does_not_wait_for_more() {
        let stalled = Pieces { stalls: true, ..Pieces::of([Ok("enough")]) };
        let first = |mut source: Arriving| source.fill_buf().map(<[u8]>::to_vec);
        assert_eq!(run(read_arriving(stalled, first)).unwrap(), b"enough");
    }

    #[test]
    fn a_reader_given_up_sees_the_end() {
        let (seen, ended) = std::sync::mpsc::channel();
        let stalled = Pieces { stalls: true, ..Pieces::of([Ok("half")]) };
        let reading = read_arriving(stalled, move |source| _ = seen.send(io::read_to_string(source).unwrap()));
        assert!(run(async { tokio::time::timeout(Duration::from_millis(50), reading).await }).is_err());
        assert_eq!(ended.recv_timeout(Duration::from_secs(60)).unwrap(), "half");
    }
}
