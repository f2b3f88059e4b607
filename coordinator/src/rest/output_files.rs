//! `listOutputFiles`: one level of the log folder (from our own store, so that it answers when mounts are
//! gone) or of an output directory (from the node), with signed links that expire.

use axum::Json;
use axum::extract::State;
use axum::routing::post;
use http::{Method, StatusCode};
use serde::Serialize;
use trainyard_core::coordinator::state::Job;
use trainyard_core::id::{GangId, NodeId};
use trainyard_core::plan::NodePlan;
use trainyard_core::unit::WallMs;

use super::App;
use super::authz::{Authz, ReadFiles};
use super::error::ApiError;
use super::jobs;
use super::page::{Page, PageAsk, page};
use super::path::{Base, JobPath, Query, encode};
use super::route::{Route, route};
use super::{job_json, time};
use crate::clock::wall_now;
use crate::download::Claim;
use crate::grpc::{FileAsk, FileWanted};

pub(crate) const ROUTES: &[Route] = &[route::<ReadFiles>(
    Method::POST,
    "/subscriptions/{subscription}/resourceGroups/{group}/providers/Microsoft.BatchAI/workspaces/{workspace}/experiments/{experiment}/jobs/{job}/listOutputFiles",
    || post(list),
)];

/// The id of the log folder.
pub(crate) const STDOUTERR: &str = "stdouterr";

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct File {
    name: String,
    file_type: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    download_url: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    properties: Option<FileProperties>,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct FileProperties {
    last_modified: String,
    content_length: u64,
}

struct Item {
    name: String,
    directory: bool,
    size: u64,
    modified: WallMs,
}

async fn list(
    _: Authz<ReadFiles>,
    State(app): State<App>,
    base: Base,
    JobPath(key): JobPath,
    query: Query,
) -> Result<Json<Page<impl Serialize>>, ApiError> {
    let ask = PageAsk::of(&query)?;
    let minutes = query.number("linkexpiryinminutes", 5, 600)?.unwrap_or(60);
    let id = query.get("outputdirectoryid").filter(|id| !id.is_empty()).ok_or_else(|| {
        ApiError::bad(
            "MissingParameter",
            "The query has to name an `outputdirectoryid`: `stdouterr`, or the id of an output directory.",
        )
    })?;
    let directory = below(query.get("directory").unwrap_or("."))?;
    let job = jobs::find(&app, &key).await?;
    let items = items(&app, &job, id, &directory).await?;
    let after = ask.after.clone().unwrap_or_default();
    let items: Vec<Item> = items.into_iter().filter(|item| item.name > after).collect();
    let expires = WallMs(wall_now().0 + i64::try_from(minutes).unwrap_or(0) * 60_000);
    let gang = job.gang().unwrap_or_default();
    let claim =
        Claim { gang: GangId { job: job.id, gang }, directory: id.to_owned(), path: String::new(), expires };
    let path = format!("{}/listOutputFiles", job_json::id(&job));
    let rest = format!(
        "&outputdirectoryid={}&directory={}&linkexpiryinminutes={minutes}",
        encode(id),
        encode(&directory)
    );
    let show = |item: Item| file(&app, &base, &claim, &directory, item);
    Ok(Json(page(&ask, items, |item| item.name.clone(), (&base, &path, &rest), show)))
}

fn file(app: &App, Base(base): &Base, claim: &Claim, directory: &str, item: Item) -> File {
    if item.directory {
        return File { name: item.name, file_type: "directory", download_url: None, properties: None };
    }
    let path = if directory == "." { item.name.clone() } else { format!("{directory}/{}", item.name) };
    let name: Vec<String> = path.split('/').map(encode).collect();
    let ticket = app.signer.sign(&Claim { path, ..claim.clone() });
    File {
        file_type: "file",
        download_url: Some(format!("{base}/api/v1/files/{ticket}/{}", name.join("/"))),
        properties: Some(FileProperties {
            last_modified: time::iso(item.modified),
            content_length: item.size,
        }),
        name: item.name,
    }
}

/// The directory, cleaned: no `..`, not absolute.
fn below(directory: &str) -> Result<String, ApiError> {
    let parts: Vec<&str> = directory.split('/').filter(|part| !part.is_empty() && *part != ".").collect();
    if directory.starts_with('/')
        || directory.contains('\0')
        || parts.contains(&"..")
        || directory.len() > 4095
    {
        return Err(ApiError::bad("InvalidDirectory", "`directory` has to lie below the output directory."));
    }
    Ok(if parts.is_empty() { ".".to_owned() } else { parts.join("/") })
}

async fn items(app: &App, job: &Job, id: &str, directory: &str) -> Result<Vec<Item>, ApiError> {
    if id.eq_ignore_ascii_case(STDOUTERR) {
        return logs(app, job, directory).await;
    }
    let Some(gang) = job.gang() else { return Ok(vec![]) };
    let (node, root) = locate(app, job, GangId { job: job.id, gang }, id).await?;
    let ask = FileAsk {
        gang: GangId { job: job.id, gang },
        directory: root,
        path: directory.to_owned(),
        wanted: FileWanted::List,
    };
    let mut items: Vec<Item> = app
        .sessions
        .ask(&node, ask)
        .await?
        .entries
        .into_iter()
        .map(|e| Item { name: e.name, directory: e.directory, size: e.size, modified: e.modified })
        .collect();
    items.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(items)
}

async fn logs(app: &App, job: &Job, directory: &str) -> Result<Vec<Item>, ApiError> {
    let Some(gang) = job.gang().filter(|_| directory == ".") else { return Ok(vec![]) };
    let files = app.gang_logs(GangId { job: job.id, gang }).await?.files();
    Ok(files
        .into_iter()
        .map(|(name, file)| Item {
            name: name.to_string(),
            directory: false,
            size: file.size,
            modified: if file.modified.0 > 0 { file.modified } else { job.transition },
        })
        .collect())
}

/// Where an output directory of a gang lies: on its first node, by the plan.
pub(crate) async fn locate(
    app: &App,
    job: &Job,
    gang: GangId,
    id: &str,
) -> Result<(NodeId, String), ApiError> {
    let not_found = || {
        let message =
            format!("The specified outputDirectoryId {} is not present on a mount root", id.escape_default());
        ApiError::new(StatusCode::NOT_FOUND, "OutputDirectoryNotFound", message)
    };
    let known =
        job.spec.output_directories.iter().find(|d| d.id.eq_ignore_ascii_case(id)).ok_or_else(not_found)?;
    let nodes = app.read(move |reader| reader.plan(gang)).await?.unwrap_or_default();
    let variable = format!("AZ_BATCHAI_OUTPUT_{}", known.id);
    let found = nodes.iter().find_map(|node| Some((node.node.clone(), directory_of(node, &variable)?)));
    found.ok_or_else(not_found)
}

fn directory_of(node: &NodePlan, variable: &str) -> Option<String> {
    let commands = node.tasks.iter().map(|task| &task.command).chain(&node.preparation);
    commands.into_iter().find_map(|command| command.env.get(variable).cloned())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn a_directory_stays_below(directory in "[a./]{0,12}") {
            if let Ok(clean) = below(&directory) {
                prop_assert!(clean == "." || clean.split('/').all(|part| !part.is_empty() && part != "." && part != ".."));
                prop_assert!(!directory.split('/').any(|part| part == ".."));
            }
        }
    }
}
