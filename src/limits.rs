//! Every bound of the service, with its unit and its reason. Owns the numbers; refuses to know who applies them.

use std::{
    num::{NonZeroU32, NonZeroUsize},
    time::Duration,
};

/// Largest delivery body. HeyGen documents no limit; the largest known payloads are a few KiB.
pub const BODY_BYTES_MAX: usize = 1024 * 1024;
/// Longest a body may take to arrive. HeyGen gives up on the whole delivery after 10 s.
pub const BODY_READ_TIMEOUT: Duration = Duration::from_secs(4);
/// Longest a delivery waits to become durable before it is answered with 503. With the above it stays below 10 s.
pub const APPEND_TIMEOUT: Duration = Duration::from_secs(4);
/// Deliveries handled at once; more are answered with 429. Bounds the memory that bodies can take.
pub const DELIVERIES_IN_FLIGHT_MAX: usize = 1024;
/// Of these, how many one address may have that has not delivered anything verified: bodies that come slowly must not take
/// the places of HeyGen's.
pub const DELIVERIES_IN_FLIGHT_PER_ADDRESS_MAX: usize = 256;
/// Signature headers looked at in one delivery. HeyGen sends one.
pub const SIGNATURES_PER_DELIVERY_MAX: usize = 8;

/// Failed deliveries that one address may send at once. HeyGen with a wrong secret stays below it until somebody looks.
pub const FAILURES_BURST: NonZeroU32 = NonZeroU32::new(100).unwrap();
/// Failed deliveries that one address may send each second in the long run: enough to see that they fail.
pub const FAILURES_PER_SECOND: NonZeroU32 = NonZeroU32::new(10).unwrap();
/// Addresses whose failures are remembered, and as many that have verified; the ones longest not seen are forgotten. A
/// forgotten address starts anew, which costs an attacker more addresses than we have memory for.
pub const ADDRESSES_REMEMBERED_MAX: NonZeroUsize = NonZeroUsize::new(16 * 1024).unwrap();
/// How long an address is not limited after it delivered something verified: an attacker behind the same proxy or NAT must
/// not shut out HeyGen. HeyGen repeats a delivery for a day, so within a day the next one comes.
pub const ADDRESS_PROVEN_FOR: Duration = Duration::from_secs(24 * 3600);
/// Shortest time between two warnings that an address is refused.
pub const FAILURES_WARNING_INTERVAL: Duration = Duration::from_secs(60);
/// Failed deliveries in a row at which an endpoint that verified some before probably has a wrong secret.
pub const ENDPOINT_FAILURES_IN_A_ROW: u32 = 20;
/// How long ago the last verified delivery must be for that: a flood between two good deliveries is no wrong secret.
pub const ENDPOINT_FAILURES_SILENCE: Duration = Duration::from_secs(60);

