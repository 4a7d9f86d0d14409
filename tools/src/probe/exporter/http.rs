//! As much of HTTP as one page needs. Everything that a peer can make it take has a bound: bytes, time and
//! how many it is for at once.

use std::io::{self, ErrorKind, Read as _, Write as _};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

/// Connections at once, a thread for each; who comes meanwhile waits in the kernel.
const THREADS: usize = 64;
/// Nothing here is deep.
const STACK_BYTES: usize = 256 << 10;
const REQUEST_BYTES_MAX: usize = 8 << 10;
/// For a request: who says nothing keeps others waiting for no longer, however many of them there are.
const REQUEST_TIME_MAX: Duration = Duration::from_secs(1);
/// For an answer, and until who asked has let go.
const TIME_MAX: Duration = Duration::from_secs(3);
/// Between tries when the system has no socket to give.
const PAUSE: Duration = Duration::from_millis(100);

/// Answers `GET /metrics` with what the page says, until the process ends.
pub fn answer(
    listener: TcpListener,
    page: impl Fn() -> String + Send + Sync + 'static,
) -> io::Result<()> {
    answer_within(listener, REQUEST_TIME_MAX, page)
}

fn answer_within(
    listener: TcpListener,
    request_time: Duration,
    page: impl Fn() -> String + Send + Sync + 'static,
) -> io::Result<()> {
    let (listener, page) = (Arc::new(listener), Arc::new(page));
    for number in 0..THREADS {
        let (listener, page) = (Arc::clone(&listener), Arc::clone(&page));
        let thread = thread::Builder::new().name(format!("http-{number}")).stack_size(STACK_BYTES);
        thread.spawn(move || {
            loop {
                match listener.accept() {
                    // Who asks and does not wait for the answer is no concern of the others.
                    Ok((stream, _)) => drop(converse(&stream, request_time, &*page)),
                    Err(_) => thread::sleep(PAUSE),
                }
            }
        })?;
    }
    Ok(())
}

fn converse(
    mut stream: &TcpStream,
    request_time: Duration,
    page: &dyn Fn() -> String,
) -> io::Result<()> {
    let request = head(stream, Instant::now() + request_time)?;
    let deadline = Instant::now() + TIME_MAX;
    let answer = answer_to(&request, page);
    stream.set_write_timeout(Some(left(deadline)?))?;
    stream.write_all(answer.as_bytes())?;
    stream.shutdown(Shutdown::Write)?;
    // A socket that is closed with bytes unread makes the system drop what was not delivered yet.
    let mut ignored = [0; 1024];
    for _ in 0..REQUEST_BYTES_MAX / ignored.len() {
        stream.set_read_timeout(Some(left(deadline)?))?;
        if stream.read(&mut ignored)? == 0 {
            break;
        }
    }
    Ok(())
}

/// What comes up to the empty line, or as much as is looked at.
fn head(mut stream: &TcpStream, deadline: Instant) -> io::Result<Vec<u8>> {
    let mut head = Vec::new();
    let mut chunk = [0; 1024];
    while head.len() < REQUEST_BYTES_MAX && !head.windows(4).any(|end| end == b"\r\n\r\n") {
        stream.set_read_timeout(Some(left(deadline)?))?;
        match stream.read(&mut chunk)? {
            0 => return Err(ErrorKind::UnexpectedEof.into()),
            count => head.extend_from_slice(&chunk[..count]),
        }
    }
    Ok(head)
}

/// Never nothing, which would mean that there is no limit.
fn left(deadline: Instant) -> io::Result<Duration> {
    let left = deadline.saturating_duration_since(Instant::now());
    if left.is_zero() { Err(ErrorKind::TimedOut.into()) } else { Ok(left) }
}

