//! The appends of one transaction. Owns what makes each of them new or a duplicate (I6) and the sequences they get (I3);
//! refuses to know who appends, and when the transaction is committed.

use std::{
    collections::HashMap,
    hash::{BuildHasher, RandomState},
    ops::RangeInclusive,
    sync::Arc,
    time::Duration,
};

use jiff::Timestamp;
use rusqlite::{CachedStatement, Connection, OptionalExtension, params};

use super::{Shared, database::to_sql, index::View, reader, recent::Recent, twins::Twins};
use crate::{
    event::{EventId, NewEvent, Sequence, StoredEvent, Verification},
    limits,
    log::{
        Appended, Outcome, Range, record,
        twin::{self, Named, Search, Side},
    },
};

/// A batch on its way into the log.
pub(super) struct Batch<'a> {
    /// The log, within the transaction.
    pub(super) log: &'a Connection,
    /// The index on disk.
    pub(super) index: &'a Connection,
    pub(super) shared: &'a Shared,
    pub(super) twins: &'a Twins,
    insert: CachedStatement<'a>,
    tail: Sequence,
    last_received_at: Timestamp,
    new: Vec<Arc<StoredEvent>>,
    /// By id or alias, what this batch stored or found a twin of.
    in_batch: HashMap<EventId, Arc<StoredEvent>>,
}

/// An event with its record, which is made where nobody waits for it.
#[derive(Debug)]
pub(super) struct Recorded {
    event: NewEvent,
    record: Vec<u8>,
    /// Its place, where that is decided elsewhere.
    place: Option<Sequence>,
}

impl Recorded {
    pub(super) fn of(event: NewEvent) -> Self {
        let record = record::encode(&event);
        Self {
            event,
            record,
            place: None,
        }
    }

    /// One whose place is decided elsewhere.
    pub(super) fn at(place: Sequence, event: NewEvent) -> Self {
        Self {
            place: Some(place),
            ..Self::of(event)
        }
    }

    /// Of the body.
    pub(super) fn bytes(&self) -> usize {
        self.event.body.len()
    }

    /// The same, received at `time` if that is later: the log keeps that order.
    fn not_before(mut self, time: Timestamp) -> Self {
        if self.event.received_at >= time {
            return self;
        }
        self.event.received_at = time;
        Self {
            place: self.place,
            ..Self::of(self.event)
        }
    }
}

/// What is known of an event before its batch is stored.
#[derive(Default)]
struct Known {
    /// The kept event with its id.
    first: Option<Arc<StoredEvent>>,
    /// Of an entry of the history: the search for its push, and where that may be found, earliest first.
    pushes: Option<(Search, Vec<Sequence>)>,
}

impl<'a> Batch<'a> {
    pub(super) fn new(
        log: &'a Connection,
        index: &'a Connection,
        shared: &'a Shared,
        twins: &'a Twins,
        last: (Sequence, Timestamp),
    ) -> Result<Self, rusqlite::Error> {
        let (tail, last_received_at) = last;
        Ok(Self {
            log,
            index,
            shared,
            twins,
            insert: log.prepare_cached("INSERT INTO events (sequence, record) VALUES (?1, ?2)")?,
            tail,
            last_received_at,
            new: Vec::new(),
            in_batch: HashMap::new(),
        })
    }

    /// Writes what is new of these events. Answers what became of each, and the new ones.
    pub(super) fn store(
        mut self,
        events: Vec<Recorded>,
    ) -> Result<(Vec<Appended>, Vec<Arc<StoredEvent>>), rusqlite::Error> {
        let known = self.look_up(&events)?;
        self.new.reserve(events.len());
        let outcomes = events
            .into_iter()
            .zip(known)
            .map(|(event, known)| self.store_one(event, known))
            .collect::<Result<_, _>>()?;
        Ok((outcomes, self.new))
    }

