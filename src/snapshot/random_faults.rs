//! A bucket and its writers under random faults, by seed. The store itself judges each write: a manifest never comes to lie over data that is not
//! its own, and no deletion takes what retention must keep.
//!
//! `SNAPSHOT_SEEDS=2000 cargo test --locked --lib snapshot::random_faults` runs as many; `SNAPSHOT_SEED=N` runs one.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use aws_credential_types::Credentials;
use aws_lc_rs::digest::{SHA256, digest};
use http_body_util::{BodyExt, Full};
use hyper::body::{Bytes, Incoming};
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use tokio::net::TcpListener;
use tokio::sync::Notify;
use tokio::task::JoinSet;

use super::catalog;
use super::place::{Place, s3};
use super::store::{Proof, prune, store, verify};
use super::take::{self, Order, Taken, take};
use crate::aws::credentials::{self, Provider};
use crate::aws::imds::Imds;
use crate::aws::partition::Region;
use crate::aws::s3::bucket::{Bucket, Options, PartSizes, Patience};
use crate::aws::s3::{Endpoint, S3};
use crate::aws::signing_client::SigningClient;
use crate::aws::sts::Sts;
use crate::core::snapshot::manifest::{Manifest, Reason};
use crate::core::snapshot::name::{Kind, Name};
use crate::core::snapshot::retention::{FLOOR, Keep, Question, plan};
use crate::core::types::ClusterId;
use crate::etcd::backend::sample;
use crate::etcd::client::Client;
use crate::etcd::grpc::scripted::{self, Answer};
use crate::net::http;
use crate::net::tls::{self, Trust};
use crate::util::clock;
use crate::util::file_stream::md5_of;
use crate::util::scratch::Scratch;
use crate::util::words::hex;

const PREFIX: &str = "snap";
const FOREIGN: [&str; 3] =
    ["snap/readme.txt", "snap/00000000000000c2/00000000000000000001-00000000000000000001-i-9.db", "other/x.json"];
/// As [`scripted`] has it.
const CLUSTER: ClusterId = ClusterId(0xc1);
const SEEDS: u64 = 50;
const AT_ONCE: usize = 50;

