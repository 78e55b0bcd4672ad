use std::sync::Arc;

use hyper::Method;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

use super::*;
use crate::aws::autoscaling::AutoScaling;
use crate::aws::credentials::Source;
use crate::aws::ec2::{self, Ec2};
use crate::aws::imds::Imds;
use crate::aws::s3::{Endpoint, Object, S3};
use crate::aws::ssm::{self, Ssm};
use crate::aws::sts::Sts;
use crate::core::types::InstanceId;
use crate::net::scripted::{Reply, Scripted};
use crate::net::tls::Trust;

const CREDENTIALS: &str = "GET /credentials";
const CALL: &str = "POST / ";
const WITHIN: Duration = Duration::from_secs(5);

/// A client whose credentials come from `/credentials` at that server: the n-th are `token-n`.
fn client(url: &str) -> (Arc<SigningClient>, ApiCounters) {
    let http = Client::new(Trust::public(None));
    let source = Source::Container { url: format!("{url}/credentials"), token: None, token_file: None };
    let provider = Provider::new(source, Arc::new(Imds::new(http.clone(), url)), http.clone(), Sts::at(&http, url));
    let meters = ApiCounters::default();
    (Arc::new(SigningClient::new(http, Region::named("eu-west-1"), provider, meters.clone())), meters)
}

