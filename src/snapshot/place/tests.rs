//! A bucket with the ways and faults of real stores, and directories with theirs.

use std::collections::BTreeMap;
use std::os::unix::fs::PermissionsExt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use aws_credential_types::Credentials;

use super::*;
use crate::aws::credentials::{self, Provider};
use crate::aws::imds::Imds;
use crate::aws::partition::Region;
use crate::aws::s3::bucket::{Bucket, CustomerKey, Encryption, Options, PartSizes, Patience};
use crate::aws::s3::{Endpoint, S3};
use crate::aws::signing_client::SigningClient;
use crate::aws::sts::Sts;
use crate::core::types::ClusterId;
use crate::net::http::Client;
use crate::net::scripted::{Reply, Scripted};
use crate::net::tls::Trust;
use crate::util::file_stream::md5_of;
use crate::util::meter::ApiCounters;
use crate::util::scratch::Scratch;
use crate::util::words::hex;

/// What a store does at a request, instead of what it should.
type Fault = Box<dyn Fn(&str, usize, &mut Objects) -> Option<Reply> + Send + Sync>;
type Objects = BTreeMap<String, String>;

/// A store and a place in it.
struct Lab {
    store: Scripted,
    objects: Arc<Mutex<Objects>>,
    place: Place,
    scratch: Scratch,
}

fn ours(_: &str, _: usize, _: &mut Objects) -> Option<Reply> {
    None
}

fn error(status: u16, code: &str) -> Reply {
    Reply::Answer(status, format!("<Error><Code>{code}</Code><Message>m</Message></Error>"))
}

fn sha256(text: &str) -> [u8; 32] {
    aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, text.as_bytes()).as_ref().try_into().unwrap()
}

fn tag(body: &str) -> (&'static str, String) {
    ("etag", format!("\"{}\"", hex(&md5_of(body.as_bytes()))))
}

/// As S3 does it, without metadata: whether a file is there already shows by its ETag.
fn answer(line: &str, objects: &mut Objects) -> Reply {
    let (method, rest) = line.split_once(' ').unwrap();
    let (target, body) = rest.split_once(' ').unwrap_or((rest, ""));
    let (condition, body) = match body.split_once(' ') {
        Some((condition, body)) if condition.starts_with("if-") => (condition, body),
        None if body.starts_with("if-") => (body, ""),
        _ => ("", body),
    };
    let (path, query) = target.split_once('?').unwrap_or((target, ""));
    let key = percent_encoding::percent_decode_str(path.trim_start_matches("/b/")).decode_utf8().unwrap().into_owned();
    let held = objects.get(&key).cloned();
    match (method, query) {
        ("GET", query) if query.starts_with("list-type=2") => {
            let prefix = query.split("prefix=").nth(1).unwrap().split('&').next().unwrap();
            let prefix = percent_encoding::percent_decode_str(prefix).decode_utf8().unwrap().into_owned();
            let after = query.split("continuation-token=").nth(1).unwrap_or_default();
            let after = percent_encoding::percent_decode_str(after).decode_utf8().unwrap().into_owned();
            let keys = objects.iter().filter(|(key, _)| key.starts_with(&prefix) && **key > after);
            page(keys.map(|(key, body)| (key.clone(), body.len())), 2)
        }
        ("POST", "uploads=") => {
            Reply::ok("<InitiateMultipartUploadResult><UploadId>u/1</UploadId></InitiateMultipartUploadResult>")
        }
        ("PUT", query) if query.starts_with("partNumber=") => {
            let number = &query["partNumber=".len()..query.find('&').unwrap()];
            objects.insert(format!("part-{number}"), body.to_owned());
            Reply::With(200, vec![tag(body)], String::new())
        }
        ("POST", _) => {
            let parts = (1..).map_while(|number| objects.remove(&format!("part-{number}")));
            let whole = parts.collect::<String>();
            objects.insert(key, whole);
            Reply::ok("   <CompleteMultipartUploadResult><Key>k</Key></CompleteMultipartUploadResult>")
        }
        ("DELETE", query) if query.starts_with("uploadId=") => {
            objects.retain(|key, _| !key.starts_with("part-"));
            Reply::status(204)
        }
        ("PUT", _) => {
            let is_wrong = match (condition.split_once('='), &held) {
                (None, _) => false,
                (Some(("if-none-match", _)), held) => held.is_some(),
                (Some((_, version)), Some(held)) => hex(&md5_of(held.as_bytes())) != version,
                (Some(_), None) => true,
            };
            if is_wrong {
                return error(412, "PreconditionFailed");
            }
            objects.insert(key, body.to_owned());
            Reply::With(200, vec![tag(body)], String::new())
        }
        ("DELETE", _) => {
            objects.remove(&key);
            Reply::status(204)
        }
        (_, _) => match held {
            Some(body) => Reply::With(200, vec![tag(&body)], body),
            None => error(404, "NoSuchKey"),
        },
    }
}

/// A page of at most so many.
fn page(keys: impl Iterator<Item = (String, usize)>, most: usize) -> Reply {
    let keys: Vec<_> = keys.take(most + 1).collect();
    let mut text = "<ListBucketResult><EncodingType>url</EncodingType>".to_owned();
    for (key, size) in keys.iter().take(most) {
        let key = percent_encoding::utf8_percent_encode(key, percent_encoding::NON_ALPHANUMERIC);
        text.push_str(&format!("<Contents><Key>{key}</Key><Size>{size}</Size><Owner><ID>x</ID></Owner></Contents>"));
    }
    match keys.len() > most {
        true => text.push_str(&format!(
            "<IsTruncated>true</IsTruncated><NextContinuationToken>{}</NextContinuationToken>",
            keys[most - 1].0
        )),
        false => text.push_str("<IsTruncated>false</IsTruncated>"),
    }
    Reply::ok(&(text + "</ListBucketResult>"))
}

