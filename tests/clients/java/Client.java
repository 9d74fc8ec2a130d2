// A client with grpc-java. What it does is said in `program.py`.

import com.google.gson.Gson;
import com.google.protobuf.Any;
import com.google.protobuf.InvalidProtocolBufferException;
import com.google.protobuf.Value;
import com.google.protobuf.util.Durations;
import com.google.rpc.BadRequest;
import com.google.rpc.ErrorInfo;
import hookstream.v1.EventOuterClass.Event;
import hookstream.v1.Filter.EventFilter;
import hookstream.v1.HookstreamServiceGrpc;
import hookstream.v1.HookstreamServiceGrpc.HookstreamServiceBlockingStub;
import hookstream.v1.HookstreamServiceOuterClass.AcknowledgeEventsRequest;
import hookstream.v1.HookstreamServiceOuterClass.AcknowledgeEventsResponse;
import hookstream.v1.HookstreamServiceOuterClass.AwaitEventRequest;
import hookstream.v1.HookstreamServiceOuterClass.GetEventRequest;
import hookstream.v1.HookstreamServiceOuterClass.ListEventsRequest;
import hookstream.v1.HookstreamServiceOuterClass.ListEventsResponse;
import hookstream.v1.HookstreamServiceOuterClass.ManageEndpointRequest;
import hookstream.v1.HookstreamServiceOuterClass.ManageSubscriptionRequest;
import hookstream.v1.HookstreamServiceOuterClass.Order;
import hookstream.v1.HookstreamServiceOuterClass.SubscribeEventsRequest;
import hookstream.v1.HookstreamServiceOuterClass.SubscribeEventsResponse;
import hookstream.v1.SubscriptionOuterClass.DeadLetter;
import hookstream.v1.SubscriptionOuterClass.Subscription;
import io.grpc.Context;
import io.grpc.Context.CancellableContext;
import io.grpc.Grpc;
import io.grpc.InsecureChannelCredentials;
import io.grpc.Status;
import io.grpc.StatusRuntimeException;
import io.grpc.protobuf.StatusProto;
import java.io.BufferedReader;
import java.io.InputStreamReader;
import java.io.PrintStream;
import java.nio.charset.StandardCharsets;
import java.util.ArrayList;
import java.util.Iterator;
import java.util.List;
import java.util.Map;

/** One connection to the service. */
public final class Client {
  private static final long RETRY_MILLIS_MIN = 100;
  private static final long RETRY_MILLIS_MAX = 5000;

  private static final Gson JSON = new Gson();
  private static final PrintStream OUT = new PrintStream(System.out, true, StandardCharsets.UTF_8);

  private final HookstreamServiceBlockingStub hooks;

  private Client(String address) {
    hooks =
        HookstreamServiceGrpc.newBlockingStub(
            Grpc.newChannelBuilder(address, InsecureChannelCredentials.create()).build());
  }

  /** An order, with the members of all of them. */
  private record Asked(
      String name,
      String endpoint,
      List<String> event_types,
      String until_entity,
      String after_cursor,
      int page_size,
      String id,
      String entity_id,
      long timeout_ms,
      long retry_delay_ms,
      String subscription,
      int count) {
    EventFilter filter() {
      EventFilter.Builder filter = EventFilter.newBuilder().addEndpoints(endpoint);
      return event_types == null ? filter.build() : filter.addAllEventTypes(event_types).build();
    }
  }

  private static void say(String kind, Object what) {
    OUT.println(JSON.toJson(Map.of(kind, what)));
  }

  private static Map<String, Object> eventOf(Event event) {
    String text =
        switch (event.getPayloadCase()) {
          case AVATAR_VIDEO_SUCCESS -> event.getAvatarVideoSuccess().getUrl();
          case AVATAR_VIDEO_FAIL -> event.getAvatarVideoFail().getMsg();
          default -> "";
        };
    var payload = Event.getDescriptor().findFieldByNumber(event.getPayloadCase().getNumber());
    Value extra = event.getEventData().getFieldsOrDefault("extra", Value.getDefaultInstance());
    return Map.ofEntries(
        Map.entry("id", event.getId()),
        Map.entry("cursor", event.getCursor()),
        // A Java long has a sign, the number has none.
        Map.entry("sequence", Long.toUnsignedString(event.getSequence())),
        // A type that this program was not built with is UNRECOGNIZED, which has no number: hence its value.
        Map.entry("type", event.getTypeValue()),
        Map.entry("type_name", event.getTypeName()),
        Map.entry("entity_id", event.getEntityId()),
        Map.entry("payload", payload == null ? "" : payload.getName()),
        Map.entry("text", text),
        Map.entry("extra", extra.getStringValue()),
        Map.entry("raw_body", event.getRawBody().toStringUtf8()));
  }