/// SplitMix64.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut bits = self.0;
        bits = (bits ^ (bits >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        bits = (bits ^ (bits >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        bits ^ (bits >> 31)
    }

    fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound
    }

    fn one_in(&mut self, many: u64) -> bool {
        self.below(many) == 0
    }
}

/// What a store is like for the whole of a run.
#[derive(Clone, Copy, Debug)]
struct Ways {
    ignores_conditions: bool,
    drops_metadata: bool,
    forbids_deletion: bool,
    /// One in so many requests fails; 0: none.
    fault_in: u64,
}

struct Store {
    objects: BTreeMap<String, Vec<u8>>,
    /// Parts of uploads, by upload and number.
    parts: BTreeMap<(u64, usize), Vec<u8>>,
    uploads: u64,
    sha256: BTreeMap<String, String>,
    /// Data that the store damaged by itself, at its full length.
    rotten: BTreeSet<String>,
    /// Verified ones whose manifest the store itself cut when it was to be marked again: whoever had read it before could not know.
    lost: BTreeSet<Name>,
    random: Random,
    ways: Ways,
    /// The writer ends at this request.
    kill_in: Option<u64>,
    kill: Arc<Notify>,
    breaches: Vec<String>,
    deleted: usize,
    /// What was written and deleted.
    log: Vec<String>,
}

enum Outcome {
    Answer(u16, Vec<(&'static str, String)>, Vec<u8>),
    /// The connection ends.
    Lost,
}

fn refused(status: u16, code: &str) -> Outcome {
    Outcome::Answer(status, Vec::new(), format!("<Error><Code>{code}</Code><Message>m</Message></Error>").into_bytes())
}

fn sha256_of(bytes: &[u8]) -> String {
    hex(digest(&SHA256, bytes).as_ref())
}

fn etag(bytes: &[u8]) -> String {
    format!("\"{}\"", hex(&md5_of(bytes)))
}

fn decoded(text: &str) -> String {
    percent_encoding::percent_decode_str(text).decode_utf8_lossy().into_owned()
}

fn ours(key: &str) -> Option<(Name, Kind)> {
    Name::of_key(key.strip_prefix(PREFIX)?.strip_prefix('/')?)
}

struct Asked {
    method: String,
    key: String,
    query: String,
    condition: Option<(bool, String)>,
    sha256: Option<String>,
    body: Vec<u8>,
}

impl Asked {
    fn parameter(&self, name: &str) -> Option<String> {
        self.query.split('&').find_map(|pair| Some(decoded(pair.strip_prefix(name)?.strip_prefix('=')?)))
    }
}

impl Store {
    fn serve(&mut self, asked: Asked) -> Outcome {
        if let Some(left) = self.kill_in.as_mut() {
            *left = left.saturating_sub(1);
            if *left == 0 {
                self.kill_in = None;
                self.kill.notify_one();
                // What was under way arrives, or does not.
                if self.random.one_in(2) {
                    self.done(asked);
                }
                return Outcome::Lost;
            }
        }
        if self.ways.fault_in == 0 || !self.random.one_in(self.ways.fault_in) {
            return self.done(asked);
        }
        match self.random.below(8) {
            0 => refused(503, "SlowDown"),
            1 => refused(500, "InternalError"),
            2 => Outcome::Lost,
            3 => {
                self.done(asked);
                Outcome::Lost
            }
            4 if asked.method == "PUT" => refused(409, "ConditionalRequestConflict"),
            5 if asked.method == "PUT" && asked.body.len() > 1 => {
                // A store that keeps less than it accepts.
                let cut = self.random.below(asked.body.len() as u64) as usize;
                self.lost.extend(self.proved().into_keys().filter(|name| asked.key.ends_with(&name.manifest_key())));
                self.done(Asked { body: asked.body[..cut].to_vec(), ..asked })
            }
            6 if asked.method == "PUT" && asked.key.ends_with(".db") && asked.query.is_empty() => {
                let (key, mut body) = (asked.key.clone(), asked.body.clone());
                let at = self.random.below(body.len() as u64) as usize;
                body[at] ^= 1;
                let before = etag(&asked.body);
                match self.done(Asked { body, ..asked }) {
                    Outcome::Answer(200, ..) => {
                        self.rotten.insert(key);
                        Outcome::Answer(200, vec![("etag", before)], Vec::new())
                    }
                    other => other,
                }
            }
            7 if asked.method == "GET" && asked.query.contains("list-type") => {
                // A list that leaves out what is newest, and says that it is whole.
                let held = self.objects.clone();
                let keep = self.random.below(held.len() as u64 + 1) as usize;
                self.objects = held.iter().take(keep).map(|(key, body)| (key.clone(), body.clone())).collect();
                let answer = self.done(asked);
                self.objects = held;
                answer
            }
            7 if asked.method == "POST" && asked.query.starts_with("uploadId") => refused(200, "InternalError"),
            _ => refused(503, "SlowDown"),
        }
    }

    fn done(&mut self, asked: Asked) -> Outcome {
        let held = self.objects.get(&asked.key);
        let empty = |status| Outcome::Answer(status, Vec::new(), Vec::new());
        let fails = match (&asked.condition, held) {
            _ if self.ways.ignores_conditions => false,
            (None, _) => false,
            (Some((false, _)), held) => held.is_some(),
            (Some((true, tag)), Some(held)) => etag(held) != *tag,
            (Some((true, _)), None) => true,
        };
        match asked.method.as_str() {
            "GET" if asked.parameter("list-type").is_some() => self.list(&asked),
            "GET" | "HEAD" => match held {
                Some(body) => {
                    let mut headers = vec![("etag", etag(body))];
                    if let Some(sha256) = self.sha256.get(&asked.key).filter(|_| !self.ways.drops_metadata) {
                        headers.push(("x-amz-meta-sha256", sha256.clone()));
                    }
                    Outcome::Answer(200, headers, body.clone())
                }
                None => refused(404, "NoSuchKey"),
            },
            "PUT" if asked.parameter("partNumber").is_some() => {
                let number = asked.parameter("partNumber").and_then(|text| text.parse().ok()).unwrap_or_default();
                let upload = asked.parameter("uploadId").and_then(|text| text.parse().ok()).unwrap_or_default();
                let tag = etag(&asked.body);
                self.parts.insert((upload, number), asked.body);
                Outcome::Answer(200, vec![("etag", tag)], Vec::new())
            }
            "POST" if asked.parameter("uploads").is_some() => {
                self.uploads += 1;
                let id = self.uploads;
                if let Some(sha256) = asked.sha256 {
                    self.sha256.insert(format!("upload {id}"), sha256);
                }
                let text =
                    format!("<InitiateMultipartUploadResult><UploadId>{id}</UploadId></InitiateMultipartUploadResult>");
                Outcome::Answer(200, Vec::new(), text.into_bytes())
            }
            "POST" => {
                let upload: u64 = asked.parameter("uploadId").and_then(|text| text.parse().ok()).unwrap_or_default();
                if fails {
                    return refused(412, "PreconditionFailed");
                }
                let keys: Vec<_> = self.parts.keys().filter(|(id, _)| *id == upload).copied().collect();
                if keys.is_empty() {
                    return refused(404, "NoSuchUpload");
                }
                let body: Vec<u8> = keys.iter().filter_map(|key| self.parts.remove(key)).flatten().collect();
                let sha256 = self.sha256.remove(&format!("upload {upload}"));
                self.put(&asked.key, body, sha256);
                let text = "<CompleteMultipartUploadResult><Key>k</Key></CompleteMultipartUploadResult>";
                Outcome::Answer(200, Vec::new(), text.as_bytes().to_vec())
            }
            "PUT" if fails => refused(412, "PreconditionFailed"),
            "PUT" => {
                self.note(&asked);
                let tag = etag(&asked.body);
                self.put(&asked.key, asked.body, asked.sha256);
                Outcome::Answer(200, vec![("etag", tag)], Vec::new())
            }
            "DELETE" if asked.parameter("uploadId").is_some() => {
                let upload: u64 = asked.parameter("uploadId").and_then(|text| text.parse().ok()).unwrap_or_default();
                self.parts.retain(|(id, _), _| *id != upload);
                empty(204)
            }
            "DELETE" if self.ways.forbids_deletion => refused(403, "AccessDenied"),
            "DELETE" => {
                self.note(&asked);
                self.judge_deletion(&asked.key);
                self.objects.remove(&asked.key);
                empty(204)
            }
            _ => refused(405, "MethodNotAllowed"),
        }
    }

    fn note(&mut self, asked: &Asked) {
        let manifest = ours(&asked.key).and_then(|(name, _)| catalog::parse(&asked.body, &name).ok());
        let what = manifest.map(|m| format!("{} {} verified {}", m.reason.name(), m.taken_at, m.verified.is_some()));
        self.log.push(format!("{} {} {}", asked.method, asked.key, what.unwrap_or_default()));
    }

    fn list(&self, asked: &Asked) -> Outcome {
        let prefix = asked.parameter("prefix").unwrap_or_default();
        let after = asked.parameter("continuation-token").unwrap_or_default();
        let keys: Vec<_> = self.objects.iter().filter(|(key, _)| key.starts_with(&prefix) && **key > after).collect();
        let mut text = "<ListBucketResult>".to_owned();
        for (key, body) in keys.iter().take(7) {
            text.push_str(&format!("<Contents><Key>{key}</Key><Size>{}</Size></Contents>", body.len()));
        }
        match keys.get(6).filter(|_| keys.len() > 7) {
            Some((last, _)) => text.push_str(&format!(
                "<IsTruncated>true</IsTruncated><NextContinuationToken>{last}</NextContinuationToken>"
            )),
            None => text.push_str("<IsTruncated>false</IsTruncated>"),
        }
        Outcome::Answer(200, Vec::new(), (text + "</ListBucketResult>").into_bytes())
    }

    fn put(&mut self, key: &str, body: Vec<u8>, sha256: Option<String>) {
        match ours(key) {
            Some((name, Kind::Data)) => {
                let manifest = self.objects.get(&format!("{PREFIX}/{}", name.manifest_key()));
                if manifest.is_some() && self.objects.get(key) != Some(&body) {
                    self.breaches.push(format!("{key}: a manifest vouches for it, and it is overwritten"));
                }
                self.rotten.remove(key);
            }
            Some((name, Kind::Manifest)) => self.judge_manifest(&name, &body),
            None => self.breaches.push(format!("{key}: is written and has no name of ours")),
        }
        self.sha256.remove(key);
        if let Some(sha256) = sha256 {
            self.sha256.insert(key.to_owned(), sha256);
        }
        self.objects.insert(key.to_owned(), body);
    }

    fn judge_manifest(&mut self, name: &Name, body: &[u8]) {
        // (One that the store cuts is not understood, and so is no manifest.)
        let Ok(manifest) = catalog::parse(body, name) else { return };
        let key = format!("{PREFIX}/{}", name.data_key());
        let data = self.objects.get(&key);
        let is_whole =
            data.is_some_and(|data| data.len() as u64 == manifest.size && sha256_of(data) == manifest.sha256);
        let is_unnoticed = self.rotten.contains(&key) && manifest.verified.is_none();
        if !is_whole && !is_unnoticed {
            let found = data.map(Vec::len);
            self.breaches.push(format!("{name}: a manifest over other data ({found:?} bytes): {manifest:?}"));
        }
    }

    /// Those that are verified and whole.
    fn proved(&self) -> BTreeMap<Name, Manifest> {
        let manifests = self.objects.iter().filter_map(|(key, body)| {
            let (name, _) = ours(key).filter(|(_, kind)| *kind == Kind::Manifest)?;
            let manifest = catalog::parse(body, &name).ok()?;
            let data = self.objects.get(&format!("{PREFIX}/{}", name.data_key()))?;
            let is_whole = sha256_of(data) == manifest.sha256;
            (name.cluster == CLUSTER && manifest.verified.is_some() && is_whole).then_some((name, manifest))
        });
        manifests.collect()
    }

    fn judge_deletion(&mut self, key: &str) {
        self.deleted += 1;
        let breach = match ours(key) {
            None => Some("has no name of ours".to_owned()),
            Some((name, _)) if name.cluster != CLUSTER => Some("is another cluster's".to_owned()),
            Some((name, Kind::Data)) => {
                let is_vouched_for = self.objects.contains_key(&format!("{PREFIX}/{}", name.manifest_key()));
                is_vouched_for.then(|| "has a manifest".to_owned())
            }
            Some((name, Kind::Manifest)) => {
                let manifest = self.objects.get(key).and_then(|body| catalog::parse(body, &name).ok());
                // (Gone already: deleted twice.)
                let Some(manifest) = manifest else { return };
                let proved: BTreeSet<Name> = self.proved().into_keys().chain(self.lost.iter().cloned()).collect();
                let newer = proved.into_iter().filter(|proved| *proved > name).count();
                match manifest.reason {
                    Reason::Scheduled => (newer < FLOOR).then(|| format!("has {newer} newer ones that are verified")),
                    reason => Some(format!("was taken {}", reason.name())),
                }
            }
        };
        self.breaches.extend(breach.map(|why| format!("{key}: is deleted and {why}")));
    }
}

async fn answer(request: Request<Incoming>, store: Arc<Mutex<Store>>) -> io::Result<Response<Full<Bytes>>> {
    let (head, body) = request.into_parts();
    // A body that breaks off is no request.
    let body = body.collect().await.map_err(io::Error::other)?.to_bytes().to_vec();
    let header = |name: &str| head.headers.get(name).and_then(|value| Some(value.to_str().ok()?.to_owned()));
    let condition = header("if-none-match").map(|tag| (false, tag)).or(header("if-match").map(|tag| (true, tag)));
    // Some quote it, and some don't.
    let condition = condition.map(|(is_match, tag)| (is_match, format!("\"{}\"", tag.trim_matches('"'))));
    let asked = Asked {
        method: head.method.to_string(),
        key: decoded(head.uri.path().trim_start_matches("/b/")),
        query: head.uri.query().unwrap_or_default().to_owned(),
        condition,
        sha256: header("x-amz-meta-sha256"),
        body,
    };
    let outcome = store.lock().unwrap().serve(asked);
    match outcome {
        Outcome::Lost => Err(io::Error::other("lost")),
        Outcome::Answer(status, headers, body) => {
            let builder = headers.into_iter().fold(Response::builder().status(status), |b, (n, v)| b.header(n, v));
            builder.body(Full::from(body)).map_err(io::Error::other)
        }
    }
}

async fn start(store: &Arc<Mutex<Store>>) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let store = store.clone();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let store = store.clone();
            let serve = service_fn(move |request| answer(request, store.clone()));
            let connection = hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), serve);
            tokio::spawn(async move { _ = connection.await });
        }
    });
    url
}

