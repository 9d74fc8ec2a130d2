//! What the index knows of the events of one segment of the log: which have a name, a type, an endpoint. Owns its two forms, the
//! one in memory that events are added to and the one in `index.db` that is never changed; refuses to know which of them to ask.
//!
//! An event is a number within its segment, and a set of events a bitmap. Names (ids, resources, callbacks) are many, so of them
//! there are hashes, sorted, in rows of about a kilobyte each; whoever looks a name up reads one. A hash may be of two names: the
//! event itself says what it is called.

use std::{
    collections::{BTreeSet, HashMap},
    hash::Hasher,
    ops,
};

use roaring::RoaringBitmap;
use rusqlite::{Connection, OptionalExtension, params};
use siphasher::sip::SipHasher13;

use super::ids;
use crate::{
    event::{EventId, NewEvent, Sequence, StoredEvent},
    filter::Filter,
    log::{
        Direction, Range,
        twin::{self, Named, Subject},
    },
};

/// Events of a segment, as a power of two: a log of ten million has 153 of them, and one in memory takes 5 MiB.
/// Unit tests, whose logs are short, have many, too.
pub(super) const SEGMENT_BITS: u32 = if cfg!(test) { 3 } else { 16 };
/// Rows that the names of a segment are divided into, as a power of two.
const BUCKET_BITS: u32 = 11;
const ENTRY_BYTES: usize = 10;

/// Sets of events are `RoaringBitmap`s in their portable form. A bucket is a segment's number and the first bits of the hashes in
/// it; its entries are a hash and the number of an event (little-endian), in order.
pub(super) const SCHEMA: &str = "
    CREATE TABLE segments (number INTEGER PRIMARY KEY, events BLOB NOT NULL);
    CREATE TABLE lists (
      segment INTEGER NOT NULL,
      field INTEGER NOT NULL,
      value TEXT NOT NULL,
      events BLOB NOT NULL,
      PRIMARY KEY (segment, field, value)
    ) WITHOUT ROWID;
    CREATE TABLE names (bucket INTEGER PRIMARY KEY, entries BLOB NOT NULL);";

/// The segment of an event.
pub(super) fn segment_of(sequence: Sequence) -> u64 {
    sequence.get() >> SEGMENT_BITS
}

/// The last sequence of a segment.
pub(super) fn last_of(number: u64) -> Sequence {
    Sequence::new((number << SEGMENT_BITS) | OFFSET_MASK)
}

const OFFSET_MASK: u64 = (1 << SEGMENT_BITS) - 1;

fn offset(sequence: Sequence) -> u16 {
    // A segment has no more than 2^16 events.
    (sequence.get() & OFFSET_MASK) as u16
}

/// The parts of a range that lie in one segment each, from its beginning or from its end.
pub(super) fn segments(range: Range, direction: Direction) -> impl Iterator<Item = Range> {
    let mut numbers = segment_of(range.after.next())..=segment_of(range.through);
    let next = move || match direction {
        Direction::Forward => numbers.next(),
        Direction::Backward => numbers.next_back(),
    };
    std::iter::from_fn(next).map(move |number| part_of(range, SEGMENT_BITS, number))
}

/// The part of a range in one of the blocks of two to the power of `bits` that a log is divided into; empty if its end is not
/// past its beginning.
pub(super) fn part_of(range: Range, bits: u32, number: u64) -> Range {
    let first = number << bits;
    let last = first | ((1 << bits) - 1);
    Range {
        after: range.after.max(Sequence::new(first).previous()),
        through: range.through.min(Sequence::new(last)),
    }
}

/// Something that few events have in common, as a hash of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Name(u64);

impl Name {
    /// An id, which is a digest already.
    pub(super) fn id(id: EventId) -> Self {
        Self(ids::hash(id.as_bytes()))
    }

    pub(super) fn entity(id: &str) -> Self {
        Self::hash(1, id.as_bytes())
    }

    pub(super) fn callback(id: &str) -> Self {
        Self::hash(2, id.as_bytes())
    }

    /// Of a push that names no entity.
    pub(super) fn subject(subject: &Subject) -> Self {
        Self::hash(3, subject.as_bytes())
    }

