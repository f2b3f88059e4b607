//! One file by its signed link, with `Range`: 206 for a part, 416 at the end (clients poll from their offset
//! on and would print a whole file again and again otherwise).

use std::sync::Arc;

use axum::body::Body;
use axum::extract::{FromRequestParts, RawPathParams, State};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use bytes::Bytes;
use http::request::Parts;
use http::{HeaderMap, HeaderValue, Method, StatusCode, header};
use trainyard_core::id::{GangId, NodeId};
use trainyard_core::unit::WallMs;

use super::App;
use super::authz::{Anything, Authz};
use super::error::ApiError;
use super::output_files::{STDOUTERR, locate};
use super::range::{Wanted, parse};
use super::route::{Route, route};
use crate::clock::wall_now;
use crate::download::Claim;
use crate::grpc::{FileAsk, FileError, FileWanted};
use crate::logs::{FileName, GangLogs};

pub(crate) const ROUTES: &[Route] =
    &[route::<Anything>(Method::GET, "/api/v1/files/{ticket}/{*name}", || get(download))];

/// Bytes that are read at once; an agent answers no more.
const PIECE: u64 = 256 * 1024;

/// The link's ticket; the name behind it is for people.
struct Ticket(String);

impl<S: Send + Sync> FromRequestParts<S> for Ticket {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, ApiError> {
        let params = RawPathParams::from_request_parts(parts, state).await.map_err(|_| bad_link())?;
        let ticket = params.iter().find(|(name, _)| *name == "ticket").map(|(_, value)| value.to_owned());
        ticket.map(Ticket).ok_or_else(bad_link)
    }
}

fn bad_link() -> ApiError {
    ApiError::new(
        StatusCode::FORBIDDEN,
        "InvalidLink",
        "This link was not made here, or has expired: list the files again.",
    )
}

async fn download(
    _: Authz<Anything>,
    State(app): State<App>,
    Ticket(ticket): Ticket,
    headers: HeaderMap,
) -> Result<Response, ApiError> {
    let claim = app.signer.check(&ticket, wall_now()).map_err(|_| bad_link())?;
    let file = open(&app, claim).await?;
    let range = headers.get(header::RANGE).and_then(|range| range.to_str().ok());
    let size = file.size;
    let (status, first, length) = match parse(range, size) {
        Wanted::Whole => (StatusCode::OK, 0, size),
        Wanted::Part(first, last) => (StatusCode::PARTIAL_CONTENT, first, last - first + 1),
        Wanted::Unsatisfiable => {
            let error = ApiError::new(
                StatusCode::RANGE_NOT_SATISFIABLE,
                "InvalidRange",
                format!("The file has {size} bytes: there is nothing at this range."),
            );
            return Ok(error.header(header::CONTENT_RANGE, plain(format!("bytes */{size}"))).into_response());
        }
    };
    let mut answer = HeaderMap::new();
    answer.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/octet-stream"));
    answer.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    answer.insert(header::ACCEPT_RANGES, HeaderValue::from_static("bytes"));
    answer.insert(header::CONTENT_LENGTH, HeaderValue::from(length));
    if status == StatusCode::PARTIAL_CONTENT {
        answer.insert(header::CONTENT_RANGE, plain(format!("bytes {first}-{}/{size}", first + length - 1)));
    }
    if let Some(modified) = http_date(file.modified) {
        answer.insert(header::LAST_MODIFIED, plain(modified));
    }
    let pieces = futures_util::stream::try_unfold((file, first, length), |(file, offset, left)| async move {
        if left == 0 {
            return Ok(None);
        }
        let piece = file.piece(offset, left.min(PIECE)).await?;
        let length = piece.len() as u64;
        // The file became shorter: the client must not take the answer for whole.
        if length == 0 {
            return Err(std::io::Error::other("the file became shorter while it was read"));
        }
        Ok(Some((piece, (file, offset + length, left.saturating_sub(length)))))
    });
    Ok((status, answer, Body::from_stream(pieces)).into_response())
}

fn plain(text: String) -> HeaderValue {
    HeaderValue::from_str(&text).expect("numbers and ASCII words are a header's value")
}

fn http_date(at: WallMs) -> Option<String> {
    let at = jiff::Timestamp::from_millisecond(at.0).ok().filter(|_| at.0 > 0)?;
    Some(at.strftime("%a, %d %b %Y %H:%M:%S GMT").to_string())
}

struct Open {
    place: Place,
    size: u64,
    modified: WallMs,
}

enum Place {
    Log(Arc<GangLogs>, FileName),
    Node { app: App, node: NodeId, gang: GangId, directory: String, path: String },
}

async fn open(app: &App, claim: Claim) -> Result<Open, ApiError> {
    let not_found = || ApiError::new(StatusCode::NOT_FOUND, "FileNotFound", "The file, or its job, is gone.");
    let id = claim.gang.job;
    let job = app.read(move |reader| reader.job_by_id(id)).await?.ok_or_else(not_found)?;
    if claim.directory.eq_ignore_ascii_case(STDOUTERR) {
        let name = FileName::parse(&claim.path).map_err(|_| not_found())?;
        let logs = app.gang_logs(claim.gang).await?;
        let file = logs.file(&name).ok_or_else(not_found)?;
        return Ok(Open { place: Place::Log(logs, name), size: file.size, modified: file.modified });
    }
    let (node, directory) = locate(app, &job, claim.gang, &claim.directory).await?;
    let place = Place::Node { app: app.clone(), node, gang: claim.gang, directory, path: claim.path };
    let (size, modified) = place.look().await?;
    Ok(Open { place, size, modified })
}

impl Open {
    async fn piece(&self, offset: u64, length: u64) -> std::io::Result<Bytes> {
        match &self.place {
            Place::Log(logs, name) => {
                let (logs, name) = (logs.clone(), name.clone());
                let limit = usize::try_from(length).unwrap_or(usize::MAX);
                tokio::task::spawn_blocking(move || logs.read(&name, offset, limit)).await?
            }
            Place::Node { .. } => {
                let (data, ..) = self.place.ask(offset, length).await.map_err(std::io::Error::other)?;
                let limit = usize::try_from(length).unwrap_or(usize::MAX).min(data.len());
                Ok(data.slice(..limit))
            }
        }
    }
}

impl Place {
    async fn look(&self) -> Result<(u64, WallMs), FileError> {
        let (_, size, modified) = self.ask(0, 0).await?;
        Ok((size, modified))
    }

    async fn ask(&self, offset: u64, length: u64) -> Result<(Bytes, u64, WallMs), FileError> {
        match self {
            Place::Log(..) => Ok((Bytes::new(), 0, WallMs(0))),
            Place::Node { app, node, gang, directory, path } => {
                let wanted = FileWanted::Read { offset, length };
                let ask = FileAsk { gang: *gang, directory: directory.clone(), path: path.clone(), wanted };
                let answer = app.sessions.ask(node, ask).await?;
                Ok((answer.data, answer.size, answer.modified))
            }
        }
    }
}
