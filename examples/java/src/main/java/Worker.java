// Handles HeyGen's videos as they are done, and comes back whatever happens. In the directory of pom.xml:
//   mvn --quiet --batch-mode compile dependency:copy-dependencies
//   java -cp 'target/classes:target/dependency/*' Worker
import static hookstream.v1.HookstreamServiceOuterClass.*;

import hookstream.v1.EventOuterClass.Event;
import hookstream.v1.Filter.EventFilter;
import hookstream.v1.HookstreamServiceGrpc;
import hookstream.v1.HookstreamServiceGrpc.HookstreamServiceBlockingStub;
import hookstream.v1.SubscriptionOuterClass.Subscription;
import io.grpc.*;
import java.util.concurrent.ThreadLocalRandom;
import java.util.concurrent.TimeUnit;

public final class Worker {
  static final String SUBSCRIPTION = "videos";

  // What your backend does. An event can come twice, if rarely: its id says that it is the same.
  static void handle(Event event) {
    switch (event.getPayloadCase()) {
      case AVATAR_VIDEO_SUCCESS ->
          System.out.println("ready " + event.getEntityId() + " " + event.getAvatarVideoSuccess().getUrl());
      case AVATAR_VIDEO_FAIL ->
          System.out.println("failed " + event.getEntityId() + " " + event.getAvatarVideoFail().getMsg());
      default -> {}
    }
  }

  static void createSubscription(HookstreamServiceBlockingStub hooks) {
    var filter = EventFilter.newBuilder().addEventTypes("avatar_video.*");
    var subscription = Subscription.newBuilder().setName(SUBSCRIPTION).setFilter(filter);
    var create = ManageSubscriptionRequest.Create.newBuilder().setSubscription(subscription);
    create.setPosition(Position.POSITION_EARLIEST);
    try {
      hooks.manageSubscription(ManageSubscriptionRequest.newBuilder().setCreate(create).build());
    } catch (StatusRuntimeException error) {
      if (error.getStatus().getCode() != Status.Code.ALREADY_EXISTS) throw error;
    }
  }

  static void settle(HookstreamServiceBlockingStub hooks, SubscribeEventsResponse frame) {
    var acknowledge = AcknowledgeEventsRequest.newBuilder().setSubscription(SUBSCRIPTION).addAckIds(frame.getAckId());
    try {
      handle(frame.getEvent());
      acknowledge.setDone(AcknowledgeEventsRequest.Done.getDefaultInstance());
    } catch (RuntimeException error) {
      System.err.println(frame.getEvent().getId() + " has to come again: " + error);
      acknowledge.setRetry(AcknowledgeEventsRequest.Retry.getDefaultInstance());
    }
    hooks.acknowledgeEvents(acknowledge.build());
  }

  public static void main(String[] arguments) throws InterruptedException {
    var address = System.getenv().getOrDefault("HOOKSTREAM_ADDRESS", "127.0.0.1:50051");
    var builder = Grpc.newChannelBuilder(address, InsecureChannelCredentials.create());
    // A connection can die without a word.
    var channel = builder.keepAliveTime(30, TimeUnit.SECONDS).build();
    var hooks = HookstreamServiceGrpc.newBlockingStub(channel);
    for (long delay = 1000; ; delay = Math.min(delay * 2, 30_000)) {
      var stream = Context.current().withCancellation();
      var before = stream.attach();
      try {
        createSubscription(hooks);
        var frames = hooks.subscribeEvents(SubscribeEventsRequest.newBuilder().setSubscription(SUBSCRIPTION).build());
        while (frames.hasNext()) {
          var frame = frames.next();
          delay = 1000;
          if (frame.hasEvent()) settle(hooks, frame);
        }
      } catch (StatusRuntimeException error) {
        System.err.println("reconnecting: " + error.getMessage());
      } finally {
        stream.detachAndCancel(before, null);
      }
      Thread.sleep(ThreadLocalRandom.current().nextLong(delay));
    }
  }
}