fn options() -> Options {
    let (first_pause, longest_pause) = (Duration::from_millis(1), Duration::from_millis(2));
    let stall = Duration::from_secs(20);
    Options { patience: Patience { stall, attempts: 4, first_pause, longest_pause }, ..Options::default() }
}

fn bucket(url: &str, options: Options) -> Bucket {
    let http = Client::new(Trust::public(None));
    let source = credentials::Source::Static(Credentials::new("key", "secret", None, None, "test"));
    let provider = Provider::new(source, Arc::new(Imds::new(http.clone(), url)), http.clone(), Sts::at(&http, url));
    let caller = SigningClient::new(http, Region::named("eu-west-1"), provider, ApiCounters::default());
    Bucket::new(S3::new(Arc::new(caller), Endpoint::Given(url.to_owned())), "b".to_owned(), options)
}

async fn lab_with(options: Options, fault: Fault) -> Lab {
    let objects = Arc::<Mutex<Objects>>::default();
    let held = objects.clone();
    let store = Scripted::start(move |line, before| {
        let mut objects = held.lock().unwrap();
        fault(line, before, &mut objects).unwrap_or_else(|| answer(line, &mut objects))
    })
    .await;
    let place = Place::S3(Box::new(s3::Prefix::new(bucket(&store.url, options), "/snap shots/")));
    Lab { store, objects, place, scratch: Scratch::make() }
}

async fn lab(fault: impl Fn(&str, usize, &mut Objects) -> Option<Reply> + Send + Sync + 'static) -> Lab {
    lab_with(options(), Box::new(fault)).await
}

fn name() -> Name {
    Name::new(ClusterId(0xab), 7, 19, "i-0a")
}

/// The path of a key in a request.
fn at(key: &str) -> String {
    format!("/b/snap%20shots/{key}")
}

const DATA: &str = "etcd's-database";

impl Lab {
    fn spooled(&self, text: &str) -> Spooled {
        let path = self.scratch.write(&format!("spool-{}", text.len()), text);
        Spooled { path, size: text.len() as u64, sha256: sha256(text) }
    }

    async fn put(&self, text: &str) -> Result<Put, Error> {
        self.place.put_data(&name().data_key(), &self.spooled(text), &|_| {}).await
    }

    fn held(&self, key: &str) -> Option<String> {
        self.objects.lock().unwrap().get(&format!("snap shots/{key}")).cloned()
    }

    fn hold(&self, key: &str, body: &str) {
        self.objects.lock().unwrap().insert(format!("snap shots/{key}"), body.to_owned());
    }
}

// Data in a bucket.

#[tokio::test]
async fn a_file_is_sent_with_its_digest_and_its_length_and_looked_at() {
    let lab = lab(ours).await;
    let sent = AtomicU64::new(0);
    let spooled = lab.spooled(DATA);
    let put = lab.place.put_data(&name().data_key(), &spooled, &|bytes| sent.store(bytes, Ordering::Relaxed)).await;
    assert!(!put.unwrap().was_there);
    assert_eq!((lab.held(&name().data_key()).as_deref(), sent.into_inner()), (Some(DATA), DATA.len() as u64));
    let put = format!("PUT {}", at(&name().data_key()));
    assert_eq!(lab.store.header(&put, "x-amz-content-sha256"), [hex(&sha256(DATA))]);
    assert_eq!(lab.store.header(&put, "x-amz-meta-sha256"), [hex(&sha256(DATA))]);
    assert_eq!(lab.store.header(&put, "content-length"), [DATA.len().to_string()]);
    assert_eq!(lab.store.header(&put, "if-none-match"), ["*"]);
    assert_eq!(lab.store.header(&put, "expect"), ["100-continue"]);
    assert_eq!(lab.store.header(&put, "transfer-encoding"), [""]);
    assert!(lab.store.asked().last().unwrap().starts_with("HEAD "));
    assert_eq!(lab.place.to_string(), "s3://b/snap shots");
}

#[tokio::test]
async fn a_file_of_many_pieces_arrives_as_it_is() {
    let lab = lab(ours).await;
    let text: String = (0..200_000).map(|number| format!("{number:x}.")).collect();
    lab.put(&text).await.unwrap();
    assert!(lab.held(&name().data_key()).unwrap() == text);
    let to = lab.scratch.path().join("fetched");
    let fetched = lab.place.fetch(&name().data_key(), &to, &|_| {}).await.unwrap();
    assert_eq!(fetched, Fetched { size: text.len() as u64, sha256: sha256(&text) });
    assert_eq!(std::fs::metadata(&to).unwrap().permissions().mode() & 0o777, 0o600);
    assert!(std::fs::read_to_string(&to).unwrap() == text);
    let again = lab.place.fetch(&name().data_key(), &to, &|_| {}).await.unwrap_err().to_string();
    assert!(again.contains("File exists") && std::fs::read_to_string(&to).unwrap() == text, "{again}");
}

#[tokio::test]
async fn a_lost_answer_is_found_out_and_the_file_is_not_sent_again() {
    let lost = |line: &str, before: usize, objects: &mut Objects| {
        (line.starts_with("PUT") && before == 0).then(|| {
            answer(line, objects);
            error(500, "InternalError")
        })
    };
    let lab = lab(lost).await;
    lab.put(DATA).await.unwrap();
    assert_eq!(lab.store.count("PUT"), 1);
}