/// Largest head of an HTTP/1 request.
pub const HEAD_BYTES_MAX: usize = 16 * 1024;
/// Most headers of an HTTP/1 request.
pub const HEADERS_MAX: usize = 64;
/// Longest a connection may take to send a request head, idle time between requests included (HTTP/1).
pub const HEAD_READ_TIMEOUT: Duration = Duration::from_secs(10);
/// Connections a listener holds at once; more wait in the kernel's queue.
pub const CONNECTIONS_MAX: usize = 16 * 1024;
/// Connections one address may hold on a listener: enough for every proxy and every office behind one NAT, and a
/// sixteenth of what the listener holds.
pub const CONNECTIONS_PER_ADDRESS_MAX: usize = 1024;
/// How long a connection of the ingress or the admin side may go without a request. gRPC connections may idle.
pub const CONNECTION_IDLE_MAX: Duration = Duration::from_secs(5 * 60);
/// How long a browser may remember that pages of an origin may call.
pub const CORS_MAX_AGE: Duration = Duration::from_secs(3600);
/// How long an idle connection may take to end once it was asked to: longer than any request it may still have open.
pub const CONNECTION_END_TIMEOUT: Duration = Duration::from_secs(10);
/// Files and sockets the process may want to have open: one listener full of connections, and room for the others, the log
/// and HeyGen's API.
pub const OPEN_FILES_WANTED: u64 = CONNECTIONS_MAX as u64 + 2048;
/// HTTP/2 streams a client may open on one connection to the gRPC or admin listener.
pub const HTTP2_STREAMS_PER_CONNECTION_MAX: u32 = 1024;
/// HTTP/2 streams a sender may open on one connection to the ingress: what is open costs memory also when nobody reads the
/// answer. RFC 9113 advises against fewer than 100.
pub const HTTP2_INGRESS_STREAMS_PER_CONNECTION_MAX: u32 = 128;
/// Streams that a peer may have reset before they were accepted; more end the connection (rapid reset, CVE-2023-44487). An
/// ordinary client cancels calls that it has waited for, which were accepted long before.
pub const HTTP2_PENDING_RESETS_MAX: usize = 20;
/// Streams that a connection may make us reset because of what it sends; more end it (made-you-reset, CVE-2025-8671).
pub const HTTP2_ERROR_RESETS_MAX: usize = 128;
/// Largest frame we take, the smallest that the protocol allows. It also bounds what a header block may be cut into: h2
/// ends a connection that sends more CONTINUATION frames than the header list needs. Against floods of PING and SETTINGS
/// h2 has one place for an answer and reads on only when that is sent, so that they cost no memory; there is no knob, and
/// pings are not counted, because gRPC clients ping every few seconds with good reason.
pub const HTTP2_FRAME_BYTES_MAX: u32 = 16 * 1024;
/// What is buffered of one HTTP/2 stream for a peer that does not read (bytes).
pub const HTTP2_SEND_BUFFER_BYTES_MAX: usize = 128 * 1024;
/// What a peer may send on one HTTP/2 connection before we have read it (bytes): one body of the largest size.
pub const HTTP2_RECEIVE_WINDOW_BYTES: u32 = 1024 * 1024;
/// Largest header block of an HTTP/2 request.
pub const HTTP2_HEADER_LIST_BYTES_MAX: u32 = 16 * 1024;
/// How often a silent HTTP/2 connection is pinged, to notice a peer that is gone.
pub const HTTP2_KEEPALIVE_INTERVAL: Duration = Duration::from_secs(30);
/// How long such a ping may stay unanswered.
pub const HTTP2_KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(20);
/// Longest a TLS handshake may take: as long as a request head.
pub const TLS_HANDSHAKE_TIMEOUT: Duration = HEAD_READ_TIMEOUT;
/// How often the files of certificates are read again: a renewed one is in use well before anybody waits for it.
pub const TLS_RELOAD_INTERVAL: Duration = Duration::from_secs(10);
/// Largest file of certificates or of a key (bytes): all public authorities together take a fraction of it.
pub const TLS_FILE_BYTES_MAX: u64 = 1024 * 1024;
/// How long before a certificate's end its operator is warned. Whoever renews by itself has done so long before.
pub const TLS_EXPIRY_WARNING: Duration = Duration::from_secs(14 * 24 * 3600);
/// How often the warning is repeated.
pub const TLS_EXPIRY_WARNING_INTERVAL: Duration = Duration::from_secs(24 * 3600);

/// Spans of traces that wait to be sent; what is more is dropped. One takes about 1 KiB.
pub const TRACE_SPANS_WAITING_MAX: usize = 16 * 1024;
/// Spans sent to the collector at once.
pub const TRACE_BATCH_SPANS_MAX: usize = 2 * 1024;
/// Longest a span waits to be sent.
pub const TRACE_EXPORT_INTERVAL: Duration = Duration::from_secs(1);
/// Longest the last spans may take to be sent when the service ends.
pub const TRACE_CLOSE_DEADLINE: Duration = Duration::from_secs(2);
/// Longest the collector may take to answer.
pub const TRACE_EXPORT_TIMEOUT: Duration = Duration::from_secs(5);

