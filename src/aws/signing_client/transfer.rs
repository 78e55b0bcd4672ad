//! Bodies that are files: sent as they are read, and written as they arrive. One attempt each: what a lost answer means only the
//! caller can find out.

use std::path::Path;
use std::time::Duration;

use http_body_util::BodyExt;
use hyper::body::{Bytes, Incoming};
use hyper::{Request, Response, StatusCode};

use super::{Answer, Call, Error, Made, Reader, SigningClient, Unread};
use crate::aws::sigv4::sign_file;
use crate::net::http::{self, Failure};
use crate::util::file;
use crate::util::file_stream::{Part, Pieces, Progress, Sink, Written};

/// A body that is a part of a file.
#[derive(Clone, Copy)]
pub(in crate::aws) struct Upload<'a> {
    pub part: Part<'a>,
    pub sha256: &'a [u8; 32],
    /// How long there may be no progress.
    pub stall: Duration,
    pub progress: Progress<'a>,
}

/// A file that was received.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Arrived {
    Whole(Written),
    /// The store says that there is none.
    Absent,
}

impl SigningClient {
    /// Sends a file, once.
    ///
    /// # Errors
    /// The request was refused, or has no answer: whether it took effect is then unknown.
    pub(in crate::aws) async fn upload<T: Send>(
        &self,
        call: &Call,
        request: hyper::http::Result<Request<()>>,
        upload: Upload<'_>,
        made_of: impl Fn(Answer<Bytes>) -> Result<T, Unread> + Sync,
    ) -> Result<T, Error> {
        let made = Made::default();
        let outcome = self.try_upload(call, request?, upload, &|answer| made.keep(made_of(answer))).await;
        outcome.inspect_err(|error| _ = self.take_note(call, error))?;
        made.taken()
    }

    async fn try_upload(
        &self,
        call: &Call,
        mut request: Request<()>,
        upload: Upload<'_>,
        reader: Reader<'_, Bytes>,
    ) -> Result<(), Error> {
        if let Some(credentials) = self.credentials().await? {
            sign_file(&mut request, upload.sha256, &credentials, &self.scope(call.service)).map_err(Error::Signing)?;
        }
        self.meters.called(call.service.api());
        let url = request.uri().to_string();
        let pieces = Pieces::read(upload.part)
            .map_err(|cause| http::Error { url, failure: Failure::File(cause.to_string()) })?;
        let answer = self.http.send_file(request, pieces, upload.stall, upload.progress).await?;
        self.learn_from(&answer);
        Self::read(call, answer, reader).await
    }

    /// Writes the body of a 200 to a new file, once; `refused` says what any other answer means. A file that is not whole is removed: it is ours.
    ///
    /// # Errors
    /// There is no whole body, or it can't be written.
    pub(in crate::aws) async fn download(
        &self,
        call: &Call,
        request: Request<Bytes>,
        to: &Path,
        (stall, progress): (Duration, Progress<'_>),
        refused: impl Fn(Answer<Bytes>) -> Result<Arrived, Unread> + Sync,
    ) -> Result<Arrived, Error> {
        let outcome = self.try_download(call, request, to, (stall, progress), refused).await;
        outcome.inspect_err(|error| _ = self.take_note(call, error))
    }

    async fn try_download(
        &self,
        call: &Call,
        request: Request<Bytes>,
        to: &Path,
        (stall, progress): (Duration, Progress<'_>),
        refused: impl Fn(Answer<Bytes>) -> Result<Arrived, Unread> + Sync,
    ) -> Result<Arrived, Error> {
        let answer = self.send(call.service, request, call.within).await?;
        if answer.status() != StatusCode::OK {
            let made = Made::default();
            Self::read::<Bytes>(call, answer, &|answer| made.keep(refused(answer))).await?;
            return made.taken();
        }
        let mut sink = Sink::create(to).map_err(|cause| not_written(to, &cause))?;
        match Self::receive(call, answer, &mut sink, to, (stall, progress)).await {
            Ok(()) => sink.finish().await.map(Arrived::Whole).map_err(|cause| not_written(to, &cause)),
            Err(error) => {
                // Its writer must have ended before another attempt creates the file. One that could not be created is not ours.
                if sink.finish().await.is_ok() {
                    let ours = to.to_owned();
                    let _stays = file::aside(to, move || std::fs::remove_file(ours)).await;
                }
                Err(error)
            }
        }
    }

    async fn receive(
        call: &Call,
        answer: Response<Incoming>,
        sink: &mut Sink,
        to: &Path,
        (stall, progress): (Duration, Progress<'_>),
    ) -> Result<(), Error> {
        let (head, mut body) = answer.into_parts();
        let broken = |cause: String| call.failed(head.status, Unread::Malformed(cause));
        let mut received = 0;
        loop {
            let frame = tokio::time::timeout(stall, body.frame()).await;
            let frame = frame.map_err(|_| broken(format!("sends nothing for {} s", stall.as_secs())))?;
            let Some(frame) = frame else { return Ok(()) };
            let frame = frame.map_err(|cause| broken(format!("breaks off after {received} bytes: {cause}")))?;
            let piece = frame.into_data().unwrap_or_default();
            received += piece.len() as u64;
            sink.write(piece).await.map_err(|cause| not_written(to, &cause))?;
            progress(received);
        }
    }
}

/// Not the store's fault, and no attempt helps.
fn not_written(to: &Path, cause: &std::io::Error) -> Error {
    let way_out = file::way_out(cause, to).map_or(String::new(), |way_out| format!("; {way_out}"));
    Error::File(format!("{}: {cause}{way_out}", to.display()))
}
