//! The load of nodes, as their metrics show it: a table for `node top`, a line for `run`.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use crate::client::{Client, is_not_found};
use crate::command::{nodes, path_segment};
use crate::output::{self, bytes, cell};

/// The latest numbers of these nodes; of all if none is named.
pub(crate) async fn look(client: &Client, wanted: &[String]) -> anyhow::Result<Vec<Value>> {
    let mut loads = Vec::new();
    for node in nodes(client).await? {
        let name = cell(&node["name"]);
        if !wanted.is_empty() && !wanted.contains(&name) {
            continue;
        }
        let metrics = match client.get(&format!("/api/v1/nodes/{}/metrics", path_segment(&name)?)).await {
            Ok(metrics) => metrics,
            // No sample has come yet.
            Err(e) if is_not_found(&e) => Value::Null,
            Err(e) => return Err(e),
        };
        loads.push(json!({
            "name": name,
            "state": node["state"],
            "job": node["job"]["name"],
            "at": metrics["at"],
            "samples": metrics["samples"],
        }));
    }
    Ok(loads)
}

/// A line per node, then a line per GPU.
pub(crate) fn table(loads: &[Value]) -> String {
    let rows = loads.iter().map(|load| {
        let host = Host::of(load);
        [
            cell(&load["name"]),
            cell(&load["state"]),
            cell(&load["job"]),
            percent(host.cpu),
            part(host.memory_used, host.memory_total),
            cell(&load["at"]),
        ]
    });
    let mut text = output::table(["NODE", "STATE", "JOB", "CPU", "MEMORY", "AT"], rows);
    let gpus: Vec<[String; 6]> = loads.iter().flat_map(gpu_rows).collect();
    if !gpus.is_empty() {
        text.push('\n');
        text.push_str(&output::table(["NODE", "GPU", "BUSY", "MEMORY", "POWER", "TEMPERATURE"], gpus));
    }
    text
}

fn gpu_rows(load: &Value) -> Vec<[String; 6]> {
    let node = cell(&load["name"]);
    let row = |(uuid, gpu): (String, Gpu)| {
        [
            node.clone(),
            uuid,
            percent(gpu.busy),
            part(gpu.memory_used, gpu.memory_total),
            gpu.power.map(|w| format!("{w:.0} W")).unwrap_or_default(),
            gpu.temperature.map(|t| format!("{t:.0} °C")).unwrap_or_default(),
        ]
    };
    Gpu::of(load).into_iter().map(row).collect()
}

/// `cpu 37 %, memory 3.1 GiB of 7.7 GiB, 2 GPUs: 96 % busy, 30.1 GiB of 80.0 GiB`; nodes of one machine share
/// its processors and memory, so those of the first node are shown.
pub(crate) fn one_line(loads: &[Value]) -> String {
    let mut parts = Vec::new();
    if let Some(host) =
        loads.iter().map(Host::of).find(|host| host.cpu.is_some() || host.memory_used.is_some())
    {
        if host.cpu.is_some() {
            parts.push(format!("cpu {}", percent(host.cpu)));
        }
        if host.memory_used.is_some() {
            parts.push(format!("memory {}", part(host.memory_used, host.memory_total)));
        }
    }
    let gpus: BTreeMap<String, Gpu> = loads.iter().flat_map(Gpu::of).collect();
    if !gpus.is_empty() {
        let sum = |number: fn(&Gpu) -> Option<f64>| gpus.values().filter_map(number).reduce(|a, b| a + b);
        let count = u32::try_from(gpus.len()).map_or(f64::INFINITY, f64::from);
        let busy = sum(|gpu| gpu.busy).map(|busy| busy / count);
        let noun = if gpus.len() == 1 { "GPU" } else { "GPUs" };
        let memory = part(sum(|gpu| gpu.memory_used), sum(|gpu| gpu.memory_total));
        parts.push(format!("{} {noun}: {} busy, {memory}", gpus.len(), percent(busy)));
    }
    parts.join(", ")
}

#[derive(Default)]
struct Host {
    cpu: Option<f64>,
    memory_used: Option<f64>,
    memory_total: Option<f64>,
}