#[tokio::test]
async fn what_fails_for_the_moment_is_sent_again_from_the_file() {
    for (status, code) in [(503, "SlowDown"), (500, "InternalError"), (400, "RequestTimeout")] {
        let lab =
            lab(move |line, before, _| (line.starts_with("PUT") && before < 3).then(|| error(status, code))).await;
        lab.put(DATA).await.unwrap();
        assert_eq!((lab.store.count("PUT"), lab.held(&name().data_key()).as_deref()), (4, Some(DATA)));
    }
    let lab = lab(|line, _, _| line.starts_with("PUT").then(|| error(503, "SlowDown"))).await;
    let said = lab.put(DATA).await.unwrap_err().to_string();
    assert!(said.starts_with("s3:PutObject of s3://b/snap shots/") && said.contains(": SlowDown (503"), "{said}");
    assert_eq!(lab.store.count("PUT"), 4);
}

#[tokio::test]
async fn half_a_file_of_our_own_is_replaced() {
    let cut = |line: &str, before: usize, objects: &mut Objects| {
        (line.starts_with("PUT") && before == 0).then(|| {
            answer(&line[..line.len() - 5], objects);
            error(500, "InternalError")
        })
    };
    let lab = lab(cut).await;
    lab.put(DATA).await.unwrap();
    assert_eq!(lab.held(&name().data_key()).as_deref(), Some(DATA));
}

#[tokio::test]
async fn a_store_that_keeps_less_than_it_accepts_is_found_out() {
    let truncates = |line: &str, _: usize, objects: &mut Objects| {
        line.starts_with("PUT").then(|| answer(&line[..line.len() - 5], objects))
    };
    let cut = lab(truncates).await;
    let error = cut.put(DATA).await.unwrap_err();
    assert_eq!(error.reason(), "store_fault");
    assert!(error.to_string().contains("15 bytes were stored and 10 are there"), "{error}");
    let keeps_nothing = |line: &str, _: usize, _: &mut Objects| line.starts_with("PUT").then(|| Reply::status(200));
    let nothing = lab(keeps_nothing).await.put(DATA).await.unwrap_err().to_string();
    assert!(nothing.contains("accepted it and does not have it"), "{nothing}");
    let other = |line: &str, _: usize, objects: &mut Objects| {
        line.starts_with("HEAD").then(|| match objects.is_empty() {
            true => error_of_head(),
            false => Reply::With(200, vec![tag("x"), ("x-amz-meta-sha256", hex(&sha256("x")))], "x".repeat(DATA.len())),
        })
    };
    let other = lab(other).await.put(DATA).await.unwrap_err();
    assert!(matches!(other, Error::Different { .. }), "{other}");
}

fn error_of_head() -> Reply {
    Reply::status(404)
}

#[tokio::test]
async fn what_a_manifest_vouches_for_is_never_overwritten_and_a_leftover_is() {
    let lab = lab(ours).await;
    lab.hold(&name().data_key(), "older");
    lab.hold(&name().manifest_key(), "{}");
    let error = lab.put(DATA).await.unwrap_err();
    assert!(matches!(error, Error::Taken { .. }), "{error}");
    assert_eq!((lab.store.count("PUT"), lab.held(&name().data_key()).as_deref()), (0, Some("older")));
    lab.objects.lock().unwrap().remove(&format!("snap shots/{}", name().manifest_key()));
    assert!(!lab.put(DATA).await.unwrap().was_there);
    assert_eq!(lab.held(&name().data_key()).as_deref(), Some(DATA));
    assert!(lab.put(DATA).await.unwrap().was_there);
    assert_eq!(lab.store.count("PUT"), 1, "what is there need not be sent");
}

#[tokio::test]
async fn rights_that_are_missing_are_named() {
    let denied =
        |method: &'static str| lab(move |line, _, _| line.starts_with(method).then(|| error(403, "AccessDenied")));
    let said = denied("PUT").await.put(DATA).await.unwrap_err();
    assert_eq!(said.reason(), "denied");
    let line = said.to_string();
    assert!(line.ends_with("must allow s3:PutObject on arn:aws:s3:::b/*") && !line.contains('\n'), "{line}");
    // To look is forbidden, to write is not.
    let blind = lab(|line, _, _| match &line[..3] {
        "HEA" => Some(Reply::status(403)),
        "GET" => Some(error(403, "AccessDenied")),
        _ => None,
    })
    .await;
    let said = blind.put(DATA).await.unwrap_err();
    assert!(matches!(said, Error::Unseen { .. }), "{said}");
    let line = said.to_string();
    assert!(
        line.contains("it is stored, but it can't be looked at") && line.contains("s3:GetObject on arn:aws:s3:::b/*")
    );
    // Without the right to list the store never says that there is none.
    let no_list = lab(|line, _, objects| {
        let path = line.split(' ').nth(1).unwrap().trim_start_matches("/b/");
        let key = percent_encoding::percent_decode_str(path).decode_utf8().unwrap();
        (!line.starts_with("PUT") && !objects.contains_key(&*key)).then(|| error(403, "AccessDenied"))
    });
    let no_list = no_list.await;
    no_list.put(DATA).await.unwrap();
    let key = name().manifest_key();
    assert_eq!(no_list.place.put_manifest(&key, "{}".into()).await.unwrap(), Written::New);
    assert_eq!(no_list.place.put_manifest(&key, "{1}".into()).await.unwrap(), Written::Exists);
    let unlisted = lab(|line, _, _| line.contains("list-type").then(|| error(403, "AccessDenied"))).await;
    let line = unlisted.place.list("").await.unwrap_err().to_string();
    assert!(line.ends_with("must allow s3:ListBucket on arn:aws:s3:::b"), "{line}");
    let locked = denied("DELETE").await;
    let Deleted::NotAllowed(line) = locked.place.delete(&name().data_key()).await.unwrap() else { panic!() };
    assert!(line.ends_with("must allow s3:DeleteObject on arn:aws:s3:::b/*"), "{line}");
}