    /// It is stored, so it has to be the same for ever.
    fn hash(kind: u8, name: &[u8]) -> Self {
        let mut hasher = SipHasher13::new();
        hasher.write_u8(kind);
        hasher.write(name);
        Self(hasher.finish())
    }

    fn bucket(self) -> u64 {
        self.0 >> (u64::BITS - BUCKET_BITS)
    }
}

/// The names of an event.
fn names(event: &NewEvent) -> impl Iterator<Item = Name> {
    let keys = &event.keys;
    let entity = (!keys.entity_id.is_empty()).then(|| Name::entity(&keys.entity_id));
    let callback = (!keys.callback_id.is_empty()).then(|| Name::callback(&keys.callback_id));
    let has_entity = matches!(Named::of(keys), Named::Entity(_));
    let subject = (!has_entity && twin::is_push(event))
        .then(|| Subject::of(event))
        .flatten();
    [
        Some(Name::id(event.id)),
        entity,
        callback,
        subject.as_ref().map(Name::subject),
    ]
    .into_iter()
    .flatten()
}

/// What events have a value of that many have.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Field {
    EventType = 1,
    Endpoint = 2,
}

/// What can be asked of a segment in either form: numbers of events within it.
pub(super) trait Lists {
    /// All events.
    fn all(&self) -> Result<RoaringBitmap, rusqlite::Error>;

    /// The events with a name.
    fn named(&self, name: Name) -> Result<RoaringBitmap, rusqlite::Error>;

    /// The events whose value of a field is wanted.
    fn valued(&self, field: Field, wanted: &dyn Fn(&str) -> bool) -> Result<RoaringBitmap, rusqlite::Error>;

    /// The events that a filter wants.
    fn matching(&self, filter: &Filter) -> Result<RoaringBitmap, rusqlite::Error> {
        // What is most selective comes first: where it finds nothing, nothing else is read.
        let mut found = None;
        for (values, name) in [
            (&filter.callback_ids, Name::callback as fn(&str) -> Name),
            (&filter.entity_ids, Name::entity),
        ] {
            narrow(&mut found, values.is_empty(), || {
                let mut any = RoaringBitmap::new();
                for value in values {
                    any |= self.named(name(value))?;
                }
                Ok(any)
            })?;
        }
        narrow(&mut found, filter.event_types.is_empty(), || {
            let wanted = |value: &str| filter.event_types.iter().any(|pattern| pattern.matches(value));
            self.valued(Field::EventType, &wanted)
        })?;
        narrow(&mut found, filter.endpoints.is_empty(), || {
            let wanted = |value: &str| filter.endpoints.iter().any(|endpoint| endpoint == value);
            self.valued(Field::Endpoint, &wanted)
        })?;
        found.map_or_else(|| self.all(), Ok)
    }
}

/// Leaves of what was found what is `also` found, unless that is no condition.
fn narrow(
    found: &mut Option<RoaringBitmap>,
    is_no_condition: bool,
    also: impl FnOnce() -> Result<RoaringBitmap, rusqlite::Error>,
) -> Result<(), rusqlite::Error> {
    match found {
        _ if is_no_condition => {}
        Some(found) if found.is_empty() => {}
        Some(found) => *found &= also()?,
        None => *found = Some(also()?),
    }
    Ok(())
}

/// The events of a set that lie in a part of its segment, in the direction.
pub(super) fn sequences(
    set: &RoaringBitmap,
    part: Range,
    direction: Direction,
) -> impl Iterator<Item = Sequence> {
    let first = segment_of(part.through) << SEGMENT_BITS;
    let mut offsets = set.range(offsets(part));
    let next = move || match direction {
        Direction::Forward => offsets.next(),
        Direction::Backward => offsets.next_back(),
    };
    std::iter::from_fn(next).map(move |offset| Sequence::new(first | u64::from(offset)))
}

/// How many events of a set lie in a part of its segment.
pub(super) fn count(set: &RoaringBitmap, part: Range) -> u64 {
    set.range_cardinality(offsets(part))
}