/// A supervisor, or somebody's `snapshot save`.
#[derive(Clone)]
struct Writer {
    instance: String,
    place: Arc<Place>,
    /// Of its host.
    spool: std::path::PathBuf,
}

impl Writer {
    fn new(instance: &str, url: &str, spool: &Scratch, options: Options) -> Self {
        let http = http::Client::new(Trust::public(None));
        let source = credentials::Source::Static(Credentials::new("key", "secret", None, None, "test"));
        let provider = Provider::new(source, Arc::new(Imds::new(http.clone(), url)), http.clone(), Sts::at(&http, url));
        let caller = SigningClient::new(http, Region::named("eu-west-1"), provider, Default::default());
        let bucket = Bucket::new(S3::new(Arc::new(caller), Endpoint::Given(url.to_owned())), "b".to_owned(), options);
        let place = Arc::new(Place::S3(Box::new(s3::Prefix::new(bucket, PREFIX))));
        Self { instance: instance.to_owned(), place, spool: spool.path().to_owned() }
    }

    /// etcd itself has no faults here; but a busy machine may let it seem mute for as long as is waited for it.
    async fn take(&self, revision: u64, index: u64, more: u64) -> Taken {
        loop {
            if let Some(taken) = self.try_to_take(revision, index, more).await {
                return taken;
            }
        }
    }

