// A client with ScalaPB. What it does is said in `program.py`.
import com.google.protobuf.duration.Duration
import com.google.rpc.{BadRequest, ErrorInfo}
import hookstream.v1.*
import hookstream.v1.AcknowledgeEventsRequest.Outcome
import hookstream.v1.SubscribeEventsResponse.Frame
import io.grpc.{Context, Grpc, InsecureChannelCredentials, Status, StatusRuntimeException}
import io.grpc.protobuf.StatusProto
import java.io.PrintStream
import java.nio.charset.StandardCharsets.UTF_8
import scala.io.Source
import scala.jdk.CollectionConverters.*
import scalapb.grpc.AbstractService
import ujson.{Obj, Value}

val RetryMillisMin = 100L
val RetryMillisMax = 5000L

val out = PrintStream(System.out, true, UTF_8)

def say(kind: String, what: Value): Unit = out.println(ujson.write(Obj(kind -> what)))

def eventOf(event: Event): Obj =
  val text = event.payload match
    case Event.Payload.AvatarVideoSuccess(success) => success.url
    case Event.Payload.AvatarVideoFail(fail)       => fail.msg
    case _                                         => ""
  val payload = Event.scalaDescriptor.findFieldByNumber(event.payload.number)
  val extra = event.getEventData.fields.get("extra")
  Obj(
    "id" -> event.id,
    "cursor" -> event.cursor,
    // A Long has a sign, the number has none.
    "sequence" -> java.lang.Long.toUnsignedString(event.sequence),
    "type" -> event.`type`.value,
    "type_name" -> event.typeName,
    "entity_id" -> event.entityId,
    "payload" -> payload.fold("")(_.name),
    "text" -> text,
    "extra" -> extra.fold("")(_.getStringValue),
    "raw_body" -> event.rawBody.toStringUtf8
  )

def errorOf(error: StatusRuntimeException): Obj =
  val details = StatusProto.fromThrowable(error).getDetailsList.asScala
  val info = details.find(_.is(classOf[ErrorInfo])).map(_.unpack(classOf[ErrorInfo]))
  val request = details.find(_.is(classOf[BadRequest])).map(_.unpack(classOf[BadRequest]))
  val metadata = info.toSeq.flatMap(_.getMetadataMap.asScala).map((key, value) => key -> ujson.Str(value))
  Obj(
    "code" -> error.getStatus.getCode.name,
    "reason" -> info.fold("")(_.getReason),
    "metadata" -> Obj.from(metadata),
    "fields" -> request.toSeq.flatMap(_.getFieldViolationsList.asScala).map(_.getField)
  )

// The members that an order can have.
extension (order: Value)
  def text(name: String): String = order(name).str
  def number(name: String): Int = order(name).num.toInt
  def duration(name: String): Duration = Duration(java.time.Duration.ofMillis(order.number(name)))
  def afterCursor: Option[String] = order.obj.get("after_cursor").map(_.str)
  def filter: EventFilter =
    val eventTypes = order.obj.get("event_types").toSeq.flatMap(_.arr).map(_.str)
    EventFilter(endpoints = Seq(order.text("endpoint")), eventTypes = eventTypes)