fn offsets(part: Range) -> ops::Range<u32> {
    if part.after < part.through {
        offset(part.after.next()).into()..u32::from(offset(part.through)) + 1
    } else {
        0..0
    }
}

/// A segment in memory.
#[derive(Debug)]
pub(super) struct Segment {
    number: u64,
    all: RoaringBitmap,
    names: BTreeSet<(Name, u16)>,
    event_types: HashMap<Box<str>, RoaringBitmap>,
    endpoints: HashMap<Box<str>, RoaringBitmap>,
}

impl Segment {
    pub(super) fn new(number: u64) -> Self {
        Self {
            number,
            all: RoaringBitmap::new(),
            names: BTreeSet::new(),
            event_types: HashMap::new(),
            endpoints: HashMap::new(),
        }
    }

    /// Takes in an event of this segment.
    pub(super) fn add(&mut self, event: &StoredEvent) {
        let offset = offset(event.sequence);
        let StoredEvent { event, .. } = event;
        self.all.insert(offset.into());
        self.names.extend(names(event).map(|name| (name, offset)));
        for (lists, value) in [
            (&mut self.event_types, &*event.keys.event_type),
            (&mut self.endpoints, event.keys.endpoint.as_str()),
        ] {
            match lists.get_mut(value) {
                Some(list) => drop(list.insert(offset.into())),
                None => drop(lists.insert(value.into(), [u32::from(offset)].into())),
            }
        }
    }

    /// The last of its events.
    pub(super) fn newest(&self) -> Sequence {
        let offset = self.all.max().unwrap_or_default();
        Sequence::new((self.number << SEGMENT_BITS) | u64::from(offset))
    }

    /// The event types in it.
    pub(super) fn event_types(&self) -> impl Iterator<Item = &str> {
        self.event_types.keys().map(|event_type| &**event_type)
    }

    fn lists(&self, field: Field) -> &HashMap<Box<str>, RoaringBitmap> {
        match field {
            Field::EventType => &self.event_types,
            Field::Endpoint => &self.endpoints,
        }
    }

    /// Writes it down.
    pub(super) fn save(&self, index: &Connection) -> Result<(), rusqlite::Error> {
        let number = self.number.cast_signed();
        index
            .prepare_cached("INSERT INTO segments VALUES (?1, ?2)")?
            .execute(params![number, bytes_of(&self.all)])?;
        let mut insert = index.prepare_cached("INSERT INTO lists VALUES (?1, ?2, ?3, ?4)")?;
        for field in [Field::EventType, Field::Endpoint] {
            for (value, events) in self.lists(field) {
                insert.execute(params![number, field as i64, value, bytes_of(events)])?;
            }
        }
        let mut insert = index.prepare_cached("INSERT INTO names VALUES (?1, ?2)")?;
        let names: Vec<_> = self.names.iter().collect();
        for bucket in names.chunk_by(|(one, _), (other, _)| one.bucket() == other.bucket()) {
            let entry = |(Name(hash), offset): &&(Name, u16)| {
                let mut entry = [0; ENTRY_BYTES];
                entry[..8].copy_from_slice(&hash.to_le_bytes());
                entry[8..].copy_from_slice(&offset.to_le_bytes());
                entry
            };
            let entries: Vec<u8> = bucket.iter().flat_map(entry).collect();
            let row = bucket.first().map(|(name, _)| row_of(self.number, *name));
            insert.execute(params![row, entries])?;
        }
        Ok(())
    }
}

impl Lists for Segment {
    fn all(&self) -> Result<RoaringBitmap, rusqlite::Error> {
        Ok(self.all.clone())
    }

    fn named(&self, name: Name) -> Result<RoaringBitmap, rusqlite::Error> {
        let entries = self.names.range((name, 0)..=(name, u16::MAX));
        Ok(entries.map(|&(_, offset)| u32::from(offset)).collect())
    }

    fn valued(&self, field: Field, wanted: &dyn Fn(&str) -> bool) -> Result<RoaringBitmap, rusqlite::Error> {
        let wanted = self.lists(field).iter().filter(|(value, _)| wanted(value));
        Ok(wanted.fold(RoaringBitmap::new(), |any, (_, events)| any | events))
    }
}

