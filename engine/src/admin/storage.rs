//! What is kept, and how much of the disk that takes.

use std::fs;
use std::path::Path;
use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use serde::Serialize;
use utoipa::ToSchema;

use super::answer::{Problem, Refused};
use super::{Known, asked};

/// What outlives the process.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Storage {
    /// The folder; `null` if nothing outlives the process.
    path: Option<String>,
    /// Bytes of its files.
    bytes: u64,
    /// Bytes that its file system has left for it.
    free_bytes: u64,
    /// Lanes whose disk fails or has no room at the moment.
    lanes_in_trouble: u64,
    /// How often that has begun since the start.
    troubles: u64,
    /// Messages since the start that were refused for it.
    refused: u64,
}

/// Files in folders in folders: there are no more.
const DEPTH_MAX: u32 = 4;

/// Tells what is kept and what that takes.
#[utoipa::path(get, path = "/api/v1/storage", tag = "broker",
    responses((status = 200, body = Storage), Refused), security(("token" = [])))]
pub(super) async fn storage(State(known): State<Arc<Known>>) -> Result<Json<Storage>, Problem> {
    asked(&known, |known| {
        let figures = known.source.watch.figures().storage;
        let path = known.source.storage.as_deref();
        let free = path.and_then(|path| rustix::fs::statvfs(path).ok());
        Ok(Json(Storage {
            path: path.map(|path| path.display().to_string()),
            bytes: path.map_or(0, |path| bytes_below(path, DEPTH_MAX)),
            free_bytes: free.map_or(0, |it| it.f_bavail.saturating_mul(it.f_frsize)),
            lanes_in_trouble: figures.in_trouble,
            troubles: figures.troubles,
            refused: figures.refused,
        }))
    })
    .await
}

/// Bytes of all files below a folder. What goes meanwhile counts for nothing.
fn bytes_below(folder: &Path, depth: u32) -> u64 {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    let bytes = entries.map(|entry| match entry.metadata() {
        Ok(it) if it.is_dir() && depth > 0 => bytes_below(&entry.path(), depth - 1),
        Ok(it) if it.is_file() => it.len(),
        _ => 0,
    });
    bytes.sum()
}
