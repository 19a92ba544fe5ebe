//! Pages with opaque tokens. A token names the last item, so that items created or deleted between two pages neither repeat
//! nor hide others.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::{Value, json};

use super::api_error::ApiError;

/// The number of items on a page.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    pub default: usize,
    pub max: usize,
}

#[derive(Debug)]
pub struct Page<T> {
    pub items: Vec<T>,
    pub next: Option<String>,
}

impl<T> Page<T> {
    #[must_use]
    pub fn map<U>(self, show: impl FnMut(T) -> U) -> Page<U> {
        Page { items: self.items.into_iter().map(show).collect(), next: self.next }
    }
}

impl Page<Value> {
    /// An output document with the items in the field `list` and the next token in the field `token`.
    pub fn document(self, list: &str, token: &str) -> Value {
        let mut document = json!({list: self.items});
        if let Some(next) = self.next {
            document[token] = next.into();
        }
        document
    }
}

/// One page of `all`, which is sorted by key, ascending or descending.
pub fn page<T>(
    all: Vec<(String, T)>,
    token: Option<&str>,
    asked: Option<i64>,
    limits: Limits,
) -> Result<Page<T>, ApiError> {
    let size = size(asked, limits)?;
    let descending = all.len() > 1 && all[0].0 > all[all.len() - 1].0;
    let after = token.filter(|token| !token.is_empty()).map(read).transpose()?;
    let shown = |key: &str| after.as_deref().is_some_and(|after| if descending { key >= after } else { key <= after });
    let mut rest = all.into_iter().skip_while(|(key, _)| shown(key)).peekable();
    let mut items = Vec::with_capacity(size);
    let mut last = String::new();
    for (key, item) in rest.by_ref().take(size) {
        last = key;
        items.push(item);
    }
    let next = rest.peek().map(|_| URL_SAFE_NO_PAD.encode(format!("after {last}")));
    Ok(Page { items, next })
}

fn size(asked: Option<i64>, limits: Limits) -> Result<usize, ApiError> {
    let Some(asked) = asked else {
        return Ok(limits.default);
    };
    let fits = usize::try_from(asked).ok().filter(|asked| (1..=limits.max).contains(asked));
    fits.ok_or_else(|| ApiError::invalid(format!("The page size {asked} is not between 1 and {}.", limits.max)))
}

fn read(token: &str) -> Result<String, ApiError> {
    let plain = URL_SAFE_NO_PAD.decode(token).ok().and_then(|bytes| String::from_utf8(bytes).ok());
    let key = plain.as_deref().and_then(|plain| plain.strip_prefix("after "));
    key.map(str::to_owned).ok_or_else(|| ApiError::invalid("The pagination token is not one this service gave out."))
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMITS: Limits = Limits { default: 2, max: 3 };

    fn keyed(keys: &[&str]) -> Vec<(String, String)> {
        keys.iter().map(|key| ((*key).to_owned(), (*key).to_owned())).collect()
    }

    #[test]
    fn pages_follow_each_other_in_both_directions() {
        let mut rising = keyed(&["a", "b", "c"]);
        let first = page(rising.clone(), None, None, LIMITS).unwrap();
        assert_eq!(first.items, ["a", "b"]);
        let second = page(rising.clone(), first.next.as_deref(), None, LIMITS).unwrap();
        assert_eq!(second.items, ["c"]);
        assert_eq!(second.next, None);
        rising.reverse();
        let first = page(rising.clone(), None, Some(1), LIMITS).unwrap();
        assert_eq!(first.items, ["c"]);
        assert_eq!(page(rising, first.next.as_deref(), Some(3), LIMITS).unwrap().items, ["b", "a"]);
    }

    #[test]
    fn a_page_continues_after_a_deleted_item() {
        let first = page(keyed(&["a", "b", "c"]), None, Some(1), LIMITS).unwrap();
        assert_eq!(page(keyed(&["b", "c"]), first.next.as_deref(), None, LIMITS).unwrap().items, ["b", "c"]);
    }

    #[test]
    fn invalid_tokens_and_page_sizes_are_refused() {
        assert!(page(keyed(&["a"]), Some("42"), None, LIMITS).is_err());
        assert!(page(keyed(&["a"]), None, Some(4), LIMITS).is_err());
        assert!(page(keyed(&["a"]), None, Some(0), LIMITS).is_err());
    }
}
