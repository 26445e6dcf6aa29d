//! JSON-RPC over one HTTP connection that stays open, so that what is measured is the node and not the making of connections.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::TcpStream;
use std::time::Duration;

use serde_json::{Value, json};

/// Longer than a node takes for anything: a private send waits ten seconds for its recipients at most.
const ANSWER_MAX: Duration = Duration::from_secs(60);
/// More than any answer that is asked for here; a longer one is taken for a fault.
const ANSWER_BYTES_MAX: usize = 64 << 20;

/// Why there is no result.
#[derive(Debug)]
pub enum Failure {
    /// The node said so: a JSON-RPC error object.
    Refused(Value),
    /// The connection broke or what came was no answer. Whether the node did it is not known.
    Broken(String),
}

impl std::fmt::Display for Failure {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Refused(error) => write!(f, "{error}"),
            Self::Broken(reason) => f.write_str(reason),
        }
    }
}

/// A connection to one node. It is made with the first call, and anew after a failure.
pub struct Client {
    host: String,
    stream: Option<BufReader<TcpStream>>,
}

impl Client {
    pub fn new(url: &str) -> Self {
        Self {
            host: url.strip_prefix("http://").unwrap().to_owned(),
            stream: None,
        }
    }

    pub fn call(&mut self, method: &str, params: &Value) -> Result<Value, Failure> {
        self.send(&body(method, params))
    }

    /// Sends a request that was made by [`body`].
    pub fn send(&mut self, body: &str) -> Result<Value, Failure> {
        result_of(self.exchange(body)?)
    }

    /// The results of many calls of one method, in their order.
    pub fn batch(
        &mut self,
        method: &str,
        params: impl Iterator<Item = Value>,
    ) -> Result<Vec<Result<Value, Failure>>, Failure> {
        let calls = params.enumerate().map(|(id, params)| {
            json!({ "jsonrpc": "2.0", "id": id, "method": method, "params": params })
        });
        let calls: Vec<Value> = calls.collect();
        let count = calls.len();
        let mut answers = match self.exchange(&Value::Array(calls).to_string())? {
            Value::Array(answers) if answers.len() == count => answers,
            other => return Err(Failure::Broken(format!("{method}: {other}"))),
        };
        // A server may answer in any order.
        answers.sort_by_key(|answer| answer["id"].as_u64());
        Ok(answers.into_iter().map(result_of).collect())
    }

    fn exchange(&mut self, body: &str) -> Result<Value, Failure> {
        let answer = self.post(body);
        if answer.is_err() {
            self.stream = None;
        }
        let answer = answer.map_err(|e| Failure::Broken(format!("{}: {e}", self.host)))?;
        serde_json::from_slice(&answer).map_err(|e| Failure::Broken(format!("{}: {e}", self.host)))
    }

    fn post(&mut self, body: &str) -> std::io::Result<Vec<u8>> {
        let stream = match &mut self.stream {
            Some(stream) => stream,
            none => {
                let stream = TcpStream::connect(&self.host)?;
                stream.set_nodelay(true)?;
                stream.set_read_timeout(Some(ANSWER_MAX))?;
                none.insert(BufReader::new(stream))
            }
        };
        let request = format!(
            "POST / HTTP/1.1\r\nHost: {}\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
            self.host,
            body.len()
        );
        stream.get_mut().write_all(request.as_bytes())?;
        read_answer(stream)
    }
}

/// A request. Its id is always the same: on one connection there is one request at a time.
pub fn body(method: &str, params: &Value) -> String {
    json!({ "jsonrpc": "2.0", "id": 1, "method": method, "params": params }).to_string()
}

fn result_of(mut answer: Value) -> Result<Value, Failure> {
    match answer.get_mut("error") {
        Some(error) => Err(Failure::Refused(error.take())),
        None => Ok(answer["result"].take()),
    }
}

fn read_answer(stream: &mut BufReader<TcpStream>) -> std::io::Result<Vec<u8>> {
    let fault = |reason: &str| std::io::Error::other(reason.to_owned());
    let status = line(stream)?;
    let mut length = None;
    let mut chunked = false;
    loop {
        let header = line(stream)?.to_ascii_lowercase();
        if header.is_empty() {
            break;
        }
        if let Some(value) = header.strip_prefix("content-length:") {
            length = value.trim().parse::<usize>().ok();
        }
        chunked |= header.starts_with("transfer-encoding:") && header.contains("chunked");
    }
    let mut body = Vec::new();
    if chunked {
        loop {
            let size = line(stream)?;
            let size = usize::from_str_radix(size.trim(), 16).map_err(std::io::Error::other)?;
            read_onto(stream, &mut body, size)?;
            line(stream)?;
            if size == 0 {
                break;
            }
        }
    } else {
        let length = length.ok_or_else(|| fault("an answer without its length"))?;
        read_onto(stream, &mut body, length)?;
    }
    match status.split_whitespace().nth(1) {
        Some("200") => Ok(body),
        _ => Err(fault(&status)),
    }
}

fn read_onto(
    stream: &mut BufReader<TcpStream>,
    body: &mut Vec<u8>,
    size: usize,
) -> std::io::Result<()> {
    let start = body.len();
    let end = start
        .checked_add(size)
        .filter(|end| *end <= ANSWER_BYTES_MAX);
    let end = end.ok_or_else(|| std::io::Error::other("an answer that is too long"))?;
    body.resize(end, 0);
    stream.read_exact(&mut body[start..])
}

fn line(stream: &mut BufReader<TcpStream>) -> std::io::Result<String> {
    let mut line = String::new();
    if stream.read_line(&mut line)? == 0 {
        return Err(std::io::ErrorKind::UnexpectedEof.into());
    }
    line.truncate(line.trim_end().len());
    Ok(line)
}