/// A segment that was written down. One that is not there has no events.
#[derive(Debug)]
pub(super) struct Saved<'a> {
    pub(super) index: &'a Connection,
    pub(super) number: u64,
}

impl Lists for Saved<'_> {
    fn all(&self) -> Result<RoaringBitmap, rusqlite::Error> {
        let events = self
            .index
            .prepare_cached("SELECT events FROM segments WHERE number = ?1")?
            .query_row([self.number.cast_signed()], |row| {
                set(row.get_ref(0)?.as_blob()?)
            })
            .optional()?;
        Ok(events.unwrap_or_default())
    }

    fn named(&self, name: Name) -> Result<RoaringBitmap, rusqlite::Error> {
        let offsets = |entries: &[u8]| {
            let (entries, _) = entries.as_chunks::<ENTRY_BYTES>();
            let hash = name.0.to_le_bytes();
            let of_name = entries.iter().filter(|entry| entry.starts_with(&hash));
            of_name
                .map(|&[.., low, high]| u32::from(u16::from_le_bytes([low, high])))
                .collect()
        };
        let found = self
            .index
            .prepare_cached("SELECT entries FROM names WHERE bucket = ?1")?
            .query_row([row_of(self.number, name)], |row| {
                Ok(offsets(row.get_ref(0)?.as_blob()?))
            })
            .optional()?;
        Ok(found.unwrap_or_default())
    }

    fn valued(&self, field: Field, wanted: &dyn Fn(&str) -> bool) -> Result<RoaringBitmap, rusqlite::Error> {
        let mut select = self
            .index
            .prepare_cached("SELECT value, events FROM lists WHERE segment = ?1 AND field = ?2")?;
        let mut rows = select.query(params![self.number.cast_signed(), field as i64])?;
        let mut any = RoaringBitmap::new();
        while let Some(row) = rows.next()? {
            if wanted(row.get_ref(0)?.as_str()?) {
                any |= set(row.get_ref(1)?.as_blob()?)?;
            }
        }
        Ok(any)
    }
}

/// Removes what was written down of the segments before one.
pub(super) fn remove_before(index: &Connection, number: u64) -> Result<(), rusqlite::Error> {
    let number = number.cast_signed();
    for delete in [
        "DELETE FROM segments WHERE number < ?1",
        "DELETE FROM lists WHERE segment < ?1",
    ] {
        index.prepare_cached(delete)?.execute([number])?;
    }
    index
        .prepare_cached("DELETE FROM names WHERE bucket < ?1")?
        .execute([number << BUCKET_BITS])
        .map(drop)
}

/// The row of a name.
fn row_of(segment: u64, name: Name) -> i64 {
    ((segment << BUCKET_BITS) | name.bucket()).cast_signed()
}

fn bytes_of(events: &RoaringBitmap) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(events.serialized_size());
    // Writing to memory does not fail.
    let _ = events.serialize_into(&mut bytes);
    bytes
}

