//! The HTTP interface: routes, their description, and the layers around them.

mod actions;
mod aliases;
mod catalog;
mod consoles;
mod data;
mod detect;
mod events;
mod export;
mod images;
mod imports;
mod nodes;
mod preflight;
mod session;
mod shared;
mod system;
mod tokens;
mod uploads;

use axum::Router;
use axum::extract::{DefaultBodyLimit, Request};
use axum::http::{HeaderName, HeaderValue, header};
use axum::middleware::{from_fn, from_fn_with_state};
use serde_json::{Value, json};
use tower_http::catch_panic::CatchPanicLayer;
use tower_http::request_id::{MakeRequestUuid, PropagateRequestIdLayer, SetRequestIdLayer};
use tower_http::set_header::SetResponseHeaderLayer;
use tower_http::trace::TraceLayer;
use utoipa::openapi::OpenApi;
use utoipa::openapi::security::{Http, HttpAuthScheme, SecurityRequirement, SecurityScheme};
use utoipa_axum::router::{OpenApiRouter, UtoipaMethodRouterExt};
use utoipa_axum::routes;

use crate::problem::{self, NOT_FOUND, Problem};
use crate::state::Shared;
use crate::{compat, metrics, origin, web};

pub(crate) use data::{Stored, blocking, labels_of, verified};
pub(crate) use images::{NewImage, record, remove as remove_image};
pub(crate) use shared::{Key, body, etag, expect_unchanged, prefers_async};
pub(crate) use uploads::begin as begin_upload;

/// All routes, with their layers.
pub(crate) fn router(app: Shared) -> Router {
    let (routes, _) = described();
    let id = HeaderName::from_static("x-request-id");
    // The outermost stands last.
    routes
        .merge(web::router())
        .fallback(|| async { Problem::new(NOT_FOUND, "no such route") })
        .layer(from_fn_with_state(app.clone(), metrics::count))
        .layer(from_fn_with_state(app.clone(), origin::guard))
        .layer(SetResponseHeaderLayer::if_not_present(
            header::X_CONTENT_TYPE_OPTIONS,
            HeaderValue::from_static("nosniff"),
        ))
        .layer(CatchPanicLayer::custom(panicked))
        .layer(from_fn(problem::render))
        .layer(TraceLayer::new_for_http().make_span_with(span))
        .layer(PropagateRequestIdLayer::new(id.clone()))
        .layer(SetRequestIdLayer::new(id, MakeRequestUuid))
        .with_state(app)
}

/// The description of the interface, as JSON.
pub(crate) fn description() -> String {
    let (_, description) = described();
    let mut description = json!(description);
    open_what_is_flattened(&mut description["components"]["schemas"]);
    let paths = description["paths"].as_object_mut();
    for (path, item) in paths.into_iter().flatten() {
        if path.starts_with("/api/v1") {
            item.as_object_mut()
                .into_iter()
                .flatten()
                .for_each(|(_, operation)| with_problems(operation));
        }
    }
    format!("{description:#}")
}

/// What takes nothing unknown when it is sent is a part of something larger when it is answered: JSON Schema's `allOf` would
/// allow neither then.
fn open_what_is_flattened(schemas: &mut Value) {
    let all = schemas.as_object().into_iter().flatten();
    let parts = all.flat_map(|(_, schema)| schema["allOf"].as_array().into_iter().flatten());
    let names = parts.filter_map(|part| part["$ref"].as_str()?.rsplit('/').next());
    let names: Vec<String> = names.map(str::to_owned).collect();
    for name in names {
        if let Some(part) = schemas[&name].as_object_mut() {
            part.remove("additionalProperties");
        }
    }
}

/// What is refused is a problem, wherever it is refused; the layer around the routes makes it one.
fn with_problems(operation: &mut Value) {
    let Some(responses) = operation["responses"].as_object_mut() else {
        return;
    };
    let schema = json!({"$ref": "#/components/schemas/Problem"});
    let content = json!({"application/problem+json": {"schema": schema}});
    for (status, response) in responses.iter_mut() {
        if status.starts_with(['4', '5']) {
            response["content"] = content.clone();
        }
    }
    let any = json!({"description": "See ERRORS.md", "content": content});
    responses.insert("default".to_owned(), any);
}

fn described() -> (Router<Shared>, OpenApi) {
    let (router, mut description) = OpenApiRouter::new()
        .routes(routes!(system::health))
        .routes(routes!(system::health_of_sandlabx))
        .routes(routes!(system::ready))
        .routes(routes!(system::metrics))
        .routes(routes!(system::about))
        .routes(routes!(system::limits))
        .routes(routes!(system::usage))
        .routes(routes!(system::doctor))
        .routes(routes!(system::openapi))
        .routes(routes!(compat::upload).layer(DefaultBodyLimit::disable()))
        .routes(routes!(compat::list))
        .routes(routes!(compat::validate))
        .routes(routes!(images::list, images::create, preflight::preflight))
        .routes(
            routes!(images::get, images::patch, images::delete).layer(from_fn(shared::to_its_end)),
        )
        .routes(routes!(images::put_file))
        .routes(routes!(data::info))
        .routes(routes!(data::check))
        .routes(routes!(data::map))
        .routes(routes!(data::picture))
        .routes(routes!(data::report))
        .routes(routes!(data::data))
        .routes(routes!(actions::act))
        .routes(routes!(actions::list))
        .routes(routes!(actions::get, actions::cancel))
        .routes(routes!(aliases::list))
        .routes(routes!(aliases::put, aliases::delete))
        .routes(routes!(events::events))
        .routes(routes!(imports::import))
        .routes(routes!(imports::adopt))
        .routes(routes!(detect::look))
        .routes(routes!(uploads::options, uploads::create))
        .routes(routes!(uploads::head, uploads::patch, uploads::terminate))
        .routes(routes!(session::begin, session::get, session::end))
        .routes(routes!(tokens::list, tokens::create))
        .routes(routes!(tokens::revoke))
        .merge(catalog::router())
        .merge(nodes::router().layer(from_fn(shared::to_its_end)))
        .merge(consoles::router())
        .split_for_parts();
    description.info.title = "diskette-service".to_owned();
    description.info.version = env!("CARGO_PKG_VERSION").to_owned();
    description.info.description =
        Some("Disk images in any format go in; verified QCOW2 comes out.".to_owned());
    let scheme = SecurityScheme::Http(Http::new(HttpAuthScheme::Bearer));
    let components = description.components.get_or_insert_default();
    components.add_security_scheme("token", scheme);
    description.security = Some(vec![SecurityRequirement::new("token", [] as [&str; 0])]);
    (router, description)
}

fn span(request: &Request) -> tracing::Span {
    tracing::info_span!(
        "request",
        id = problem::request_id(request),
        method = %request.method(),
        path = request.uri().path(),
    )
}

fn panicked(panic: Box<dyn std::any::Any + Send>) -> axum::response::Response {
    let text = panic.downcast_ref::<String>().map(String::as_str);
    let text = text.or_else(|| panic.downcast_ref::<&str>().copied());
    axum::response::IntoResponse::into_response(Problem::internal(text.unwrap_or("a panic")))
}
