//! Which events a reader wants. Owns the pattern language and the match; refuses to know who reads or how an index finds
//! candidates.

use std::{
    fmt,
    hash::{Hash, Hasher},
};

use serde::{Deserialize, Serialize};

use crate::{event::Keys, limits};

/// A pattern over event types.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum TypePattern {
    /// Exactly this name.
    Exact(String),
    /// Every name that starts with this, its last dot included.
    Prefix(String),
    /// Every name that ends with this, its first dot included.
    Suffix(String),
}

impl TypePattern {
    /// Reads `name`, `name.*` or `*.name`.
    pub fn parse(text: &str) -> Result<Self, &'static str> {
        let (legal, pattern) = if let Some(prefix) = text.strip_suffix(".*") {
            (is_type_name(prefix), Self::Prefix(format!("{prefix}.")))
        } else if let Some(suffix) = text.strip_prefix("*.") {
            (is_type_name(suffix), Self::Suffix(format!(".{suffix}")))
        } else {
            (is_type_name(text), Self::Exact(text.to_owned()))
        };
        legal.then_some(pattern).ok_or(
            "can match no event type: use an exact name like avatar_video.success, a family like avatar_video.*, or an \
             outcome like *.fail",
        )
    }

    /// Whether it matches every name that `other` matches.
    pub fn covers(&self, other: &Self) -> bool {
        match (self, other) {
            (_, Self::Exact(name)) => self.matches(name),
            (Self::Prefix(prefix), Self::Prefix(other)) => other.starts_with(prefix),
            (Self::Suffix(suffix), Self::Suffix(other)) => other.ends_with(suffix),
            _ => false,
        }
    }

    /// Whether it matches this name.
    pub fn matches(&self, name: &str) -> bool {
        match self {
            Self::Exact(exact) => name == exact,
            Self::Prefix(prefix) => name.starts_with(prefix),
            Self::Suffix(suffix) => name.ends_with(suffix),
        }
    }
}

impl fmt::Display for TypePattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Exact(exact) => f.write_str(exact),
            Self::Prefix(prefix) => write!(f, "{prefix}*"),
            Self::Suffix(suffix) => write!(f, "*{suffix}"),
        }
    }
}

/// Whether a name has the form of HeyGen's: words of `a-z0-9_` joined by dots.
fn is_type_name(name: &str) -> bool {
    let legal = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'_';
    name.split('.')
        .all(|word| !word.is_empty() && word.bytes().all(legal))
}

/// Which events a reader wants: OR inside a field, AND between fields, an empty field is no condition.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Deserialize, Serialize)]
#[serde(try_from = "PlainFilter", into = "PlainFilter")]
pub struct Filter {
    /// Patterns over `Keys::event_type`.
    pub event_types: Vec<TypePattern>,
    /// Values of `Keys::entity_id`.
    pub entity_ids: Vec<String>,
    /// Values of `Keys::callback_id`.
    pub callback_ids: Vec<String>,
    /// Values of `Keys::endpoint`.
    pub endpoints: Vec<String>,
}

/// A filter as it is stored: its texts.
#[derive(Deserialize, Serialize)]
struct PlainFilter {
    event_types: Vec<String>,
    entity_ids: Vec<String>,
    callback_ids: Vec<String>,
    endpoints: Vec<String>,
}

impl TryFrom<PlainFilter> for Filter {
    type Error = InvalidFilter;

    fn try_from(plain: PlainFilter) -> Result<Self, InvalidFilter> {
        Self::parse(
            &plain.event_types,
            plain.entity_ids,
            plain.callback_ids,
            plain.endpoints,
        )
    }
}

impl From<Filter> for PlainFilter {
    fn from(filter: Filter) -> Self {
        Self {
            event_types: filter.values("event_types"),
            entity_ids: filter.entity_ids,
            callback_ids: filter.callback_ids,
            endpoints: filter.endpoints,
        }
    }
}

/// A filter that cannot be.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{field}: {reason}")]
pub struct InvalidFilter {
    /// The field, with the place in it if it is one value's fault.
    pub field: String,
    /// What is wrong, as the end of a sentence that starts with the field.
    pub reason: &'static str,
}

