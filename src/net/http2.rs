//! One exchange over HTTP/2 (RFC 9113), for a server that offers nothing else: a request, and an answer that is read as it comes. A connection
//! has one stream, so there is nothing to share between streams.
//!
//! hyper's `http2` feature adds 276,752 bytes to a minimal program built with this project's release profile (h2 0.4.20).

pub mod hpack;
#[cfg(test)]
pub mod scripted;

use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::http::{Failure, Stream};
use hpack::{Decoder, Header};

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
/// Length (3 bytes), kind, flags, stream (4).
const HEAD_BYTES: usize = 9;
/// The longest frame that a server may send unless it is told otherwise (RFC 9113, section 4.2).
const LONGEST_FRAME: usize = 16 << 10;
/// How much may be read at once: some frames.
const BUFFER_BYTES: usize = 128 << 10;
/// How much of an answer may be under way: enough that a server on the same host never waits for us.
const WINDOW_BYTES: u32 = 1 << 20;
/// A connection's window before anything is said about it (RFC 9113, section 6.9.2).
const FIRST_WINDOW_BYTES: u32 = 65_535;
/// The longest headers or trailers, compressed; an error's message is among them.
const LONGEST_HEADERS: usize = 64 << 10;
/// Ours, and the only one.
const STREAM: u32 = 1;

const DATA: u8 = 0;
const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const PUSH_PROMISE: u8 = 5;
const PING: u8 = 6;
const GOAWAY: u8 = 7;
const WINDOW_UPDATE: u8 = 8;
const CONTINUATION: u8 = 9;

const END_STREAM: u8 = 0x1;
const ACK: u8 = 0x1;
const END_HEADERS: u8 = 0x4;
const PADDED: u8 = 0x8;
const PRIORITY: u8 = 0x20;

const ENABLE_PUSH: u16 = 2;
const INITIAL_WINDOW_SIZE: u16 = 4;

/// What is sent.
#[derive(Clone, Copy, Debug)]
pub struct Post<'a> {
    pub scheme: &'a str,
    pub authority: &'a str,
    pub path: &'a str,
    /// Names in lower case.
    pub headers: &'a [(&'a str, &'a str)],
    /// Less than a frame.
    pub body: &'a [u8],
}

/// An answer's head, and where its body comes from.
#[derive(Debug)]
pub struct Answer {
    pub status: u16,
    pub headers: Vec<Header>,
    pub body: Body,
}

/// A part of an answer's body.
#[derive(Debug)]
pub enum Part<'a> {
    Data(&'a [u8]),
    /// The end, with what a server says behind it; it may be nothing.
    End(Vec<Header>),
}

/// The rest of an answer.
pub struct Body {
    stream: Box<dyn Stream>,
    buffer: Vec<u8>,
    /// What of the buffer is not read yet.
    start: usize,
    end: usize,
    decoder: Decoder,
    /// What was read since the server was last allowed more.
    read: u32,
    is_ended: bool,
}

impl std::fmt::Debug for Body {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Body").field("is_ended", &self.is_ended).finish_non_exhaustive()
    }
}

/// The value of a header.
pub fn value<'a>(headers: &'a [Header], name: &str) -> Option<&'a [u8]> {
    headers.iter().find(|(found, _)| found == name.as_bytes()).map(|(_, value)| value.as_slice())
}

/// A frame's head.
#[derive(Clone, Copy)]
struct Head {
    length: usize,
    kind: u8,
    flags: u8,
    stream: u32,
}

/// What a frame means for our stream.
enum Event {
    /// This part of the buffer.
    Data(usize, usize),
    Headers(Vec<Header>),
    /// Nothing.
    Other,
}

fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8], bytes: &mut Vec<u8>) {
    bytes.extend_from_slice(&(payload.len() as u32).to_be_bytes()[1..]);
    bytes.extend_from_slice(&[kind, flags]);
    bytes.extend_from_slice(&stream.to_be_bytes());
    bytes.extend_from_slice(payload);
}

fn odd(cause: impl Into<String>) -> Failure {
    Failure::Protocol(cause.into())
}

