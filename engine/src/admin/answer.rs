//! How questions are read and answers are written: JSON both ways, and a sentence where something is wrong.

use axum::extract::rejection::{JsonRejection, PathRejection, QueryRejection};
use axum::extract::{FromRequest, FromRequestParts, Path, Query, Request};
use axum::http::StatusCode;
use axum::http::request::Parts;
use axum::response::{IntoResponse, Response};
use axum::{Extension, Json};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use utoipa::{IntoResponses, ToSchema};

use crate::reins::NotBanned;
use crate::shards::Unanswered;

/// Why something was not done.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Fault {
    /// A sentence: what is wrong, and what to do.
    pub(super) error: String,
}

/// An answer that something was not done, and why.
#[derive(Debug)]
pub(super) struct Problem(pub(super) StatusCode, pub(super) String);

impl Problem {
    pub(super) fn bad(text: impl Into<String>) -> Self {
        Self(StatusCode::BAD_REQUEST, text.into())
    }

    pub(super) fn missing(text: impl Into<String>) -> Self {
        Self(StatusCode::NOT_FOUND, text.into())
    }

    pub(super) fn stuck(text: impl Into<String>) -> Self {
        Self(StatusCode::SERVICE_UNAVAILABLE, text.into())
    }

    pub(super) fn conflict(text: impl Into<String>) -> Self {
        Self(StatusCode::CONFLICT, text.into())
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let said = Extension(Said(self.1.clone()));
        (self.0, said, Json(Fault { error: self.1 })).into_response()
    }
}

impl From<Unanswered> for Problem {
    fn from(unanswered: Unanswered) -> Self {
        Self(StatusCode::SERVICE_UNAVAILABLE, unanswered.to_string())
    }
}

impl From<NotBanned> for Problem {
    fn from(not: NotBanned) -> Self {
        match not {
            NotBanned::Refused(text) => Self::bad(text),
            NotBanned::Unkept(text) => Self(StatusCode::INTERNAL_SERVER_ERROR, text),
        }
    }
}

impl From<QueryRejection> for Problem {
    fn from(rejection: QueryRejection) -> Self {
        Self(rejection.status(), rejection.body_text())
    }
}

impl From<PathRejection> for Problem {
    fn from(rejection: PathRejection) -> Self {
        Self(rejection.status(), rejection.body_text())
    }
}

impl From<JsonRejection> for Problem {
    fn from(rejection: JsonRejection) -> Self {
        Self(rejection.status(), rejection.body_text())
    }
}

/// What any question may be answered with.
#[derive(IntoResponses)]
#[allow(dead_code, reason = "it describes; Problem is what is made")]
pub(super) enum Refused {
    /// Something about the request is wrong.
    #[response(status = 400)]
    Bad(Fault),
    /// No token, or one that nobody has.
    #[response(status = 401)]
    Unknown(Fault),
    /// The token is not good for this.
    #[response(status = 403)]
    Forbidden(Fault),
    /// There is no such thing.
    #[response(status = 404)]
    Missing(Fault),
    /// It cannot be done as things are.
    #[response(status = 409)]
    Conflict(Fault),
    /// The body is too long.
    #[response(status = 413)]
    TooLong(Fault),
    /// The body is not JSON by its Content-Type.
    #[response(status = 415)]
    NoJson(Fault),
    /// The body is JSON and not what is wanted.
    #[response(status = 422)]
    Unusable(Fault),
    /// A file cannot be written.
    #[response(status = 500)]
    Failed(Fault),
    /// A shard does not answer.
    #[response(status = 503)]
    Stuck(Fault),
}

/// What stands behind the question mark.
pub(super) struct Asked<T>(pub(super) T);

impl<S: Send + Sync, T: DeserializeOwned> FromRequestParts<S> for Asked<T> {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Problem> {
        let Query(asked) = Query::from_request_parts(parts, state).await?;
        Ok(Self(asked))
    }
}

/// A part of the path, in which `%2F` stands for a slash.
pub(super) struct Named<T>(pub(super) T);

impl<S: Send + Sync, T: DeserializeOwned + Send> FromRequestParts<S> for Named<T> {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Problem> {
        let Path(name) = Path::from_request_parts(parts, state).await?;
        Ok(Self(name))
    }
}

/// A body of JSON.
pub(super) struct Given<T>(pub(super) T);

impl<S: Send + Sync, T: DeserializeOwned> FromRequest<S> for Given<T> {
    type Rejection = Problem;

    async fn from_request(request: Request, state: &S) -> Result<Self, Problem> {
        let Json(given) = Json::from_request(request, state).await?;
        Ok(Self(given))
    }
}

/// What an answer says in a sentence, for those who keep what was done.
#[derive(Debug, Clone)]
pub(super) struct Said(pub(super) String);

/// That something was done.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
pub(super) struct Done {
    /// What, in a sentence.
    pub(super) done: String,
}

impl Done {
    pub(super) fn new(done: impl Into<String>) -> Self {
        Self { done: done.into() }
    }
}

impl IntoResponse for Done {
    fn into_response(self) -> Response {
        (Extension(Said(self.done.clone())), Json(self)).into_response()
    }
}
