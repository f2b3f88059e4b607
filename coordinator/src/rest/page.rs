//! Pages of a list: `maxresults` in, `{"value":[..],"nextLink":".."}` out.

use serde::Serialize;

use super::api_version;
use super::error::ApiError;
use super::path::{Base, Query, encode};

/// A page of a list.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Page<T> {
    pub(crate) value: Vec<T>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) next_link: Option<String>,
}

/// What the client asks for.
#[derive(Clone, Debug)]
pub(crate) struct PageAsk {
    /// 1..1000.
    pub(crate) limit: usize,
    /// Where the page before ended.
    pub(crate) after: Option<String>,
}

impl PageAsk {
    pub(crate) fn of(query: &Query) -> Result<PageAsk, ApiError> {
        let limit = query.number("maxresults", 1, 1000)?.unwrap_or(1000);
        // 1000 fits everywhere.
        let limit = usize::try_from(limit).unwrap_or(1000);
        Ok(PageAsk { limit, after: query.get("$skiptoken").map(str::to_owned) })
    }

    /// One more than the page holds: whether there is a next one.
    pub(crate) fn probe(&self) -> u32 {
        u32::try_from(self.limit + 1).unwrap_or(u32::MAX)
    }
}

/// Makes the page out of at most `limit + 1` items; `token` gives where an item ends, `path` is the list's,
/// `query` what else the next request has to repeat (`&key=value`).
pub(crate) fn page<T, U>(
    ask: &PageAsk,
    mut items: Vec<T>,
    token: impl Fn(&T) -> String,
    link: (&Base, &str, &str),
    show: impl FnMut(T) -> U,
) -> Page<U> {
    let more = items.len() > ask.limit;
    items.truncate(ask.limit);
    let last = if more { items.last().map(token) } else { None };
    let (Base(base), path, query) = link;
    let next_link = last.map(|last| {
        format!(
            "{base}{path}?api-version={}&maxresults={}{query}&$skiptoken={}",
            api_version::CURRENT,
            ask.limit,
            encode(&last)
        )
    });
    Page { value: items.into_iter().map(show).collect(), next_link }
}
