//! Local nodes share one machine: each sees its own part of the GPUs, through one NVML.

use std::collections::BTreeSet;

use tokio::sync::watch;
use trainyard_core::unit::GpuUuid;

use super::{Gpu, GpuHandle, GpuProblem, Health, Listing, Reading};

/// Another [`Gpu`], less the units that are not this node's.
pub struct Share {
    inner: GpuHandle,
    units: BTreeSet<GpuUuid>,
}

impl Share {
    /// Shows only these units of `inner`; problems of NVML as a whole are shown to every share.
    #[must_use]
    pub fn new(inner: GpuHandle, units: impl IntoIterator<Item = GpuUuid>) -> Share {
        Share { inner, units: units.into_iter().collect() }
    }
}

impl Gpu for Share {
    fn list(&self) -> Listing {
        let mut listing = self.inner.list();
        listing.gpus.retain(|unit| self.units.contains(&unit.uuid));
        listing
    }

    fn sample(&self) -> Result<Vec<Reading>, GpuProblem> {
        let mut readings = self.inner.sample()?;
        // The GPU that carries a MIG device tells its power and temperature.
        let parents: BTreeSet<GpuUuid> = readings
            .iter()
            .filter(|reading| self.units.contains(&reading.uuid))
            .filter_map(|reading| reading.parent.clone())
            .collect();
        readings.retain(|reading| self.units.contains(&reading.uuid) || parents.contains(&reading.uuid));
        Ok(readings)
    }

    fn health(&self) -> Health {
        let mut health = self.inner.health();
        health.faults.retain(|uuid, _| self.units.contains(uuid));
        health
    }

    fn changes(&self) -> watch::Receiver<u64> {
        self.inner.changes()
    }
}

/// Deals the GPUs of a machine to its local nodes: in order, in one piece each, the first ones get one more.
#[must_use]
pub fn split(gpus: &[GpuUuid], nodes: usize) -> Vec<Vec<GpuUuid>> {
    let mut rest = gpus;
    (0..nodes)
        .map(|node| {
            let (mine, others) = rest.split_at(rest.len().div_ceil(nodes - node));
            rest = others;
            mine.to_vec()
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use proptest::prelude::*;

    use super::*;
    use crate::gpu::fake::Fake;

    fn uuids(count: usize) -> Vec<GpuUuid> {
        (0..count).map(|i| GpuUuid(format!("GPU-{i}"))).collect()
    }

    #[test]
    fn eight_gpus_on_three_nodes() {
        let sizes: Vec<usize> = split(&uuids(8), 3).iter().map(Vec::len).collect();
        assert_eq!(sizes, [3, 3, 2]);
        assert_eq!(split(&uuids(1), 3), [uuids(1), vec![], vec![]]);
        assert_eq!(split(&uuids(2), 0), Vec::<Vec<GpuUuid>>::new());
    }

    proptest! {
        #[test]
        fn every_gpu_has_one_node(count in 0usize..40, nodes in 1usize..20) {
            let shares = split(&uuids(count), nodes);
            prop_assert_eq!(shares.len(), nodes);
            prop_assert_eq!(shares.concat(), uuids(count));
            let largest = shares.iter().map(Vec::len).max().unwrap();
            let smallest = shares.iter().map(Vec::len).min().unwrap();
            prop_assert!(largest - smallest <= 1);
        }
    }

    #[test]
    fn a_share_shows_its_own_units_and_no_other() {
        let fake = Fake::with_gpus(4);
        fake.set_fault("GPU-fake-0", "broken");
        fake.set_fault("GPU-fake-2", "broken too");
        let share = Share::new(Arc::new(fake), [GpuUuid("GPU-fake-1".into()), GpuUuid("GPU-fake-2".into())]);
        let listed: Vec<String> = share.list().gpus.into_iter().map(|unit| unit.uuid.0).collect();
        assert_eq!(listed, ["GPU-fake-1", "GPU-fake-2"]);
        let read: Vec<String> = share.sample().unwrap().into_iter().map(|reading| reading.uuid.0).collect();
        assert_eq!(read, ["GPU-fake-1", "GPU-fake-2"]);
        assert_eq!(share.health().faults.into_keys().collect::<Vec<_>>(), [GpuUuid("GPU-fake-2".into())]);
    }
}
