//! A parser of server-sent events: bytes in, events out. No I/O.

/// Bytes of one event that are kept at most; more is a broken server.
const EVENT_BYTES: usize = 1024 * 1024;

/// One event.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Event {
    /// The last `id:` seen so far.
    pub(crate) id: Option<String>,
    /// `event:`.
    pub(crate) kind: String,
    /// `data:`, lines joined.
    pub(crate) data: String,
}

/// Takes a stream apart.
#[derive(Debug, Default)]
pub(crate) struct Parser {
    line: Vec<u8>,
    id: Option<String>,
    kind: String,
    data: String,
    has_data: bool,
}

/// An event is longer than any of ours.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct TooLong;

impl std::fmt::Display for TooLong {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("the coordinator sent an event of more than 1 MiB")
    }
}

impl std::error::Error for TooLong {}

impl Parser {
    /// Takes the next bytes; gives the events that they complete.
    pub(crate) fn push(&mut self, bytes: &[u8]) -> Result<Vec<Event>, TooLong> {
        let mut events = Vec::new();
        for byte in bytes {
            if *byte != b'\n' {
                self.line.push(*byte);
                if self.line.len() + self.data.len() > EVENT_BYTES {
                    return Err(TooLong);
                }
                continue;
            }
            let mut line = std::mem::take(&mut self.line);
            if line.last() == Some(&b'\r') {
                line.pop();
            }
            events.extend(self.on_line(&String::from_utf8_lossy(&line)));
        }
        Ok(events)
    }

    fn on_line(&mut self, line: &str) -> Option<Event> {
        if line.is_empty() {
            let (kind, data) = (std::mem::take(&mut self.kind), std::mem::take(&mut self.data));
            return std::mem::take(&mut self.has_data).then(|| Event { id: self.id.clone(), kind, data });
        }
        let (field, value) = line.split_once(':').unwrap_or((line, ""));
        let value = value.strip_prefix(' ').unwrap_or(value);
        match field {
            "id" => self.id = Some(value.to_owned()),
            "event" => value.clone_into(&mut self.kind),
            "data" => {
                if self.has_data {
                    self.data.push('\n');
                }
                self.has_data = true;
                self.data.push_str(value);
            }
            // Comments (an empty field) keep the connection alive; unknown fields are to be ignored.
            _ => {}
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(id: &str, kind: &str, data: &str) -> Event {
        Event { id: Some(id.to_owned()), kind: kind.to_owned(), data: data.to_owned() }
    }

    #[test]
    fn events_come_out_however_the_bytes_are_cut() {
        let stream = "id: 4\nevent: jobStarted\ndata: {\"a\":1}\n\n: alive\n\nid:5\r\ndata:x\r\ndata: y\r\n\r\nid: 6\n\n";
        let expected = vec![event("4", "jobStarted", "{\"a\":1}"), event("5", "", "x\ny")];
        for size in [1, 2, 3, 7, stream.len()] {
            let mut parser = Parser::default();
            let chunks = stream.as_bytes().chunks(size);
            let events: Vec<Event> = chunks.flat_map(|chunk| parser.push(chunk).unwrap()).collect();
            assert_eq!(events, expected, "cut into {size}");
        }
    }

    #[test]
    fn an_endless_event_is_refused() {
        let mut parser = Parser::default();
        let chunk = vec![b'x'; EVENT_BYTES];
        assert_eq!(parser.push(&chunk), Ok(vec![]));
        assert_eq!(parser.push(b"x"), Err(TooLong));
    }
}