/// Longest name of an endpoint or a token (bytes): a DNS label.
pub const NAME_BYTES_MAX: usize = 63;
/// Endpoints that may exist.
pub const ENDPOINTS_MAX: usize = 10_000;
/// Longest secret (bytes).
pub const SECRET_BYTES_MAX: usize = 512;
/// Random bytes in a generated secret.
pub const SECRET_RANDOM_BYTES: usize = 32;
/// Secrets one endpoint accepts at a time; of more, the oldest stop being accepted.
pub const SECRETS_PER_ENDPOINT_MAX: usize = 8;
/// How long a rotated secret is accepted unless the caller says otherwise.
pub const ROTATION_OVERLAP_DEFAULT: Duration = Duration::from_secs(24 * 3600);
/// Longest a rotated secret may be accepted.
pub const ROTATION_OVERLAP_MAX: Duration = Duration::from_secs(7 * 24 * 3600);

/// Longest a change of `state.db` waits for another one: of this process, or of a backup.
pub const STATE_BUSY_TIMEOUT: Duration = Duration::from_secs(5);
/// Tokens that may exist.
pub const TOKENS_MAX: usize = 1_000;
/// Fewest bytes of a token that the operator chose: 128 random bits in hexadecimal.
pub const OPERATOR_TOKEN_BYTES_MIN: usize = 32;
/// Streams one token may have open: no token takes all of [`STREAMS_MAX`].
pub const STREAMS_PER_TOKEN_MAX: usize = 4_000;
/// Calls one token may make a second, streams counted when they open.
pub const CALLS_PER_TOKEN_PER_SECOND_MAX: u32 = 500;
/// Calls one token may make at once, before the above holds: every stream of a large client may reconnect.
pub const CALLS_PER_TOKEN_BURST_MAX: u32 = 5_000;
/// Records of the audit trail that are kept; the oldest are forgotten.
pub const AUDIT_RECORDS_MAX: i64 = 100_000;
/// Records of it that are copied at once.
pub const AUDIT_COPY_RECORDS_MAX: usize = 1_000;
/// Records of the audit trail, and tokens, on a page unless the client says otherwise.
pub const RECORDS_PAGE_DEFAULT: usize = 100;

/// Values one field of a filter may hold.
pub const FILTER_VALUES_MAX: usize = 100;
/// Longest value in a filter, and longest identifier taken from a body (bytes). Longer ones are not indexed.
pub const IDENTIFIER_BYTES_MAX: usize = 256;
/// Deepest `event_data` sent as a Struct (levels). Three protobuf messages a level must stay below the hundred that the
/// C++, Java, Python and Rust libraries read.
pub const EVENT_DATA_DEPTH_MAX: usize = 24;
/// Largest decoded form of an event (bytes): with the raw body beside it, it stays below the 4 MiB that gRPC clients take
/// unless told otherwise. JSON can grow more than fivefold as a Struct.
pub const DECODED_BYTES_MAX: usize = 2560 * 1024;

