//! ListObjectsV2, followed to its end: a list is whole, or it is an error. Whoever deletes by a part of a list deletes what he
//! must keep.
//!
//! Stores differ in what they list (S3 API Reference, "ListObjectsV2"; radosgw, rclone and others as measured): pages longer than
//! asked for, keys that are said to be encoded and are not, a truncated page without the token for the next.

use http_body_util::{BodyExt, Limited};
use hyper::body::{Bytes, Incoming};
use hyper::{Request, StatusCode};
use percent_encoding::{percent_decode_str, utf8_percent_encode};

use super::bucket::Bucket;
use super::document::read_document;
use crate::aws::RESERVED;
use crate::aws::body_reader::read_arriving;
use crate::aws::refusal::ApiError;
use crate::aws::signing_client::{ATTEMPTS, Answer, Error, Read, Unread};

/// A page of a thousand keys of a kibibyte each has 2 MiB.
const MAX_PAGE_BYTES: usize = 8 << 20;
/// Objects of eleven years, if one snapshot an hour is kept for ever: more means another's folder, or a store without an end.
const MAX_KEYS: usize = 200_000;
/// Pages without a key that may follow each other.
const MAX_EMPTY_PAGES: u32 = 16;

/// An object as a listing shows it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Entry {
    pub key: String,
    /// Bytes.
    pub size: u64,
}

/// One page.
#[derive(Default)]
struct ListPage {
    entries: Vec<Entry>,
    is_url_encoded: bool,
    is_truncated: Option<bool>,
    token: Option<String>,
    refused: Option<ApiError>,
}

impl Read for ListPage {
    async fn read(status: StatusCode, body: Limited<Incoming>) -> Result<Self, Unread> {
        let page = read_arriving(body.map_err(std::io::Error::other), move |mut source| {
            let (mut page, mut entry, mut odd) = (Self::default(), Draft::default(), None);
            page.refused = read_document(&mut source, "ListBucketResult", &mut |path, text| match path {
                "/Contents/Key" => text.clone_into(&mut entry.key),
                "/Contents/Size" => text.trim().clone_into(&mut entry.size),
                "/Contents" => match std::mem::take(&mut entry).finish() {
                    Ok(entry) => page.entries.push(entry),
                    Err(cause) => _ = odd.get_or_insert(cause),
                },
                "/IsTruncated" => page.is_truncated = text.trim().parse().ok(),
                "/NextContinuationToken" => page.token = Some(text.to_owned()).filter(|token| !token.is_empty()),
                "/EncodingType" => page.is_url_encoded = text.trim() == "url",
                _ => {}
            })
            .map_err(|cause| Unread::page(status, &cause))?;
            odd.map_or(Ok(page), |cause| Err(Unread::Malformed(format!("answers {status}, {cause}"))))
        });
        page.await
    }
}

#[derive(Default)]
struct Draft {
    key: String,
    size: String,
}

impl Draft {
    fn finish(self) -> Result<Entry, String> {
        let size = self.size.parse().map_err(|_| format!("lists {:?} with the size {:?}", self.key, self.size))?;
        Ok(Entry { key: self.key, size })
    }
}

/// What was listed so far, and whether it can be the beginning of a whole list.
struct Fold<'a> {
    prefix: &'a str,
    entries: Vec<Entry>,
    empty_pages: u32,
}

impl Fold<'_> {
    /// Adds a page; the token of the next one, if one follows.
    fn page(&mut self, page: ListPage, before: Option<&str>) -> Result<Option<String>, String> {
        let (is_truncated, token) = (page.is_truncated, page.token);
        self.empty_pages = if page.entries.is_empty() { self.empty_pages + 1 } else { 0 };
        for Entry { key, size } in page.entries {
            let key = self.decoded(key, page.is_url_encoded)?;
            if let Some(last) = self.entries.last()
                && last.key.as_bytes() >= key.as_bytes()
            {
                return Err(format!("lists {key:?} after {:?}: out of order, or twice", last.key));
            }
            if self.entries.len() == MAX_KEYS {
                return Err(format!("lists more than {MAX_KEYS} objects"));
            }
            self.entries.push(Entry { key, size });
        }
        match (is_truncated, token) {
            (Some(false), _) => Ok(None),
            (None, _) => Err("does not say whether the list goes on (IsTruncated)".to_owned()),
            (Some(true), None) => Err("says that the list goes on and gives no NextContinuationToken".to_owned()),
            (Some(true), Some(token)) if Some(token.as_str()) == before => {
                Err(format!("gives the same NextContinuationToken twice: {token:?}"))
            }
            (Some(true), Some(_)) if self.empty_pages > MAX_EMPTY_PAGES => {
                Err(format!("sends {} pages without an object one after another", self.empty_pages))
            }
            (Some(true), token) => Ok(token),
        }
    }

    /// A key as it is. s3s-fs 0.14.1 says "url" and encodes nothing: then the key as it came has the prefix.
    fn decoded(&self, key: String, is_url_encoded: bool) -> Result<String, String> {
        if is_url_encoded {
            // A blank is "+" with AWS and rclone, "%20" with others.
            let blank = key.replace('+', " ");
            if let Ok(decoded) = percent_decode_str(&blank).decode_utf8()
                && decoded.starts_with(self.prefix)
            {
                return Ok(decoded.into_owned());
            }
        }
        match key.starts_with(self.prefix) {
            true => Ok(key),
            false => Err(format!("lists {key:?}, which is not below {:?}", self.prefix)),
        }
    }
}

impl Bucket {
    /// All objects whose keys begin so, in the order of their keys' bytes.
    ///
    /// # Errors
    /// The store does not answer, refuses, or its pages can't be the whole list.
    pub async fn list(&self, prefix: &str) -> Result<Vec<Entry>, Error> {
        let mut fold = Fold { prefix, entries: Vec::new(), empty_pages: 0 };
        let mut token: Option<String> = None;
        let place = self.object(prefix);
        loop {
            let encoded = |text| utf8_percent_encode(text, RESERVED);
            let mut url = format!("{}?list-type=2&encoding-type=url&prefix={}", self.url("")?, encoded(prefix));
            if let Some(token) = &token {
                url.push_str(&format!("&continuation-token={}", encoded(token)));
            }
            let mut call = self.call("ListObjectsV2", &place, ATTEMPTS);
            call.most_bytes = MAX_PAGE_BYTES;
            let request = Request::get(url).body(Bytes::new());
            let page = self.caller().call(call, request, |answer: Answer<ListPage>| {
                let (status, region) = (answer.status, answer.header("x-amz-bucket-region"));
                match answer.body {
                    page @ ListPage { refused: None, .. } if status == StatusCode::OK => Ok(page),
                    page => Err(self.refusal("s3:ListBucket", status, page.refused, region.as_deref())),
                }
            });
            token = match fold.page(page.await?, token.as_deref()) {
                Ok(None) => return Ok(fold.entries),
                Ok(next) => next,
                Err(cause) => {
                    let place = format!("{place}{}", self.at());
                    let cause = format!("the store {cause}; its list can't be relied on, and nothing follows from it");
                    return Err(Error::Malformed { place, cause });
                }
            };
        }
    }
}