#[tokio::test]
async fn a_store_elsewhere_or_another_bucket_is_said() {
    let elsewhere = Reply::Headed(
        301,
        ("x-amz-bucket-region", "us-east-1".to_owned()),
        "<Error><Code>PermanentRedirect</Code><Message>m</Message></Error>".to_owned(),
    );
    for (reply, words) in [
        (elsewhere, "; the store is in us-east-1: set AWS_REGION=us-east-1"),
        (error(404, "NoSuchBucket"), "; create the bucket b in this region"),
        (error(403, "InvalidAccessKeyId"), "; check the access key, or use the instance's role"),
        (error(403, "RequestTimeTooSkewed"), "; this host's clock is off by more than AWS allows, set it"),
    ] {
        let lab = lab(move |_, _, _| Some(reply.clone())).await;
        let said = lab.put(DATA).await.unwrap_err().to_string();
        assert!(said.ends_with(words), "{said}, not: {words}");
        assert_eq!(lab.store.count("PUT"), 0);
    }
}

#[tokio::test]
async fn a_store_that_knows_no_conditions_is_written_without() {
    let lab = lab(|line, _, _| line.contains("if-").then(|| error(501, "NotImplemented"))).await;
    lab.put(DATA).await.unwrap();
    assert_eq!(lab.place.put_manifest(&name().manifest_key(), "{}".into()).await.unwrap(), Written::New);
    assert_eq!(lab.place.put_manifest(&name().manifest_key(), "{1}".into()).await.unwrap(), Written::Exists);
    assert_eq!(lab.held(&name().manifest_key()).as_deref(), Some("{}"));
}

#[tokio::test]
async fn content_md5_is_sent_as_soon_as_it_is_asked_for() {
    let body = "<Error><Code>InvalidRequest</Code><Message>Content-MD5 OR x-amz-checksum- HTTP header is required for Put Object \
                requests with Object Lock parameters</Message></Error>";
    let lab = lab(move |line, before, _| {
        (line.starts_with("PUT") && before == 0).then(|| Reply::Answer(400, body.to_owned()))
    })
    .await;
    lab.put(DATA).await.unwrap();
    let sent = lab.store.header("PUT", "content-md5");
    assert_eq!((sent.len(), sent[0].as_str()), (2, ""));
    use base64::Engine;
    assert_eq!(sent[1], base64::engine::general_purpose::STANDARD.encode(md5_of(DATA.as_bytes())));
}

#[tokio::test]
async fn keys_of_the_stores_encryption_go_with_each_call_that_needs_them() {
    let key_id = Some("arn:aws:kms:eu-west-1:1:key/k".to_owned());
    let kms = lab_with(Options { encryption: Encryption::Kms { key_id }, ..options() }, Box::new(ours)).await;
    kms.put(DATA).await.unwrap();
    assert_eq!(kms.store.header("PUT", "x-amz-server-side-encryption"), ["aws:kms"]);
    assert_eq!(
        kms.store.header("PUT", "x-amz-server-side-encryption-aws-kms-key-id"),
        ["arn:aws:kms:eu-west-1:1:key/k"]
    );
    assert!(kms.store.header("HEAD", "x-amz-server-side-encryption").iter().all(String::is_empty));
    let customer = Encryption::Customer(CustomerKey::new(&[7; 32]).unwrap());
    let part_sizes = PartSizes { from: 8, part: 6 };
    let options = Options { encryption: customer, part_sizes, ..options() };
    assert!(!format!("{options:?}").contains("Bwc"), "the key is shown");
    let lab = lab_with(options, Box::new(ours)).await;
    lab.put(DATA).await.unwrap();
    lab.place.fetch(&name().data_key(), &lab.scratch.path().join("to"), &|_| {}).await.unwrap();
    for call in [
        "HEAD",
        "GET",
        "PUT",
        "POST /b/snap%20shots/00000000000000ab/00000000000000000007-00000000000000000019-i-0a.db?uploads",
    ] {
        let sent = lab.store.header(call, "x-amz-server-side-encryption-customer-key");
        assert!(!sent.is_empty() && sent.iter().all(|key| key.starts_with("BwcHBw")), "{call}: {sent:?}");
    }
}

// In parts.

fn in_parts() -> Options {
    Options { part_sizes: PartSizes { from: DATA.len() as u64, part: 6 }, ..options() }
}

#[tokio::test]
async fn a_large_file_is_sent_in_parts_of_their_own_digests() {
    let lab = lab_with(in_parts(), Box::new(ours)).await;
    let sent = Mutex::new(Vec::new());
    let spooled = lab.spooled(DATA);
    lab.place.put_data(&name().data_key(), &spooled, &|bytes| sent.lock().unwrap().push(bytes)).await.unwrap();
    assert_eq!(lab.held(&name().data_key()).as_deref(), Some(DATA));
    assert_eq!(lab.store.count("PUT"), 3);
    let digests = lab.store.header("PUT", "x-amz-content-sha256");
    assert_eq!(digests[2], hex(&sha256("ase")));
    let complete = lab.store.asked().into_iter().find(|line| line.contains("<CompleteMultipartUpload")).unwrap();
    assert!(complete.contains("?uploadId=u%2F1 if-none-match=*") && complete.contains("<PartNumber>3</PartNumber>"));
    assert!(sent.into_inner().unwrap().is_sorted());
    let small = &DATA[..DATA.len() - 1];
    lab.objects.lock().unwrap().clear();
    lab.put(small).await.unwrap();
    assert_eq!(lab.store.count("PUT"), 4, "in one");
}