/// Deliveries waiting for the log's writer.
pub const APPEND_QUEUE_MAX: usize = DELIVERIES_IN_FLIGHT_MAX;
/// Batches of appends whose answers are on their way to the tasks that wait for them.
pub const REPLY_BATCHES_MAX: usize = 8;
/// Events in one commit.
pub const COMMIT_EVENTS_MAX: usize = 512;
/// Bytes of bodies in one commit.
pub const COMMIT_BYTES_MAX: usize = 8 * 1024 * 1024;
/// New ids that are looked for in a part of the index all the same (share, for each part). An id takes fifteen bits for it.
pub const KNOWN_IDS_FALSE_POSITIVES: f64 = 0.001;
/// Events the index may lag behind the log; at this bound the writer waits for it.
pub const INDEX_LAG_EVENTS_MAX: usize = 48 * 1024;
/// Bytes of bodies the index may lag behind the log.
pub const INDEX_LAG_BYTES_MAX: usize = 48 * 1024 * 1024;
/// Events added to the index at a time.
pub const INDEX_BATCH_EVENTS_MAX: usize = 8 * 1024;
/// Events that wait for the index before they are added ahead of its interval. In unit tests it is not behind for long, so that
/// what is read comes from all of its parts.
pub const INDEX_BATCH_EVENTS_MIN: usize = if cfg!(test) { 3 } else { 4 * 1024 };
/// Longest an event waits for the index.
pub const INDEX_INTERVAL: Duration = Duration::from_secs(10);
/// Write-ahead log size at which a checkpoint starts in the next pause (bytes).
pub const WAL_CHECKPOINT_BYTES: u64 = 32 * 1024 * 1024;
/// Write-ahead log size at which a checkpoint no longer waits for a pause (bytes).
pub const WAL_BYTES_MAX: u64 = 128 * 1024 * 1024;
/// Silence of the writer that counts as a pause.
pub const WAL_PAUSE: Duration = Duration::from_millis(50);
/// Read-only connections to the embedded engine, and so reads of it that run at once.
pub const READERS_MAX: usize = 4;
/// Segments of the index one read looks at before it hands back what it has.
pub const READ_SEGMENTS_MAX: usize = 32;
/// Events that retention removes in one transaction: small, because the writer waits for it.
pub const TRIM_EVENTS_MAX: usize = 256;
/// Duplicates that are removed from a log elsewhere at a time.
pub const DUPLICATES_REMOVED_MAX: usize = 256;
/// How often retention looks for something to remove.
pub const RETENTION_INTERVAL: Duration = Duration::from_secs(60);

