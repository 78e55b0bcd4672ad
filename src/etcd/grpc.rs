//! The two calls of etcd's Maintenance service that its JSON gateway has not, or only as JSON: a snapshot's bytes, which cost three to six
//! times the CPU and the time as base64 in JSON (measured on 3.4.23 and 3.5.30), and the hash of the keys, which the gateway has from 3.5 on.
//!
//! gRPC as its own specification has it (grpc/doc/PROTOCOL-HTTP2.md): a POST over HTTP/2; each message behind five bytes, a flag and its
//! length; the outcome in the trailers.

#[cfg(test)]
pub mod scripted;

use std::time::Duration;

use super::client::{Client, Error};
use super::protobuf::{Fields, Value, put_varint};
use crate::core::types::{ClusterId, MemberId};
use crate::net::http;
use crate::net::http2::{Answer, Body, Part, hpack::Header, value};

/// A flag and a length.
const HEAD_BYTES: usize = 5;
/// The longest message that is accepted: etcd sends a snapshot in pieces of 32 KiB (etcd's api/v3rpc/maintenance.go,
/// snapshotSendBufferSize).
const LONGEST_MESSAGE: usize = 4 << 20;
/// gRPC's own limit for a message in `grpc-message` would be the headers'; more than this helps nobody.
const LONGEST_WORDS: usize = 500;

/// The hash of all keys with their history, up to a revision. Comparable only between members that were compacted at the same revision.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct HashKv {
    pub cluster: ClusterId,
    pub member: MemberId,
    pub hash: u32,
    /// The revision up to which the keys are hashed: as asked, or the newest.
    pub revision: u64,
    /// The revision at which the answering member was last compacted; 0: never.
    pub compact_revision: u64,
}

/// A snapshot that is being sent: the database, then the SHA-256 of it in 32 bytes.
#[derive(Debug)]
pub struct Snapshot {
    url: String,
    messages: Messages,
    /// A message was read ahead; within: whether there was one.
    first: Option<bool>,
}

/// One message of it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Piece<'a> {
    pub bytes: &'a [u8],
    /// How much of the database follows this piece.
    pub remaining: u64,
}

impl Client {
    /// Begins a snapshot of the member that serves this URL. It is that member's own state; no quorum is needed. It stands as of this call.
    ///
    /// # Errors
    /// etcd does not answer with its first bytes within that time, or refuses.
    pub async fn snapshot(&self, url: &str, within: Duration) -> Result<Snapshot, Error> {
        match self.begin(url, self.token().as_deref(), within).await {
            Err(error) if error.wants_a_token() => {
                let token = self.new_token(url, &error, within).await?;
                self.begin(url, Some(&token), within).await
            }
            other => other,
        }
    }

    async fn begin(&self, url: &str, token: Option<&str>, within: Duration) -> Result<Snapshot, Error> {
        let mut messages = self.call(url, "Snapshot", &[], token, within).await?;
        // Whether it is refused shows with the first message.
        let first = messages.read(url, within).await?;
        Ok(Snapshot { url: url.to_owned(), messages, first: Some(first) })
    }

    /// The hash of the keys up to that revision, or to the newest one (`None`), of the member that serves this URL; from etcd 3.3 on, where the
    /// gateway has it since 3.5.10 only ([`Client::hash_kv`]).
    ///
    /// # Errors
    /// etcd does not answer, or refuses: a revision that is compacted, or in the future.
    pub async fn grpc_hash_kv(&self, url: &str, revision: Option<u64>, within: Duration) -> Result<HashKv, Error> {
        let mut query = Vec::new();
        if let Some(revision) = revision {
            query.push(1 << 3);
            put_varint(revision, &mut query);
        }
        let answer = match self.ask(url, "HashKV", &query, self.token().as_deref(), within).await {
            Err(error) if error.wants_a_token() => {
                let token = self.new_token(url, &error, within).await?;
                self.ask(url, "HashKV", &query, Some(&token), within).await
            }
            other => other,
        };
        HashKv::read(&answer?, revision).ok_or_else(|| not_etcd(url, "its HashKV can't be read"))
    }

    /// A call with one message as its answer.
    async fn ask(
        &self,
        url: &str,
        method: &str,
        query: &[u8],
        token: Option<&str>,
        within: Duration,
    ) -> Result<Vec<u8>, Error> {
        let mut messages = self.call(url, method, query, token, within).await?;
        if !messages.read(url, within).await? {
            return Err(not_etcd(url, "it answers with no message"));
        }
        let message = messages.message().to_vec();
        match messages.read(url, within).await? {
            false => Ok(message),
            true => Err(not_etcd(url, "it answers with more than one message")),
        }
    }