/// Sends the request and returns when the head of the answer has come.
///
/// # Errors
/// The connection ends, or the server does not speak HTTP/2.
pub async fn post(stream: Box<dyn Stream>, request: &Post<'_>) -> Result<Answer, Failure> {
    if request.body.len() > LONGEST_FRAME {
        return Err(odd("the request is too long"));
    }
    let mut settings = Vec::new();
    for (name, value) in [(ENABLE_PUSH, 0), (INITIAL_WINDOW_SIZE, WINDOW_BYTES)] {
        settings.extend_from_slice(&name.to_be_bytes());
        settings.extend_from_slice(&u32::to_be_bytes(value));
    }
    let mut block = Vec::new();
    let pseudo =
        [(":method", "POST"), (":scheme", request.scheme), (":authority", request.authority), (":path", request.path)];
    pseudo.iter().chain(request.headers).for_each(|(name, value)| hpack::put(name, value.as_bytes(), &mut block));
    if block.len() > LONGEST_FRAME {
        return Err(odd("the request's headers are too long"));
    }
    let mut bytes = PREFACE.to_vec();
    frame(SETTINGS, 0, 0, &settings, &mut bytes);
    frame(WINDOW_UPDATE, 0, 0, &(WINDOW_BYTES - FIRST_WINDOW_BYTES).to_be_bytes(), &mut bytes);
    frame(HEADERS, END_HEADERS, STREAM, &block, &mut bytes);
    frame(DATA, END_STREAM, STREAM, request.body, &mut bytes);
    let mut body = Body {
        stream,
        buffer: vec![0; BUFFER_BYTES],
        start: 0,
        end: 0,
        decoder: Decoder::default(),
        read: 0,
        is_ended: false,
    };
    body.send(&bytes).await?;
    loop {
        let headers = match body.event().await? {
            Event::Headers(headers) => headers,
            Event::Data(..) => return Err(odd("its answer has no head")),
            Event::Other => continue,
        };
        let status = value(&headers, ":status").and_then(|text| std::str::from_utf8(text).ok()?.parse().ok());
        let status: u16 = status.ok_or_else(|| odd("its answer has no status"))?;
        // What comes before an answer (RFC 9110, section 15.2).
        if status >= 200 {
            return Ok(Answer { status, headers, body });
        }
    }
}

