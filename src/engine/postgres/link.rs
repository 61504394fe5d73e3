//! One connection to the server: what is asked on it, and the task that moves its bytes.
//!
//! Everything is asked as plain text and answered as such. The protocol's other way looks up types that the server names, and those that
//! they are made of, as deep as the server says.

use super::{super::EngineError, bounds::Bounded, config::Server, pool::lock, tls::Tls};
use crate::outbound::{TlsReason, tls_reason};
use futures_util::TryStreamExt;
use std::{
    error::Error as _,
    future::poll_fn,
    pin::pin,
    sync::{
        Arc, Mutex, OnceLock,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::UnixStream,
    sync::oneshot,
};
use tokio_postgres::{
    AsyncMessage, Client, Config, Connection, NoTls, SimpleQueryMessage, SimpleQueryRow,
    error::{DbError, SqlState},
};

/// The most columns that are asked for.
const COLUMNS: usize = 4;
/// The server's words are cut to this: they are for one line of a log.
const WORDS_MAX: usize = 300;

/// A connection that is open.
pub(super) struct Link {
    client: Client,
    /// Why it is over, once it is.
    over: Arc<OnceLock<String>>,
    /// Something else came than an answer: what is asked next may be answered with the rest of it.
    astray: AtomicBool,
    /// What the server said of rights that it did not give.
    withheld: Arc<Mutex<Option<String>>>,
    /// Dropped with the client, which the task waits for.
    _held: oneshot::Sender<()>,
}

/// Why something that was asked did not come about.
#[derive(Debug)]
pub(super) enum Trouble {
    /// As the library says it, the server's answer included.
    Asked(tokio_postgres::Error),
    /// The connection could not be made, or is over.
    Lost(String),
    /// The server could not prove who it is, or we not who we are.
    Tls(TlsReason),
}

/// A row of an answer. It keeps no more than is looked at: the library's own rows remember where each column begins, of as many as a server
/// says that there are.
pub(super) struct Row(Vec<Option<String>>);

impl Row {
    fn of(row: &SimpleQueryRow) -> Self {
        let text = |column| row.try_get(column).ok().flatten().map(str::to_owned);
        Self((0..row.len().min(COLUMNS)).map(text).collect())
    }

    /// What stands in a column. Nothing also where there is no such column: what only speaks like PostgreSQL may answer with anything.
    pub(super) fn text(&self, column: usize) -> Option<&str> {
        self.0.get(column)?.as_deref()
    }

    /// Whether a column says yes.
    pub(super) fn is(&self, column: usize) -> bool {
        self.text(column) == Some("t")
    }
}

impl Link {
    /// Opens a connection. The caller bounds the wait. Whatever is still under way when the connection is dropped has `grace` to come to its
    /// end; a server that does not answer is left then.
    pub(super) async fn open(settings: &Config, server: &Server, tls: Option<&Tls>, grace: Duration) -> Result<Self, Trouble> {
        match (server, tls) {
            (Server::Unix { folder, port }, _) => {
                let stream = UnixStream::connect(folder.join(format!(".s.PGSQL.{port}"))).await;
                let stream = stream.map_err(|why| Trouble::Lost(format!("error connecting to server: {why}")))?;
                let (client, connection) = settings.connect_raw(Bounded::new(stream), NoTls).await?;
                Ok(Self::carried(client, connection, grace))
            }
            (Server::Tls { .. }, Some(tls)) => {
                let connected = settings.connect(tls.clone()).await;
                let (client, connection) = connected.map_err(|why| match tls_reason(&why) {
                    None if offers_no_tls(&why) => Trouble::Tls(TlsReason::NotOffered),
                    // Others may pass.
                    None | Some(TlsReason::Other(_) | TlsReason::BrokenOff(_)) => Trouble::from(why),
                    Some(reason) => Trouble::Tls(reason),
                })?;
                Ok(Self::carried(client, connection, grace))
            }
            (Server::Tls { .. }, None) => Err(Trouble::Lost("there is no TCP without TLS".into())),
        }
    }

    fn carried<S, T>(client: Client, connection: Connection<S, T>, grace: Duration) -> Self
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
        T: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let (over, (held, released)) = (Arc::new(OnceLock::new()), oneshot::channel::<()>());
        let withheld = Arc::<Mutex<Option<String>>>::default();
        let (told, warned) = (over.clone(), withheld.clone());
        tokio::spawn(async move {
            // Whoever waits for an answer hears that there is none when this is dropped: after it was said why.
            let mut connection = connection;
            let mut carry = pin!(async {
                loop {
                    match poll_fn(|cx| connection.poll_message(cx)).await {
                        Some(Ok(AsyncMessage::Notice(notice))) if *notice.code() == SqlState::WARNING_PRIVILEGE_NOT_GRANTED => {
                            *lock(&warned) = Some(said(&notice));
                        }
                        Some(Ok(_)) => {}
                        Some(Err(why)) => break Err(why),
                        None => break Ok(()),
                    }
                }
            });
            let ended = tokio::select! {
                ended = &mut carry => ended,
                _ = released, if !crate::mutation!("postgres-left") => tokio::time::timeout(grace, &mut carry).await.unwrap_or(Ok(())),
            };
            if let Err(why) = ended {
                let _only_once = told.set(cause(&why));
            }
        });
        Self { client, over, astray: AtomicBool::new(false), withheld, _held: held }
    }

    /// Whether nothing more can be asked on it.
    pub(super) fn is_over(&self) -> bool {
        self.client.is_closed() || self.astray.load(Ordering::Relaxed)
    }

    /// What was warned of since this was asked last: a grant that gives nothing, or not all, is no error to the server.
    pub(super) fn withheld(&self) -> Option<String> {
        lock(&self.withheld).take().filter(|_| !crate::mutation!("postgres-withheld"))
    }

    /// Carries statements out and forgets what they answer.
    pub(super) async fn run(&self, sql: &str) -> Result<(), Trouble> {
        self.client.batch_execute(sql).await.map_err(|why| self.why(why))
    }

    /// The rows that statements answer with, one after the other.
    pub(super) async fn rows(&self, sql: &str) -> Result<Vec<Row>, Trouble> {
        let mut answer = pin!(self.client.simple_query_raw(sql).await.map_err(|why| self.why(why))?);
        let mut rows = Vec::new();
        while let Some(message) = answer.try_next().await.map_err(|why| self.why(why))? {
            if let SimpleQueryMessage::Row(row) = message {
                rows.push(Row::of(&row));
            }
        }
        Ok(rows)
    }

    /// The one row that there must be.
    pub(super) async fn row(&self, sql: &str) -> Result<Row, Trouble> {
        self.rows(sql).await?.pop().ok_or_else(|| Trouble::Lost("the answer has no row".into()))
    }

    /// The library only says that a connection is over, and not why.
    fn why(&self, why: tokio_postgres::Error) -> Trouble {
        if why.as_db_error().is_none() {
            self.astray.store(true, Ordering::Relaxed);
        }
        match self.over.get() {
            Some(over) if why.is_closed() => Trouble::Lost(over.clone()),
            _ => Trouble::Asked(why),
        }
    }
}

