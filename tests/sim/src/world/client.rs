//! Clients: they ask again until they are answered, as everybody does whose connection broke.

use std::collections::BTreeMap;

use trainyard_core::coordinator::{Answer, NewJob};

use super::coordinator::{Asker, Message};
use super::{What, World};
use crate::workload::{self, Request};

/// Without an answer for so long a client asks again, ms.
const ASK_AGAIN_MS: u64 = 5_000;

/// What happens to clients.
#[derive(Clone, Debug)]
pub(crate) enum Happens {
    Ask(usize),
    Answered(usize, Box<Option<Answer>>),
}

/// All requests, and which are answered.
#[derive(Debug)]
pub(crate) struct Clients {
    requests: Vec<Request>,
    answered: BTreeMap<usize, ()>,
}

impl Clients {
    pub(crate) fn new(requests: Vec<Request>) -> Clients {
        Clients { requests, answered: BTreeMap::new() }
    }

    pub(crate) fn are_answered(&self) -> bool {
        self.answered.len() == self.requests.len()
    }

    pub(crate) fn waiting(&self) -> Vec<String> {
        let waiting = (0..self.requests.len()).filter(|n| !self.answered.contains_key(n));
        waiting.map(|n| format!("request {n} is not answered")).collect()
    }
}

impl World {
    pub(crate) fn schedule_requests(&mut self) {
        let times: Vec<u64> = self.clients.requests.iter().map(|request| request.at_ms).collect();
        for (n, at_ms) in times.into_iter().enumerate() {
            self.at(at_ms, What::Client(Happens::Ask(n)));
        }
    }

    pub(crate) fn on_client(&mut self, happens: Happens) {
        match happens {
            Happens::Ask(n) if self.clients.answered.contains_key(&n) => {}
            Happens::Ask(n) => {
                self.ask(n);
                self.after(ASK_AGAIN_MS, What::Client(Happens::Ask(n)));
            }
            Happens::Answered(n, answer) => {
                let Some(answer) = *answer else {
                    self.coverage.hit("answer", "full");
                    return;
                };
                self.clients.answered.insert(n, ());
                self.note("answered", n as u64, || format!("{answer:?}"));
                self.coverage.hit("answer", word(&answer));
            }
        }
    }

    fn ask(&mut self, n: usize) {
        if !self.coordinator.is_up() {
            return;
        }
        let request = self.clients.requests[n].clone();
        let asker = Asker::Client(n);
        self.tell_coordinator(match request.what {
            workload::What::Submit(spec) => {
                let job = NewJob { uuid: format!("uuid-{n}"), spec: *spec, key: request.key };
                Message::Submit(asker, Box::new(job))
            }
            workload::What::Cancel => Message::Cancel(asker, request.key),
            workload::What::Delete => Message::Delete(asker, request.key),
        });
    }

    /// `None`: refused, the disk is full. The answer is checked when it is given, and may be lost on its way.
    pub(crate) fn answer_client(&mut self, n: usize, answer: Option<Answer>) {
        if let Some(answer) = &answer {
            let request = self.clients.requests[n].clone();
            self.check_answer(&request, answer);
        }
        let ms = self.draw(1..50);
        self.after(ms, What::Client(Happens::Answered(n, Box::new(answer))));
    }
}

fn word(answer: &Answer) -> &'static str {
    match answer {
        Answer::Created(_) => "created",
        Answer::Existed(_) => "existed",
        Answer::Conflict(_) => "conflict",
        Answer::Terminating { .. } => "terminating",
        Answer::Deleted { .. } => "deleted",
        Answer::NotFound(_) => "not found",
        Answer::Welcome(_) => "welcome",
        Answer::Refused(_) => "refused",
        Answer::Stopping { .. } => "stopping",
        Answer::NodeChanged(_) => "node changed",
        Answer::NoSuchNode(_) => "no such node",
        Answer::NodeConnected(_) => "node connected",
    }
}
