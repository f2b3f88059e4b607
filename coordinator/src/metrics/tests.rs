//! Tests of the history of metrics: bounds, thinning, what was dropped.

use proptest::prelude::*;

use super::*;

fn sample(name: &str, task: &str, value: f64) -> Sample {
    let labels =
        [("task".to_owned(), task.to_owned())].into_iter().filter(|(_, task)| !task.is_empty()).collect();
    Sample { name: name.to_owned(), labels, value }
}

fn batch(at_ms: i64, samples: Vec<Sample>) -> MetricBatch {
    MetricBatch { at_ms, samples }
}

fn points(history: &History, name: &str, since: i64) -> Vec<(i64, f64)> {
    let series = history.since("n", since).into_iter().filter(|series| series.name == name);
    series.flat_map(|series| series.points).collect()
}

#[test]
fn the_latest_batch_and_every_point_since() {
    let mut history = History::default();
    for round in 0..4 {
        history.record(
            "n",
            batch(round * 5000, vec![sample("a", "", 1.0 + round as f64), sample("b", "7.1.0", 0.5)]),
        );
    }
    assert_eq!(history.latest("n").unwrap().at_ms, 15_000);
    assert_eq!(points(&history, "a", 0), [(0, 1.0), (5000, 2.0), (10_000, 3.0), (15_000, 4.0)]);
    assert_eq!(points(&history, "a", 10_000), [(10_000, 3.0), (15_000, 4.0)]);
    assert_eq!(history.since("n", 15_001), []);
    let of_task = &history.since("n", 15_000)[1];
    assert_eq!((of_task.name.as_str(), of_task.labels["task"].as_str()), ("b", "7.1.0"));
    assert_eq!(history.latest("other"), None);
    history.forget("n");
    assert_eq!(history.latest("n"), None);
    assert_eq!(history.since("n", 0), []);
}

#[test]
fn old_batches_become_minutes() {
    let mut history = History::default();
    let rounds = 3 * FINE_POINTS as i64;
    for round in 0..rounds {
        let value = round as f64;
        history.record(
            "n",
            batch(round * 5000, vec![sample("gauge_ratio", "", value), sample("c_total", "", value)]),
        );
    }
    let gauge = points(&history, "gauge_ratio", 0);
    let fine: Vec<_> = gauge.iter().filter(|(at, _)| *at >= (rounds - FINE_POINTS as i64) * 5000).collect();
    assert_eq!(fine.len(), FINE_POINTS);
    // Twelve rounds a minute: the mean of 0..=11, and the last of them.
    assert_eq!(gauge[0], (0, 5.5));
    assert_eq!(points(&history, "c_total", 0)[0], (0, 11.0));
    // No time is told twice, and none is left out.
    assert_eq!(gauge.len(), FINE_POINTS + (rounds as usize - FINE_POINTS) / 12);
    assert!(gauge.windows(2).all(|pair| pair[0].0 < pair[1].0));
}

#[test]
fn a_series_that_pauses_has_a_gap_and_one_that_ended_goes() {
    let mut history = History::default();
    history.record("n", batch(0, vec![sample("a", "", 1.0), sample("t", "1.1.0", 1.0)]));
    history.record("n", batch(5000, vec![]));
    history.record("n", batch(10_000, vec![sample("a", "", 3.0)]));
    assert_eq!(points(&history, "a", 0), [(0, 1.0), (10_000, 3.0)]);
    assert_eq!(points(&history, "t", 0), [(0, 1.0)]);
    for minute in 1..=(MINUTES as i64 + 2) {
        for _ in 0..2 {
            history.record("n", batch(minute * MINUTE_MS, vec![sample("a", "", 3.0)]));
        }
    }
    assert_eq!(points(&history, "t", 0), []);
    assert_eq!(history.dropped("n"), Dropped::default());
}