impl Body {
    /// The next part.
    ///
    /// # Errors
    /// Nothing came for that long; the connection, or the stream, ended before its end.
    pub async fn next(&mut self, within: Duration) -> Result<Part<'_>, Failure> {
        if self.is_ended {
            return Ok(Part::End(Vec::new()));
        }
        let awaited = async {
            loop {
                match self.event().await? {
                    Event::Data(from, to) if from < to => return Ok(Ok((from, to))),
                    Event::Headers(_) if !self.is_ended => {
                        return Err(odd("it sends headers in the middle of an answer"));
                    }
                    Event::Headers(trailers) => return Ok(Err(trailers)),
                    Event::Data(..) | Event::Other if self.is_ended => return Ok(Err(Vec::new())),
                    Event::Data(..) | Event::Other => {}
                }
            }
        };
        match tokio::time::timeout(within, awaited).await.unwrap_or(Err(Failure::Timeout(within)))? {
            Ok((from, to)) => Ok(Part::Data(&self.buffer[from..to])),
            Err(trailers) => Ok(Part::End(trailers)),
        }
    }

    /// Reads one frame, and answers it where it must be answered.
    async fn event(&mut self) -> Result<Event, Failure> {
        let head = self.head().await?;
        let (from, to) = self.fill(head.length).await?;
        match (head.kind, head.stream) {
            (DATA, STREAM) => {
                let data = self.unpadded(head, from, to, 0)?;
                self.is_ended |= head.flags & END_STREAM != 0;
                self.allow(head.length as u32).await?;
                Ok(Event::Data(data.0, data.1))
            }
            (HEADERS, STREAM) => {
                let priority = if head.flags & PRIORITY != 0 { 5 } else { 0 };
                let (from, to) = self.unpadded(head, from, to, priority)?;
                let mut block = self.buffer[from..to].to_vec();
                let mut flags = head.flags;
                while flags & END_HEADERS == 0 {
                    let head = self.head().await?;
                    if (head.kind, head.stream) != (CONTINUATION, STREAM) || block.len() + head.length > LONGEST_HEADERS
                    {
                        return Err(odd("its headers do not end"));
                    }
                    let (from, to) = self.fill(head.length).await?;
                    block.extend_from_slice(&self.buffer[from..to]);
                    flags = head.flags;
                }
                let headers = self.decoder.decode(&block).ok_or_else(|| odd("its headers can't be read"))?;
                self.is_ended |= head.flags & END_STREAM != 0;
                Ok(Event::Headers(headers))
            }
            (RST_STREAM, STREAM) => Err(Failure::Closed(format!("it ended the stream: {}", self.code(from, to, 0)))),
            (GOAWAY, 0) => match self.number(from, to, 0) & 0x7fff_ffff {
                // It takes no more requests; ours it still answers.
                STREAM.. => Ok(Event::Other),
                _ => Err(Failure::Closed(format!("it takes no request: {}", self.code(from, to, 4)))),
            },
            (SETTINGS, 0) if head.flags & ACK == 0 => {
                let mut bytes = Vec::new();
                frame(SETTINGS, ACK, 0, &[], &mut bytes);
                self.send(&bytes).await?;
                Ok(Event::Other)
            }
            (PING, 0) if head.flags & ACK == 0 => {
                let mut bytes = Vec::new();
                frame(PING, ACK, 0, &self.buffer[from..to], &mut bytes);
                self.send(&bytes).await?;
                Ok(Event::Other)
            }
            (PUSH_PROMISE | CONTINUATION, _) | (DATA | HEADERS, _) => {
                Err(odd(format!("a frame of kind {} came out of its place", head.kind)))
            }
            // Unknown ones are passed over (RFC 9113, section 4.1).
            _ => Ok(Event::Other),
        }
    }

    async fn head(&mut self) -> Result<Head, Failure> {
        let (from, _) = self.fill(HEAD_BYTES).await?;
        let bytes = &self.buffer[from..from + HEAD_BYTES];
        let head = Head {
            length: usize::from(bytes[0]) << 16 | usize::from(bytes[1]) << 8 | usize::from(bytes[2]),
            kind: bytes[3],
            flags: bytes[4],
            stream: self.number(from, from + HEAD_BYTES, 5) & 0x7fff_ffff,
        };
        match head.length {
            ..=LONGEST_FRAME => Ok(head),
            // "HTTP/1.1 400", for example, as a head.
            _ => Err(odd("it does not speak HTTP/2; is it etcd's client port?")),
        }
    }

    /// Takes that many bytes; returns where they are.
    async fn fill(&mut self, length: usize) -> Result<(usize, usize), Failure> {
        if self.start + length > self.buffer.len() {
            self.buffer.copy_within(self.start..self.end, 0);
            (self.start, self.end) = (0, self.end - self.start);
        }
        while self.end - self.start < length {
            if self.start == self.end {
                (self.start, self.end) = (0, 0);
            }
            let read = self.stream.read(&mut self.buffer[self.end..]).await;
            match read.map_err(|error| closed(&error))? {
                0 => return Err(Failure::Closed("in the middle of an answer".to_owned())),
                count => self.end += count,
            }
        }
        let from = self.start;
        self.start += length;
        Ok((from, self.start))
    }

    fn unpadded(&self, head: Head, from: usize, to: usize, priority: usize) -> Result<(usize, usize), Failure> {
        let (from, padding) = match head.flags & PADDED != 0 && from < to {
            true => (from + 1, usize::from(self.buffer[from])),
            false => (from, 0),
        };
        let (from, to) = (from + priority, to.saturating_sub(padding));
        if from > to { Err(odd("a frame is shorter than its padding")) } else { Ok((from, to)) }
    }

    /// Allows the server as much again as was read, once that is half of all.
    async fn allow(&mut self, read: u32) -> Result<(), Failure> {
        self.read += read;
        if self.read < WINDOW_BYTES / 2 || self.is_ended {
            return Ok(());
        }
        let mut bytes = Vec::new();
        for stream in [0, STREAM] {
            frame(WINDOW_UPDATE, 0, stream, &self.read.to_be_bytes(), &mut bytes);
        }
        self.read = 0;
        self.send(&bytes).await
    }

    async fn send(&mut self, bytes: &[u8]) -> Result<(), Failure> {
        self.stream.write_all(bytes).await.map_err(|error| closed(&error))?;
        self.stream.flush().await.map_err(|error| closed(&error))
    }

    fn number(&self, from: usize, to: usize, at: usize) -> u32 {
        let bytes = self.buffer[from..to].get(at..).and_then(|rest| rest.first_chunk());
        bytes.copied().map_or(0, u32::from_be_bytes)
    }

    /// RFC 9113, section 7.
    fn code(&self, from: usize, to: usize, at: usize) -> String {
        let names = [
            "no error",
            "protocol error",
            "internal error",
            "flow control error",
            "settings timeout",
            "stream closed",
            "frame size error",
        ];
        let later = [
            "refused",
            "cancelled",
            "compression error",
            "connect error",
            "too many requests",
            "inadequate security",
            "HTTP/1.1 required",
        ];
        let code = self.number(from, to, at);
        let name = names.iter().chain(&later).nth(code as usize);
        name.map_or_else(|| format!("code {code}"), |name| (*name).to_owned())
    }
}

