//! Reading the audit log: streamed from a number on, at the reader's own pace.

use super::{
    connection::{Call, Context},
    operator_api::argument,
    reply,
    reply::Body,
};
use crate::{
    audit::{Filter, Follower, Record, find_request},
    model::{Code, LeaseId, Refusal, RequestId, WallTime},
};
use bytes::Bytes;
use futures_util::stream;
use http_body_util::{BodyExt, StreamBody};
use hyper::{
    Response, StatusCode,
    body::Frame,
    header::{CONTENT_TYPE, HeaderValue},
};
use serde_json::json;
use std::convert::Infallible;

/// Records that are sent in one piece.
const PIECE: usize = 256;

/// `GET /v1/audit?from=N&follow=true&identity=..&secret=..&outcome=..&lease=..&since=..`: one record a line.
///
/// A reader that stops reading stops only itself: its connection's buffer fills and nothing is read ahead for it.
pub(super) fn answer(call: &Call, context: &Context) -> Result<Response<Body>, Refusal> {
    let number = |name: &'static str| match argument(call, name) {
        None => Ok(None),
        Some(text) => text.parse::<u64>().map(Some).map_err(|_| Refusal::field(name, "must be a number")),
    };
    let (from, last) = (number("from")?, number("last")?);
    let follow = argument(call, "follow") == Some("true");
    let filter = filter(call)?;
    let written = context.broker.audit().status().seq;
    let from = match (from, last) {
        (Some(from), _) => from,
        (None, Some(last)) => (written + 1).saturating_sub(last),
        (None, None) => 0,
    };
    let watch = follow.then(|| context.broker.audit().watch());
    let follower = Follower::new(&context.audit_folder, from, watch);
    let stop = context.stop.clone();
    let lines = stream::unfold((follower, filter), move |(mut follower, filter)| {
        let mut stop = stop.clone();
        async move {
            loop {
                let lines = if follow {
                    tokio::select! {
                        lines = follower.next(PIECE) => lines.ok()??,
                        _ = stop.wait_for(|stop| *stop) => return None,
                    }
                } else {
                    let (back, lines) = tokio::task::spawn_blocking(move || {
                        let lines = follower.read(PIECE);
                        (follower, lines)
                    })
                    .await
                    .ok()?;
                    follower = back;
                    lines.ok().filter(|lines| !lines.is_empty())?
                };
                let piece = wanted(&lines, &filter);
                if !piece.is_empty() {
                    return Some((Ok::<_, Infallible>(Frame::data(Bytes::from(piece))), (follower, filter)));
                }
            }
        }
    });
    let mut response = Response::new(StreamBody::new(lines).boxed_unsync());
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/x-ndjson"));
    Ok(response)
}

fn wanted(lines: &[String], filter: &Filter) -> String {
    let mut piece = String::new();
    for line in lines {
        // What is no record is shown all the same: an operator should see it.
        if serde_json::from_str::<Record>(line).map_or(true, |record| filter.admits(&record)) {
            piece.push_str(line);
            piece.push('\n');
        }
    }
    piece
}

fn filter(call: &Call) -> Result<Filter, Refusal> {
    let text = |name| argument(call, name);
    let wrong = |name: &'static str| Refusal::field(name, "is not one");
    Ok(Filter {
        identity: text("identity").map(str::parse).transpose().map_err(|_| wrong("identity"))?,
        secret: text("secret").map(str::parse).transpose().map_err(|_| wrong("secret"))?,
        outcome: text("outcome").map(|word| serde_json::from_value(json!(word))).transpose().map_err(|_| wrong("outcome"))?,
        lease: text("lease").map(LeaseId::parse).transpose().map_err(|_| wrong("lease"))?,
        request: text("request").map(RequestId::parse).transpose().map_err(|_| wrong("request"))?,
        since: text("since").map(|text| WallTime::parse(text).ok_or_else(|| wrong("since"))).transpose()?,
        ..Filter::default()
    })
}

/// `GET /v1/why/{request}`: every record of one request.
pub(super) async fn why(call: &Call, context: &Context) -> Result<Response<Body>, Refusal> {
    let request = call.parameter.as_deref().and_then(|text| RequestId::parse(text).ok());
    let request = request.ok_or_else(|| Refusal::field("request", "is not a request id such as req-01..."))?;
    let folder = context.audit_folder.clone();
    let found = tokio::task::spawn_blocking(move || find_request(&folder, request, 100)).await;
    match found {
        Ok(Ok(records)) if records.is_empty() => Err(Refusal::new(Code::NOT_FOUND).message(format!(
            "No record names {request}: not every answer has one, and equal refusals beyond 20 a minute are counted together."
        ))),
        Ok(Ok(records)) => Ok(reply::json(StatusCode::OK, call.id, &json!({"request": call.id, "records": records}))),
        Ok(Err(error)) => Err(Refusal::new(Code::INTERNAL).detail(error.to_string())),
        Err(error) => Err(Refusal::new(Code::INTERNAL).detail(error.to_string())),
    }
}