#[test]
fn what_is_over_the_limits_is_dropped_and_counted() {
    let mut history = History::default();
    let long = "x".repeat(TEXT_BYTES + 1);
    let many = (0..=LABELS_MAX).map(|i| (i.to_string(), String::new())).collect();
    let samples = vec![
        sample("good", "", 1.0),
        sample("nan", "", f64::NAN),
        sample("inf", "", f64::INFINITY),
        sample("", "", 1.0),
        sample(&long, "", 1.0),
        sample("x", &long, 1.0),
        Sample { name: "labels".to_owned(), labels: many, value: 1.0 },
    ];
    history.record("n", batch(0, samples));
    assert_eq!(history.dropped("n"), Dropped { samples: 6, series: 0 });
    assert_eq!(history.latest("n").unwrap().samples.len(), 1);
    history.record("n", batch(1, (0..SAMPLES_MAX + 5).map(|_| sample("good", "", 2.0)).collect()));
    assert_eq!(history.dropped("n"), Dropped { samples: 11, series: 0 });
    // One series many times in a batch: the last one counts.
    assert_eq!(points(&history, "good", 0), [(0, 1.0), (1, 2.0)]);
}

#[test]
fn a_stream_of_short_tasks_neither_grows_nor_hides_the_newest() {
    let mut history = History::default();
    let rounds = SERIES_MAX as i64 + 1000;
    for round in 0..rounds {
        let task = format!("{round}.1.0");
        history.record("n", batch(round * 5000, vec![sample("host", "", 1.0), sample("task", &task, 1.0)]));
    }
    let series = history.since("n", 0);
    assert!(series.len() <= 2 * SERIES_MAX, "{}", series.len());
    let newest = format!("{}.1.0", rounds - 1);
    assert!(series.iter().any(|series| series.labels.get("task") == Some(&newest)));
    assert!(series.iter().any(|series| series.name == "host"));
    assert!(history.nodes["n"].fine.columns.len() <= SERIES_MAX);
    assert!(history.nodes["n"].minutes.columns.len() <= SERIES_MAX);
}

#[test]
fn more_series_at_once_than_fit_make_room_for_each_other() {
    let mut history = History::default();
    let wide = |at| batch(at, (0..SAMPLES_MAX).map(|i| sample("a", &i.to_string(), 1.0)).collect());
    history.record("n", wide(0));
    history.record("n", wide(1));
    let node = &history.nodes["n"];
    assert!(node.fine.columns.len() <= SERIES_MAX);
    assert!(node.dropped.series > 0);
}

#[test]
fn nodes_share_the_budget() {
    let budget_values = 4 * VALUES_MIN;
    let mut history = History::with_budget(budget_values * 8);
    for round in 0..2000 {
        for node in ["n", "m"] {
            history.record(
                node,
                batch(round * MINUTE_MS, (0..20).map(|i| sample("a", &i.to_string(), 1.0)).collect()),
            );
        }
    }
    let stored: usize = history.nodes.values().map(|node| node.fine.stored + node.minutes.stored).sum();
    assert!(stored <= budget_values, "{stored}");
    assert!(stored > budget_values / 2, "{stored}");
    assert_eq!(history.latest("m").unwrap().samples.len(), 20);
}

proptest! {
    /// Whatever comes, in whatever order: counts are right, limits hold, nothing panics.
    #[test]
    fn the_books_balance(
        rounds in proptest::collection::vec((any::<i64>(), proptest::collection::vec((0u8..6, any::<f64>()), 0..8)), 0..60),
        times in 1usize..20,
        values in 1usize..40,
    ) {
        let mut layer = Layer::default();
        let mut history = History::with_budget(0);
        for (at_ms, samples) in rounds {
            layer.begin(at_ms);
            for (series, value) in &samples {
                layer.push((series.to_string(), BTreeMap::new()), *value);
            }
            layer.shrink(times, values);
            let counted: usize = layer.columns.values().map(|column| column.values.len()).sum();
            prop_assert_eq!(layer.stored, counted);
            prop_assert!(layer.times.len() <= times);
            prop_assert!(layer.stored <= values || layer.times.len() == 1);
            let end = layer.base + layer.times.len() as u64;
            prop_assert!(layer.columns.values().all(|c| c.first >= layer.base && c.end() <= end));
            history.record("n", batch(at_ms, samples.iter().map(|(s, v)| sample(&s.to_string(), "", *v)).collect()));
        }
        let told = history.since("n", i64::MIN);
        prop_assert!(told.iter().all(|series| series.points.iter().all(|(_, value)| value.is_finite())));
    }
}