    fn store_one(&mut self, event: Recorded, known: Known) -> Result<Appended, rusqlite::Error> {
        let Recorded { event, record, place } = event.not_before(self.last_received_at);
        let first = known.first.or_else(|| self.in_batch.get(&event.id).cloned());
        if let Some(first) = first {
            self.note_duplicate(place, &first)?;
            return Ok(Appended::duplicate(&first, &event));
        }
        if let Some(first) = self.twin(&event, known.pushes.as_ref())? {
            self.note_duplicate(place, &first)?;
            self.twins.pair(self.log, &event, first.sequence)?;
            self.shared.indexed.ids.add(event.id, first.sequence);
            let appended = Appended::duplicate(&first, &event);
            self.in_batch.insert(event.id, first);
            return Ok(appended);
        }
        let sequence = place.unwrap_or(self.tail.next());
        self.insert.execute(params![to_sql(sequence), record])?;
        self.shared.indexed.ids.add(event.id, sequence);
        let search = known.pushes.as_ref().map(|(search, _)| search);
        self.twins.stored(self.log, sequence, &event, search)?;
        (self.tail, self.last_received_at) = (sequence, event.received_at);
        let stored = Arc::new(StoredEvent { sequence, event });
        self.in_batch.insert(stored.event.id, Arc::clone(&stored));
        self.new.push(stored);
        Ok(Appended {
            sequence,
            outcome: Outcome::New,
        })
    }

    /// Remembers which entries elsewhere are duplicates, and of what.
    fn note_duplicate(&self, place: Option<Sequence>, first: &StoredEvent) -> Result<(), rusqlite::Error> {
        let Some(place) = place else { return Ok(()) };
        self.log
            .prepare_cached("INSERT INTO duplicates (sequence, first) VALUES (?1, ?2)")?
            .execute([to_sql(place), to_sql(first.sequence)])
            .map(drop)
    }

    /// The stored event that is the same as this one without having its id.
    fn twin(
        &self,
        event: &NewEvent,
        pushes: Option<&(Search, Vec<Sequence>)>,
    ) -> Result<Option<Arc<StoredEvent>>, rusqlite::Error> {
        if let Some((search, pushes)) = pushes {
            return self.free_push(search, pushes);
        }
        let Some(search) = self.twins.search(event) else {
            return Ok(None);
        };
        match self.twins.open_entry(self.log, &search)? {
            Some(entry) => self.stored(entry),
            None => Ok(None),
        }
    }

    /// The earliest push that is looked for and is not the twin of another entry.
    fn free_push(
        &self,
        search: &Search,
        stored: &[Sequence],
    ) -> Result<Option<Arc<StoredEvent>>, rusqlite::Error> {
        for &sequence in stored.iter().take(limits::TWIN_CANDIDATES_MAX) {
            if !self.twins.is_taken(self.log, sequence)?
                && let Some(push) = self.stored(sequence)?
                && search.matches(&push.event)
            {
                return Ok(Some(push));
            }
        }
        for push in self.new.iter().filter(|new| search.matches(&new.event)) {
            if !self.twins.is_taken(self.log, push.sequence)? {
                return Ok(Some(Arc::clone(push)));
            }
        }
        Ok(None)
    }

    /// What is known of each: first in memory, then by the index. In this order, because an event leaves memory only after the
    /// index has it.
    fn look_up(&self, events: &[Recorded]) -> Result<Vec<Known>, rusqlite::Error> {
        let recent = &self.shared.recent;
        let events = || events.iter().map(|recorded| &recorded.event);
        let in_memory = recent.find_each(events().map(|event| event.id));
        let pushes = PushesInMemory::wanted_by(events(), recent);
        let asks_index = |event: &NewEvent, first: &Option<_>| {
            first.is_none()
                && (event.verification == Verification::History || self.shared.indexed.ids.may_have(event.id))
        };
        if !events()
            .zip(&in_memory)
            .any(|(event, first)| asks_index(event, first))
        {
            let known = |first| Known { first, pushes: None };
            return Ok(in_memory.into_iter().map(known).collect());
        }
        events()
            .zip(in_memory)
            .map(|(event, first)| {
                let first = match first {
                    None if self.shared.indexed.ids.may_have(event.id) => self.first(event)?,
                    first => first,
                };
                if first.is_some() || event.verification != Verification::History {
                    return Ok(Known { first, pushes: None });
                }
                let pushes = Search::of(event)
                    .map(|search| {
                        let found = self.pushes(event, &search, &pushes)?;
                        Ok::<_, rusqlite::Error>((search, found))
                    })
                    .transpose()?;
                Ok(Known { first, pushes })
            })
            .collect()
    }