#[tokio::test]
async fn an_upload_in_parts_that_fails_is_aborted() {
    let broken =
        |line: &str, _: usize, _: &mut Objects| line.contains("partNumber=2").then(|| error(403, "AccessDenied"));
    let lab = lab_with(in_parts(), Box::new(broken)).await;
    let said = lab.put(DATA).await.unwrap_err().to_string();
    assert!(said.starts_with("s3:UploadPart of s3://b/snap shots/"), "{said}");
    assert_eq!(lab.store.count(&format!("DELETE {}?uploadId=u%2F1", at(&name().data_key()))), 1);
    assert!(lab.objects.lock().unwrap().is_empty());
    let passes = |line: &str, before: usize, _: &mut Objects| {
        (line.contains("partNumber=2") && before < 2).then(|| error(503, "SlowDown"))
    };
    let lab = lab_with(in_parts(), Box::new(passes)).await;
    lab.put(DATA).await.unwrap();
    assert_eq!((lab.store.count("PUT"), lab.store.count("DELETE")), (5, 0));
    assert_eq!(lab.held(&name().data_key()).as_deref(), Some(DATA));
}

#[tokio::test]
async fn a_200_with_an_error_in_it_is_an_error() {
    let inside = |code: &'static str, until: usize| -> Fault {
        Box::new(move |line, before, _| (line.contains("<Complete") && before < until).then(|| error(200, code)))
    };
    let lab = lab_with(in_parts(), inside("AccessDenied", 9)).await;
    let said = lab.put(DATA).await.unwrap_err().to_string();
    assert!(said.contains("s3:CompleteMultipartUpload") && said.contains(": AccessDenied (200 OK)"), "{said}");
    assert!(lab.objects.lock().unwrap().is_empty());
    let lab = lab_with(in_parts(), inside("InternalError", 1)).await;
    lab.put(DATA).await.unwrap();
    assert_eq!((lab.store.count("POST"), lab.store.count("DELETE")), (3, 0));
}

#[tokio::test]
async fn a_completion_whose_answer_was_lost_is_found_out() {
    let lost = |line: &str, before: usize, objects: &mut Objects| {
        line.contains("<Complete").then(|| {
            if before == 0 {
                answer(line, objects);
            }
            error(404, "NoSuchUpload")
        })
    };
    // Without metadata an ETag of parts proves nothing; this one is a plain MD5, as rclone's.
    let lab = lab_with(in_parts(), Box::new(lost)).await;
    lab.put(DATA).await.unwrap();
    assert_eq!(lab.store.count("POST"), 2);
}

// Manifests in a bucket.

#[tokio::test]
async fn a_manifest_is_written_once_and_replaced_only_as_it_was_read() {
    let lab = lab(ours).await;
    let key = name().manifest_key();
    assert_eq!(lab.place.read(&key).await.unwrap(), None);
    assert_eq!(lab.place.put_manifest(&key, "one".into()).await.unwrap(), Written::New);
    assert_eq!(lab.place.put_manifest(&key, "two".into()).await.unwrap(), Written::Exists);
    let one = lab.place.read(&key).await.unwrap().unwrap();
    assert_eq!(one.body, "one");
    assert_eq!(lab.place.replace_manifest(&key, "two".into(), "other").await.unwrap(), Written::Exists);
    assert_eq!(lab.place.replace_manifest(&key, "two".into(), &one.version).await.unwrap(), Written::New);
    assert_eq!(lab.place.replace_manifest(&key, "three".into(), &one.version).await.unwrap(), Written::Exists);
    assert_eq!(lab.held(&key).as_deref(), Some("two"));
    assert!(!lab.store.asked().iter().any(|line| line.contains("if-match=\"")), "without quotes");
}

#[tokio::test]
async fn a_manifest_whose_answer_was_lost_is_there_and_new() {
    let lost = |line: &str, before: usize, objects: &mut Objects| {
        (line.starts_with("PUT") && before == 0).then(|| {
            answer(line, objects);
            error(503, "SlowDown")
        })
    };
    let lab = lab(lost).await;
    assert_eq!(lab.place.put_manifest(&name().manifest_key(), "one".into()).await.unwrap(), Written::New);
    assert_eq!(lab.store.count("PUT"), 1);
}

#[tokio::test]
async fn stores_that_do_not_mean_what_they_say_are_told_apart() {
    let key = name().manifest_key();
    let refuses = lab(|line, _, _| line.starts_with("PUT").then(|| error(412, "PreconditionFailed"))).await;
    let said = refuses.place.put_manifest(&key, "one".into()).await.unwrap_err().to_string();
    assert!(said.contains("refuses a write with If-None-Match: * although the object does not exist"), "{said}");
    let forgets = lab(|line, _, _| line.starts_with("PUT").then(|| Reply::status(200))).await;
    assert!(matches!(forgets.place.put_manifest(&key, "one".into()).await, Err(Error::Vanished { .. })));
    let alters = lab(|line, _, objects| line.starts_with("PUT").then(|| answer(&format!("{line}x"), objects))).await;
    assert!(matches!(alters.place.put_manifest(&key, "one".into()).await, Err(Error::Different { .. })));
    // No condition is heeded: what is there is read before.
    let ignores =
        lab(|line, _, objects| line.starts_with("PUT").then(|| answer(&line.replace("if-none-match=* ", ""), objects)))
            .await;
    ignores.hold(&key, "one");
    assert_eq!(ignores.place.put_manifest(&key, "two".into()).await.unwrap(), Written::Exists);
    assert_eq!(ignores.held(&key).as_deref(), Some("one"));
}