  private static Map<String, Object> errorOf(StatusRuntimeException error) {
    ErrorInfo info = ErrorInfo.getDefaultInstance();
    List<String> fields = new ArrayList<>();
    try {
      for (Any detail : StatusProto.fromThrowable(error).getDetailsList()) {
        if (detail.is(ErrorInfo.class)) {
          info = detail.unpack(ErrorInfo.class);
        } else if (detail.is(BadRequest.class)) {
          detail.unpack(BadRequest.class).getFieldViolationsList().forEach(field -> fields.add(field.getField()));
        }
      }
    } catch (InvalidProtocolBufferException damaged) {
      throw new IllegalStateException(damaged);
    }
    return Map.of(
        "code", error.getStatus().getCode().name(),
        "reason", info.getReason(),
        "metadata", info.getMetadataMap(),
        "fields", fields);
  }

  private Map<String, Object> createEndpoint(Asked asked) {
    var create = ManageEndpointRequest.Create.newBuilder().setName(asked.name());
    var answer = hooks.manageEndpoint(ManageEndpointRequest.newBuilder().setCreate(create).build());
    return Map.of("secret", answer.getCreate().getSecret());
  }

  /** Follows a filter up to the event about an entity, over lost connections and restarts of the service. */
  private Map<String, Object> follow(Asked asked) throws InterruptedException {
    SubscribeEventsRequest.Builder request = SubscribeEventsRequest.newBuilder().setFilter(asked.filter());
    if (asked.after_cursor() != null) {
      request.setAfterCursor(asked.after_cursor());
    }
    long delay = RETRY_MILLIS_MIN;
    while (true) {
      CancellableContext streaming = Context.current().withCancellation();
      Context before = streaming.attach();
      try {
        Iterator<SubscribeEventsResponse> frames = hooks.subscribeEvents(request.build());
        while (frames.hasNext()) {
          SubscribeEventsResponse frame = frames.next();
          delay = RETRY_MILLIS_MIN;
          switch (frame.getFrameCase()) {
            case EVENT -> {
              request.setAfterCursor(frame.getEvent().getCursor());
              say("event", eventOf(frame.getEvent()));
              if (frame.getEvent().getEntityId().equals(asked.until_entity())) {
                return Map.of("cursor", request.getAfterCursor());
              }
            }
            case CAUGHT_UP -> {
              request.setAfterCursor(frame.getCaughtUp().getCursor());
              say("caught_up", Map.of("cursor", request.getAfterCursor()));
            }
            case HEARTBEAT -> {
              request.setAfterCursor(frame.getHeartbeat().getCursor());
              say("heartbeat", Map.of("cursor", request.getAfterCursor()));
            }
            case DRAINING -> {
              request.setAfterCursor(frame.getDraining().getCursor());
              delay = Durations.toMillis(frame.getDraining().getReconnectAfter());
              say("draining", Map.of("cursor", request.getAfterCursor()));
            }
            default -> {}
          }
        }
      } catch (StatusRuntimeException error) {
        if (error.getStatus().getCode() != Status.Code.UNAVAILABLE) {
          throw error;
        }
        say("reconnecting", errorOf(error));
      } finally {
        streaming.detachAndCancel(before, null);
      }
      Thread.sleep(delay);
      delay = Math.min(delay * 2, RETRY_MILLIS_MAX);
    }
  }

  private Map<String, Object> list(Asked asked) {
    ListEventsRequest.Builder request =
        ListEventsRequest.newBuilder()
            .setFilter(asked.filter())
            .setOrder(Order.ORDER_OLDEST_FIRST)
            .setPageSize(asked.page_size());
    do {
      ListEventsResponse answer = hooks.listEvents(request.build());
      say("page", answer.getEventsList().stream().map(Event::getEntityId).toList());
      request.setPageToken(answer.getNextPageToken());
    } while (!request.getPageToken().isEmpty());
    return Map.of();
  }

  private Map<String, Object> get(Asked asked) {
    var answer = hooks.getEvent(GetEventRequest.newBuilder().setId(asked.id()).build());
    return Map.of("event", eventOf(answer.getEvent()));
  }

