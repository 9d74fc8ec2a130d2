//! What several fuzz targets share: how inputs become events and tokens, and the claims that hold for every event. Owns
//! nothing of the service; a claim that does not hold is a panic.

use std::sync::LazyLock;

use data_encoding::BASE64URL_NOPAD;
use hookstream::{
    cursor::Cursor,
    event::{EndpointName, LogId, NewEvent, Sequence, StoredEvent},
    grpc::{
        EventEncoder,
        proto::{self, DecodeStatus},
    },
    hub::Encode,
    limits,
    secret::Secret,
};
use jiff::Timestamp;
use prost::{Message, Name};
use prost_reflect::{DescriptorPool, DynamicMessage, MessageDescriptor};

/// The time at which everything arrives.
pub const NOW: Timestamp = Timestamp::constant(1_770_000_000, 0);

/// The place of every event.
const PLACE: Cursor = Cursor {
    log_id: LogId::new(7),
    sequence: Sequence::new(1_000_000),
};

/// What an event takes beside what grows with its body (bytes).
const FIXED_BYTES: usize = 1024;
/// How much each byte of a body may take. The most hungry, a number of one digit in a list, takes eleven bytes in two bytes'
/// stead, in the Struct and once more in the typed view; the body itself comes on top.
const GROWTH: usize = 13;
/// The years that `google.protobuf.Timestamp` can say, 1 to 9999 (seconds since 1970).
const PROTOBUF_SECONDS: std::ops::RangeInclusive<i64> = -62_135_596_800..=253_402_300_799;

static ENCODER: LazyLock<EventEncoder> =
    LazyLock::new(|| EventEncoder::new(PLACE.log_id).expect("the descriptors are as expected"));

static EVENT: LazyLock<MessageDescriptor> = LazyLock::new(|| {
    let pool = DescriptorPool::decode(proto::DESCRIPTORS).expect("the descriptors are readable");
    pool.get_message_by_name(&proto::Event::full_name())
        .expect("Event is among them")
});

/// The endpoint that everything comes to.
pub fn endpoint() -> EndpointName {
    "dev".parse().expect("a legal name")
}

/// A secret.
pub fn secret(text: &str) -> Secret {
    Secret::new(text.to_owned()).expect("a legal secret")
}

/// A cursor or page token with this content and the right check.
pub fn token(content: &[u8]) -> String {
    let check = crc32fast::hash(content).to_be_bytes();
    BASE64URL_NOPAD.encode(&[content, &check].concat())
}

/// The event as clients read it, and the same with its descriptors. Claims what is true whatever the body says.
pub fn published(event: NewEvent) -> (proto::Event, DynamicMessage) {
    let stored = StoredEvent {
        sequence: PLACE.sequence,
        event,
    };
    let bytes = ENCODER.encode(&stored);
    let event = &stored.event;
    let size_max = (FIXED_BYTES + GROWTH * event.body.len())
        .min(FIXED_BYTES + 8 * limits::IDENTIFIER_BYTES_MAX + limits::DECODED_BYTES_MAX + event.body.len());
    assert!(bytes.len() <= size_max, "{} bytes", bytes.len());

    let read = proto::GetEventResponse::decode(bytes).expect("clients can read it");
    let read = read.event.expect("it is in the response");
    assert_eq!(read.raw_body, event.body);
    assert_eq!(read.id, event.id.to_string());
    assert_eq!(read.cursor.parse(), Ok(PLACE));
    assert_eq!(read.type_name, *event.keys.event_type);
    assert_eq!(read.entity_id, *event.keys.entity_id);
    assert_eq!(read.callback_id, *event.keys.callback_id);
    assert_eq!(read.provider_event_id, *event.provider_event_id);
    let typed = read.type_name.is_empty();
    let status = read.decode_status();
    assert_eq!(
        typed,
        matches!(status, DecodeStatus::NotJson | DecodeStatus::NoEventType),
        "{status:?}"
    );
    for time in [read.created_at, read.received_at].into_iter().flatten() {
        assert!(PROTOBUF_SECONDS.contains(&time.seconds), "{time:?}");
        assert!((0..1_000_000_000).contains(&time.nanos), "{time:?}");
    }
    let dynamic = DynamicMessage::decode(EVENT.clone(), read.encode_to_vec().as_slice())
        .expect("clients with descriptors can read it");
    serde_json::to_string(&dynamic).expect("it can be printed");
    (read, dynamic)
}