#[tokio::test]
async fn what_is_not_named_as_a_snapshot_is_neither_written_nor_removed() {
    let lab = lab(ours).await;
    for key in ["claim.json", "00000000000000ab/claim.json", "../x.db", &name().to_string()] {
        assert!(matches!(lab.place.delete(key).await, Err(Error::NotOurs(_))), "{key}");
        assert!(matches!(lab.place.put_manifest(key, "x".into()).await, Err(Error::NotOurs(_))), "{key}");
        assert!(matches!(lab.place.put_data(key, &lab.spooled("x"), &|_| {}).await, Err(Error::NotOurs(_))), "{key}");
    }
    assert!(matches!(lab.place.put_manifest(&name().data_key(), "x".into()).await, Err(Error::NotOurs(_))));
    assert_eq!(lab.store.asked(), Vec::<String>::new());
    assert_eq!(lab.place.delete(&name().data_key()).await.unwrap(), Deleted::Done);
}

// Listings.

#[tokio::test]
async fn a_listing_is_followed_to_its_end() {
    let lab = lab(ours).await;
    for key in ["a", "b +%c", "d/ä", "e", "f"] {
        lab.hold(key, key);
    }
    lab.objects.lock().unwrap().insert("snap shotz".to_owned(), "another's".to_owned());
    let entry = |key: &str| Entry { key: key.to_owned(), size: key.len() as u64 };
    let all = lab.place.list("").await.unwrap();
    assert_eq!(all.entries, ["a", "b +%c", "d/ä", "e", "f"].map(entry));
    assert_eq!(lab.store.count("GET /b/?list-type=2&encoding-type=url&prefix=snap%20shots%2F"), 3);
    assert_eq!(lab.place.list("d/").await.unwrap().entries, [entry("d/ä")]);
    assert_eq!(lab.place.list("g/").await.unwrap().entries, []);
}

/// What is not the whole list, or can't be.
#[tokio::test(start_paused = true)]
async fn a_list_that_is_not_whole_is_none() {
    let list = |inner: &str| Reply::ok(&format!("<ListBucketResult>{inner}</ListBucketResult>"));
    let item = |key: &str| format!("<Contents><Key>snap shots/{key}</Key><Size>1</Size></Contents>");
    let more =
        |token: &str| format!("<IsTruncated>true</IsTruncated><NextContinuationToken>{token}</NextContinuationToken>");
    let end = "<IsTruncated>false</IsTruncated>";
    let first = list(&(item("a") + &item("b") + &more("t")));
    let is_second = |line: &str| line.contains("continuation-token");
    for (second, words) in [
        (list(&(item("c") + "<IsTruncated>true</IsTruncated>")), "gives no NextContinuationToken"),
        (list(&(item("c") + &more("t"))), "gives the same NextContinuationToken twice: \"t\""),
        (first.clone(), "lists \"snap shots/a\" after \"snap shots/b\": out of order, or twice"),
        (list(&(item("c") + &item("c") + end)), "out of order, or twice"),
        (
            list(&("<Contents><Key>snap/z</Key><Size>1</Size></Contents>".to_owned() + end)),
            "which is not below \"snap shots/\"",
        ),
        (list(&item("c")), "does not say whether the list goes on"),
        (list(&(item("c").replace(">1<", ">one<") + end)), "with the size \"one\""),
        (Reply::ok("<ListBucketResult><IsTruncated>false</IsTruncated>"), "truncated XML"),
        (Reply::ok("<html></html>"), "not AWS's answer"),
        (error(503, "SlowDown"), "SlowDown"),
        (error(200, "InternalError"), "InternalError"),
        (Reply::status(500), "empty answer"),
    ] {
        let (first, second) = (first.clone(), second.clone());
        let lab = lab(move |line, _, _| Some(if is_second(line) { second.clone() } else { first.clone() })).await;
        let said = lab.place.list("").await.unwrap_err().to_string();
        assert!(said.contains(words) && said.contains(&lab.store.url), "{said}, not: {words}");
    }
    let pages = AtomicU64::new(0);
    let endless = lab(move |_, _, _| Some(list(&more(&pages.fetch_add(1, Ordering::Relaxed).to_string()))));
    let said = endless.await.place.list("").await.unwrap_err().to_string();
    assert!(said.contains("pages without an object"), "{said}");
}

#[tokio::test]
async fn pages_are_read_as_each_store_writes_them() {
    // More than was asked for, all in one (radosgw 20); a key that is said to be encoded and is not (s3s-fs); not said to be, and so not (pys3local).
    let item = |key: &str| format!("<Contents><Key>snap shots+/{key}</Key><Size>1</Size></Contents>");
    let many: String = (0..1500).map(|number| item(&format!("{number:05}"))).collect();
    for encoding in ["<EncodingType>url</EncodingType>", ""] {
        let text = format!("<ListBucketResult>{encoding}{many}<IsTruncated>false</IsTruncated></ListBucketResult>");
        let store = Scripted::start(move |_, _| Reply::ok(&text)).await;
        let place = Place::S3(Box::new(s3::Prefix::new(bucket(&store.url, options()), "snap shots+")));
        let entries = place.list("").await.unwrap().entries;
        assert_eq!((entries.len(), entries[1499].key.as_str()), (1500, "01499"));
    }
    let raw = "<ListBucketResult><Contents><Key>snap/a%20b+c</Key><Size>1</Size></Contents><IsTruncated>false</IsTruncated></ListBucketResult>";
    let store = Scripted::start(move |_, _| Reply::ok(raw)).await;
    let place = Place::S3(Box::new(s3::Prefix::new(bucket(&store.url, options()), "snap")));
    assert_eq!(place.list("").await.unwrap().entries[0].key, "a%20b+c", "it is not said to be encoded");
}