    async fn try_to_take(&self, revision: u64, index: u64, more: u64) -> Option<Taken> {
        let more = (9..9 + more).map(|id| sample::page(id, 0x10, 0));
        let database = sample::snapshot_at(revision, index).into_iter().chain(more).collect::<Vec<_>>().concat();
        let pieces = [(0, database.clone()), (0, digest(&SHA256, &database).as_ref().to_vec())];
        let member = scripted::Scripted::start(Answer::snapshot(&pieces), scripted::hash(99, revision, 17)).await;
        let http = http::Client::new(Trust::new(tls::Believed::Anybody, None, tls::Names::default()));
        let client = Client::new(http.clone(), http, None);
        let (spool, instance) = (self.spool.as_path(), Some(self.instance.as_str()));
        let order = Order { client: &client, url: &member.url, instance, spool, key: None, through_quorum: true };
        match take(&order, &|_, _| {}).await {
            Ok(taken) => Some(taken),
            Err(take::Error::Etcd(_)) => None,
            Err(error) => panic!("{error}"),
        }
    }

    /// As the keeper does it: stores, proves, and deletes what may be deleted.
    async fn bring(&self, taken: Taken, reason: Reason, taken_at: Option<String>, keep: Keep) -> bool {
        let mut manifest = taken.manifest(reason, None);
        manifest.taken_at = taken_at.unwrap_or(manifest.taken_at);
        if store(&self.place, &taken, manifest, &|_| {}).await.is_err() {
            return false;
        }
        let proof = Proof { spool: &self.spool, key: None, by: &self.instance, trial: None };
        if verify(&self.place, &taken.name, proof, &|_| {}).await.is_err() {
            return false;
        }
        let folder = Name::folder(CLUSTER);
        let Ok(objects) = catalog::read(&self.place, &folder, Some(CLUSTER)).await else { return true };
        let question = Question {
            listing: Ok(&objects),
            cluster: CLUSTER,
            seeds: &BTreeSet::new(),
            keep,
            latest: Ok(taken.name.clone()),
            idle_writer: None,
        };
        prune(&self.place, &plan(&question)).await;
        true
    }
}

