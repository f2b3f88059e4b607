//! What the nodes' numbers were: a bounded history in memory, lost with the process.
//!
//! Two layers per node: every batch (2 h at 5 s), and the minute's value (24 h). The values of all nodes share
//! one budget of memory; a node that has more than its part forgets its oldest first. What nodes send is not
//! trusted: names, labels, counts are limited, what is over is dropped and counted. Never in the writer's way.

use std::collections::{BTreeMap, VecDeque};

use trainyard_proto::v1::{MetricBatch, Sample};

/// Batches kept at full rate: 2 h at one each 5 s.
pub const FINE_POINTS: usize = 1440;
/// Minutes kept: 24 h.
pub const MINUTES: usize = 1440;
/// Memory for values of all nodes, in bytes; names of series come on top (about 300 bytes each).
pub const BUDGET_BYTES: usize = 64 << 20;
/// Samples taken of one batch.
pub const SAMPLES_MAX: usize = 8192;
/// Series kept of one node, those of ended tasks included; the longest silent ones go first.
pub const SERIES_MAX: usize = 4096;
/// Bytes of a name, of a label's name, of its value.
pub const TEXT_BYTES: usize = 256;
/// Labels of a sample.
pub const LABELS_MAX: usize = 8;

const MINUTE_MS: i64 = 60_000;
/// A single node keeps at least this many values, however many nodes there are.
const VALUES_MIN: usize = 4096;

/// The history of all nodes.
#[derive(Debug)]
pub struct History {
    nodes: BTreeMap<String, Node>,
    budget_values: usize,
}

/// One number of a node over time.
#[derive(Clone, Debug, PartialEq)]
pub struct Series {
    /// As `gpu_power_watts`.
    pub name: String,
    /// As `gpu` -> UUID.
    pub labels: BTreeMap<String, String>,
    /// Wall clock in ms since 1970, and the value; in the order in which they came. Minutes first, then every batch.
    pub points: Vec<(i64, f64)>,
}

/// What was not kept of a node's numbers, since the coordinator's start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Dropped {
    /// Samples over a limit, or without a finite value.
    pub samples: u64,
    /// Series that made room for newer ones.
    pub series: u64,
}

impl Default for History {
    fn default() -> History {
        History::with_budget(BUDGET_BYTES)
    }
}

impl History {
    /// An empty history with so many bytes for values.
    #[must_use]
    pub fn with_budget(bytes: usize) -> History {
        History { nodes: BTreeMap::new(), budget_values: bytes / size_of::<f64>() }
    }

    /// Adds what a node has sent. Time is the node's own; it may go back when its clock is set.
    pub fn record(&mut self, node: &str, batch: MetricBatch) {
        if !self.nodes.contains_key(node) {
            self.nodes.insert(node.to_owned(), Node::default());
        }
        let quota = (self.budget_values / self.nodes.len()).max(VALUES_MIN);
        if let Some(entry) = self.nodes.get_mut(node) {
            entry.record(batch, quota);
        }
    }

    /// The last batch of a node, as far as it was within the limits.
    #[must_use]
    pub fn latest(&self, node: &str) -> Option<&MetricBatch> {
        self.nodes.get(node)?.latest.as_ref()
    }

    /// All points of a node that are not older than this (ms since 1970), by name and labels.
    #[must_use]
    pub fn since(&self, node: &str, ms: i64) -> Vec<Series> {
        self.nodes.get(node).map(|node| node.since(ms)).unwrap_or_default()
    }

    /// What was not kept.
    #[must_use]
    pub fn dropped(&self, node: &str) -> Dropped {
        self.nodes.get(node).map(|node| node.dropped).unwrap_or_default()
    }

    /// A node that is gone for good.
    pub fn forget(&mut self, node: &str) {
        self.nodes.remove(node);
    }
}

#[derive(Debug, Default)]
struct Node {
    fine: Layer,
    minutes: Layer,
    /// The minute that is not over yet: its number, and per series the sum and count, or the last value.
    minute: Option<(i64, BTreeMap<Key, Pending>)>,
    latest: Option<MetricBatch>,
    dropped: Dropped,
}

type Key = (String, BTreeMap<String, String>);

#[derive(Clone, Copy, Debug)]
struct Pending {
    sum: f64,
    count: f64,
    last: f64,
}

impl Node {
    fn record(&mut self, mut batch: MetricBatch, quota: usize) {
        let sent = batch.samples.len();
        batch.samples.truncate(SAMPLES_MAX);
        batch.samples.retain(within_limits);
        self.dropped.samples += (sent - batch.samples.len()) as u64;

        let minute = batch.at_ms.div_euclid(MINUTE_MS);
        if self.minute.as_ref().is_some_and(|(current, _)| *current != minute) {
            self.end_minute();
        }
        let pending = &mut self.minute.get_or_insert_with(|| (minute, BTreeMap::new())).1;
        self.fine.begin(batch.at_ms);
        for sample in &batch.samples {
            let key =
                (sample.name.clone(), sample.labels.iter().map(|(k, v)| (k.clone(), v.clone())).collect());
            if let Some(value) = pending.get_mut(&key) {
                value.add(sample.value);
            } else if pending.len() < SERIES_MAX {
                pending.insert(key.clone(), Pending { sum: sample.value, count: 1.0, last: sample.value });
            }
            self.dropped.series += self.fine.push(key, sample.value);
        }
        self.fine.shrink(FINE_POINTS, quota / 2);
        self.minutes.shrink(MINUTES, quota / 2);
        self.latest = Some(batch);
    }