fn answer_to(request: &[u8], page: &dyn Fn() -> String) -> String {
    const OPENMETRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";
    const PLAIN: &str = "text/plain; charset=utf-8";
    let line = request.split(|&byte| byte == b'\r').next().unwrap_or_default();
    let line = String::from_utf8_lossy(line);
    let words: Vec<_> = line.split(' ').collect();
    let (status, kind, body, more) = match words[..] {
        [_, _, version] if !version.starts_with("HTTP/1.") => {
            ("505 HTTP Version Not Supported", PLAIN, "this speaks HTTP/1.1\n".to_owned(), "")
        }
        ["GET" | "HEAD", target, _] => match target.split('?').next() {
            Some("/metrics") => ("200 OK", OPENMETRICS, page(), ""),
            _ => ("404 Not Found", PLAIN, "there is /metrics\n".to_owned(), ""),
        },
        [_, _, _] => {
            let why = "GET and HEAD are what can be done here\n".to_owned();
            ("405 Method Not Allowed", PLAIN, why, "Allow: GET, HEAD\r\n")
        }
        _ => ("400 Bad Request", PLAIN, "this is no request\n".to_owned(), ""),
    };
    let length = body.len();
    let body = if words[0] == "HEAD" { "" } else { &body };
    format!(
        "HTTP/1.1 {status}\r\nContent-Type: {kind}\r\nContent-Length: {length}\r\n{more}Connection: close\r\n\r\n{body}"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_page_is_there_and_everything_else_is_refused() {
        for (request, status) in [
            ("GET /metrics HTTP/1.1\r\nHost: a\r\n\r\n", "200"),
            ("GET /metrics?x=1 HTTP/1.0\r\n\r\n", "200"),
            ("GET / HTTP/1.1\r\n\r\n", "404"),
            ("POST /metrics HTTP/1.1\r\n\r\n", "405"),
            ("GET /metrics HTTP/2\r\n\r\n", "505"),
            ("GET /metrics\r\n\r\n", "400"),
            ("\r\n\r\n", "400"),
            ("", "400"),
        ] {
            let answer = answer_to(request.as_bytes(), &|| "page\n".to_owned());
            assert!(answer.starts_with(&format!("HTTP/1.1 {status} ")), "{request:?}: {answer}");
            assert_eq!(
                answer.ends_with("\r\n\r\npage\n"),
                status == "200",
                "{request:?}: {answer}"
            );
        }
        let head = answer_to(b"HEAD /metrics HTTP/1.1\r\n\r\n", &|| "page\n".to_owned());
        assert!(head.contains("Content-Length: 5\r\n") && head.ends_with("\r\n\r\n"), "{head}");
    }

    #[test]
    fn who_says_nothing_holds_nobody_up() {
        const LONG: Duration = Duration::from_secs(600);
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let address = listener.local_addr().expect("it is bound");
        answer_within(listener, LONG, || "page\n".to_owned()).expect("threads");
        let _silent: Vec<_> =
            (0..THREADS - 1).map(|_| TcpStream::connect(address).expect("it listens")).collect();
        let mut stream = TcpStream::connect(address).expect("it listens");
        // Much longer than it takes, and shorter than the others may.
        stream.set_read_timeout(Some(LONG / 20)).expect("a timeout");
        stream.write_all(b"GET /metrics HTTP/1.1\r\n\r\n").expect("it reads");
        let mut said = String::new();
        stream.read_to_string(&mut said).expect("an answer and its end");
        assert!(said.ends_with("\r\n\r\npage\n"), "{said:?}");
    }

    #[test]
    fn who_sends_too_much_is_answered_and_let_go() {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let address = listener.local_addr().expect("it is bound");
        answer(listener, || "page\n".to_owned()).expect("threads");
        let mut stream = TcpStream::connect(address).expect("it listens");
        stream.write_all(&[b'x'; REQUEST_BYTES_MAX]).expect("it reads that much");
        let mut said = String::new();
        stream.read_to_string(&mut said).expect("an answer and its end");
        assert!(said.starts_with("HTTP/1.1 400 "), "{said:?}");
    }
}
