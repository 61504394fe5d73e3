//! The client against a listener that does as it is told.

use super::*;
use std::{
    io::{BufRead, BufReader, Read, Write},
    os::unix::net::{UnixListener, UnixStream},
    sync::mpsc,
};

/// What the listener does with one connection: each entry answers one request on it; an empty list closes it unread.
type Script = Vec<Vec<&'static str>>;

const HEALTH: &str = r#"200 {"status":"ok","version":"9"}"#;
const NONCE: &str = r#"401 {"request":"req-01arz3ndektsv4rrffq69g5fav","error":{"code":"nonce_required","message":"m","nonce":"n-1"}}"#;

/// Serves the script and tells the head of every request with the number of its connection.
fn serve(script: Script) -> (tempfile::TempDir, PathBuf, mpsc::Receiver<(usize, String)>) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().canonicalize().unwrap().join("s.sock");
    let listener = UnixListener::bind(&path).unwrap();
    let (tell, heads) = mpsc::channel();
    std::thread::spawn(move || {
        for (number, answers) in script.into_iter().enumerate() {
            let (stream, _) = listener.accept().unwrap();
            answer(stream, &answers, |head| drop(tell.send((number, head))));
        }
    });
    (folder, path, heads)
}

fn answer(mut stream: UnixStream, answers: &[&str], tell: impl Fn(String)) {
    let mut reader = BufReader::new(stream.try_clone().unwrap());
    for text in answers {
        let (mut head, mut length) = (String::new(), 0);
        loop {
            let mut line = String::new();
            if reader.read_line(&mut line).unwrap() == 0 || line == "\r\n" {
                break;
            }
            length = line.to_lowercase().strip_prefix("content-length: ").map_or(length, |text| text.trim().parse().unwrap());
            head.push_str(&line);
        }
        reader.by_ref().take(length).read_to_end(&mut Vec::new()).unwrap();
        tell(head);
        let (status, body) = text.split_once(' ').unwrap();
        write!(stream, "HTTP/1.1 {status} X\r\ncontent-length: {}\r\n\r\n{body}", body.len()).unwrap();
    }
}

#[tokio::test]
async fn a_connection_closed_before_any_answer_is_made_again_once() {
    let (_folder, path, heads) = serve(vec![vec![], vec![HEALTH]]);
    let mut client = Client::connect(&path).await.unwrap();
    assert_eq!(client.health().await.unwrap().status, "ok");
    assert_eq!(heads.recv().unwrap().0, 1);
    let (_folder, path, _heads) = serve(vec![vec![], vec![]]);
    let mut client = Client::connect(&path).await.unwrap();
    assert!(matches!(client.health().await, Err(ClientError::Unreachable(..))));
}

#[tokio::test]
async fn a_nonce_is_answered_once_on_its_own_connection() {
    let (_folder, path, heads) = serve(vec![vec![NONCE, HEALTH]]);
    let mut client = Client::connect(&path).await.unwrap();
    assert_eq!(client.health().await.unwrap().status, "ok");
    let heads: Vec<_> = heads.iter().collect();
    assert!(heads.iter().all(|(connection, _)| *connection == 0));
    assert!(!heads[0].1.contains("claviger-nonce") && heads[1].1.contains("claviger-nonce: n-1"), "{heads:?}");
    let (_folder, path, _heads) = serve(vec![vec![NONCE, NONCE]]);
    let mut client = Client::connect(&path).await.unwrap();
    assert!(matches!(client.health().await, Err(ClientError::Refused(_, 401))));
}

#[tokio::test]
async fn what_is_not_the_api_is_said_to_be_that() {
    for text in ["200 {}", "200 nonsense", "500 nonsense"] {
        let (_folder, path, _heads) = serve(vec![vec![text]]);
        let mut client = Client::connect(&path).await.unwrap();
        assert!(matches!(client.health().await, Err(ClientError::Protocol(_))), "{text}");
    }
    assert!(matches!(Client::connect(Path::new("/nowhere/s.sock")).await, Err(ClientError::Unreachable(..))));
}

#[tokio::test]
async fn a_folder_that_others_may_change_is_not_trusted() {
    use std::os::unix::fs::PermissionsExt;
    let (folder, path, _heads) = serve(vec![vec![HEALTH]]);
    std::fs::set_permissions(folder.path(), std::fs::Permissions::from_mode(0o777)).unwrap();
    assert!(matches!(Client::connect(&path).await, Err(ClientError::Untrusted(..))));
}