/// Largest message to NATS (bytes): the largest body, and what is stored beside it.
pub const MESSAGE_BYTES_MAX: usize = BODY_BYTES_MAX + 16 * 1024;
/// Longest a connection to a NATS server may take to come about.
pub const NATS_CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// Longest a NATS cluster that is starting is waited for.
pub const NATS_START_TIMEOUT: Duration = Duration::from_secs(10);
/// How often it is asked meanwhile.
pub const NATS_START_INTERVAL: Duration = Duration::from_millis(250);
/// How often a connection to NATS is asked whether it is there; two unanswered pings end it.
pub const NATS_PING_INTERVAL: Duration = Duration::from_secs(2);
/// Longest JetStream may take to acknowledge a message before it is sent again.
pub const NATS_ACK_TIMEOUT: Duration = Duration::from_secs(1);
/// Longest JetStream may take to answer one request. While it elects a leader it answers none.
pub const NATS_REQUEST_TIMEOUT: Duration = Duration::from_secs(2);
/// How long a lease of one replica lasts that is not renewed: so long nobody does what its holder did when it died.
pub const LEASE_DURATION: Duration = Duration::from_secs(6);
/// How often it is renewed, or asked for.
pub const LEASE_INTERVAL: Duration = Duration::from_secs(2);
/// How long a holder that cannot renew it goes on: shorter than it lasts, by a request and then some.
pub const LEASE_HELD_MAX: Duration = Duration::from_secs(4);
/// Longest all that is in a bucket may take to be read.
pub const BUCKET_READ_TIMEOUT: Duration = Duration::from_secs(10);
/// Requests for one change of what replicas share that are under way at once.
pub const BUCKET_REQUESTS_MAX: usize = 64;
/// Longest a call waits for a replica that serves the subscriptions: longer than a lease lasts.
pub const SUBSCRIPTIONS_SERVER_WAIT: Duration = Duration::from_secs(10);
/// How long a replica waits before it loads subscriptions again that could not be loaded.
pub const SUBSCRIPTIONS_LOAD_RETRY_DELAY: Duration = Duration::from_secs(1);
/// Longest the copy of a replica may take until it holds what subscriptions were handed out; then that is held for lost.
pub const SUBSCRIPTIONS_LOG_WAIT: Duration = Duration::from_secs(60);
/// Connections to the replica that serves the subscriptions: as many times the streams that one connection may hold.
pub const REPLICA_CONNECTIONS: usize = 4;
/// Longest a replica may take to accept a connection of another.
pub const REPLICA_CONNECT_TIMEOUT: Duration = Duration::from_secs(2);
/// How long a call waits before it tries again to reach the replica that serves the subscriptions.
pub const REPLICA_RETRY_DELAY: Duration = Duration::from_secs(1);
/// How often a replica is asked whether it is there, and how long it may take to answer.
pub const REPLICA_KEEPALIVE_INTERVAL: Duration = Duration::from_secs(3);
/// How old what one replica says of a caller may be when another reads it: more than their clocks may differ.
pub const VOUCHER_AGE_MAX: Duration = Duration::from_secs(60);
/// How long what another replica has begun at HeyGen is left to it.
pub const PENDING_ELSEWHERE_PATIENCE: Duration = Duration::from_secs(60);
/// Largest event in a file of events (bytes): more than the largest body makes, raw, as fields and as a Struct.
pub const ARCHIVE_EVENT_BYTES_MAX: u32 = 32 * 1024 * 1024;
/// Events of an import that are on their way to the log at once.
pub const IMPORT_APPENDS_MAX: usize = 256;
/// Their bodies (bytes).
pub const IMPORT_BYTES_MAX: usize = 8 * 1024 * 1024;
/// How often a log that cannot store events at the moment is asked whether it can again.
pub const LOG_PROBE_INTERVAL: Duration = Duration::from_secs(1);
/// How often the stream is asked whether it has a leader.
pub const STREAM_CHECK_INTERVAL: Duration = Duration::from_secs(2);
/// Free space (bytes) above which the write-ahead log is given its size before it is used.
pub const WAL_ALLOCATION_ROOM_BYTES: u64 = 8 * WAL_CHECKPOINT_BYTES;
/// Shortest pause before what failed with NATS is tried again; it grows.
pub const NATS_RECONNECT_DELAY_MIN: Duration = Duration::from_millis(50);
/// Longest such pause.
pub const NATS_RECONNECT_DELAY_MAX: Duration = Duration::from_secs(1);
/// Servers that keep the stream where nobody says how many and there are as many: the loss of one is survived.
pub const STREAM_REPLICAS_DEFAULT: usize = 3;
/// How long JetStream remembers what was published: a repetition after an answer that was lost comes much sooner.
pub const STREAM_DUPLICATE_WINDOW: Duration = Duration::from_secs(120);
/// Longest an event is published again and again until JetStream acknowledges it. With [`APPLY_TIMEOUT`] it stays below
/// [`APPEND_TIMEOUT`].
pub const PUBLISH_TIMEOUT: Duration = Duration::from_secs(3);
/// Pause between two attempts of it.
pub const PUBLISH_RETRY_DELAY: Duration = Duration::from_millis(100);
/// Longest an event may take from its acknowledgement into this replica's copy.
pub const APPLY_TIMEOUT: Duration = Duration::from_millis(800);
/// Entries of the stream that are taken into the copy at a time.
pub const APPLY_ENTRIES_MAX: usize = 512;
/// How long a consumer outlives the replica that made it.
pub const CONSUMER_INACTIVE_MAX: Duration = Duration::from_secs(30);
/// How long a consumer waits for messages before it is asked again.
pub const CONSUMER_PULL_EXPIRY: Duration = Duration::from_secs(5);
/// How often a consumer says that it is there; after two silences another is made.
pub const CONSUMER_HEARTBEAT: Duration = Duration::from_secs(1);

/// How much later than its entry in the event history says a pushed event may arrive, and still be taken for the same.
/// HeyGen retries for 24 h.
pub const TWIN_WINDOW: Duration = Duration::from_secs(25 * 3600);
/// How much earlier: HeyGen's clock may be ahead of ours.
pub const TWIN_CLOCK_SKEW: Duration = Duration::from_secs(2 * 60);
/// Stored events looked at for the push of one entry of the history. There is one, but for ids that say nothing.
pub const TWIN_CANDIDATES_MAX: usize = 4096;