fn closed(error: &std::io::Error) -> Failure {
    match super::tls::explain(error) {
        // With TLS 1.3 a server refuses our certificate after the handshake.
        Some(cause) => Failure::Tls(cause),
        None => Failure::Closed(error.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{DuplexStream, duplex};

    use super::*;

    const LONG: Duration = Duration::from_secs(60);

    fn run<T>(work: impl Future<Output = T>) -> T {
        tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(work)
    }

    fn frames(frames: &[(u8, u8, u32, &[u8])]) -> Vec<u8> {
        let mut bytes = Vec::new();
        frames.iter().for_each(|(kind, flags, stream, payload)| frame(*kind, *flags, *stream, payload, &mut bytes));
        bytes
    }

    async fn asked(stream: DuplexStream) -> Result<Answer, Failure> {
        let request =
            Post { scheme: "http", authority: "a", path: "/b", headers: &[("te", "trailers")], body: b"hello" };
        post(Box::new(stream), &request).await
    }

    /// The whole body and its trailers' number, from a server that sends these bytes and then ends, or goes on reading.
    async fn answered(bytes: &[u8]) -> Result<(u16, Vec<u8>, usize), Failure> {
        let (ours, mut theirs) = duplex(1 << 22);
        theirs.write_all(bytes).await.unwrap();
        theirs.shutdown().await.unwrap();
        let mut answer = asked(ours).await?;
        let mut body = Vec::new();
        loop {
            match answer.body.next(LONG).await? {
                Part::Data(data) => body.extend_from_slice(data),
                Part::End(trailers) => return Ok((answer.status, body, trailers.len())),
            }
        }
    }

    const OK: (u8, u8, u32, &[u8]) = (HEADERS, END_HEADERS, STREAM, &[0x88]);
    const END: (u8, u8, u32, &[u8]) = (HEADERS, END_HEADERS | END_STREAM, STREAM, &[0x00, 1, b'a', 1, b'b']);

    #[test]
    fn an_answer_is_read_around_all_that_a_server_may_say_beside_it() {
        let bytes = frames(&[
            (SETTINGS, 0, 0, &[0, 3, 0, 0, 0, 100]),
            (SETTINGS, ACK, 0, &[]),
            (WINDOW_UPDATE, 0, 0, &[0, 0, 1, 0]),
            // 103 before it (RFC 8297); in two frames.
            (HEADERS, 0, STREAM, &[0x08, 3]),
            (CONTINUATION, END_HEADERS, STREAM, b"103"),
            (HEADERS, END_HEADERS | PRIORITY, STREAM, &[0, 0, 0, 0, 9, 0x88]),
            (DATA, 0, STREAM, b"one "),
            (PING, 0, 0, &[1, 2, 3, 4, 5, 6, 7, 8]),
            (0xbe, 0xff, 77, b"of a kind that nobody knows"),
            (DATA, PADDED, STREAM, b"\x03two \0\0\0"),
            // It answers what it has begun, and takes no more.
            (GOAWAY, 0, 0, &[0, 0, 0, 1, 0, 0, 0, 0]),
            (DATA, 0, STREAM, b""),
            (DATA, 0, STREAM, b"three"),
            END,
        ]);
        assert_eq!(run(answered(&bytes)).unwrap(), (200, b"one two three".to_vec(), 1));
        // Without trailers it ends with its data.
        let bytes = frames(&[OK, (DATA, END_STREAM, STREAM, b"all")]);
        assert_eq!(run(answered(&bytes)).unwrap(), (200, b"all".to_vec(), 0));
    }

    #[test]
    fn what_ends_before_its_end_or_is_out_of_place_is_a_failure() {
        let whole = frames(&[OK, (DATA, 0, STREAM, &[7; 300]), END]);
        assert!(run(answered(&whole)).is_ok());
        for cut in 0..whole.len() {
            assert!(matches!(run(answered(&whole[..cut])), Err(Failure::Closed(_))), "cut at {cut}");
        }
        let data: (u8, u8, u32, &[u8]) = (DATA, 0, STREAM, b"data");
        for (bad, words) in [
            (vec![OK, (RST_STREAM, 0, STREAM, &[0, 0, 0, 8])], "cancelled"),
            (vec![OK, (RST_STREAM, 0, STREAM, &[0, 0, 1, 0])], "code 256"),
            (vec![(GOAWAY, 0, 0, &[0, 0, 0, 0, 0, 0, 0, 11])], "too many requests"),
            (vec![data], "no head"),
            (vec![OK, OK], "in the middle"),
            (vec![OK, (DATA, 0, 3, b"data")], "out of its place"),
            (vec![OK, (CONTINUATION, END_HEADERS, STREAM, b"")], "out of its place"),
            (vec![(HEADERS, 0, STREAM, &[0x88]), data], "do not end"),
            (vec![(PUSH_PROMISE, END_HEADERS, STREAM, &[0, 0, 0, 2])], "out of its place"),
            (vec![OK, (DATA, PADDED, STREAM, b"\x05abc")], "padding"),
            (vec![(HEADERS, END_HEADERS, STREAM, &[0x82])], "no status"),
            (vec![(HEADERS, END_HEADERS, STREAM, &[0xff])], "can't be read"),
        ] {
            let failure = run(answered(&frames(&bad))).unwrap_err().to_string();
            assert!(failure.contains(words), "{words}: {failure}");
        }
        let http1 = run(answered(b"HTTP/1.1 400 Bad Request\r\n\r\n")).unwrap_err();
        assert!(http1.to_string().contains("does not speak HTTP/2"), "{http1}");
    }

    /// A server that keeps to its window gets more of it in time, and never more than there is room for.
    #[test]
    fn a_server_is_allowed_as_much_as_is_read_and_its_pings_are_answered() {
        const FRAMES: usize = 400;
        run(async {
            let (ours, theirs) = duplex(1 << 16);
            let (mut reader, mut writer) = tokio::io::split(theirs);
            let server = tokio::spawn(async move {
                let mut preface = [0; PREFACE.len()];
                reader.read_exact(&mut preface).await.unwrap();
                assert_eq!(preface, PREFACE);
                let (mut connection, mut stream, mut sent, mut pongs) = (i64::from(FIRST_WINDOW_BYTES), 0_i64, 0, 0);
                writer.write_all(&frames(&[OK, (PING, 0, 0, b"12345678")])).await.unwrap();
                loop {
                    while sent < FRAMES && connection.min(stream) >= LONGEST_FRAME as i64 {
                        (connection, stream) = (connection - LONGEST_FRAME as i64, stream - LONGEST_FRAME as i64);
                        sent += 1;
                        writer.write_all(&frames(&[(DATA, 0, STREAM, &[3; LONGEST_FRAME])])).await.unwrap();
                    }
                    if sent == FRAMES && pongs == 1 {
                        writer.write_all(&frames(&[END])).await.unwrap();
                        return;
                    }
                    let mut head = [0; HEAD_BYTES];
                    reader.read_exact(&mut head).await.unwrap();
                    let mut payload = vec![0; usize::from(head[1]) << 8 | usize::from(head[2])];
                    reader.read_exact(&mut payload).await.unwrap();
                    let more = || i64::from(u32::from_be_bytes(payload[..4].try_into().unwrap()));
                    match (head[3], head[8]) {
                        (SETTINGS, _) if head[4] == 0 => stream = i64::from(WINDOW_BYTES),
                        (WINDOW_UPDATE, 0) => connection += more(),
                        (WINDOW_UPDATE, _) => stream += more(),
                        (PING, _) => {
                            assert_eq!((head[4], &payload[..]), (ACK, &b"12345678"[..]));
                            pongs += 1;
                        }
                        _ => {}
                    }
                    assert!(connection.max(stream) <= i64::from(WINDOW_BYTES), "more than there is room for");
                }
            });
            let mut answer = asked(ours).await.unwrap();
            let mut read = 0;
            while let Part::Data(data) = answer.body.next(LONG).await.unwrap() {
                read += data.len();
            }
            assert_eq!(read, FRAMES * LONGEST_FRAME);
            server.await.unwrap();
        });
    }
}