impl Filter {
    /// Reads the fields of a filter.
    pub fn parse(
        event_types: &[String],
        entity_ids: Vec<String>,
        callback_ids: Vec<String>,
        endpoints: Vec<String>,
    ) -> Result<Self, InvalidFilter> {
        check("event_types", event_types)?;
        check("entity_ids", &entity_ids)?;
        check("callback_ids", &callback_ids)?;
        check("endpoints", &endpoints)?;
        let pattern = |(at, text): (usize, &String)| {
            TypePattern::parse(text).map_err(|reason| InvalidFilter {
                field: format!("event_types[{at}]"),
                reason,
            })
        };
        let event_types = event_types
            .iter()
            .enumerate()
            .map(pattern)
            .collect::<Result<_, _>>()?;
        Ok(Self {
            event_types,
            entity_ids,
            callback_ids,
            endpoints,
        })
    }

    /// Whether it wants an event with these keys.
    pub fn matches(&self, keys: &Keys) -> bool {
        let one_of =
            |values: &[String], value: &str| values.is_empty() || values.iter().any(|one| one == value);
        (self.event_types.is_empty()
            || self
                .event_types
                .iter()
                .any(|pattern| pattern.matches(&keys.event_type)))
            && one_of(&self.entity_ids, &keys.entity_id)
            && one_of(&self.callback_ids, &keys.callback_id)
            && one_of(&self.endpoints, keys.endpoint.as_str())
    }

    /// The first field in which it asks for more than `other`; `None` if every event it wants is one that `other` wants.
    pub fn exceeds(&self, other: &Self) -> Option<&'static str> {
        fn within<T>(asked: &[T], allowed: &[T], covers: impl Fn(&T, &T) -> bool) -> bool {
            let covered = |asked| allowed.iter().any(|allowed| covers(allowed, asked));
            allowed.is_empty() || (!asked.is_empty() && asked.iter().all(covered))
        }
        let same = |allowed: &String, asked: &String| allowed == asked;
        let fields = [
            (
                "event_types",
                within(&self.event_types, &other.event_types, TypePattern::covers),
            ),
            ("entity_ids", within(&self.entity_ids, &other.entity_ids, same)),
            (
                "callback_ids",
                within(&self.callback_ids, &other.callback_ids, same),
            ),
            ("endpoints", within(&self.endpoints, &other.endpoints, same)),
        ];
        fields
            .into_iter()
            .find_map(|(field, within)| (!within).then_some(field))
    }

    /// The values of a field, by its name.
    pub fn values(&self, field: &str) -> Vec<String> {
        match field {
            "event_types" => self.event_types.iter().map(ToString::to_string).collect(),
            "entity_ids" => self.entity_ids.clone(),
            "callback_ids" => self.callback_ids.clone(),
            "endpoints" => self.endpoints.clone(),
            _ => Vec::new(),
        }
    }

    /// Whether it wants everything.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// A digest of the filter, the same for equal filters within and across runs of one version.
    pub fn digest(&self) -> u64 {
        let mut hasher = Crc(crc32fast::Hasher::new());
        self.hash(&mut hasher);
        hasher.finish()
    }
}

struct Crc(crc32fast::Hasher);

impl Hasher for Crc {
    fn write(&mut self, bytes: &[u8]) {
        self.0.update(bytes);
    }

    fn finish(&self) -> u64 {
        self.0.clone().finalize().into()
    }
}

fn check(field: &'static str, values: &[String]) -> Result<(), InvalidFilter> {
    if values.len() > limits::FILTER_VALUES_MAX {
        return Err(InvalidFilter {
            field: field.to_owned(),
            reason: "has more than 100 values",
        });
    }
    let length = 1..=limits::IDENTIFIER_BYTES_MAX;
    values
        .iter()
        .position(|value| !length.contains(&value.len()))
        .map_or(Ok(()), |at| {
            Err(InvalidFilter {
                field: format!("{field}[{at}]"),
                reason: "is empty or longer than 256 bytes",
            })
        })
}

#[cfg(test)]
mod tests {
    use proptest::{collection::vec, prelude::*};

    use bytestring::ByteString;

    use super::*;

    fn keys(event_type: &str, entity_id: &str) -> Keys {
        Keys {
            event_type: event_type.into(),
            entity_id: entity_id.into(),
            callback_id: ByteString::new(),
            endpoint: "dev".parse().unwrap(),
        }
    }

    fn filter(event_types: &[&str], entity_ids: &[&str]) -> Result<Filter, InvalidFilter> {
        let owned = |values: &[&str]| values.iter().map(|&value| value.to_owned()).collect::<Vec<_>>();
        Filter::parse(&owned(event_types), owned(entity_ids), vec![], vec![])
    }