/// Events kept in memory for live streams.
pub const RING_EVENTS_MAX: usize = 16 * 1024;
/// Bytes of the events kept in memory for live streams.
pub const RING_BYTES_MAX: usize = 32 * 1024 * 1024;
/// Streams open at once.
pub const STREAMS_MAX: usize = 20_000;
/// Events a stream takes from memory at a time.
pub const STREAM_CHUNK_EVENTS_MAX: usize = 64;
/// Bytes of bodies a stream takes from memory at a time; one larger event is taken alone.
pub const STREAM_CHUNK_BYTES_MAX: usize = 32 * 1024;
/// Events a stream reads from the log at a time. It holds what it is sending and reads one such chunk ahead.
pub const REPLAY_CHUNK_EVENTS_MAX: usize = 512;
/// Bytes of bodies a stream reads from the log at a time; one larger event is read alone.
pub const REPLAY_CHUNK_BYTES_MAX: usize = 192 * 1024;
/// Bytes of messages that a call gathers before they are sent.
pub const SEND_BUFFER_BYTES: usize = 32 * 1024;
/// The buffer that every call has for them from the start (bytes): an idle stream holds on to it, so it is for a control
/// frame, and an event makes its own.
pub const SEND_BUFFER_BYTES_MIN: usize = 512;
/// Events in memory that a stream looks at before it lets others run.
pub const STREAM_SCAN_EVENTS_MAX: usize = 1024;
/// Silence after which a stream sends a heartbeat unless the client says otherwise.
pub const HEARTBEAT_INTERVAL_DEFAULT: Duration = Duration::from_secs(15);
/// Shortest heartbeat interval a client may ask for.
pub const HEARTBEAT_INTERVAL_MIN: Duration = Duration::from_secs(1);
/// Longest heartbeat interval a client may ask for.
pub const HEARTBEAT_INTERVAL_MAX: Duration = Duration::from_secs(300);
/// Within this time the clients of a draining service are asked to come back.
pub const RECONNECT_SPREAD: Duration = Duration::from_secs(3);
/// How long AwaitEvent waits unless the client says otherwise.
pub const AWAIT_TIMEOUT_DEFAULT: Duration = Duration::from_secs(60);
/// Longest AwaitEvent waits.
pub const AWAIT_TIMEOUT_MAX: Duration = Duration::from_secs(3600);