impl Host {
    fn of(load: &Value) -> Host {
        let mut host = Host::default();
        for sample in samples(load) {
            match sample["name"].as_str() {
                Some("host_cpu_utilization_ratio") => host.cpu = sample["value"].as_f64(),
                Some("host_memory_used_bytes") => host.memory_used = sample["value"].as_f64(),
                Some("host_memory_total_bytes") => host.memory_total = sample["value"].as_f64(),
                Some(_) | None => {}
            }
        }
        host
    }
}

#[derive(Default)]
struct Gpu {
    busy: Option<f64>,
    memory_used: Option<f64>,
    memory_total: Option<f64>,
    power: Option<f64>,
    temperature: Option<f64>,
}

impl Gpu {
    fn of(load: &Value) -> BTreeMap<String, Gpu> {
        let mut gpus: BTreeMap<String, Gpu> = BTreeMap::new();
        for sample in samples(load) {
            let Some(uuid) = sample["labels"]["gpu"].as_str() else { continue };
            let value = sample["value"].as_f64();
            let gpu = gpus.entry(uuid.to_owned()).or_default();
            match sample["name"].as_str() {
                Some("gpu_utilization_ratio") => gpu.busy = value,
                Some("gpu_memory_used_bytes") => gpu.memory_used = value,
                Some("gpu_memory_total_bytes") => gpu.memory_total = value,
                Some("gpu_power_watts") => gpu.power = value,
                Some("gpu_temperature_celsius") => gpu.temperature = value,
                Some(_) | None => {}
            }
        }
        gpus
    }
}

fn samples(load: &Value) -> impl Iterator<Item = &Value> {
    load["samples"].as_array().into_iter().flatten()
}

fn percent(ratio: Option<f64>) -> String {
    ratio.map(|ratio| format!("{:.0} %", ratio * 100.0)).unwrap_or_default()
}

fn part(used: Option<f64>, total: Option<f64>) -> String {
    match (used, total) {
        (Some(used), Some(total)) => format!("{} of {}", bytes(used), bytes(total)),
        (Some(used), None) => bytes(used),
        (None, _) => String::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn load(name: &str, gpu: Option<&str>) -> Value {
        let sample =
            |name: &str, labels: Value, value: f64| json!({"name": name, "labels": labels, "value": value});
        let gib = 1024.0 * 1024.0 * 1024.0;
        let mut samples = vec![
            sample("host_cpu_utilization_ratio", json!({}), 0.371),
            sample("host_memory_used_bytes", json!({}), 3.0 * gib),
            sample("host_memory_total_bytes", json!({}), 8.0 * gib),
        ];
        if let Some(gpu) = gpu {
            samples.push(sample("gpu_utilization_ratio", json!({"gpu": gpu}), 0.5));
            samples.push(sample("gpu_memory_used_bytes", json!({"gpu": gpu}), 10.0 * gib));
            samples.push(sample("gpu_memory_total_bytes", json!({"gpu": gpu}), 80.0 * gib));
            samples.push(sample("gpu_power_watts", json!({"gpu": gpu}), 301.4));
        }
        json!({"name": name, "state": "idle", "samples": samples})
    }

    #[test]
    fn a_machine_is_told_in_one_line() {
        let host = "cpu 37 %, memory 3.0 GiB of 8.0 GiB";
        assert_eq!(one_line(&[load("node-0", None), load("node-1", None)]), host);
        let gpus = [load("node-0", Some("GPU-a")), load("node-1", Some("GPU-b"))];
        assert_eq!(one_line(&gpus), format!("{host}, 2 GPUs: 50 % busy, 20.0 GiB of 160.0 GiB"));
        assert_eq!(one_line(&[json!({"name": "node-0", "samples": null})]), "");
    }

    #[test]
    fn gpus_have_lines_of_their_own() {
        let text = table(&[load("node-0", Some("GPU-a"))]);
        let last = text.lines().last().unwrap();
        assert_eq!(
            last.split_whitespace().collect::<Vec<_>>().join(" "),
            "node-0 GPU-a 50 % 10.0 GiB of 80.0 GiB 301 W"
        );
    }
}