// Receiving.

#[tokio::test]
async fn an_object_that_breaks_off_is_fetched_again_and_half_of_it_never_stays() {
    let lab = lab(|line, _, _| {
        // More is announced than comes.
        line.starts_with("GET").then(|| Reply::Headed(200, ("content-length", "100".to_owned()), "half".to_owned()))
    })
    .await;
    let to = lab.scratch.path().join("to");
    let said = lab.place.fetch(&name().data_key(), &to, &|_| {}).await.unwrap_err();
    assert!(!to.exists(), "{said}");
    assert_eq!(lab.store.count("GET"), 4, "{said}");
    let absent = lab_with(options(), Box::new(ours)).await;
    let said = absent.place.fetch(&name().data_key(), &to, &|_| {}).await.unwrap_err();
    assert!(matches!(said, Error::Absent { .. }) && !to.exists(), "{said}");
}

// Directories.

struct Share {
    place: Place,
    root: std::path::PathBuf,
    scratch: Scratch,
}

fn share() -> Share {
    let scratch = Scratch::make();
    let root = scratch.path().join("share");
    std::fs::create_dir(&root).unwrap();
    Share { place: Place::Directory(directory::Directory::new(root.clone())), root, scratch }
}

impl Share {
    async fn put(&self, text: &str) -> Result<Put, Error> {
        let path = self.scratch.write("spool", text);
        let spooled = Spooled { path, size: text.len() as u64, sha256: sha256(text) };
        self.place.put_data(&name().data_key(), &spooled, &|_| {}).await
    }

    fn held(&self, key: &str) -> Option<String> {
        std::fs::read_to_string(self.root.join(key)).ok()
    }
}

#[tokio::test]
async fn a_directory_is_a_place_as_a_bucket_is() {
    let share = share();
    let (data, manifest) = (name().data_key(), name().manifest_key());
    assert_eq!(share.place.list("").await.unwrap(), Listing::default());
    assert!(!share.put(DATA).await.unwrap().was_there);
    assert!(share.put(DATA).await.unwrap().was_there);
    assert_eq!(share.place.read(&manifest).await.unwrap(), None);
    assert_eq!(share.place.put_manifest(&manifest, "one".into()).await.unwrap(), Written::New);
    assert_eq!(share.place.put_manifest(&manifest, "two".into()).await.unwrap(), Written::Exists);
    let one = share.place.read(&manifest).await.unwrap().unwrap();
    assert_eq!(share.place.replace_manifest(&manifest, "two".into(), "x").await.unwrap(), Written::Exists);
    assert_eq!(share.place.replace_manifest(&manifest, "two".into(), &one.version).await.unwrap(), Written::New);
    assert_eq!(share.place.replace_manifest(&manifest, "three".into(), &one.version).await.unwrap(), Written::Exists);
    let listed = share.place.list(&Name::folder(name().cluster)).await.unwrap();
    let entry = |key: &str, size| Entry { key: key.to_owned(), size };
    assert_eq!(listed.entries, [entry(&data, DATA.len() as u64), entry(&manifest, 3)]);
    let to = share.scratch.path().join("to");
    let fetched = share.place.fetch(&data, &to, &|_| {}).await.unwrap();
    assert_eq!(fetched, Fetched { size: DATA.len() as u64, sha256: sha256(DATA) });
    for file in [share.root.join(&data), share.root.join(&manifest), to] {
        assert_eq!(std::fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600, "{}", file.display());
    }
    // Other bytes under a name that a manifest vouches for.
    assert!(matches!(share.put("other").await, Err(Error::Taken { .. })));
    assert_eq!(share.place.delete(&manifest).await.unwrap(), Deleted::Done);
    assert_eq!(share.place.delete(&manifest).await.unwrap(), Deleted::Done);
    share.put("other").await.unwrap();
    assert_eq!(share.held(&data).as_deref(), Some("other"));
    assert_eq!(share.place.to_string(), format!("file:{}", share.root.display()));
}

#[tokio::test]
async fn a_share_that_is_not_mounted_is_not_filled_and_nothing_follows_from_it() {
    let share = share();
    std::fs::remove_dir(&share.root).unwrap();
    let key = name().manifest_key();
    let outcomes = [
        share.put(DATA).await.map(drop),
        share.place.put_manifest(&key, "x".into()).await.map(drop),
        share.place.replace_manifest(&key, "x".into(), "v").await.map(drop),
        share.place.list("").await.map(drop),
        share.place.read(&key).await.map(drop),
        share.place.fetch(&name().data_key(), &share.scratch.path().join("to"), &|_| {}).await.map(drop),
        share.place.delete(&key).await.map(drop),
    ];
    for outcome in outcomes {
        let said = outcome.unwrap_err().to_string();
        assert!(said.ends_with("it does not exist; create it, or mount the share there"), "{said}");
    }
    assert!(!share.root.exists());
}

