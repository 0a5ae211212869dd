//! Lists of images, page by page.

use serde::{Deserialize, Serialize};
use sqlx::{QueryBuilder, Sqlite};
use utoipa::{IntoParams, ToSchema};

use super::{Image, Row};
use crate::auth::{Caller, Scope};
use crate::problem::{Problem, Result};
use crate::state::App;

/// Which images are listed.
#[derive(Debug, Default, Deserialize, IntoParams)]
#[serde(default, deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(crate) struct Filter {
    /// A part of the name or of the description
    pub(crate) q: Option<String>,
    /// One of the tags
    pub(crate) tag: Option<String>,
    pub(crate) name: Option<String>,
    pub(crate) format: Option<String>,
    pub(crate) state: Option<String>,
    pub(crate) kind: Option<String>,
    pub(crate) os: Option<String>,
    /// The SHA-256 of what is stored, or of what was sent
    pub(crate) sha256: Option<String>,
    /// All versions, not just those for which the names stand
    pub(crate) versions: Option<bool>,
    /// For the scope `admin`: another project
    pub(crate) project: Option<String>,
    /// `created` (the default), `name` or `size`; with `-` in front, the other way round
    pub(crate) sort: Option<String>,
    /// Most images of a page, up to 1000
    #[param(minimum = 1, maximum = 1000)]
    pub(crate) limit: Option<i64>,
    /// Where the page before ended
    pub(crate) cursor: Option<String>,
}

/// A page of a list.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Page<T> {
    pub(crate) items: Vec<T>,
    /// Where the next page begins, if there is one.
    pub(crate) next: Option<String>,
}

#[derive(sqlx::FromRow)]
struct Found {
    #[sqlx(flatten)]
    row: Row,
    uses: i64,
}

/// A page of images.
pub(crate) async fn list(app: &App, caller: &Caller, filter: &Filter) -> Result<Page<Image>> {
    let limit = filter.limit.unwrap_or(100);
    if !(1..=1000).contains(&limit) {
        return Err(Problem::bad_request("limit is 1 to 1000"));
    }
    let (by, _) = order(filter)?;
    let mut query = page(caller, filter, limit)?;
    let mut found: Vec<Found> = query.build_query_as().fetch_all(app.db.reader()).await?;
    let more = found.len() > usize::try_from(limit).unwrap_or(usize::MAX);
    if more {
        found.pop();
    }
    let next = found
        .last()
        .filter(|_| more)
        .map(|last| cursor_of(by, &last.row));
    let items = found
        .into_iter()
        .map(|found| found.row.into_image(app, found.uses));
    Ok(Page {
        items: items.collect(),
        next,
    })
}

/// One image more than the page has, by which it is known whether there are others.
fn page(caller: &Caller, filter: &Filter, limit: i64) -> Result<QueryBuilder<Sqlite>> {
    let (by, down) = order(filter)?;
    let mut query = query(caller, filter)?;
    if let Some(cursor) = &filter.cursor {
        let (value, id) = cursor_parts(cursor)?;
        let after = if down { ") < (" } else { ") > (" };
        query.push(" AND (").push(by).push(", id").push(after);
        match by {
            "coalesce(stored_size, 0)" => query.push_bind(value.parse::<i64>().unwrap_or(0)),
            _ => query.push_bind(value),
        };
        query.push(", ").push_bind(id).push(")");
    }
    let way = if down { " DESC" } else { "" };
    query
        .push(" ORDER BY ")
        .push(by)
        .push(way)
        .push(", id")
        .push(way);
    query.push(" LIMIT ").push_bind(limit + 1);
    Ok(query)
}

