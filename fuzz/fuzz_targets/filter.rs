//! A filter from anybody, and an event it meets. A line of the input is one value, its first letter says of what: `t`, `i`,
//! `c`, `e` the type patterns, entity ids, callback ids and endpoints of the filter; `T`, `I`, `C`, `E` those of the event.
//! Owns the claims that a filter matches what its definition says, and is equal to itself.

#![no_main]

use hookstream::{event::Keys, filter::Filter};
use hookstream_fuzz::endpoint;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: &[u8]| {
    let Ok(input) = str::from_utf8(input) else { return };
    let values = |letter: char| {
        let lines = input.split('\n').filter_map(|line| line.strip_prefix(letter));
        lines.map(str::to_owned).collect::<Vec<_>>()
    };
    let fields = ['t', 'i', 'c', 'e'].map(values);
    let [event_type, entity_id, callback_id, name] =
        ['T', 'I', 'C', 'E'].map(|letter| values(letter).pop().unwrap_or_default());
    let keys = Keys {
        endpoint: name.parse().unwrap_or_else(|_| endpoint()),
        event_type: event_type.into(),
        entity_id: entity_id.into(),
        callback_id: callback_id.into(),
    };

    let filter = parse(&fields);
    if let Some(filter) = &filter {
        assert_eq!(filter.matches(&keys), expected(&fields, &keys));
        assert_eq!(filter.is_empty(), fields.iter().all(Vec::is_empty));
        let again = parse(&fields).expect("it was a filter before");
        assert_eq!((&again, again.digest()), (filter, filter.digest()));
    }

    let own = [
        &*keys.event_type,
        &keys.entity_id,
        &keys.callback_id,
        keys.endpoint.as_str(),
    ]
    .map(|value| Vec::from_iter((!value.is_empty()).then(|| value.to_owned())));
    assert!(parse(&own).is_none_or(|filter| filter.matches(&keys)));
});

fn parse([event_types, entity_ids, callback_ids, endpoints]: &[Vec<String>; 4]) -> Option<Filter> {
    Filter::parse(
        event_types,
        entity_ids.clone(),
        callback_ids.clone(),
        endpoints.clone(),
    )
    .ok()
}

/// The definition: OR inside a field, AND between fields, an empty field is no condition.
fn expected([event_types, entity_ids, callback_ids, endpoints]: &[Vec<String>; 4], keys: &Keys) -> bool {
    let fits = |pattern: &String| match (pattern.strip_suffix('*'), pattern.strip_prefix('*')) {
        (Some(start), _) => keys.event_type.starts_with(start),
        (_, Some(end)) => keys.event_type.ends_with(end),
        _ => **pattern == *keys.event_type,
    };
    let one_of = |values: &[String], value: &str| values.is_empty() || values.iter().any(|one| one == value);
    (event_types.is_empty() || event_types.iter().any(fits))
        && one_of(entity_ids, &keys.entity_id)
        && one_of(callback_ids, &keys.callback_id)
        && one_of(endpoints, keys.endpoint.as_str())
}