    async fn call(
        &self,
        base: &str,
        method: &str,
        query: &[u8],
        token: Option<&str>,
        within: Duration,
    ) -> Result<Messages, Error> {
        let url = format!("{}/etcdserverpb.Maintenance/{method}", base.trim_end_matches('/'));
        let length = u32::try_from(query.len()).unwrap_or(u32::MAX).to_be_bytes();
        let body = [&[0], &length[..], query].concat();
        let agent = concat!("etcd-muster/", env!("CARGO_PKG_VERSION"));
        let mut headers = vec![("content-type", "application/grpc"), ("te", "trailers"), ("user-agent", agent)];
        // As etcd's own client sends it (etcd's api/v3rpc/rpctypes/metadatafields.go, TokenFieldNameGRPC).
        headers.extend(token.map(|token| ("token", token)));
        Messages::of(base, self.client_port().post_http2(&url, &headers, &body, within).await?)
    }
}

impl Snapshot {
    /// The next piece; `None`: that was all, and etcd says that it went well.
    ///
    /// # Errors
    /// Nothing came for that long; the connection ended before the snapshot did; etcd reports a failure.
    pub async fn next(&mut self, within: Duration) -> Result<Option<Piece<'_>>, Error> {
        let is_more = match self.first.take() {
            Some(is_more) => is_more,
            None => self.messages.read(&self.url, within).await?,
        };
        if !is_more {
            return Ok(None);
        }
        Piece::read(self.messages.message()).map(Some).ok_or_else(|| not_etcd(&self.url, "its snapshot can't be read"))
    }
}

impl<'a> Piece<'a> {
    /// A SnapshotResponse: header 1, remaining_bytes 2, blob 3, version 4.
    fn read(message: &'a [u8]) -> Option<Self> {
        let mut piece = Self { bytes: &[], remaining: 0 };
        for field in Fields(message) {
            match field? {
                (2, Value::Number(remaining)) => piece.remaining = remaining,
                (3, Value::Bytes(bytes)) => piece.bytes = bytes,
                _ => {}
            }
        }
        Some(piece)
    }
}

impl HashKv {
    /// A HashKVResponse: header 1 (cluster_id 1, member_id 2, revision 3), hash 2, compact_revision 3, hash_revision 4 (from 3.6 on).
    fn read(message: &[u8], asked: Option<u64>) -> Option<Self> {
        let (mut cluster, mut member, mut newest, mut hash, mut compact_revision, mut revision) = (0, 0, 0, 0, 0, 0);
        for field in Fields(message) {
            match field? {
                (1, Value::Bytes(header)) => {
                    for field in Fields(header) {
                        match field? {
                            (1, Value::Number(id)) => cluster = id,
                            (2, Value::Number(id)) => member = id,
                            (3, Value::Number(found)) => newest = found,
                            _ => {}
                        }
                    }
                }
                (2, Value::Number(found)) => hash = u32::try_from(found).ok()?,
                // -1: never compacted.
                (3, Value::Number(found)) => compact_revision = u64::try_from(found.cast_signed()).unwrap_or_default(),
                (4, Value::Number(found)) => revision = found,
                _ => {}
            }
        }
        let revision = asked.unwrap_or(if revision == 0 { newest } else { revision });
        let is_whole = cluster != 0 && member != 0;
        is_whole.then_some(Self {
            cluster: ClusterId(cluster),
            member: MemberId(member),
            hash,
            revision,
            compact_revision,
        })
    }
}

/// The messages of an answer.
#[derive(Debug)]
struct Messages {
    body: Body,
    /// The message that is being received, with its head; then the one that was.
    message: Vec<u8>,
    /// What came behind it. Of a body's parts some are longer than a message, and some shorter.
    behind: Vec<u8>,
}

impl Messages {
    fn of(url: &str, answer: Answer) -> Result<Self, Error> {
        let Answer { status, headers, body } = answer;
        if status != 200 {
            return Err(not_etcd(url, &format!("answers gRPC with {status}")));
        }
        // A refusal without any message has its outcome in the head ("Trailers-Only").
        if value(&headers, "grpc-status").is_some() {
            outcome(url, &headers)?;
        }
        if !value(&headers, "content-type").is_some_and(|kind| kind.starts_with(b"application/grpc")) {
            return Err(not_etcd(url, "it does not answer gRPC"));
        }
        Ok(Self { body, message: Vec::new(), behind: Vec::new() })
    }

    /// The message that was read.
    fn message(&self) -> &[u8] {
        self.message.get(HEAD_BYTES..).unwrap_or_default()
    }

    /// Reads the next message. `false`: there is none, the call ended, and well.
    async fn read(&mut self, url: &str, within: Duration) -> Result<bool, Error> {
        self.message.clear();
        let used = gather(url, &mut self.message, &self.behind)?;
        self.behind.drain(..used);
        while !is_whole(&self.message) {
            let failed = |failure| Error::Http(http::Error { url: url.to_owned(), failure });
            match self.body.next(within).await.map_err(failed)? {
                Part::Data(data) => {
                    let used = gather(url, &mut self.message, data)?;
                    self.behind.extend_from_slice(&data[used..]);
                }
                Part::End(trailers) => {
                    // A connection that ends, even in order, is not an outcome.
                    outcome(url, &trailers)?;
                    return match self.message.is_empty() {
                        true => Ok(false),
                        false => Err(not_etcd(url, "its last message is cut")),
                    };
                }
            }
        }
        Ok(true)
    }
}

