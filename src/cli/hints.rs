//! What to do next, where an answer alone does not say it. Owns the advice of the client commands; decides nothing.

use tonic::Status;
use tonic_types::StatusExt;

use super::client;
use crate::{event_type::EVENT_TYPES, filter::TypePattern};

/// How alike two names must be for one to be a slip of the other: 1 is equal.
const ALIKE: f64 = 0.85;
/// Of an answer that is none of the ingress's, this much is shown (characters).
const ANSWER_SHOWN_MAX: usize = 200;

/// Says on standard error which of these types this version does not know: they may be new at HeyGen, or misspelt.
pub fn note_unknown_types(patterns: &[String]) {
    for pattern in patterns {
        if let Some(note) = unknown_type(pattern) {
            anstream::eprintln!("note: {note}");
        }
    }
}

fn unknown_type(pattern: &str) -> Option<String> {
    // What is no pattern at all is refused by the service.
    let parsed = TypePattern::parse(pattern).ok()?;
    if EVENT_TYPES.iter().any(|known| parsed.matches(known.name)) {
        return None;
    }
    let likeness = |known: &str| strsim::jaro_winkler(known, pattern);
    let names = EVENT_TYPES.iter().map(|known| known.name);
    let closest = names.max_by(|one, other| likeness(one).total_cmp(&likeness(other)));
    Some(match closest.filter(|closest| likeness(closest) >= ALIKE) {
        Some(closest) => format!("no known event type is `{pattern}`; did you mean `{closest}`?"),
        None => format!("no known event type is `{pattern}`; `hookstream events types` lists them"),
    })
}

/// What a person at a shell can do about a refusal.
pub fn after_refusal(status: &Status) -> Option<&'static str> {
    if client::is_of_http(status) {
        return Some(
            "what answered does not speak gRPC: is --server the address that `hookstream serve` calls grpc (port 50051)?",
        );
    }
    let details = status.get_error_details();
    let info = details.error_info()?;
    Some(match info.reason.as_str() {
        "ENDPOINT_EXISTS" => {
            "take another name; if its secret is lost, `hookstream endpoint rotate-secret` makes a new one"
        }
        "ENDPOINT_NOT_FOUND" => "`hookstream endpoint list` shows which there are",
        "SUBSCRIPTION_NOT_FOUND" => {
            "`hookstream subscription list` shows which there are, `create` makes one"
        }
        "TOKEN_NOT_FOUND" => "`hookstream token list` shows which there are",
        "CREDENTIALS_MISSING" => "give a token with --token-file, or in HOOKSTREAM_TOKEN",
        _ => return None,
    })
}

/// What a person who plays HeyGen can do about an answer that is no success, or is nothing that hookstream says.
pub fn after_delivery(status: u16, text: &str) -> Option<&'static str> {
    match (status, text) {
        (200, "stored") => None,
        (401, _) => Some(
            "the secret is not this endpoint's: it is another's, or was replaced (`hookstream endpoint rotate-secret` makes \
             a new one)",
        ),
        (404, "no such endpoint") => {
            Some("`hookstream endpoint list` shows which there are, with their URLs")
        }
        (405 | 429 | 500.., _) => None,
        _ => Some(
            "what answered is not hookstream's ingress: is --url the URL that `hookstream endpoint get` shows?",
        ),
    }
}

/// An answer in one line, whoever it is from.
pub fn one_line(text: &str) -> String {
    let line = text.lines().next().unwrap_or_default();
    line.chars().take(ANSWER_SHOWN_MAX).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_misspelt_type_is_noticed_and_a_known_one_is_not() {
        for known in ["avatar_video.success", "avatar_video.*", "*.fail"] {
            assert_eq!(unknown_type(known), None, "{known}");
        }
        let note = unknown_type("avatar_video.sucess").unwrap();
        assert!(note.contains("did you mean `avatar_video.success`?"), "{note}");
        for unknown in ["invoice.paid", "avatars.*"] {
            let note = unknown_type(unknown).unwrap();
            assert!(note.contains("`hookstream events types`"), "{note}");
        }
    }
}