/// Subscriptions that may exist. Each has its own series in /metrics.
pub const SUBSCRIPTIONS_MAX: usize = 2_000;
/// How long a stream has to acknowledge an event unless the subscription says otherwise.
pub const ACK_DEADLINE_DEFAULT: Duration = Duration::from_secs(30);
/// Shortest deadline, and shortest extension of one.
pub const ACK_DEADLINE_MIN: Duration = Duration::from_secs(1);
/// Longest deadline, and longest extension of one: what takes longer extends again.
pub const ACK_DEADLINE_MAX: Duration = Duration::from_secs(3600);
/// Attempts of an event unless the subscription says otherwise: with the delays below, a quarter of an hour.
pub const ATTEMPTS_DEFAULT: u32 = 10;
/// Most attempts of an event.
pub const ATTEMPTS_MAX: u32 = 1000;
/// How long an event waits after its first failed attempt unless the subscription says otherwise.
pub const MIN_RETRY_DELAY_DEFAULT: Duration = Duration::from_secs(1);
/// Longest that this may be.
pub const MIN_RETRY_DELAY_MAX: Duration = Duration::from_secs(3600);
/// Longest wait after a failed attempt unless the subscription says otherwise.
pub const MAX_RETRY_DELAY_DEFAULT: Duration = Duration::from_secs(300);
/// Longest wait after a failed attempt.
pub const MAX_RETRY_DELAY_MAX: Duration = Duration::from_secs(24 * 3600);
/// Unacknowledged events a stream holds unless the subscription says otherwise: a consumer that handles them one after the
/// other has a second and a half for each.
pub const UNACKNOWLEDGED_PER_STREAM_DEFAULT: usize = 20;
/// Most unacknowledged events of a stream.
pub const UNACKNOWLEDGED_PER_STREAM_MAX: usize = 10_000;
/// Events of a subscription under way unless it says otherwise.
pub const UNACKNOWLEDGED_DEFAULT: usize = 1_000;
/// Most events of a subscription under way: each is in memory, without its body, and in every commit of its place.
pub const UNACKNOWLEDGED_MAX: usize = 20_000;
/// Shortest time a subscription is kept while nobody uses it.
pub const INACTIVE_RETENTION_MIN: Duration = Duration::from_secs(60);
/// Longest such time, short of for ever.
pub const INACTIVE_RETENTION_MAX: Duration = Duration::from_secs(10 * 365 * 24 * 3600);
/// Labels of a subscription.
pub const LABELS_MAX: usize = 64;
/// Longest key of a label (bytes).
pub const LABEL_KEY_BYTES_MAX: usize = 63;
/// Longest value of a label (bytes).
pub const LABEL_VALUE_BYTES_MAX: usize = 256;
/// Ack ids in one call: with [`REQUEST_BYTES_MAX`] in mind.
pub const ACK_IDS_MAX: usize = 4096;
/// Dead letters named in one call, and looked at at a time.
pub const DEAD_LETTERS_PER_CALL_MAX: usize = 1000;
/// Events a subscription reads ahead of its streams; a few more may come with the last read.
pub const READ_AHEAD_EVENTS_MAX: usize = 256;
/// Bytes of encoded events a subscription reads ahead of its streams; one larger event is read alone.
pub const READ_AHEAD_BYTES_MAX: usize = 512 * 1024;
/// How long a subscription waits for a stream that it woke before it tells the others, too.
pub const WOKEN_STREAM_PATIENCE: Duration = Duration::from_millis(50);
/// Events a subscription takes in at a time.
pub const FEED_EVENTS_MAX: usize = 64;
/// How long a subscription waits before it tries again to read what could not be read.
pub const READ_AGAIN_DELAY: Duration = Duration::from_secs(1);
/// How often subscriptions are looked at: their backlogs for /metrics, and whether anybody uses them.
pub const SUBSCRIPTIONS_SURVEY_INTERVAL: Duration = Duration::from_secs(5);
/// How long the storage of subscriptions is left alone after it failed.
pub const SUBSCRIPTIONS_COMMIT_RETRY_DELAY: Duration = Duration::from_secs(1);

/// Largest request message (bytes): a full filter is half of it.
pub const REQUEST_BYTES_MAX: usize = 256 * 1024;
/// Longest a request message may take to arrive.
pub const REQUEST_READ_TIMEOUT: Duration = Duration::from_secs(10);
/// Calls under way at once, streams and awaits aside, which [`STREAMS_MAX`] bounds. A page of each is in memory.
pub const CALLS_IN_FLIGHT_MAX: usize = 1024;
/// Longest a call that only reads may take.
pub const READ_CALL_TIMEOUT: Duration = Duration::from_secs(30);
/// Longest a call that manages an endpoint may take: several calls of HeyGen's API, and another operation before it.
pub const MANAGE_CALL_TIMEOUT: Duration = Duration::from_secs(120);

/// Events on a page of ListEvents unless the client says otherwise.
pub const EVENTS_PAGE_DEFAULT: usize = 10;
/// Subscriptions on a page unless the client says otherwise.
pub const SUBSCRIPTIONS_PAGE_DEFAULT: usize = 100;
/// Endpoints on a page unless the client says otherwise.
pub const ENDPOINTS_PAGE_DEFAULT: usize = 100;
/// Entries on any page.
pub const PAGE_MAX: usize = 1000;
/// Bytes of encoded events on a page; one larger event stands alone.
pub const PAGE_BYTES_MAX: usize = 2 * 1024 * 1024;