#[tokio::test]
async fn links_out_of_a_directory_are_not_followed() {
    let share = share();
    let outside = share.scratch.path().join("outside");
    std::fs::create_dir(&outside).unwrap();
    let (data, manifest) = (name().data_key(), name().manifest_key());
    let file = |key: &str| outside.join(key.split_once('/').unwrap().1);
    std::fs::write(file(&manifest), "theirs").unwrap();
    std::fs::write(file(&data), "theirs").unwrap();
    let folder = share.root.join(Name::folder(name().cluster).trim_end_matches('/'));
    std::os::unix::fs::symlink(&outside, &folder).unwrap();
    let check = async |share: &Share| {
        assert_eq!(share.place.list("").await.unwrap(), Listing::default());
        assert_eq!(share.place.read(&manifest).await.unwrap(), None);
        assert!(share.place.fetch(&data, &share.scratch.path().join("to"), &|_| {}).await.is_err());
        assert_eq!(share.place.delete(&manifest).await.unwrap(), Deleted::Done);
    };
    check(&share).await;
    assert!(share.put(DATA).await.is_err());
    assert!(share.place.put_manifest(&manifest, "x".into()).await.is_err());
    std::fs::remove_file(&folder).unwrap();
    std::fs::create_dir(&folder).unwrap();
    std::os::unix::fs::symlink(file(&manifest), share.root.join(&manifest)).unwrap();
    std::os::unix::fs::symlink(file(&data), share.root.join(&data)).unwrap();
    check(&share).await;
    assert_eq!(std::fs::read_to_string(file(&manifest)).unwrap(), "theirs");
    assert_eq!(std::fs::read_to_string(file(&data)).unwrap(), "theirs");
}

#[tokio::test]
async fn a_file_that_changed_is_not_stored_and_no_draft_stays() {
    let share = share();
    let path = share.scratch.write("spool", "changed");
    for (size, words) in [(7, "has changed since it was taken"), (8, "it has become shorter")] {
        let spooled = Spooled { path: path.clone(), size, sha256: sha256(DATA) };
        let said = share.place.put_data(&name().data_key(), &spooled, &|_| {}).await.unwrap_err().to_string();
        assert!(said.contains(words), "{said}");
        let left = std::fs::read_dir(share.root.join("00000000000000ab")).unwrap().count();
        assert_eq!((left, share.held(&name().data_key())), (0, None));
    }
}

#[tokio::test]
async fn drafts_of_a_run_that_was_killed_are_swept_and_one_that_is_written_is_not() {
    let share = share();
    let folder = share.root.join("00000000000000ab");
    std::fs::create_dir(&folder).unwrap();
    let draft = |revision, instance| {
        let name = Name { revision, ..Name::new(name().cluster, 0, 1, instance) };
        share.root.join(format!("{}.new", name.data_key()))
    };
    let (dead, written, other) = (draft(1, "i-0a"), draft(2, "i-0a"), draft(1, "i-0b"));
    let manifest = share.root.join(format!("{}.0123456789abcdef.new", name().manifest_key()));
    for path in [&dead, &written, &other, &manifest] {
        std::fs::write(path, "half").unwrap();
    }
    let held = std::fs::File::open(&written).unwrap();
    let _lock = nix::fcntl::Flock::lock(held, nix::fcntl::FlockArg::LockExclusive).unwrap();
    share.put(DATA).await.unwrap();
    assert!(!dead.exists() && !manifest.exists() && written.exists() && other.exists());
    assert_eq!(share.place.list("").await.unwrap().entries.len(), 1, "a draft is not listed");
}

/// Two processes on one node, and others elsewhere: each manifest is one of theirs, and who replaces one has seen it.
#[tokio::test]
async fn a_manifest_that_several_write_at_once_is_one_of_theirs_and_none_is_lost() {
    let share = share();
    let key = name().manifest_key();
    let place = || Place::Directory(directory::Directory::new(share.root.clone()));
    let create = |writer: usize| {
        let (place, key) = (place(), key.clone());
        tokio::spawn(async move { place.put_manifest(&key, vec![b'a' + writer as u8; 1000 + writer].into()).await })
    };
    let outcomes = futures(((0..8).map(create)).collect()).await;
    assert_eq!(outcomes.iter().filter(|outcome| matches!(outcome, Ok(Written::New))).count(), 1, "{outcomes:?}");
    assert_eq!(outcomes.iter().filter(|outcome| matches!(outcome, Ok(Written::Exists))).count(), 7, "{outcomes:?}");
    // Each adds a byte of its own until it could.
    let add = |writer: u8| {
        let (place, key) = (place(), key.clone());
        tokio::spawn(async move {
            loop {
                let there = place.read(&key).await.unwrap().unwrap();
                let more = [&there.body[..], &[writer]].concat();
                match place.replace_manifest(&key, more.into(), &there.version).await {
                    Ok(Written::Exists) => {}
                    other => return other,
                }
            }
        })
    };
    let before = share.held(&key).unwrap().len();
    let outcomes = futures((0..8).map(add).collect()).await;
    assert!(outcomes.iter().all(|outcome| matches!(outcome, Ok(Written::New))), "{outcomes:?}");
    let mut added = share.held(&key).unwrap().into_bytes()[before..].to_vec();
    added.sort_unstable();
    assert_eq!(added, [0, 1, 2, 3, 4, 5, 6, 7]);
    assert_eq!(std::fs::read_dir(share.root.join("00000000000000ab")).unwrap().count(), 1, "no draft stays");
}

async fn futures<T>(tasks: Vec<tokio::task::JoinHandle<T>>) -> Vec<T> {
    let mut outcomes = Vec::new();
    for task in tasks {
        outcomes.push(task.await.unwrap());
    }
    outcomes
}

#[tokio::test]
async fn a_full_directory_is_said_before_anything_is_written() {
    let share = share();
    let path = share.scratch.path().join("spool");
    std::fs::File::create(&path).unwrap().set_len(1 << 60).unwrap_or_default();
    let spooled = Spooled { path, size: 1 << 60, sha256: [0; 32] };
    let error = share.place.put_data(&name().data_key(), &spooled, &|_| {}).await.unwrap_err();
    assert_eq!(error.reason(), "full");
    assert!(error.to_string().ends_with("are free; free some space on that volume"), "{error}");
}
