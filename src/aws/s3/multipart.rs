//! An object in parts: above 5 GiB S3 takes no other way (S3 User Guide, "Uploading and copying objects using multipart upload").

use hyper::body::Bytes;
use hyper::header::ETAG;
use hyper::{Request, StatusCode};
use percent_encoding::utf8_percent_encode;

use super::bucket::{Bucket, PartSizes, Source, conditional};
use super::document::read_document;
use super::{Condition, Put};
use crate::aws::RESERVED;
use crate::aws::signing_client::{ATTEMPTS, Answer, Error, Unread, Upload};
use crate::util::clock;
use crate::util::file_stream::{Progress, digests};
use crate::util::words::hex;

/// S3's own bound.
const MAX_PARTS: u64 = 10_000;
/// S3 may take minutes to complete an upload ("CompleteMultipartUpload": it sends white space meanwhile).
const COMPLETE_TIMEOUT: std::time::Duration = std::time::Duration::from_secs(300);

impl PartSizes {
    /// The size of a file's parts: all but the last have it.
    fn of(self, size: u64) -> u64 {
        self.part.max(size.div_ceil(MAX_PARTS)).max(1)
    }
}

impl Bucket {
    /// Sends a file in parts. A part that fails is sent again; if the upload fails nevertheless, it is aborted, so that its parts cost nothing.
    pub(super) async fn put_parts(
        &self,
        key: &str,
        source: Source<'_>,
        condition: Option<Condition<'_>>,
        progress: Progress<'_>,
    ) -> Result<Put, Error> {
        let id = self.create(key, source.sha256).await?;
        let outcome = match self.send_parts(key, &id, source, progress).await {
            Ok(parts) => self.complete(key, &id, &parts, condition).await,
            Err(error) => Err(error),
        };
        // Nothing was made of it: what is left of it goes. After a lost answer the store knows no such upload, or aborts it.
        if !matches!(outcome, Ok(Put::Written))
            && let Err(error) = self.abort(key, &id).await
        {
            log::warn!(
                "an upload in parts is left behind, a lifecycle rule for incomplete uploads removes it: {error}"
            );
        }
        outcome
    }

    async fn create(&self, key: &str, sha256: &[u8; 32]) -> Result<String, Error> {
        let request = Request::post(format!("{}?uploads=", self.url(key)?)).header("x-amz-meta-sha256", hex(sha256));
        let request = self.encrypted(request).body(Bytes::new());
        let call = self.call("CreateMultipartUpload", &self.object(key), ATTEMPTS);
        let made_of = |answer: Answer<Bytes>| {
            if answer.status != StatusCode::OK {
                return Err(self.refused("s3:PutObject", &answer));
            }
            let mut id = String::new();
            self.accepted(&answer, "InitiateMultipartUploadResult", &mut |path, text| {
                if path == "/UploadId" {
                    text.clone_into(&mut id);
                }
            })?;
            match id.is_empty() {
                true => Err(Unread::Malformed("the store gives no UploadId".to_owned())),
                false => Ok(id),
            }
        };
        self.caller().call(call, request, made_of).await
    }

    /// The parts' ETags as they came, in order.
    async fn send_parts(
        &self,
        key: &str,
        id: &str,
        source: Source<'_>,
        progress: Progress<'_>,
    ) -> Result<Vec<String>, Error> {
        let size = self.options().part_sizes.of(source.size);
        let mut tags = Vec::new();
        let mut from = 0;
        while from < source.size || tags.is_empty() {
            let part = source.part(from, size.min(source.size - from));
            tags.push(
                self.send_part(key, id, tags.len() + 1, source.part(from, part.length), &|sent| progress(from + sent))
                    .await?,
            );
            from += part.length;
        }
        Ok(tags)
    }