  private Map<String, Object> awaitEvent(Asked asked) {
    AwaitEventRequest.Builder request =
        AwaitEventRequest.newBuilder()
            .setFilter(asked.filter().toBuilder().addEntityIds(asked.entity_id()))
            .setTimeout(Durations.fromMillis(asked.timeout_ms()));
    if (asked.after_cursor() != null) {
      request.setAfterCursor(asked.after_cursor());
    }
    return Map.of("event", eventOf(hooks.awaitEvent(request.build()).getEvent()));
  }

  private Map<String, Object> createSubscription(Asked asked) {
    Subscription.Builder subscription =
        Subscription.newBuilder()
            .setName(asked.name())
            .setFilter(asked.filter())
            .setMinRetryDelay(Durations.fromMillis(asked.retry_delay_ms()));
    var create = ManageSubscriptionRequest.Create.newBuilder().setSubscription(subscription);
    hooks.manageSubscription(ManageSubscriptionRequest.newBuilder().setCreate(create).build());
    return Map.of();
  }

  /** Works a subscription for so many attempts. */
  private Map<String, Object> work(Asked asked) {
    CancellableContext streaming = Context.current().withCancellation();
    Context before = streaming.attach();
    try {
      Iterator<SubscribeEventsResponse> frames =
          hooks.subscribeEvents(
              SubscribeEventsRequest.newBuilder().setSubscription(asked.subscription()).build());
      for (int left = asked.count(); left > 0; ) {
        SubscribeEventsResponse frame = frames.next();
        if (!frame.hasEvent()) {
          continue;
        }
        Event event = frame.getEvent();
        AcknowledgeEventsRequest.Builder acknowledge =
            AcknowledgeEventsRequest.newBuilder()
                .setSubscription(asked.subscription())
                .addAckIds(frame.getAckId());
        if (event.hasAvatarVideoFail()) {
          acknowledge.setReject(AcknowledgeEventsRequest.Reject.getDefaultInstance());
        } else if (!event.hasAvatarVideoSuccess() && frame.getDeliveryAttempt() == 1) {
          acknowledge.setRetry(AcknowledgeEventsRequest.Retry.getDefaultInstance());
        } else {
          acknowledge.setDone(AcknowledgeEventsRequest.Done.getDefaultInstance());
        }
        AcknowledgeEventsResponse answer = hooks.acknowledgeEvents(acknowledge.build());
        say(
            "attempt",
            Map.of(
                "entity_id", event.getEntityId(),
                "attempt", frame.getDeliveryAttempt(),
                "outcome", acknowledge.getOutcomeCase().name().toLowerCase(),
                "result", answer.getResultsValue(0)));
        left -= 1;
      }
    } finally {
      streaming.detachAndCancel(before, null);
    }
    return Map.of();
  }

  private Map<String, Object> deadLetters(Asked asked) {
    ListEventsResponse answer =
        hooks.listEvents(ListEventsRequest.newBuilder().setDeadLettersOf(asked.subscription()).build());
    List<Map<String, Object>> deadLetters = new ArrayList<>();
    for (int at = 0; at < answer.getEventsCount(); at++) {
      DeadLetter dead = answer.getDeadLetters(at);
      deadLetters.add(
          Map.of(
              "entity_id", answer.getEvents(at).getEntityId(),
              "attempts", dead.getAttempts(),
              "reason", dead.getReasonValue()));
    }
    return Map.of("dead_letters", deadLetters);
  }

  private Map<String, Object> obey(String line) throws InterruptedException {
    Asked asked = JSON.fromJson(line, Asked.class);
    String order = (String) JSON.fromJson(line, Map.class).get("do");
    return switch (order) {
      case "create_endpoint" -> createEndpoint(asked);
      case "follow" -> follow(asked);
      case "list" -> list(asked);
      case "get" -> get(asked);
      case "await_event" -> awaitEvent(asked);
      case "create_subscription" -> createSubscription(asked);
      case "work" -> work(asked);
      case "dead_letters" -> deadLetters(asked);
      default -> throw new IllegalArgumentException(order);
    };
  }

  public static void main(String[] arguments) throws Exception {
    Client client = new Client(System.getenv("HOOKSTREAM_ADDRESS"));
    say("library", "grpc-java " + Grpc.class.getPackage().getImplementationVersion());
    var lines = new BufferedReader(new InputStreamReader(System.in, StandardCharsets.UTF_8));
    for (String line = lines.readLine(); line != null; line = lines.readLine()) {
      try {
        say("done", client.obey(line));
      } catch (StatusRuntimeException error) {
        say("error", errorOf(error));
      }
    }
  }
}