/// One run; what went wrong in it.
async fn run(seed: u64) -> Vec<String> {
    let mut random = Random(seed);
    let ways = Ways {
        ignores_conditions: random.one_in(4),
        drops_metadata: random.one_in(3),
        forbids_deletion: random.one_in(6),
        fault_in: [0, 40, 12, 5][random.below(4) as usize],
    };
    let kill = Arc::new(Notify::new());
    let store = Arc::new(Mutex::new(Store {
        objects: FOREIGN.iter().map(|key| ((*key).to_owned(), b"foreign".to_vec())).collect(),
        parts: BTreeMap::new(),
        uploads: 0,
        sha256: BTreeMap::new(),
        rotten: BTreeSet::new(),
        lost: BTreeSet::new(),
        random: Random(random.next()),
        ways,
        kill_in: None,
        kill: kill.clone(),
        breaches: Vec::new(),
        deleted: 0,
        log: Vec::new(),
    }));
    let url = start(&store).await;
    let millis = Duration::from_millis;
    let patience =
        Patience { stall: Duration::from_secs(20), attempts: 3, first_pause: millis(1), longest_pause: millis(2) };
    let part_sizes = if random.one_in(3) { PartSizes { from: 1, part: 20_000 } } else { PartSizes::default() };
    let options = Options { patience, part_sizes, ..Options::default() };
    let scratch = [Scratch::make(), Scratch::make()];
    let writers = [0, 1].map(|at| Writer::new(&format!("i-{at}"), &url, &scratch[at], options.clone()));
    let (mut revision, mut index) = ([97, 998, 9_998][random.below(3) as usize], 9);
    let keep = Keep { hours: random.below(3) as usize, days: 0, weeks: 0 };
    let mut late: Option<(usize, Taken)> = None;
    for _ in 0..7 {
        // Nothing changed, users changed, or keys did.
        match random.below(4) {
            0 => {}
            1 => index += 1,
            _ => (revision, index) = (revision + 1, index + 1 + random.below(3)),
        }
        let reason = |random: &mut Random| if random.one_in(5) { Reason::ByHand } else { Reason::Scheduled };
        // Clocks jump by days.
        let taken_at = match random.below(4) {
            0 => Some(clock::rfc3339(clock::epoch() + random.below(2_000_000) as i64 - 1_000_000)),
            _ => None,
        };
        let at = random.below(2) as usize;
        let taken = writers[at].take(revision, index, random.below(8)).await;
        if random.one_in(6) && late.is_none() {
            // This writer pauses, and goes on much later.
            late = Some((at, taken));
            continue;
        }
        let first = writers[at].bring(taken, reason(&mut random), taken_at, keep);
        // (Where a store ignores conditions, who marks a manifest may bring it back that another deletes at that moment. It has no data
        // then, and so counts for nothing.)
        if random.one_in(2) && !ways.ignores_conditions {
            // Of another member, or by hand on the same host.
            let other = random.below(2) as usize;
            let taken = writers[other].take(revision, index, random.below(8)).await;
            let second = writers[other].bring(taken, reason(&mut random), None, keep);
            tokio::join!(first, second);
        } else if random.one_in(2) {
            store.lock().unwrap().kill_in = Some(1 + random.below(20));
            tokio::select! { _ = first => {}, () = kill.notified() => {} }
            store.lock().unwrap().kill_in = None;
        } else {
            first.await;
        }
        if random.one_in(4)
            && let Some((at, taken)) = late.take()
        {
            writers[at].bring(taken, Reason::Scheduled, None, keep).await;
        }
    }
    // Once faults stop, the next one is stored and proved.
    store.lock().unwrap().ways.fault_in = 0;
    let (mut name, mut ended_well) = (None, false);
    for attempt in 1..=3 {
        let taken = writers[0].take(revision + attempt, index + attempt, 0).await;
        name = Some(taken.name.clone());
        ended_well = writers[0].bring(taken, Reason::Scheduled, None, keep).await;
        if ended_well {
            break;
        }
    }
    let mut store = store.lock().unwrap();
    if !ended_well || name.is_none_or(|name| !store.proved().contains_key(&name)) {
        store.breaches.push("no fault is left, and the next one is not there or not verified".to_owned());
    }
    for key in FOREIGN {
        if store.objects.get(key).is_none_or(|body| body != b"foreign") {
            store.breaches.push(format!("{key}: is not ours and was touched"));
        }
    }
    let (ways, deleted) = (store.ways, store.deleted);
    if !store.breaches.is_empty() {
        let log = store.log.join("\n");
        store.breaches.push(format!("what was written and deleted:\n{log}"));
    }
    store.breaches.iter().map(|breach| format!("seed {seed} ({ways:?}, {deleted} deleted): {breach}")).collect()
}

#[test]
#[expect(clippy::disallowed_methods, reason = "how many runs, and which")]
fn nothing_bad_is_vouched_for_and_nothing_needed_is_deleted() {
    let number = |name: &str| std::env::var(name).ok().and_then(|text| text.parse::<u64>().ok());
    let seeds = match number("SNAPSHOT_SEED") {
        Some(seed) => seed..seed + 1,
        None => 0..number("SNAPSHOT_SEEDS").unwrap_or(SEEDS),
    };
    // Each runtime ends with the servers and connections of its runs.
    let mut left = seeds;
    while !left.is_empty() {
        let some: Vec<u64> = left.by_ref().take(AT_ONCE).collect();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let breaches = tokio::task::LocalSet::new().block_on(&runtime, async {
            let (mut running, mut breaches) = (JoinSet::new(), Vec::new());
            some.iter().for_each(|seed| _ = running.spawn_local(run(*seed)));
            while let Some(found) = running.join_next().await {
                breaches.extend(found.unwrap());
            }
            breaches
        });
        assert!(breaches.is_empty(), "{}", breaches.join("\n"));
        eprintln!("seeds {} to {}: nothing", some[0], some[some.len() - 1]);
    }
}
