//! For tests: a member that answers a snapshot and a hash over HTTP/2 with given bytes, and what else is asked before, over HTTP/1.1.

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use super::super::protobuf::put_varint;
use crate::net::http2::{hpack, scripted as frames};

/// The cluster and the member.
const CLUSTER: u64 = 0xc1;
const MEMBER: u64 = 0xa1;
/// What grpc-go puts into a frame at most.
const FRAME_BYTES: usize = 16 << 10;

/// An answer as it is sent, and where in it frames begin.
#[derive(Clone, Debug)]
pub struct Answer {
    pub bytes: Vec<u8>,
    pub frames: Vec<usize>,
}

impl Answer {
    fn begin() -> Self {
        let mut answer = Self { bytes: Vec::new(), frames: Vec::new() };
        answer.frame(4, 0, 0, &[]);
        let mut head = vec![0x88];
        hpack::put("content-type", b"application/grpc", &mut head);
        answer.frame(1, 0x4, 1, &head);
        answer
    }

    fn frame(&mut self, kind: u8, flags: u8, stream: u32, payload: &[u8]) {
        self.frames.push(self.bytes.len());
        frames::put(kind, flags, stream, payload, &mut self.bytes);
    }

    fn message(&mut self, message: &[u8]) {
        let framed = [&[0][..], &(message.len() as u32).to_be_bytes(), message].concat();
        framed.chunks(FRAME_BYTES).for_each(|data| self.frame(0, 0, 1, data));
    }

    fn end(mut self, status: Option<u32>) -> Self {
        match status {
            Some(status) => {
                let mut trailers = Vec::new();
                hpack::put("grpc-status", status.to_string().as_bytes(), &mut trailers);
                self.frame(1, 0x5, 1, &trailers);
            }
            None => self.frame(0, 0x1, 1, &[]),
        }
        self
    }

    /// A snapshot in these messages: how much remains, and bytes.
    pub fn snapshot(messages: &[(u64, Vec<u8>)]) -> Self {
        Self::snapshot_ended(messages, Some(0))
    }

    /// The same with this status at its end; `None`: with none.
    pub fn snapshot_ended(messages: &[(u64, Vec<u8>)], status: Option<u32>) -> Self {
        let mut answer = Self::begin();
        for (remaining, blob) in messages {
            let mut message = Vec::new();
            number(2, *remaining, &mut message);
            bytes(3, blob, &mut message);
            answer.message(&message);
        }
        answer.end(status)
    }

    /// An error without a message before it.
    pub fn refusal(code: u32, words: &str) -> Self {
        let mut answer = Self { bytes: Vec::new(), frames: Vec::new() };
        answer.frame(4, 0, 0, &[]);
        let mut head = vec![0x88];
        hpack::put("content-type", b"application/grpc", &mut head);
        hpack::put("grpc-status", code.to_string().as_bytes(), &mut head);
        hpack::put("grpc-message", words.as_bytes(), &mut head);
        answer.frame(1, 0x5, 1, &head);
        answer
    }

    /// Only so much of it; then the connection ends.
    #[must_use]
    pub fn cut(mut self, length: usize) -> Self {
        self.bytes.truncate(length);
        self
    }
}

fn number(field: u64, value: u64, message: &mut Vec<u8>) {
    put_varint(field << 3, message);
    put_varint(value, message);
}

fn bytes(field: u64, value: &[u8], message: &mut Vec<u8>) {
    put_varint(field << 3 | 2, message);
    put_varint(value.len() as u64, message);
    message.extend_from_slice(value);
}

/// A hash.
pub fn hash(hash: u64, revision: u64, compact_revision: u64) -> Answer {
    hash_of(MEMBER, hash, revision, compact_revision)
}

/// Another member's.
pub fn hash_of(member: u64, hash: u64, revision: u64, compact_revision: u64) -> Answer {
    let (mut header, mut message) = (Vec::new(), Vec::new());
    number(1, CLUSTER, &mut header);
    number(2, member, &mut header);
    number(3, revision + 1, &mut header);
    bytes(1, &header, &mut message);
    number(2, hash, &mut message);
    number(3, compact_revision, &mut message);
    let mut answer = Answer::begin();
    answer.message(&message);
    answer.end(Some(0))
}

/// It serves until the runtime ends.
#[derive(Debug)]
pub struct Scripted {
    pub url: String,
}

impl Scripted {
    /// Answers every call for a snapshot and for a hash so.
    pub async fn start(snapshot: Answer, hash: Answer) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(serve(stream, snapshot.clone(), hash.clone()));
            }
        });
        Self { url }
    }
}

async fn serve(mut stream: TcpStream, snapshot: Answer, hash: Answer) {
    let mut asked = Vec::new();
    let says = |asked: &[u8], text: &str| asked.windows(text.len()).any(|window| window == text.as_bytes());
    let header = format!(r#"{{"header":{{"cluster_id":"{CLUSTER}","member_id":"{MEMBER}"}}"#);
    let answer = loop {
        let mut buffer = [0; 4096];
        match stream.read(&mut buffer).await {
            Ok(count @ 1..) => asked.extend_from_slice(&buffer[..count]),
            _ => return,
        }
        if says(&asked, "/etcdserverpb.Maintenance/Snapshot") {
            break snapshot.bytes;
        } else if says(&asked, "/etcdserverpb.Maintenance/HashKV") {
            break hash.bytes;
        } else if says(&asked, "POST /v3/") && asked.ends_with(b"}") {
            let rest = r#","version":"3.6.1","leader":"161","raftIndex":"5000","raftTerm":"6","dbSize":"4096"}"#;
            let body = format!("{header}{rest}");
            break format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{body}", body.len()).into_bytes();
        }
    };
    // Half-closed: what the other side still sends does not turn into a reset before it has read all.
    if stream.write_all(&answer).await.is_ok() && stream.shutdown().await.is_ok() {
        while let Ok(1..) = stream.read(&mut [0; 4096]).await {}
    }
}