/** One connection to the service. */
class Client(address: String):
  private val hooks =
    HookstreamServiceGrpc.blockingStub(Grpc.newChannelBuilder(address, InsecureChannelCredentials.create()).build())

  private def createEndpoint(order: Value): Obj =
    val create = ManageEndpointRequest.Create(order.text("name"))
    val answer = hooks.manageEndpoint(ManageEndpointRequest().withCreate(create))
    Obj("secret" -> answer.getCreate.secret)

  /** Follows a filter up to the event about an entity, over lost connections and restarts of the service. */
  private def follow(order: Value): Obj =
    val fresh = SubscribeEventsRequest(filter = Some(order.filter))
    var request = order.afterCursor.fold(fresh)(fresh.withAfterCursor)
    var delay = RetryMillisMin

    def at(cursor: String): Obj =
      request = request.withAfterCursor(cursor)
      Obj("cursor" -> cursor)

    def see(frame: SubscribeEventsResponse): Unit =
      delay = RetryMillisMin
      frame.frame match
        case Frame.Event(event) =>
          at(event.cursor)
          say("event", eventOf(event))
        case Frame.CaughtUp(caughtUp)   => say("caught_up", at(caughtUp.cursor))
        case Frame.Heartbeat(heartbeat) => say("heartbeat", at(heartbeat.cursor))
        case Frame.Draining(draining) =>
          delay = draining.getReconnectAfter.asJavaDuration.toMillis
          say("draining", at(draining.cursor))
        case _ =>

    def arrives(): Boolean =
      try
        reading(request)(_.exists { frame =>
          see(frame)
          frame.getEvent.entityId == order.text("until_entity")
        })
      catch
        case error: StatusRuntimeException if error.getStatus.getCode == Status.Code.UNAVAILABLE =>
          say("reconnecting", errorOf(error))
          false

    while !arrives() do
      Thread.sleep(delay)
      delay = math.min(delay * 2, RetryMillisMax)
    Obj("cursor" -> request.getAfterCursor)

  /** Reads a stream, which is cancelled when enough of it was read. */
  private def reading[A](request: SubscribeEventsRequest)(read: Iterator[SubscribeEventsResponse] => A): A =
    val streaming = Context.current().withCancellation()
    val before = streaming.attach()
    try read(hooks.subscribeEvents(request))
    finally streaming.detachAndCancel(before, null)

  private def list(order: Value): Obj =
    var request = ListEventsRequest(
      filter = Some(order.filter),
      order = Order.ORDER_OLDEST_FIRST,
      pageSize = order.number("page_size")
    )
    var more = true
    while more do
      val answer = hooks.listEvents(request)
      say("page", answer.events.map(_.entityId))
      request = request.withPageToken(answer.nextPageToken)
      more = request.pageToken.nonEmpty
    Obj()

  private def get(order: Value): Obj =
    Obj("event" -> eventOf(hooks.getEvent(GetEventRequest(order.text("id"))).getEvent))

  private def awaitEvent(order: Value): Obj =
    val filter = order.filter.addEntityIds(order.text("entity_id"))
    val fresh = AwaitEventRequest(filter = Some(filter), timeout = Some(order.duration("timeout_ms")))
    Obj("event" -> eventOf(hooks.awaitEvent(order.afterCursor.fold(fresh)(fresh.withAfterCursor)).getEvent))

  private def createSubscription(order: Value): Obj =
    val subscription = Subscription(
      name = order.text("name"),
      filter = Some(order.filter),
      minRetryDelay = Some(order.duration("retry_delay_ms"))
    )
    val create = ManageSubscriptionRequest.Create(subscription = Some(subscription))
    hooks.manageSubscription(ManageSubscriptionRequest().withCreate(create))
    Obj()

  /** Works a subscription for so many attempts. */
  private def work(order: Value): Obj =
    val subscription = order.text("subscription")
    reading(SubscribeEventsRequest(subscription = subscription)) { frames =>
      for frame <- frames.filter(_.frame.isEvent).take(order.number("count")) do
        val event = frame.getEvent
        val (name, outcome) =
          if event.payload.isAvatarVideoFail then "reject" -> Outcome.Reject(AcknowledgeEventsRequest.Reject())
          else if !event.payload.isAvatarVideoSuccess && frame.deliveryAttempt == 1 then
            "retry" -> Outcome.Retry(AcknowledgeEventsRequest.Retry())
          else "done" -> Outcome.Done(AcknowledgeEventsRequest.Done())
        val answer = hooks.acknowledgeEvents(AcknowledgeEventsRequest(subscription, Seq(frame.ackId), outcome))
        val attempt = Obj(
          "entity_id" -> event.entityId,
          "attempt" -> frame.deliveryAttempt,
          "outcome" -> name,
          "result" -> answer.results.head.value
        )
        say("attempt", attempt)
    }
    Obj()

  private def deadLetters(order: Value): Obj =
    val answer = hooks.listEvents(ListEventsRequest(deadLettersOf = order.text("subscription")))
    val deadLetters = answer.events.zip(answer.deadLetters).map { (event, dead) =>
      Obj("entity_id" -> event.entityId, "attempts" -> dead.attempts, "reason" -> dead.reason.value)
    }
    Obj("dead_letters" -> deadLetters)

  def obey(order: Value): Obj = order.text("do") match
    case "create_endpoint"     => createEndpoint(order)
    case "follow"              => follow(order)
    case "list"                => list(order)
    case "get"                 => get(order)
    case "await_event"         => awaitEvent(order)
    case "create_subscription" => createSubscription(order)
    case "work"                => work(order)
    case "dead_letters"        => deadLetters(order)

@main def main(): Unit =
  val client = Client(System.getenv("HOOKSTREAM_ADDRESS"))
  say("library", s"ScalaPB ${classOf[AbstractService].getPackage.getImplementationVersion}")
  for line <- Source.fromInputStream(System.in)(using "UTF-8").getLines() do
    try say("done", client.obey(ujson.read(line)))
    catch case error: StatusRuntimeException => say("error", errorOf(error))
