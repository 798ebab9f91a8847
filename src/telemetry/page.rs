//! The page at `/`: one document with its style and its script inside. It asks for nothing but this relay's own JSON.

use axum::http::HeaderValue;
use axum::http::header::{
    CACHE_CONTROL, CONTENT_SECURITY_POLICY, CONTENT_TYPE, REFERRER_POLICY, X_CONTENT_TYPE_OPTIONS,
};
use axum::response::{IntoResponse, Response};
use uuid::Uuid;

const DOCUMENT: &str = include_str!("page/index.html");
const STYLE: &str = include_str!("page/style.css");
const SCRIPT: &str = include_str!("page/script.js");

/// Nothing but what is in the document, and the relay's own answers.
const POLICY: &str = "default-src 'none'; script-src 'nonce-{nonce}'; style-src 'nonce-{nonce}'; img-src data:; \
                      connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

/// The document, with a number that is used once: what else gets into the page is not run.
pub(super) fn page() -> Response {
    let nonce = Uuid::new_v4().simple().to_string();
    let document = DOCUMENT.replace("{nonce}", &nonce).replace("{style}", STYLE).replace("{script}", SCRIPT);
    let policy = HeaderValue::try_from(POLICY.replace("{nonce}", &nonce));
    let policy = policy.unwrap_or_else(|_| HeaderValue::from_static("default-src 'none'"));
    let headers = [
        (CONTENT_TYPE, HeaderValue::from_static("text/html; charset=utf-8")),
        (CONTENT_SECURITY_POLICY, policy),
        (CACHE_CONTROL, HeaderValue::from_static("no-store")),
        (REFERRER_POLICY, HeaderValue::from_static("no-referrer")),
        (X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff")),
    ];
    (headers, document).into_response()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_document_is_small_and_whole() {
        let bytes = DOCUMENT.len() + STYLE.len() + SCRIPT.len();
        assert!(bytes < 60_000, "{bytes} bytes");
        for place in ["{style}", "{script}"] {
            assert_eq!(DOCUMENT.matches(place).count(), 1, "{place}");
        }
        for outside in ["https://", "//cdn", "@import", "url("] {
            let found = [DOCUMENT, STYLE, SCRIPT].iter().any(|text| text.contains(outside));
            assert!(!found, "{outside}");
        }
    }

    /// Texts of others become text, whatever is in them.
    #[test]
    fn nothing_is_parsed_as_markup() {
        for dangerous in [
            "innerHTML",
            "outerHTML",
            "insertAdjacentHTML",
            "document.write",
            "eval(",
            "Function(",
            ".srcdoc",
        ] {
            assert!(!SCRIPT.contains(dangerous), "{dangerous}");
        }
    }

    #[test]
    fn each_answer_has_a_number_of_its_own() {
        let policy =
            |response: &Response| response.headers()[CONTENT_SECURITY_POLICY].to_str().unwrap().to_owned();
        let (one, other) = (policy(&page()), policy(&page()));
        assert!(one != other && !one.contains("{nonce}") && !one.contains("unsafe"), "{one}");
    }
}
