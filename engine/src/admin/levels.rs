//! What is written to the event log, by area.

use axum::Json;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::answer::{Done, Given, Problem, Refused};
use crate::log::{self, Area, Level};

/// Up to which level lines are written.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct LogLevels {
    areas: Vec<AreaLevel>,
}

/// An area of the log.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct AreaLevel {
    /// `broker`, `clients`, `authentication`, `messages`, `listeners`, `storage`, `load` or `admin`.
    #[schema(example = "clients")]
    area: String,
    /// `off`, `error`, `warn` or `info`.
    #[schema(example = "info")]
    level: String,
}

/// Says up to which level each area of the log is written.
#[utoipa::path(get, path = "/api/v1/log", tag = "log",
    responses((status = 200, body = LogLevels), Refused), security(("token" = [])))]
pub(super) async fn levels() -> Json<LogLevels> {
    let levels = log::levels();
    let areas = Area::ALL.into_iter().map(|area| AreaLevel {
        area: area.name().to_owned(),
        level: levels.of(area).name().to_owned(),
    });
    Json(LogLevels { areas: areas.collect() })
}

/// Changes the level of an area, until the configuration is read again or the process ends.
#[utoipa::path(put, path = "/api/v1/log", tag = "log", request_body = AreaLevel,
    responses((status = 200, body = Done), Refused), security(("token" = [])))]
pub(super) async fn set_level(
    Given(AreaLevel { area, level }): Given<AreaLevel>,
) -> Result<Done, Problem> {
    let names = |names: &[&str]| names.join(", ");
    let known = Area::from_name(&area).ok_or_else(|| {
        Problem::bad(format!("`area` is one of {}", names(&Area::ALL.map(Area::name))))
    })?;
    let wanted = Level::from_name(&level)
        .ok_or_else(|| Problem::bad(format!("`level` is one of {}", names(Level::NAMES))))?;
    log::set_level(known, wanted);
    Ok(Done::new(format!("{} is written up to {}", known.name(), wanted.name())))
}