    #[test]
    fn values_in_a_field_are_alternatives_and_fields_narrow_each_other() {
        let filter = filter(&["avatar_video.*", "*.fail"], &["a", "b"]).unwrap();
        assert!(filter.matches(&keys("avatar_video.success", "a")));
        assert!(filter.matches(&keys("video_agent.fail", "b")));
        assert!(!filter.matches(&keys("video_agent.success", "b")));
        assert!(!filter.matches(&keys("avatar_video.success", "c")));
    }

    #[test]
    fn a_family_does_not_match_its_neighbours() {
        let filter = filter(&["avatar_video.*"], &[]).unwrap();
        assert!(!filter.matches(&keys("avatar_video_gif.success", "")));
        assert!(!filter.matches(&keys("avatar_video", "")));
    }

    #[test]
    fn a_pattern_that_can_match_no_legal_name_is_refused() {
        for pattern in [
            "*",
            "avatar*",
            "*fail",
            "a.*.b",
            "Avatar.fail",
            "a..b",
            ".fail",
            "a.",
            "a b",
            "**",
            "*.*",
        ] {
            let error = filter(&["avatar_video.fail", pattern], &[]).unwrap_err();
            assert_eq!(error.field, "event_types[1]", "{pattern}");
        }
        assert_eq!(filter(&[""], &[]).unwrap_err().field, "event_types[0]");
        assert!(filter(&["a_type.heygen_has_not_made_yet"], &[]).is_ok());
    }

    #[test]
    fn too_many_or_too_long_values_are_refused() {
        assert_eq!(filter(&[], &["x"; 101]).unwrap_err().field, "entity_ids");
        assert_eq!(
            filter(&[], &["x", &"x".repeat(257)]).unwrap_err().field,
            "entity_ids[1]"
        );
    }

    #[test]
    fn a_filter_exceeds_another_in_the_field_that_asks_for_more() {
        let allowed = filter(&["avatar_video.*", "*.fail"], &["a", "b"]).unwrap();
        let within = filter(&["avatar_video.success", "x.y.fail", "avatar_video.*"], &["b"]).unwrap();
        assert_eq!(within.exceeds(&allowed), None);
        assert_eq!(Filter::default().exceeds(&allowed), Some("event_types"));
        let wider = filter(&["*.success"], &["a"]).unwrap();
        assert_eq!(wider.exceeds(&allowed), Some("event_types"));
        let other = filter(&["*.fail"], &["c"]).unwrap();
        assert_eq!(other.exceeds(&allowed), Some("entity_ids"));
        assert_eq!(wider.exceeds(&Filter::default()), None);
    }

    proptest! {
        #[test]
        fn what_does_not_exceed_a_filter_wants_nothing_else(
            asked in vec("([a-b]\\.){0,2}[a-b]|[a-b](\\.[a-b])?\\.\\*|\\*\\.[a-b](\\.[a-b])?", 0..3),
            allowed in vec("([a-b]\\.){0,2}[a-b]|[a-b](\\.[a-b])?\\.\\*|\\*\\.[a-b](\\.[a-b])?", 0..3),
            name in "([a-b]\\.){0,3}[a-b]",
        ) {
            let parse = |patterns: &[String]| Filter::parse(patterns, vec![], vec![], vec![]).unwrap();
            let (asked, allowed) = (parse(&asked), parse(&allowed));
            let keys = keys(&name, "");
            if asked.exceeds(&allowed).is_none() && asked.matches(&keys) {
                prop_assert!(allowed.matches(&keys));
            }
        }

        #[test]
        fn a_pattern_is_printed_as_it_is_read(text in "[a-b](\\.[a-b])?|[a-b]\\.\\*|\\*\\.[a-b]") {
            prop_assert_eq!(TypePattern::parse(&text).unwrap().to_string(), text);
        }

        #[test]
        fn a_prefix_and_a_suffix_match_what_their_definition_says(name in "[a-c]{1,2}(\\.[a-c]{1,2}){0,3}", part in "[a-c]{1,2}") {
            let starts = TypePattern::parse(&format!("{part}.*")).unwrap();
            let ends = TypePattern::parse(&format!("*.{part}")).unwrap();
            let words = name.split('.').collect::<Vec<_>>();
            prop_assert_eq!(starts.matches(&name), words.len() > 1 && words[0] == part);
            prop_assert_eq!(ends.matches(&name), words.len() > 1 && words[words.len() - 1] == part);
        }

        #[test]
        fn any_text_is_read_without_panicking(text in ".{0,40}") {
            let _ = TypePattern::parse(&text);
        }
    }
}
