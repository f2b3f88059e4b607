//! Ports: counted up from 2222 in each port space, in the order of placement.

use std::collections::{BTreeMap, BTreeSet};

use super::{NodeGrant, PlanError, PortSpace, ReservedPorts};
use crate::unit::Port;

/// Where counting starts. Source: docs/compat.md, "TensorFlow roles" (observed: 3 nodes).
pub(super) const FIRST_PORT: u16 = 2222;

/// The ports of a gang.
pub(crate) struct Ports<'a> {
    grants: &'a [NodeGrant],
    reserved: &'a ReservedPorts,
    /// The next candidate; `None`: 65535 has been passed.
    next: BTreeMap<&'a PortSpace, Option<u16>>,
    given: Vec<Vec<Port>>,
    skipped: Vec<BTreeSet<Port>>,
    master: Option<Port>,
}

impl<'a> Ports<'a> {
    pub(super) fn new(grants: &'a [NodeGrant], reserved: &'a ReservedPorts) -> Ports<'a> {
        Ports {
            grants,
            reserved,
            next: BTreeMap::new(),
            given: vec![Vec::new(); grants.len()],
            skipped: vec![BTreeSet::new(); grants.len()],
            master: None,
        }
    }

    /// A port of this node that nothing else in its port space has.
    pub(crate) fn take(&mut self, node: usize) -> Result<Port, PlanError> {
        let space = &self.grants[node].port_space;
        let next = self.next.entry(space).or_insert(Some(FIRST_PORT));
        while let Some(candidate) = *next {
            *next = candidate.checked_add(1);
            let port = Port(candidate);
            if self.reserved.get(space).is_some_and(|ports| ports.contains(&port)) {
                self.skipped[node].insert(port);
            } else {
                self.given[node].push(port);
                return Ok(port);
            }
        }
        Err(PlanError::PortsExhausted { node: self.grants[node].node.clone() })
    }

    /// `address:port` of a new port of this node.
    pub(crate) fn take_address(&mut self, node: usize) -> Result<String, PlanError> {
        let port = self.take(node)?;
        Ok(self.address(node, port))
    }

    /// `address:port`, with brackets around an IPv6 address.
    pub(crate) fn address(&self, node: usize, port: Port) -> String {
        let address = &self.grants[node].address;
        if address.contains(':') { format!("[{address}]:{port}") } else { format!("{address}:{port}") }
    }

    /// The port of the first node where the tasks of a gang may meet. The same at each call.
    pub(crate) fn master(&mut self) -> Result<Port, PlanError> {
        if let Some(port) = self.master {
            return Ok(port);
        }
        let port = self.take(0)?;
        self.master = Some(port);
        Ok(port)
    }

    /// `address:port` of [`Ports::master`], once it is taken.
    pub(super) fn master_address(&self) -> Option<String> {
        self.master.map(|port| self.address(0, port))
    }

    /// The ports of this node.
    pub(super) fn of_node(&self, node: usize) -> Vec<Port> {
        self.given[node].clone()
    }

    /// Ports that this node would have got, had they not been reserved.
    pub(super) fn skipped(&self, node: usize) -> &BTreeSet<Port> {
        &self.skipped[node]
    }
}