fn query(caller: &Caller, filter: &Filter) -> Result<QueryBuilder<Sqlite>> {
    let project = match &filter.project {
        Some(project) if project != &caller.project => {
            caller.need(Scope::Admin)?;
            project.clone()
        }
        _ => caller.project.clone(),
    };
    let mut query = QueryBuilder::new(
        "SELECT images.*, (SELECT count(*) FROM image_uses WHERE image = images.id) AS uses FROM images WHERE project = ",
    );
    query.push_bind(project);
    for (column, value) in [
        (" AND name = ", &filter.name),
        (" AND format = ", &filter.format),
        (" AND state = ", &filter.state),
        (" AND kind = ", &filter.kind),
        (" AND os = ", &filter.os),
    ] {
        if let Some(value) = value {
            query.push(column).push_bind(value.clone());
        }
    }
    if let Some(sha256) = &filter.sha256 {
        query.push(" AND ").push_bind(sha256.to_lowercase());
        query.push(" IN (blob, source_sha256, guest_sha256)");
    }
    if let Some(tag) = &filter.tag {
        query.push(" AND EXISTS (SELECT 1 FROM json_each(tags) WHERE value = ");
        query.push_bind(tag.clone()).push(")");
    }
    if let Some(text) = &filter.q {
        let text = text.to_lowercase();
        query.push(" AND instr(lower(name || ' ' || coalesce(display_name, '') || ' ' || coalesce(description, '')), ");
        query.push_bind(text).push(") > 0");
    }
    if !filter.versions.unwrap_or(false) {
        query.push(" AND (current OR state <> 'ready')");
    }
    Ok(query)
}

fn order(filter: &Filter) -> Result<(&'static str, bool)> {
    let wanted = filter.sort.as_deref().unwrap_or("created");
    let (name, down) = match wanted.strip_prefix('-') {
        Some(name) => (name, true),
        None => (wanted, false),
    };
    match name {
        "created" => Ok(("created_at", down)),
        "name" => Ok(("name", down)),
        "size" => Ok(("coalesce(stored_size, 0)", down)),
        _ => Err(Problem::bad_request("sort is created, name or size")),
    }
}

fn cursor_of(by: &str, last: &Row) -> String {
    let value = match by {
        "name" => last.name.clone(),
        "created_at" => last.created_at.clone(),
        _ => last.stored_size.unwrap_or(0).to_string(),
    };
    let text = format!("{}\n{value}", last.id);
    text.bytes().map(|byte| format!("{byte:02x}")).collect()
}

fn cursor_parts(cursor: &str) -> Result<(String, String)> {
    let wrong = || Problem::bad_request("cursor is none of ours");
    let digits = cursor.as_bytes().chunks(2);
    let bytes = digits.map(|pair| u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok());
    let bytes: Option<Vec<u8>> = bytes.collect();
    let text = bytes
        .and_then(|bytes| String::from_utf8(bytes).ok())
        .ok_or_else(wrong)?;
    let (id, value) = text.split_once('\n').ok_or_else(wrong)?;
    Ok((value.to_owned(), id.to_owned()))
}

#[cfg(test)]
mod tests {
    use sqlx::{AssertSqlSafe, Row as _};

    use super::*;
    use crate::db::Database;

    #[tokio::test]
    async fn a_page_is_read_in_its_order_and_nothing_is_sorted() {
        let folder = tempfile::tempdir().unwrap();
        let db = Database::open(&folder.path().join("records"))
            .await
            .unwrap();
        let caller = Caller {
            project: "default".to_owned(),
            scope: Scope::Read,
        };
        for sort in ["created", "-created", "size", "-size"] {
            let filter = Filter {
                sort: Some(sort.to_owned()),
                ..Filter::default()
            };
            let query = page(&caller, &filter, 100).unwrap();
            let plan = format!("EXPLAIN QUERY PLAN {}", query.sql().as_str());
            let plan = sqlx::query(AssertSqlSafe(plan));
            let steps = plan.fetch_all(db.reader()).await.unwrap();
            for step in steps {
                let detail: String = step.get("detail");
                assert!(!detail.contains("TEMP B-TREE"), "{sort}: {detail}");
            }
        }
    }
}