impl From<tokio_postgres::Error> for Trouble {
    fn from(why: tokio_postgres::Error) -> Self {
        Trouble::Asked(why)
    }
}

impl Trouble {
    /// The server's answer, if it said no.
    pub(super) fn answer(&self) -> Option<&DbError> {
        match self {
            Trouble::Asked(why) => why.as_db_error(),
            Trouble::Lost(_) | Trouble::Tls(_) => None,
        }
    }

    pub(super) fn code(&self) -> Option<&SqlState> {
        self.answer().map(DbError::code)
    }
}

/// Whether the server said no to TLS as such (`ssl = off`), for which the library has words only.
fn offers_no_tls(why: &tokio_postgres::Error) -> bool {
    why.source().is_some_and(|source| source.to_string() == "server does not support TLS")
}

/// Says whose fault it is.
pub(super) fn fault(doing: &str, trouble: &Trouble) -> EngineError {
    let text = match trouble {
        Trouble::Asked(why) => format!("{doing}: {}", cause(why)),
        Trouble::Lost(why) => format!("{doing}: {why}"),
        Trouble::Tls(why) => return EngineError::Setup(format!("{doing}: {why}")),
    };
    let Some(answer) = trouble.answer() else { return EngineError::Unreachable(text) };
    match answer.code().code() {
        // Connection lost, read-only (a standby), resources short, shutting down, cancelled, locked, deadlock, collision: another time may do.
        code if ["08", "25", "53", "57", "55", "40", "58", "XX"].iter().any(|class| code.starts_with(class)) => {
            EngineError::Unreachable(text)
        }
        // Wrong password, missing rights, unknown database, table or role, syntax.
        code if ["28", "42", "3D", "3F"].iter().any(|class| code.starts_with(class)) => EngineError::Setup(text),
        _ => EngineError::Refused(text),
    }
}

/// Of the server's answer only message and code are kept: detail and context may quote statements.
fn cause(why: &tokio_postgres::Error) -> String {
    match why.as_db_error() {
        Some(answer) => said(answer),
        None => words(&format!("{why}{}", why.source().map_or_else(String::new, |source| format!(": {source}")))),
    }
}

fn said(answer: &DbError) -> String {
    format!("{} ({})", words(answer.message()), words(answer.code().code()))
}

/// On one line, and not a long one.
fn words(text: &str) -> String {
    let line = text.split_whitespace().collect::<Vec<_>>().join(" ");
    line.chars().filter(|c| !c.is_control()).take(WORDS_MAX).collect()
}