    fn end_minute(&mut self) {
        let Some((minute, pending)) = self.minute.take() else { return };
        self.minutes.begin(minute.saturating_mul(MINUTE_MS));
        for (key, value) in pending {
            // Of what only grows the last value counts, of the rest the mean.
            let kept = if key.0.ends_with("_total") { value.last } else { value.sum / value.count };
            self.dropped.series += self.minutes.push(key, kept);
        }
    }

    fn since(&self, ms: i64) -> Vec<Series> {
        // Minutes only from before the first batch that is still there.
        let fine_from = self.fine.times.front().copied().unwrap_or(i64::MAX);
        let mut all: BTreeMap<&Key, Vec<(i64, f64)>> = BTreeMap::new();
        for (key, at, value) in self.minutes.points() {
            if at >= ms && at.saturating_add(MINUTE_MS) <= fine_from {
                all.entry(key).or_default().push((at, value));
            }
        }
        for (key, at, value) in self.fine.points() {
            if at >= ms {
                all.entry(key).or_default().push((at, value));
            }
        }
        let series = |(key, points): (&Key, Vec<(i64, f64)>)| Series {
            name: key.0.clone(),
            labels: key.1.clone(),
            points,
        };
        all.into_iter().map(series).collect()
    }
}

impl Pending {
    fn add(&mut self, value: f64) {
        self.sum += value;
        self.count += 1.0;
        self.last = value;
    }
}

/// Times once, and per series a column of values; a series costs nothing for times outside its own.
#[derive(Debug, Default)]
struct Layer {
    /// The number of `times[0]`, counted from the first time ever.
    base: u64,
    times: VecDeque<i64>,
    columns: BTreeMap<Key, Column>,
    /// Values in all columns.
    stored: usize,
}

#[derive(Debug)]
struct Column {
    /// The number of the time of `values[0]`.
    first: u64,
    /// NaN where there was none.
    values: VecDeque<f64>,
}

impl Column {
    /// The number after its last time.
    fn end(&self) -> u64 {
        self.first + self.values.len() as u64
    }
}

impl Layer {
    fn begin(&mut self, at_ms: i64) {
        self.times.push_back(at_ms);
    }

    /// Adds a value at the last time; gives how many series had to make room.
    fn push(&mut self, key: Key, value: f64) -> u64 {
        let now = self.base + (self.times.len() as u64).saturating_sub(1);
        if let Some(column) = self.columns.get_mut(&key) {
            if column.end() > now {
                // The same series twice in one batch: the last one counts.
                if let Some(last) = column.values.back_mut() {
                    *last = value;
                }
                return 0;
            }
            while column.end() < now {
                column.values.push_back(f64::NAN);
                self.stored += 1;
            }
            column.values.push_back(value);
            self.stored += 1;
            return 0;
        }
        let gone = if self.columns.len() >= SERIES_MAX { self.drop_silent() } else { 0 };
        self.columns.insert(key, Column { first: now, values: VecDeque::from([value]) });
        self.stored += 1;
        gone
    }

    /// Forgets the eighth of the series that has been silent for longest: those of tasks long ended.
    fn drop_silent(&mut self) -> u64 {
        let mut ends: Vec<u64> = self.columns.values().map(Column::end).collect();
        ends.sort_unstable();
        let limit = ends[ends.len() / 8];
        let before = self.columns.len();
        let mut quota = before / 8 + 1;
        let stored = &mut self.stored;
        self.columns.retain(|_, column| {
            let goes = quota > 0 && column.end() <= limit;
            if goes {
                quota -= 1;
                *stored -= column.values.len();
            }
            !goes
        });
        (before - self.columns.len()) as u64
    }

    /// Forgets the oldest times until no more than so many times and values are left.
    fn shrink(&mut self, times: usize, values: usize) {
        while self.times.len() > times || (self.stored > values && self.times.len() > 1) {
            self.times.pop_front();
            self.base += 1;
            let (base, stored) = (self.base, &mut self.stored);
            self.columns.retain(|_, column| {
                if column.first < base && column.values.pop_front().is_some() {
                    column.first += 1;
                    *stored -= 1;
                }
                !column.values.is_empty()
            });
        }
    }

    fn points(&self) -> impl Iterator<Item = (&Key, i64, f64)> {
        self.columns.iter().flat_map(|(key, column)| {
            let offset = usize::try_from(column.first.saturating_sub(self.base)).unwrap_or(usize::MAX);
            let times = self.times.iter().skip(offset);
            times
                .zip(&column.values)
                .filter(|(_, value)| !value.is_nan())
                .map(move |(at, value)| (key, *at, *value))
        })
    }
}

fn within_limits(sample: &Sample) -> bool {
    let short = |text: &str| text.len() <= TEXT_BYTES;
    sample.value.is_finite()
        && !sample.name.is_empty()
        && short(&sample.name)
        && sample.labels.len() <= LABELS_MAX
        && sample.labels.iter().all(|(name, value)| short(name) && short(value))
}

#[cfg(test)]
mod tests;