    /// The kept event on disk that has the id of this one, as its own or as its alias.
    fn first(&self, event: &NewEvent) -> Result<Option<Arc<StoredEvent>>, rusqlite::Error> {
        for sequence in self.view().with_id(event.id, self.kept()) {
            let stored = self
                .sound(sequence?)?
                .filter(|stored| stored.event.id == event.id);
            if stored.is_some() {
                return Ok(stored);
            }
        }
        let alias = self.twins.alias(self.log, event)?;
        alias.map_or(Ok(None), |sequence| self.sound(sequence))
    }

    /// The event at this place, which is the first of a duplicate; one whose record is damaged is none.
    fn sound(&self, sequence: Sequence) -> Result<Option<Arc<StoredEvent>>, rusqlite::Error> {
        let first = self.stored(sequence)?;
        if first.is_none() {
            tracing::error!(%sequence, "the record of a duplicate is damaged; the delivery is stored again");
        }
        Ok(first)
    }

    fn view(&self) -> View<'_> {
        self.shared.indexed.view(self.index)
    }

    fn kept(&self) -> Range {
        Range {
            after: self.shared.trimmed(),
            through: self.tail,
        }
    }

    /// Where the push of an entry may be found, in memory or by the index; in order.
    fn pushes(
        &self,
        entry: &NewEvent,
        search: &Search,
        in_memory: &PushesInMemory,
    ) -> Result<Vec<Sequence>, rusqlite::Error> {
        let Side::Pushes(times) = &search.side else {
            return Ok(Vec::new());
        };
        // Where a record in the way is damaged the times bound nothing, and what is found is compared all the same.
        let kept = self.kept();
        let before = |time| reader::before_time(self.log, kept, time);
        let range = Range {
            after: before(*times.start()).unwrap_or(kept.after),
            through: before(just_after(*times.end())).unwrap_or(kept.through),
        };
        let mut found = self.view().pushes_like(entry, search, range)?;
        found.extend(in_memory.like(entry, times));
        found.sort_unstable();
        found.dedup();
        Ok(found)
    }

    /// The event at this place, if its record is sound.
    fn stored(&self, sequence: Sequence) -> Result<Option<Arc<StoredEvent>>, rusqlite::Error> {
        let record: Option<Vec<u8>> = self
            .log
            .prepare_cached("SELECT record FROM events WHERE sequence = ?1")?
            .query_row([to_sql(sequence)], |row| row.get(0))
            .optional()?;
        let event = record.and_then(|record| record::decode(sequence, record.into()).ok());
        Ok(event.map(Arc::new))
    }
}

/// The next time that the log can tell apart.
fn just_after(time: Timestamp) -> Timestamp {
    time.checked_add(Duration::from_micros(1)).unwrap_or(time)
}

/// The pushes in memory that entries of a batch may be twins of, found in one pass.
struct PushesInMemory {
    hasher: RandomState,
    by_name: HashMap<u64, Vec<(Timestamp, Sequence)>>,
}

impl PushesInMemory {
    fn wanted_by<'a>(events: impl Iterator<Item = &'a NewEvent>, recent: &Recent) -> Self {
        let mut pushes = Self {
            hasher: RandomState::new(),
            by_name: HashMap::new(),
        };
        for entry in events.filter(|event| event.verification == Verification::History) {
            pushes.by_name.insert(pushes.name(entry), Vec::new());
        }
        if !pushes.by_name.is_empty() {
            recent.for_each(|stored| pushes.add(stored));
        }
        pushes
    }

    fn add(&mut self, stored: &StoredEvent) {
        let name = self.name(&stored.event);
        if let Some(like) = self.by_name.get_mut(&name)
            && twin::is_push(&stored.event)
        {
            like.push((stored.event.received_at, stored.sequence));
        }
    }

    /// What events of one subject have in common, without reading their data.
    fn name(&self, event: &NewEvent) -> u64 {
        let keys = &event.keys;
        self.hasher
            .hash_one((keys.endpoint.as_str(), &keys.event_type, Named::of(keys)))
    }

    fn like(&self, entry: &NewEvent, times: &RangeInclusive<Timestamp>) -> impl Iterator<Item = Sequence> {
        let like = self.by_name.get(&self.name(entry)).into_iter().flatten();
        like.filter(|(received_at, _)| times.contains(received_at))
            .map(|&(_, sequence)| sequence)
    }
}