    async fn send_part(
        &self,
        key: &str,
        id: &str,
        number: usize,
        part: crate::util::file_stream::Part<'_>,
        progress: Progress<'_>,
    ) -> Result<String, Error> {
        // The signature has the part's digest, and the store verifies it: so it is read twice.
        let unreadable = |cause: std::io::Error| Error::File(format!("{}: {cause}", part.path.display()));
        let sha256 = digests(part).await.map_err(unreadable)?.sha256;
        let url = format!("{}?partNumber={number}&uploadId={}", self.url(key)?, utf8_percent_encode(id, RESERVED));
        let call = self.call("UploadPart", &self.object(key), 1);
        let made_of = |answer: Answer<Bytes>| match (answer.status, answer.header(ETAG.as_str())) {
            (StatusCode::OK, Some(tag)) => Ok(tag),
            (StatusCode::OK, None) => Err(Unread::Malformed(format!("the store takes part {number} without an ETag"))),
            _ => Err(self.refused("s3:PutObject", &answer)),
        };
        let mut pauses = self.patience().pauses();
        let mut made = 1;
        loop {
            let request = self.checked(self.keyed(Request::put(&url)), part).await?.body(());
            let upload = Upload { part, sha256: &sha256, stall: self.patience().stall, progress };
            match self.caller().upload(&call, request, upload, made_of).await {
                Ok(tag) => return Ok(tag),
                Err(error) if self.heeds(&error) => {}
                Err(error) if (error.is_transient() || error.is_stale()) && made < self.patience().attempts => {
                    log::debug!("part {number}: {error}; retrying");
                    clock::pause(pauses.jittered()).await;
                    made += 1;
                }
                Err(error) => return Err(error),
            }
        }
    }

    async fn complete(
        &self,
        key: &str,
        id: &str,
        tags: &[String],
        condition: Option<Condition<'_>>,
    ) -> Result<Put, Error> {
        let mut body = "<CompleteMultipartUpload xmlns=\"http://s3.amazonaws.com/doc/2006-03-01/\">".to_owned();
        for (tag, number) in tags.iter().zip(1..) {
            let tag = quick_xml::escape::escape(tag.as_str());
            body.push_str(&format!("<Part><ETag>{tag}</ETag><PartNumber>{number}</PartNumber></Part>"));
        }
        body.push_str("</CompleteMultipartUpload>");
        let url = format!("{}?uploadId={}", self.url(key)?, utf8_percent_encode(id, RESERVED));
        let request = conditional(Request::post(url), condition).body(Bytes::from(body));
        let mut call = self.call("CompleteMultipartUpload", &self.object(key), ATTEMPTS);
        call.within = COMPLETE_TIMEOUT;
        let made_of = |answer: Answer<Bytes>| match answer.status {
            StatusCode::OK => {
                self.accepted(&answer, "CompleteMultipartUploadResult", &mut |_, _| {}).map(|()| Put::Written)
            }
            _ => self.written("s3:PutObject", &answer),
        };
        self.caller().call(call, request, made_of).await
    }

    async fn abort(&self, key: &str, id: &str) -> Result<(), Error> {
        let url = format!("{}?uploadId={}", self.url(key)?, utf8_percent_encode(id, RESERVED));
        let call = self.call("AbortMultipartUpload", &self.object(key), ATTEMPTS);
        let made_of = |answer: Answer<Bytes>| match answer.status {
            status if status.is_success() => Ok(()),
            // It was completed, or aborted by an attempt whose answer was lost; radosgw names the key.
            StatusCode::NOT_FOUND => Ok(()),
            _ => Err(self.refused("s3:AbortMultipartUpload", &answer)),
        };
        self.caller().call(call, Request::delete(url).body(Bytes::new()), made_of).await
    }

    /// The document of a 200: it may be an error's ("a 200 OK response can contain either a success or an error").
    fn accepted(
        &self,
        answer: &Answer<Bytes>,
        expected: &str,
        ended: &mut dyn FnMut(&str, &str),
    ) -> Result<(), Unread> {
        match read_document(&mut answer.body.as_ref(), expected, ended) {
            Ok(None) => Ok(()),
            Ok(refused) => Err(self.refusal("s3:PutObject", answer.status, refused, None)),
            Err(cause) => Err(Unread::page(answer.status, &cause)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_are_as_large_as_ten_thousand_of_them_need() {
        let sizes = PartSizes { from: 1, part: 100 };
        assert_eq!(sizes.of(1_000_000), 100);
        assert_eq!(sizes.of(1_000_001), 101);
        assert_eq!(PartSizes::default().of(5 << 30), 256 << 20);
        assert_eq!(PartSizes { from: 0, part: 0 }.of(0), 1);
    }
}
