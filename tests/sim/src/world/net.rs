//! Connections as TCP gives them: in order, whole or not at all, and silent when a wire is cut. What comes late or
//! twice comes from the past (`inject`), since a connection itself does not repeat or reorder.

use std::collections::{BTreeMap, VecDeque};

use trainyard_core::id::{Epoch, Generation};
use trainyard_core::session::{Command, Hello, Report, Welcome};

use super::{What, World};

/// From a node to the coordinator.
#[derive(Clone, Debug)]
pub(crate) enum Up {
    Hello(Box<Hello>),
    Heartbeat { boot_ms: u64 },
    Reports { epoch: Epoch, reports: Vec<Report> },
    Facts { epoch: Epoch },
    Closed,
}

/// From the coordinator to a node.
#[derive(Clone, Debug)]
pub(crate) enum Down {
    Welcome(Welcome),
    Refused,
    HeartbeatAck { boot_ms: u64 },
    Command { generation: Generation, epoch: Epoch, command: Command },
    Closed,
}

/// One connection.
#[derive(Debug)]
pub(crate) struct Connection {
    pub(crate) node: usize,
    /// Life of the agent that made it.
    pub(crate) life: u64,
    /// Start of the coordinator that it leads to.
    pub(crate) start: u64,
    up: VecDeque<(u64, Up)>,
    down: VecDeque<(u64, Down)>,
    /// Given by the Welcome, as the coordinator sees it.
    pub(crate) epoch: Option<Epoch>,
    /// When the coordinator last heard anything on it.
    pub(crate) heard: u64,
    /// Each side's view: whether it still uses it.
    pub(crate) open_at_agent: bool,
    pub(crate) open_at_coordinator: bool,
}

/// All of them, and the wires.
#[derive(Debug, Default)]
pub(crate) struct Net {
    pub(crate) connections: BTreeMap<u64, Connection>,
    next: u64,
    /// By node: nothing passes (up, down).
    pub(crate) cut: BTreeMap<usize, (bool, bool)>,
    /// By node: ms added to each message.
    pub(crate) slow: BTreeMap<usize, u64>,
}

impl Net {
    pub(crate) fn is_cut(&self, node: usize, up: bool) -> bool {
        self.cut.get(&node).is_some_and(|cut| if up { cut.0 } else { cut.1 })
    }
}

impl World {
    /// A connection from a living agent to a living coordinator.
    pub(crate) fn open_connection(&mut self, node: usize, life: u64) -> u64 {
        self.net.next += 1;
        let connection = Connection {
            node,
            life,
            start: self.coordinator.start,
            up: VecDeque::new(),
            down: VecDeque::new(),
            epoch: None,
            heard: self.now,
            open_at_agent: true,
            open_at_coordinator: true,
        };
        self.net.connections.insert(self.net.next, connection);
        self.net.next
    }

    pub(crate) fn send_up(&mut self, id: u64, up: Up) {
        let latency = self.latency(id);
        let now = self.now;
        let Some(connection) = self.net.connections.get_mut(&id) else { return };
        let at = connection.up.back().map_or(0, |(at, _)| *at).max(now + latency);
        connection.up.push_back((at, up));
        self.at(at, What::Deliver { connection: id, up: true });
    }

    pub(crate) fn send_down(&mut self, id: u64, down: Down) {
        let latency = self.latency(id);
        let now = self.now;
        let Some(connection) = self.net.connections.get_mut(&id) else { return };
        let at = connection.down.back().map_or(0, |(at, _)| *at).max(now + latency);
        connection.down.push_back((at, down));
        self.at(at, What::Deliver { connection: id, up: false });
    }

    fn latency(&mut self, id: u64) -> u64 {
        let node = self.net.connections.get(&id).map(|connection| connection.node);
        let slow = node.and_then(|node| self.net.slow.get(&node)).copied().unwrap_or(0);
        let jitter = if slow > 0 { self.draw(0..slow) } else { 0 };
        self.draw(1..20) + jitter
    }

    /// What is due on this connection, unless its wire is cut or its reader stands still: then it waits.
    pub(crate) fn deliver(&mut self, id: u64, up: bool) {
        loop {
            let Some(node) = self.net.connections.get(&id).map(|connection| connection.node) else { return };
            if self.net.is_cut(node, up) {
                return;
            }
            let Some(connection) = self.net.connections.get_mut(&id) else { return };
            if up {
                let is_open = connection.open_at_coordinator && connection.start == self.coordinator.start;
                if self.coordinator.is_stopped() || connection.up.front().is_none_or(|(at, _)| *at > self.now)
                {
                    return;
                }
                let Some((_, message)) = connection.up.pop_front() else { return };
                if is_open && self.coordinator.is_up() {
                    connection.heard = self.now;
                    self.on_up(id, message);
                }
            } else {
                let is_open = connection.open_at_agent && connection.life == self.nodes[node].life;
                if self.nodes[node].stands_still()
                    || connection.down.front().is_none_or(|(at, _)| *at > self.now)
                {
                    return;
                }
                let Some((_, message)) = connection.down.pop_front() else { return };
                if is_open && self.nodes[node].agent.is_some() {
                    self.on_down(node, id, message);
                }
            }
            self.forget_if_closed(id);
        }
    }

    /// The wires of a node, or its reader, are there again.
    pub(crate) fn deliver_all(&mut self, node: Option<usize>) {
        let ids: Vec<u64> = self
            .net
            .connections
            .iter()
            .filter(|(_, connection)| node.is_none_or(|node| connection.node == node))
            .map(|(id, _)| *id)
            .collect();
        for id in ids {
            self.deliver(id, true);
            self.deliver(id, false);
        }
    }

    pub(crate) fn close_at_agent(&mut self, id: u64) {
        if let Some(connection) =
            self.net.connections.get_mut(&id).filter(|connection| connection.open_at_agent)
        {
            connection.open_at_agent = false;
            self.send_up(id, Up::Closed);
        }
        self.forget_if_closed(id);
    }

    pub(crate) fn close_at_coordinator(&mut self, id: u64) {
        if let Some(connection) = self.net.connections.get_mut(&id).filter(|c| c.open_at_coordinator) {
            connection.open_at_coordinator = false;
            self.send_down(id, Down::Closed);
        }
        self.forget_if_closed(id);
    }

    fn forget_if_closed(&mut self, id: u64) {
        let gone = self.net.connections.get(&id).is_some_and(|c| !c.open_at_agent && !c.open_at_coordinator);
        if gone {
            self.net.connections.remove(&id);
        }
    }
}
