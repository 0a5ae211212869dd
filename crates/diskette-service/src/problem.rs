//! What is answered where something cannot be done: "Problem Details for HTTP APIs" (RFC 9457).
//!
//! A handler gives a [`Problem`]; the layer [`render`] makes bytes of it, for it knows the request's id and by which
//! interface the caller came.

mod codes;

use axum::body::Body;
use axum::extract::Request;
use axum::http::{HeaderValue, StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use diskette_wire::WireError;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use utoipa::ToSchema;

pub(crate) use codes::*;

/// What every handler gives.
pub(crate) type Result<T, E = Problem> = std::result::Result<T, E>;

/// Why something could not be done.
#[derive(Clone, Debug)]
pub(crate) struct Problem {
    pub(crate) code: &'static Code,
    /// What happened this time.
    pub(crate) detail: String,
    /// Numbers and names for programs.
    pub(crate) more: Vec<(String, Value)>,
}

/// The same, as it is answered.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
#[schema(as = Problem)]
pub(crate) struct ProblemBody {
    /// Where the code is explained.
    r#type: String,
    /// The code's meaning.
    title: String,
    status: u16,
    /// What happened this time.
    detail: String,
    /// A word that never changes: see ERRORS.md.
    code: String,
    /// What can be done about it.
    hint: String,
    /// Under this id the log has more.
    request_id: String,
}

impl Problem {
    pub(crate) fn new(code: &'static Code, detail: impl Into<String>) -> Self {
        Self {
            code,
            detail: detail.into(),
            more: Vec::new(),
        }
    }

    /// The same, with something for programs.
    pub(crate) fn with(mut self, name: &str, value: impl Into<Value>) -> Self {
        self.more.push((name.to_owned(), value.into()));
        self
    }

    /// A fault of ours: logged here, and told without what is nobody's business.
    pub(crate) fn internal(error: impl std::fmt::Display) -> Self {
        tracing::error!(%error, "internal error");
        Self::new(INTERNAL, "see the log")
    }

    pub(crate) fn not_found(what: &str, id: &str) -> Self {
        Self::new(NOT_FOUND, format!("no {what} \"{}\"", id.escape_debug()))
    }

    pub(crate) fn bad_request(detail: impl Into<String>) -> Self {
        Self::new(BAD_REQUEST, detail)
    }
}

/// What others have sent is wrong, but for a signature that is not believed.
impl From<WireError> for Problem {
    fn from(error: WireError) -> Self {
        let code = match error {
            WireError::Signature { .. } => SIGNATURE_REFUSED,
            _ => BAD_REQUEST,
        };
        Self::new(code, error.to_string())
    }
}

impl From<sqlx::Error> for Problem {
    fn from(error: sqlx::Error) -> Self {
        Self::internal(error)
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let status = StatusCode::from_u16(self.code.status);
        let mut response = status
            .unwrap_or(StatusCode::INTERNAL_SERVER_ERROR)
            .into_response();
        if self.code == UNAUTHORIZED {
            let scheme = HeaderValue::from_static("Bearer");
            response
                .headers_mut()
                .insert(header::WWW_AUTHENTICATE, scheme);
        }
        response.extensions_mut().insert(self);
        response
    }
}

/// The layer that gives problems their bytes. What axum itself refuses becomes a problem, too.
pub(crate) async fn render(request: Request, next: Next) -> Response {
    let id = request_id(&request);
    let compatible = !request.uri().path().starts_with("/api/v1");
    let mut response = next.run(request).await;
    let problem = match response.extensions_mut().remove::<Problem>() {
        Some(problem) => problem,
        None => match refused_by_axum(&mut response).await {
            Some(problem) => problem,
            None => return response,
        },
    };
    let (mut parts, _) = response.into_parts();
    let (kind, body) = match compatible {
        true => ("application/json", problem.as_compatible(&id)),
        false => ("application/problem+json", problem.as_body(&id)),
    };
    parts
        .headers
        .insert(header::CONTENT_TYPE, HeaderValue::from_static(kind));
    parts.headers.remove(header::CONTENT_LENGTH);
    Response::from_parts(parts, Body::from(body.to_string()))
}

/// The id that the layer in front has given to the request.
pub(crate) fn request_id(request: &Request) -> String {
    let id = request.headers().get("x-request-id");
    let id = id.and_then(|id| id.to_str().ok());
    id.unwrap_or_default().to_owned()
}

/// Errors of extractors and of the router are plain text, or nothing.
async fn refused_by_axum(response: &mut Response) -> Option<Problem> {
    const MOST: usize = 4 << 10;
    let code = match response.status().as_u16() {
        400 | 422 => BAD_REQUEST,
        404 => NOT_FOUND,
        405 => METHOD_NOT_ALLOWED,
        413 => TOO_LARGE,
        415 => UNSUPPORTED_MEDIA,
        500 => INTERNAL,
        _ => return None,
    };
    let kind = response.headers().get(header::CONTENT_TYPE);
    if kind.is_some_and(|kind| kind.as_bytes().starts_with(b"application/")) {
        return None;
    }
    let body = std::mem::take(response.body_mut());
    let text = axum::body::to_bytes(body, MOST).await.unwrap_or_default();
    let text = String::from_utf8_lossy(&text).into_owned();
    let status = StatusCode::from_u16(code.status).unwrap_or(response.status());
    *response.status_mut() = status;
    let detail = if text.is_empty() {
        code.title.to_owned()
    } else {
        text
    };
    Some(Problem::new(code, detail))
}

impl Problem {
    fn as_body(&self, request_id: &str) -> Value {
        let body = ProblemBody {
            r#type: format!("urn:diskette:{}", self.code.name),
            title: self.code.title.to_owned(),
            status: self.code.status,
            detail: self.detail.clone(),
            code: self.code.name.to_owned(),
            hint: self.code.remedy.to_owned(),
            request_id: request_id.to_owned(),
        };
        self.filled(json!(body))
    }

    /// As SandLabX's clients read it.
    fn as_compatible(&self, request_id: &str) -> Value {
        self.filled(json!({
            "success": false,
            "error": format!("{}: {}", self.code.title, self.detail),
            "code": self.code.name,
            "hint": self.code.remedy,
            "request_id": request_id,
        }))
    }

    /// The problem as it is kept with an image or an operation that failed.
    pub(crate) fn as_record(&self) -> Value {
        self.filled(json!({
            "code": self.code.name,
            "title": self.code.title,
            "detail": self.detail,
            "hint": self.code.remedy,
        }))
    }

    fn filled(&self, mut body: Value) -> Value {
        if let Value::Object(fields) = &mut body {
            for (name, value) in &self.more {
                fields.entry(name).or_insert_with(|| value.clone());
            }
        }
        body
    }
}