/// Longest a connection to HeyGen's API may take to come about.
pub const HEYGEN_CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// Longest HeyGen's API may take to answer one request.
pub const HEYGEN_ATTEMPT_TIMEOUT: Duration = Duration::from_secs(10);
/// Longest one call of HeyGen's API may take, repetitions and pages included.
pub const HEYGEN_CALL_TIMEOUT: Duration = Duration::from_secs(30);
/// Shortest pause before a request to HeyGen's API is repeated; it doubles each time.
pub const HEYGEN_RETRY_DELAY_MIN: Duration = Duration::from_millis(250);
/// Longest such pause, jitter and HeyGen's own wishes aside.
pub const HEYGEN_RETRY_DELAY_MAX: Duration = Duration::from_secs(4);
/// Largest answer of HeyGen's API: a page of a hundred events is a fraction of it.
pub const HEYGEN_ANSWER_BYTES_MAX: usize = 16 * 1024 * 1024;
/// What is read of an answer that is no success (bytes).
pub const HEYGEN_REFUSAL_BYTES_MAX: usize = 64 * 1024;
/// What is shown of a message of HeyGen's (characters).
pub const HEYGEN_MESSAGE_CHARACTERS_MAX: usize = 200;
/// Entries asked for on a page of HeyGen's; it gives no more.
pub const HEYGEN_PAGE_ENTRIES: usize = 100;
/// Pages of one list of HeyGen's: with the above, as many registrations as endpoints may exist.
pub const HEYGEN_PAGES_MAX: usize = ENDPOINTS_MAX / HEYGEN_PAGE_ENTRIES;

/// Longest a drain takes before the process ends whatever is still open.
pub const DRAIN_DEADLINE: Duration = Duration::from_secs(10);
/// Of that, what is left for the log to be closed.
pub const LOG_CLOSE_DEADLINE: Duration = Duration::from_secs(5);

/// Age at which an idempotency key is no longer relied on: HeyGen repeats its first answer for 24 h.
pub const IDEMPOTENCY_KEY_AGE_MAX: Duration = Duration::from_secs(23 * 3600);

/// How far below known ground a walk through HeyGen's history goes, for entries that are listed late.
pub const RECONCILIATION_MARGIN: Duration = Duration::from_secs(3600);
/// Calls that wait for a reconciliation.
pub const RECONCILIATIONS_WAITING_MAX: usize = 64;
/// How often long work tells how far it is.
pub const PROGRESS_INTERVAL: Duration = Duration::from_secs(5);
/// Largest body of a call to the stand-in's API; more is answered with 413.
pub const STAND_IN_CALL_BYTES_MAX: usize = 64 * 1024;
/// Calls to its API that the stand-in remembers; the oldest are forgotten.
pub const STAND_IN_CALLS_KEPT_MAX: usize = 4 * 1024;
/// Idempotency keys that the stand-in remembers; the oldest are forgotten.
pub const STAND_IN_IDEMPOTENCY_KEYS_MAX: usize = 4 * 1024;
/// Events in the stand-in's history; the oldest are forgotten.
pub const STAND_IN_HISTORY_EVENTS_MAX: usize = 128 * 1024;
/// Deliveries that the stand-in has under way or scheduled; more are given up at once.
pub const STAND_IN_DELIVERIES_PENDING_MAX: usize = 64 * 1024;
/// Deliveries that the stand-in has on the wire at once.
pub const STAND_IN_DELIVERIES_IN_FLIGHT_MAX: usize = 64;
/// Bytes of an answer to a delivery that the stand-in reads, so that the connection can be used again.
pub const STAND_IN_ANSWER_BYTES_MAX: usize = 64 * 1024;
/// Longest pause of the stand-in between two attempts of a delivery.
pub const STAND_IN_RETRY_DELAY_MAX: Duration = Duration::from_secs(3600);