fn set(bytes: &[u8]) -> Result<RoaringBitmap, rusqlite::Error> {
    RoaringBitmap::deserialize_from(bytes).map_err(|error| {
        rusqlite::Error::FromSqlConversionFailure(0, rusqlite::types::Type::Blob, Box::new(error))
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::{event::Verification, filter::TypePattern};

    proptest! {
        #[test]
        fn a_range_is_its_segments_one_after_the_other(after in 0_u64..100, length in 1_u64..100) {
            let range = Range {
                after: Sequence::new(after),
                through: Sequence::new(after + length),
            };
            let parts: Vec<_> = segments(range, Direction::Forward).collect();
            prop_assert_eq!(parts.first().map(|part| part.after), Some(range.after));
            prop_assert_eq!(parts.last().map(|part| part.through), Some(range.through));
            for pair in parts.windows(2) {
                prop_assert_eq!(pair[0].through, pair[1].after);
            }
            for part in &parts {
                prop_assert!(part.after < part.through);
                prop_assert_eq!(segment_of(part.after.next()), segment_of(part.through));
            }
            let mut falling: Vec<_> = segments(range, Direction::Backward).collect();
            falling.reverse();
            prop_assert_eq!(falling, parts);
        }

        #[test]
        fn both_forms_find_what_a_filter_wants(
            events in proptest::collection::vec(("[ab]\\.[ab]", "[ab]?", "[ab]?", "[ab]"), 0..8),
            wanted in (
                proptest::collection::vec("[ab]\\.([ab]|\\*)", 0..3),
                proptest::collection::vec("[ab]", 0..3),
                proptest::collection::vec("[ab]", 0..3),
                proptest::collection::vec("[ab]", 0..3),
            ),
        ) {
            const NUMBER: u64 = 3;
            let mut segment = Segment::new(NUMBER);
            let stored: Vec<_> = events.iter().zip(NUMBER << SEGMENT_BITS..).map(|(event, sequence)| stored(event, sequence)).collect();
            stored.iter().for_each(|event| segment.add(event));
            let index = index();
            segment.save(&index).unwrap();
            let (event_types, entity_ids, callback_ids, endpoints) = wanted;
            let event_types = event_types.iter().map(|pattern| TypePattern::parse(pattern).unwrap()).collect();
            let filter = Filter { event_types, entity_ids, callback_ids, endpoints };
            let expected: RoaringBitmap = (0..).zip(&stored).filter(|(_, event)| filter.matches(&event.event.keys)).map(|(offset, _)| offset).collect();
            prop_assert_eq!(segment.matching(&filter).unwrap(), expected.clone());
            let saved = Saved { index: &index, number: NUMBER };
            prop_assert_eq!(saved.matching(&filter).unwrap(), expected);
            for event in &stored {
                let name = Name::id(event.event.id);
                prop_assert!(saved.named(name).unwrap().contains(offset(event.sequence).into()));
                prop_assert_eq!(saved.named(name).unwrap(), segment.named(name).unwrap());
            }
            for number in [NUMBER - 1, NUMBER + 1] {
                let other = Saved { index: &index, number };
                prop_assert!(other.matching(&filter).unwrap().is_empty());
            }
        }
    }

    fn index() -> Connection {
        let index = Connection::open_in_memory().unwrap();
        index.execute_batch(SCHEMA).unwrap();
        index
    }

    fn stored(event: &(String, String, String, String), sequence: u64) -> StoredEvent {
        let (event_type, entity_id, callback_id, endpoint) = event;
        let body = format!(
            r#"{{"event_type":"{event_type}","event_data":{{"video_id":"{entity_id}","callback_id":"{callback_id}"}}}}"#
        );
        let mut event = NewEvent::new(
            endpoint.parse().unwrap(),
            Verification::CallbackToken,
            body.into(),
            jiff::Timestamp::UNIX_EPOCH,
        );
        event.keys.entity_id = entity_id.as_str().into();
        event.keys.callback_id = callback_id.as_str().into();
        StoredEvent {
            sequence: Sequence::new(sequence),
            event,
        }
    }

    #[test]
    fn what_comes_before_a_segment_can_be_removed() {
        let index = index();
        let event = ("a.b".to_owned(), "e".to_owned(), String::new(), "one".to_owned());
        for number in 1..=3_u64 {
            let mut segment = Segment::new(number);
            segment.add(&stored(&event, number << SEGMENT_BITS));
            segment.save(&index).unwrap();
        }
        remove_before(&index, 2).unwrap();
        let found = |number| {
            let saved = Saved {
                index: &index,
                number,
            };
            let of_type = saved.valued(Field::EventType, &|_| true).unwrap().len();
            (
                saved.all().unwrap().len(),
                of_type,
                saved.named(Name::entity("e")).unwrap().len(),
            )
        };
        assert_eq!((found(1), found(2), found(3)), ((0, 0, 0), (1, 1, 1), (1, 1, 1)));
    }

    /// It is in files that later versions read.
    #[test]
    fn a_name_is_the_same_for_ever() {
        assert_eq!(Name::entity("v"), Name(184_747_335_999_900_222));
        assert_eq!(Name::callback("v"), Name(11_004_365_079_464_483_733));
        assert_eq!(
            (Name::entity("v").bucket(), Name::callback("v").bucket()),
            (20, 1221)
        );
    }
}
