//! Cursors, page tokens and ack ids as text. Owns their form and its check; refuses to know what they point at.
//!
//! They are URL-safe base64 of a version byte, the fields in big-endian, and a CRC-32 of all that, so that one edited by
//! hand, cut short or run together is told from one of another log.

use std::{fmt, str::FromStr};

use data_encoding::BASE64URL_NOPAD;

use crate::event::{LogId, Sequence};

/// "After this sequence of this log."
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cursor {
    /// The log.
    pub log_id: LogId,
    /// The position after which to go on.
    pub sequence: Sequence,
}

/// A text that is no cursor, page token or ack id of this service, or a damaged one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("is damaged or was not issued by this service")]
pub struct InvalidToken;

const CURSOR: u8 = 1;
const PAGE_TOKEN: u8 = 2;
const ACK_ID: u8 = 3;

impl Cursor {
    /// The cursor as text.
    pub fn to_text(self) -> String {
        encode(CURSOR, [self.log_id.get(), self.sequence.get()])
    }
}

impl fmt::Display for Cursor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.to_text())
    }
}

impl FromStr for Cursor {
    type Err = InvalidToken;

    fn from_str(text: &str) -> Result<Self, InvalidToken> {
        let [log_id, sequence] = decode(CURSOR, text)?;
        Ok(Self {
            log_id: LogId::new(log_id),
            sequence: Sequence::new(sequence),
        })
    }
}

/// Where a listing goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PageToken {
    /// The log.
    pub log_id: LogId,
    /// How far the pages before this one went.
    pub position: Sequence,
    /// A digest of everything else that was asked for; another question cannot go on with this token.
    pub question: u64,
}

impl fmt::Display for PageToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let fields = [self.log_id.get(), self.position.get(), self.question];
        f.write_str(&encode(PAGE_TOKEN, fields))
    }
}

impl FromStr for PageToken {
    type Err = InvalidToken;

    fn from_str(text: &str) -> Result<Self, InvalidToken> {
        let [log_id, position, question] = decode(PAGE_TOKEN, text)?;
        Ok(Self {
            log_id: LogId::new(log_id),
            position: Sequence::new(position),
            question,
        })
    }
}

/// What a subscription gives out with an event, to acknowledge it by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AckId {
    /// The subscription.
    pub subscription: u64,
    /// How often the subscription was moved to another place before.
    pub generation: u64,
    /// The event.
    pub sequence: Sequence,
    /// The attempt: no two have the same.
    pub lease: u64,
}

impl fmt::Display for AckId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let fields = [
            self.subscription,
            self.generation,
            self.sequence.get(),
            self.lease,
        ];
        f.write_str(&encode(ACK_ID, fields))
    }
}

impl FromStr for AckId {
    type Err = InvalidToken;

    fn from_str(text: &str) -> Result<Self, InvalidToken> {
        let [subscription, generation, sequence, lease] = decode(ACK_ID, text)?;
        Ok(Self {
            subscription,
            generation,
            sequence: Sequence::new(sequence),
            lease,
        })
    }
}

fn encode<const N: usize>(version: u8, fields: [u64; N]) -> String {
    let mut bytes = Vec::with_capacity(1 + 8 * N + 4);
    bytes.push(version);
    fields.iter().for_each(|field| bytes.extend(field.to_be_bytes()));
    bytes.extend(crc32fast::hash(&bytes).to_be_bytes());
    BASE64URL_NOPAD.encode(&bytes)
}

fn decode<const N: usize>(version: u8, text: &str) -> Result<[u64; N], InvalidToken> {
    let bytes = BASE64URL_NOPAD
        .decode(text.as_bytes())
        .map_err(|_| InvalidToken)?;
    let (content, check) = bytes.split_last_chunk::<4>().ok_or(InvalidToken)?;
    if crc32fast::hash(content).to_be_bytes() != *check {
        return Err(InvalidToken);
    }
    let (&found, content) = content.split_first().ok_or(InvalidToken)?;
    let (numbers, rest) = content.as_chunks::<8>();
    if found != version || numbers.len() != N || !rest.is_empty() {
        return Err(InvalidToken);
    }
    let mut fields = [0; N];
    fields
        .iter_mut()
        .zip(numbers)
        .for_each(|(field, number)| *field = u64::from_be_bytes(*number));
    Ok(fields)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_token_of_another_length_is_refused_though_its_checksum_holds() {
        let token = |fields: usize| {
            let mut bytes = vec![CURSOR];
            bytes.resize(1 + fields, 0);
            bytes.extend(crc32fast::hash(&bytes).to_be_bytes());
            BASE64URL_NOPAD.encode(&bytes).parse::<Cursor>()
        };
        assert!(token(16).is_ok());
        for length in [0, 8, 15, 17, 24, 4096] {
            assert_eq!(token(length), Err(InvalidToken), "{length}");
        }
    }

    proptest! {
        #[test]
        fn a_cursor_survives_being_written_and_read(log_id: u64, sequence: u64) {
            let cursor = Cursor { log_id: LogId::new(log_id), sequence: Sequence::new(sequence) };
            prop_assert_eq!(cursor.to_string().parse(), Ok(cursor));
        }

        #[test]
        fn a_page_token_survives_being_written_and_read(log_id: u64, position: u64, question: u64) {
            let token = PageToken {
                log_id: LogId::new(log_id),
                    position: Sequence::new(position),
                question,
            };
            prop_assert_eq!(token.to_string().parse(), Ok(token));
            prop_assert_eq!(token.to_string().parse::<Cursor>(), Err(InvalidToken));
        }

        #[test]
        fn an_ack_id_survives_being_written_and_read(subscription: u64, generation: u64, sequence: u64, lease: u64) {
            let id = AckId { subscription, generation, sequence: Sequence::new(sequence), lease };
            prop_assert!(id.to_string().len() <= 64);
            prop_assert_eq!(id.to_string().parse(), Ok(id));
            prop_assert_eq!(id.to_string().parse::<PageToken>(), Err(InvalidToken));
        }

        #[test]
        fn a_cursor_with_one_character_changed_is_refused(
            sequence: u64,
            at in 0_usize..28,
            to in "[A-Za-z0-9_-]",
        ) {
            let cursor = Cursor { log_id: LogId::new(7), sequence: Sequence::new(sequence) }.to_string();
            let mut edited = cursor.clone();
            edited.replace_range(at..=at, &to);
            prop_assume!(edited != cursor);
            prop_assert_eq!(edited.parse::<Cursor>(), Err(InvalidToken));
        }

        #[test]
        fn any_text_is_read_without_panicking(text in ".{0,80}") {
            let _ = text.parse::<Cursor>();
            let _ = text.parse::<PageToken>();
        }
    }
}