/// The length of a message with its head, once that is here.
fn length(message: &[u8]) -> Option<usize> {
    let [_, length @ ..] = message.first_chunk::<HEAD_BYTES>()?;
    Some(HEAD_BYTES + u32::from_be_bytes(*length) as usize)
}

fn is_whole(message: &[u8]) -> bool {
    length(message) == Some(message.len())
}

/// Adds what belongs to the message; returns how much that was.
fn gather(url: &str, message: &mut Vec<u8>, data: &[u8]) -> Result<usize, Error> {
    let mut used = 0;
    while used < data.len() && !is_whole(message) {
        let wanted = length(message).unwrap_or(HEAD_BYTES);
        let taken = (wanted - message.len()).min(data.len() - used);
        message.extend_from_slice(&data[used..used + taken]);
        used += taken;
        match length(message) {
            Some(_) if message[0] != 0 => {
                return Err(not_etcd(url, "a message is compressed, which was not asked for"));
            }
            Some(length) if length > LONGEST_MESSAGE => {
                return Err(not_etcd(url, &format!("a message has {length} bytes")));
            }
            _ => {}
        }
    }
    Ok(used)
}

/// How a call ended: `grpc-status`, and in words, percent-encoded, `grpc-message`.
fn outcome(url: &str, trailers: &[Header]) -> Result<(), Error> {
    let status = value(trailers, "grpc-status").and_then(|text| std::str::from_utf8(text).ok()?.parse::<i64>().ok());
    match status {
        Some(0) => Ok(()),
        Some(code) => {
            let words = value(trailers, "grpc-message").unwrap_or_default();
            let words = percent_encoding::percent_decode(words).decode_utf8_lossy();
            let message = words.chars().take(LONGEST_WORDS).collect();
            Err(Error::Api { url: url.to_owned(), code, message })
        }
        None => Err(not_etcd(url, "its answer has no grpc-status")),
    }
}

fn not_etcd(url: &str, cause: &str) -> Error {
    Error::NotEtcd { url: url.to_owned(), cause: cause.to_owned() }
}

#[cfg(test)]
mod tests {
    use super::scripted::{Answer, Scripted, hash};
    use super::*;
    use crate::net::tls::{self, Trust};

    const LONG: Duration = Duration::from_secs(60);

    fn run<T>(work: impl Future<Output = T>) -> T {
        tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(work)
    }

    fn client() -> Client {
        let http = http::Client::new(Trust::new(tls::Believed::Anybody, None, tls::Names::default()));
        Client::new(http.clone(), http, None)
    }

    #[test]
    fn a_hash_comes_with_its_revisions() {
        run(async {
            let member = Scripted::start(Answer::refusal(12, "unknown"), hash(99, 300, 17)).await;
            let found = client().grpc_hash_kv(&member.url, Some(300), LONG).await.unwrap();
            let expected = HashKv {
                cluster: ClusterId(0xc1),
                member: MemberId(0xa1),
                hash: 99,
                revision: 300,
                compact_revision: 17,
            };
            assert_eq!(found, expected);
        });
    }

    #[test]
    fn etcds_refusal_has_its_code_and_its_words() {
        run(async {
            let member = Scripted::start(Answer::refusal(12, "rpc not supported%3A learner"), hash(99, 300, 17)).await;
            let error = client().snapshot(&member.url, LONG).await.unwrap_err();
            assert!(
                matches!(&error, Error::Api { code: 12, message, .. } if message == "rpc not supported: learner"),
                "{error}"
            );
            let member = Scripted::start(Answer::refusal(3, "etcdserver: user name is empty"), hash(99, 300, 17)).await;
            let error = client().snapshot(&member.url, LONG).await.unwrap_err();
            assert!(error.to_string().contains("set MUSTER_ETCD_USER"), "{error}");
        });
    }

    /// However a body is cut into parts: each message is whole, and none has a byte of another.
    #[test]
    fn messages_are_put_together_from_any_parts() {
        let sent: Vec<Vec<u8>> = [0, 1, 5, 300, 70_000].iter().map(|&length| vec![length as u8; length]).collect();
        let wire: Vec<u8> = sent.iter().flat_map(|m| [&[0][..], &(m.len() as u32).to_be_bytes(), m].concat()).collect();
        for step in [1, 2, 5, 6, 7, 299, 4096, wire.len()] {
            let (mut found, mut message) = (Vec::new(), Vec::new());
            for part in wire.chunks(step) {
                let mut at = 0;
                while at < part.len() {
                    at += gather("", &mut message, &part[at..]).unwrap();
                    if is_whole(&message) {
                        found.push(message.split_off(HEAD_BYTES));
                        message.clear();
                    }
                }
            }
            assert!(found == sent, "by {step}");
        }
        for bad in [&[1, 0, 0, 0, 0][..], &[0, 0xff, 0, 0, 0]] {
            assert!(gather("", &mut Vec::new(), bad).is_err(), "{bad:?}");
        }
    }
}
