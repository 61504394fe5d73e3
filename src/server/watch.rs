//! `GET /v1/watch`: server-sent events about the caller's leases, for as long as it listens.
//!
//! Nothing is read ahead for a reader: an event is made when its connection takes it. See `broker/watch.rs` for what is told.

use super::{
    connection::{Call, Context},
    reply::Body,
};
use crate::{model::Refusal, wire::LeaseEvent};
use bytes::Bytes;
use futures_util::stream;
use http_body_util::{BodyExt, StreamBody};
use hyper::{
    Response,
    body::Frame,
    header::{CACHE_CONTROL, CONTENT_TYPE, HeaderValue},
};
use std::convert::Infallible;

/// After a broken connection a reader comes again in so many milliseconds.
const AGAIN: &str = "retry: 1000\n\n";

pub(super) async fn answer(call: Call, context: &Context) -> Result<Response<Body>, Refusal> {
    let watch = context.broker.watch(call.peer, call.id).await?;
    let stop = context.stop.clone();
    let events = stream::unfold((watch, true), move |(mut watch, first)| {
        let mut stop = stop.clone();
        async move {
            let events = tokio::select! {
                events = watch.next() => events?,
                _ = stop.wait_for(|stop| *stop) => return None,
            };
            let mut text = if first { AGAIN.to_owned() } else { String::new() };
            events.iter().for_each(|event| write(event, &mut text));
            if events.is_empty() {
                text.push_str(": nothing new\n\n");
            }
            Some((Ok::<_, Infallible>(Frame::data(Bytes::from(text))), (watch, false)))
        }
    });
    let mut response = Response::new(StreamBody::new(events).boxed_unsync());
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("text/event-stream"));
    response.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    Ok(response)
}

/// One event as the format of server-sent events has it: a name, one line of data, an empty line.
fn write(event: &LeaseEvent, out: &mut String) {
    // Names, numbers and times always have a JSON form, which has no line breaks.
    let Ok(serde_json::Value::Object(mut event)) = serde_json::to_value(event) else { return };
    let (name, data) = (event.remove("event"), event.remove("data"));
    if let (Some(name), Some(data)) = (name.as_ref().and_then(|name| name.as_str()), data) {
        out.push_str(&format!("event: {name}\ndata: {data}\n\n"));
    }
}