/// `calls`: what is said to the n-th call.
async fn service(
    calls: impl Fn(&str, usize) -> Reply + Send + Sync + 'static,
) -> (Scripted, Arc<SigningClient>, ApiCounters) {
    let server = Scripted::start(move |line, before| match line {
        CREDENTIALS => {
            Reply::ok(&format!(r#"{{"AccessKeyId":"key","SecretAccessKey":"secret","Token":"token-{before}"}}"#))
        }
        call => calls(call, before),
    })
    .await;
    let (client, meters) = client(&server.url);
    (server, client, meters)
}

fn refusal(status: u16, code: &str) -> Reply {
    Reply::Answer(
        status,
        format!("<Response><Errors><Error><Code>{code}</Code><Message>m</Message></Error></Errors></Response>"),
    )
}

const EMPTY: &str = "<DescribeInstancesResponse/>";

/// A call that may be tried so often, read into all of its bytes.
async fn call(client: &SigningClient, url: &str, attempts: u32, most_bytes: usize) -> Result<Bytes, Error> {
    let call = Call {
        service: Service::Ssm,
        what: "ssm:Test".to_owned(),
        place: "here".to_owned(),
        within: WITHIN,
        most_bytes,
        attempts,
    };
    let request = Request::builder().method(Method::POST).uri(url).body(Bytes::from("x"));
    let made_of = |Answer { status, body, .. }: Answer<Bytes>| match ssm::read_error(None, &body) {
        None if status == StatusCode::OK => Ok(body),
        error => Err(Unread::by(status, error, |error| error.hint().to_owned())),
    };
    client.call(call, request, made_of).await
}

fn json(status: u16, code: &str) -> Reply {
    Reply::Answer(status, format!(r#"{{"__type":"{code}","message":"m"}}"#))
}

#[tokio::test(start_paused = true)]
async fn what_is_busy_or_failing_is_tried_three_times_with_pauses_that_grow() {
    let mut longest = Duration::ZERO;
    for busy in ["ThrottlingException", "RequestLimitExceeded", "SlowDown", "InternalFailure"].repeat(16) {
        let status = if busy == "InternalFailure" { 500 } else { 400 };
        let (server, client, meters) = service(move |_, _| json(status, busy)).await;
        let began = clock::now();
        let error = call(&client, &server.url, ATTEMPTS, 1 << 16).await.unwrap_err();
        assert!(error.to_string().starts_with(&format!("ssm:Test: {busy} ({status} ")), "{error}");
        assert_eq!((server.count(CALL), meters.calls(Api::Ssm), meters.errors(Api::Ssm)), (3, 3, 3));
        assert_eq!(server.count(CREDENTIALS), 1, "whom a service is too busy for it knows");
        longest = longest.max(clock::now() - began);
    }
    // By chance up to 2 s and up to 4 s: of 64 a quarter is beyond what two of 2 s could be.
    assert!(FIRST_PAUSE * 2 < longest && longest <= FIRST_PAUSE * 3, "{longest:?}");
}

#[tokio::test(start_paused = true)]
async fn what_passes_is_over_with_the_next_attempt_and_one_attempt_is_one() {
    let once_down = |_: &str, before: usize| if before == 0 { Reply::status(503) } else { Reply::ok("fine") };
    let (server, client, meters) = service(once_down).await;
    assert_eq!(call(&client, &server.url, ATTEMPTS, 1 << 16).await.unwrap(), "fine");
    assert_eq!((meters.calls(Api::Ssm), meters.errors(Api::Ssm)), (2, 1));
    let (server, client, meters) = service(once_down).await;
    let error = call(&client, &server.url, 1, 1 << 16).await.unwrap_err();
    assert_eq!(error.to_string(), "here: answers 503 Service Unavailable without an error document");
    assert_eq!((server.count(CALL), meters.errors(Api::Ssm)), (1, 1));
}

#[tokio::test(start_paused = true)]
async fn who_is_denied_is_not_tried_again_and_has_new_credentials_next_time() {
    for (status, code) in [(400, "AccessDeniedException"), (403, "SignatureDoesNotMatch"), (403, "WhateverElse")] {
        let (server, client, _) =
            service(move |_, before| if before == 0 { json(status, code) } else { Reply::ok("fine") }).await;
        let error = call(&client, &server.url, ATTEMPTS, 1 << 16).await.unwrap_err();
        assert_eq!((error.code(), error.is_denial()), (Some(code), code != "WhateverElse"));
        assert_eq!(server.count(CALL), 1);
        call(&client, &server.url, ATTEMPTS, 1 << 16).await.unwrap();
        assert_eq!(server.header(CALL, "x-amz-security-token"), ["token-0", "token-1"]);
    }
}

#[tokio::test(start_paused = true)]
async fn an_expired_token_is_renewed_at_once_and_only_once() {
    let (server, client, meters) =
        service(|_, before| if before == 0 { json(400, "ExpiredTokenException") } else { Reply::ok("fine") }).await;
    let began = clock::now();
    assert_eq!(call(&client, &server.url, ATTEMPTS, 1 << 16).await.unwrap(), "fine");
    assert_eq!(server.header(CALL, "x-amz-security-token"), ["token-0", "token-1"]);
    assert_eq!((clock::now() - began, meters.errors(Api::Ssm)), (Duration::ZERO, 1), "nobody waits for that");
    let (server, client, _) = service(|_, _| json(400, "ExpiredTokenException")).await;
    let error = call(&client, &server.url, ATTEMPTS, 1 << 16).await.unwrap_err();
    assert!(error.to_string().ends_with("; the session token has expired, renew it"), "{error}");
    assert_eq!(server.count(CALL), 2);
    // Of a call that is sent once only the next one has the new one.
    let (server, client, _) = service(|_, _| json(400, "ExpiredToken")).await;
    for _ in 0..2 {
        call(&client, &server.url, 1, 1 << 16).await.unwrap_err();
    }
    assert_eq!(server.header(CALL, "x-amz-security-token"), ["token-0", "token-1"]);
}

/// Without an NTP a clock may be off by more than the five minutes that AWS bears.
#[tokio::test(start_paused = true)]
async fn the_second_attempt_is_signed_by_the_clock_that_the_first_answer_showed() {
    const AHEAD: i64 = 3 * 3600;
    let (server, client, _) = service(|_, before| {
        let date = time::OffsetDateTime::from_unix_timestamp(clock::epoch() + AHEAD).unwrap();
        let date = date.format(&time::format_description::well_known::Rfc2822).unwrap().replace("+0000", "GMT");
        let (status, body) = if before == 0 { (400, r#"{"__type":"RequestExpired"}"#) } else { (200, "fine") };
        Reply::Headed(status, ("date", date), body.to_owned())
    })
    .await;
    assert_eq!(client.now() - clock::epoch(), 0);
    call(&client, &server.url, ATTEMPTS, 1 << 16).await.unwrap();
    let signed: Vec<i64> = server
        .header(CALL, "x-amz-date")
        .iter()
        .map(|stamp| {
            let (day, time) = (&stamp[..8], &stamp[9..15]);
            let text =
                format!("{}-{}-{}T{}:{}:{}Z", &day[..4], &day[4..6], &day[6..], &time[..2], &time[2..4], &time[4..]);
            clock::parse_rfc3339(&text).unwrap()
        })
        .collect();
    assert_eq!(signed.len(), 2);
    assert!((AHEAD - 60..=AHEAD + 60).contains(&(signed[1] - signed[0])), "{signed:?}");
    assert!((AHEAD - 60..=AHEAD + 60).contains(&(client.now() - clock::epoch())));
}

#[tokio::test(start_paused = true)]
async fn an_answer_is_read_up_to_its_bound_and_no_further() {
    let (server, client, _) = service(|_, _| Reply::ok(&"x".repeat(1001))).await;
    assert_eq!(call(&client, &server.url, 1, 1001).await.unwrap().len(), 1001);
    let error = call(&client, &server.url, 1, 1000).await.unwrap_err().to_string();
    assert!(error.starts_with("here: the answer (200 OK) ended early: ") && error.contains("limit"), "{error}");
}

/// A server that says so much, and then neither more nor farewell; and how many it was asked by.
async fn mute_after(said: &'static str) -> (String, Arc<std::sync::atomic::AtomicUsize>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let asked = Arc::<std::sync::atomic::AtomicUsize>::default();
    let count = asked.clone();
    tokio::spawn(async move {
        let mut open = Vec::new();
        while let Ok((mut stream, _)) = listener.accept().await {
            count.fetch_add(1, Ordering::Relaxed);
            _ = stream.read(&mut [0; 4096]).await.unwrap();
            stream.write_all(said.as_bytes()).await.unwrap();
            open.push(stream);
        }
    });
    (url, asked)
}

#[tokio::test(start_paused = true)]
async fn a_service_that_falls_silent_is_left_after_its_time_and_tried_again() {
    let (_server, client, meters) = service(|_, _| Reply::ok("")).await;
    let (half, asked) = mute_after("HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\nhalf").await;
    let began = clock::now();
    let error = call(&client, &half, ATTEMPTS, 1 << 16).await.unwrap_err().to_string();
    assert_eq!(error, "here: the answer (200 OK) stalled for 5 s");
    let took = clock::now() - began;
    assert!(WITHIN * 3 <= took && took <= WITHIN * 3 + FIRST_PAUSE * 3, "each attempt has the whole of it: {took:?}");
    assert_eq!((asked.load(Ordering::Relaxed), meters.errors(Api::Ssm)), (3, 3));
    let (mute, asked) = mute_after("").await;
    let error = call(&client, &mute, ATTEMPTS, 1 << 16).await.unwrap_err();
    assert!(matches!(error, Error::Http(_)) && error.to_string().ends_with("no answer within 5000 ms"), "{error}");
    assert_eq!(asked.load(Ordering::Relaxed), 3);
}

#[tokio::test(start_paused = true)]
async fn without_credentials_nothing_is_sent() {
    let server = Scripted::start(|_, _| Reply::status(500)).await;
    let (client, meters) = client(&server.url);
    let error = call(&client, &server.url, ATTEMPTS, 1 << 16).await.unwrap_err();
    assert!(matches!(error, Error::Credentials(_)), "{error}");
    assert_eq!((server.count(CALL), meters.calls(Api::Ssm), meters.errors(Api::Ssm)), (0, 0, 1));
}

// What the services make of it.

#[tokio::test(start_paused = true)]
async fn an_instance_that_ec2_does_not_know_is_an_answer_to_who_asked_for_it_alone() {
    let (server, client, meters) = service(|_, _| refusal(400, "InvalidInstanceID.NotFound")).await;
    let ec2 = Ec2::new(client, server.url.clone());
    let id = InstanceId("i-a".to_owned());
    assert_eq!(ec2.describe_instance(&id).await.unwrap(), None);
    assert_eq!((server.count(CALL), meters.errors(Api::Ec2)), (1, 0));
    assert!(ec2.describe_tagged(&[], |_| {}).await.is_err(), "a listing is never short for it");
    assert!(ec2.is_impaired(&id).await.is_err());
}

#[tokio::test(start_paused = true)]
async fn a_page_that_is_not_ec2s_is_no_empty_listing() {
    for page in ["", "<html></html>", "<DescribeInstancesResponse>"] {
        let (server, client, _) = service(move |_, _| Reply::ok(page)).await;
        let error = Ec2::new(client, server.url.clone()).describe_tagged(&[], |_| {}).await.unwrap_err();
        assert!(matches!(error, ec2::Error::Call(Error::Malformed { .. })), "{error}");
        assert_eq!(server.count(CALL), 3);
    }
    let (server, client, _) = service(|_, _| Reply::Answer(502, EMPTY.to_owned())).await;
    assert!(Ec2::new(client, server.url.clone()).describe_tagged(&[], |_| {}).await.is_err());
    let (server, client, _) = service(|_, _| Reply::ok(EMPTY)).await;
    Ec2::new(client, server.url.clone()).describe_tagged(&[], |_| {}).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_listing_whose_pages_repeat_has_no_end_and_so_none_is_had() {
    let page = "<DescribeInstancesResponse><nextToken>again</nextToken></DescribeInstancesResponse>";
    let (server, client, _) = service(move |_, _| Reply::ok(page)).await;
    let error = Ec2::new(client, server.url.clone()).describe_tagged(&[], |_| {}).await.unwrap_err();
    assert!(matches!(&error, ec2::Error::RepeatedToken(token) if token == "again"), "{error}");
    assert_eq!(server.count(CALL), 2);
}

#[tokio::test(start_paused = true)]
async fn s3_and_auto_scaling_are_asked_once_and_their_failures_are_counted() {
    let (server, client, meters) = service(|_, _| refusal(503, "SlowDown")).await;
    let s3 = S3::new(client.clone(), Endpoint::Given(server.url.clone()));
    let object = Object { bucket: "b".to_owned(), key: "claim.json".to_owned() };
    assert!(s3.get(&object).await.is_err());
    assert!(AutoScaling::new(client, server.url.clone()).complete("g", "h", "i-a").await.is_err());
    assert_eq!((meters.calls(Api::S3), meters.errors(Api::S3)), (1, 1));
    assert_eq!((meters.calls(Api::AutoScaling), meters.errors(Api::AutoScaling)), (1, 1));
    let (server, client, meters) =
        service(|_, _| Reply::Answer(404, "<Error><Code>NoSuchKey</Code></Error>".to_owned())).await;
    let s3 = S3::new(client, Endpoint::Given(server.url.clone()));
    assert!(s3.get(&object).await.unwrap().is_none());
    assert_eq!(meters.errors(Api::S3), 0, "that there is none is an answer");
}

#[tokio::test(start_paused = true)]
async fn a_parameter_is_had_and_one_that_is_missing_is_called_so() {
    let (server, client, _) = service(|line, _| match line.contains("/etcd/ca-key") {
        true => Reply::ok(r#"{"Parameter":{"Value":"hunter2"}}"#),
        false => json(400, "ParameterNotFound"),
    })
    .await;
    let ssm = Ssm::new(client, server.url.clone());
    assert_eq!(ssm.parameter("/etcd/ca-key").await.unwrap().expose(), "hunter2");
    let error = ssm.parameter("/x").await.unwrap_err().to_string();
    let line = "ssm:GetParameter: ParameterNotFound: there is no parameter /x in eu-west-1; create it there, or set DOCKER_AWSREG \
                to its region";
    assert_eq!(error, line);
    assert_eq!(server.count(CALL), 2);
}

#[test]
fn a_chain_of_causes_ends_with_the_first_and_says_nothing_twice() {
    let failure = http::Failure::Refused;
    let http = http::Error { url: "http://169.254.169.254".to_owned(), failure: failure.clone() };
    let error =
        ec2::Error::from(Error::from(credentials::Error::from(crate::aws::imds::Error::Unreachable(http.clone()))));
    let chain: Vec<String> = std::iter::successors(std::error::Error::source(&error), |cause| cause.source())
        .map(ToString::to_string)
        .collect();
    assert_eq!(chain, [http.to_string(), failure.to_string()]);
    assert!(error.to_string().contains(&http.to_string()), "{error}");
}

#[tokio::test(start_paused = true)]
async fn an_object_that_cannot_be_read_is_named_with_the_way_out() {
    let error = |status, code: &str, region: &str| {
        let body = format!("<Error><Code>{code}</Code><Message>m</Message></Error>");
        Reply::Headed(status, ("x-amz-bucket-region", region.to_owned()), body)
    };
    for (reply, words) in [
        (error(403, "AccessDenied", ""), "s3:ListBucket on arn:aws:s3:::b"),
        (error(503, "SlowDown", ""), "s3:GetObject of s3://b/claim.json: SlowDown (503 Service Unavailable): m"),
        (error(301, "PermanentRedirect", "us-east-1"), "; the store is in us-east-1: set AWS_REGION=us-east-1"),
        (
            Reply::Answer(503, "<html></html>".to_owned()),
            "s3://b/claim.json: answers 503 Service Unavailable, not AWS's answer",
        ),
        (Reply::ok("{}"), "without an ETag"),
    ] {
        let (server, client, _) = service(move |_, _| reply.clone()).await;
        let s3 = S3::new(client, Endpoint::Given(server.url.clone()));
        let object = Object { bucket: "b".to_owned(), key: "claim.json".to_owned() };
        let said = s3.get(&object).await.unwrap_err().to_string();
        assert!(said.contains(words), "{said}, not: {words}");
    }
}
