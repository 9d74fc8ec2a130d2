// A client with grpc-kotlin. What it does is said in `program.py`.
import com.google.gson.Gson
import com.google.gson.JsonObject
import com.google.protobuf.util.Durations
import com.google.rpc.BadRequest
import com.google.rpc.ErrorInfo
import hookstream.v1.EventOuterClass.Event
import hookstream.v1.Filter.EventFilter
import hookstream.v1.HookstreamServiceGrpcKt.HookstreamServiceCoroutineStub
import hookstream.v1.HookstreamServiceOuterClass.AcknowledgeEventsRequest
import hookstream.v1.HookstreamServiceOuterClass.AwaitEventRequest
import hookstream.v1.HookstreamServiceOuterClass.GetEventRequest
import hookstream.v1.HookstreamServiceOuterClass.ListEventsRequest
import hookstream.v1.HookstreamServiceOuterClass.ManageEndpointRequest
import hookstream.v1.HookstreamServiceOuterClass.ManageSubscriptionRequest
import hookstream.v1.HookstreamServiceOuterClass.Order
import hookstream.v1.HookstreamServiceOuterClass.SubscribeEventsRequest
import hookstream.v1.HookstreamServiceOuterClass.SubscribeEventsResponse
import hookstream.v1.HookstreamServiceOuterClass.SubscribeEventsResponse.FrameCase
import hookstream.v1.SubscriptionOuterClass.Subscription
import io.grpc.Grpc
import io.grpc.InsecureChannelCredentials
import io.grpc.Status
import io.grpc.StatusException
import io.grpc.kotlin.AbstractCoroutineStub
import io.grpc.protobuf.StatusProto
import java.io.File
import java.io.PrintStream
import kotlin.math.min
import kotlinx.coroutines.delay
import kotlinx.coroutines.flow.filter
import kotlinx.coroutines.flow.firstOrNull
import kotlinx.coroutines.flow.onEach
import kotlinx.coroutines.flow.take
import kotlinx.coroutines.runBlocking

const val RETRY_MILLIS_MIN = 100L
const val RETRY_MILLIS_MAX = 5000L

typealias Seen = Map<String, Any>

val json = Gson()
val out = PrintStream(System.out, true, Charsets.UTF_8)

fun say(kind: String, what: Any) = out.println(json.toJson(mapOf(kind to what)))

// The members that an order can have.
fun JsonObject.text(name: String): String? = get(name)?.asString

fun JsonObject.number(name: String): Long = get(name).asLong

fun JsonObject.filter(): EventFilter.Builder {
    val eventTypes = getAsJsonArray("event_types")?.map { it.asString }.orEmpty()
    return EventFilter.newBuilder().addEndpoints(text("endpoint")).addAllEventTypes(eventTypes)
}

fun eventOf(event: Event): Seen {
    val text =
        when (event.payloadCase) {
            Event.PayloadCase.AVATAR_VIDEO_SUCCESS -> event.avatarVideoSuccess.url
            Event.PayloadCase.AVATAR_VIDEO_FAIL -> event.avatarVideoFail.msg
            else -> ""
        }
    return mapOf(
        "id" to event.id,
        "cursor" to event.cursor,
        // The number has no sign, what the library has for it has one.
        "sequence" to event.sequence.toULong().toString(),
        // A type that this program was not built with is UNRECOGNIZED, which has no number: hence its value.
        "type" to event.typeValue,
        "type_name" to event.typeName,
        "entity_id" to event.entityId,
        "payload" to Event.getDescriptor().findFieldByNumber(event.payloadCase.number)?.name.orEmpty(),
        "text" to text,
        "extra" to event.eventData.fieldsMap["extra"]?.stringValue.orEmpty(),
        "raw_body" to event.rawBody.toStringUtf8(),
    )
}

fun errorOf(error: StatusException): Seen {
    val details = StatusProto.fromThrowable(error)?.detailsList.orEmpty()
    val info = details.find { it.`is`(ErrorInfo::class.java) }?.unpack(ErrorInfo::class.java)
    val request = details.find { it.`is`(BadRequest::class.java) }?.unpack(BadRequest::class.java)
    return mapOf(
        "code" to error.status.code.name,
        "reason" to info?.reason.orEmpty(),
        "metadata" to info?.metadataMap.orEmpty(),
        "fields" to request?.fieldViolationsList.orEmpty().map { it.field },
    )
}

/** One connection to the service. */
class Client(address: String) {
    private val hooks =
        HookstreamServiceCoroutineStub(Grpc.newChannelBuilder(address, InsecureChannelCredentials.create()).build())

    private suspend fun createEndpoint(order: JsonObject): Seen {
        val create = ManageEndpointRequest.Create.newBuilder().setName(order.text("name"))
        val answer = hooks.manageEndpoint(ManageEndpointRequest.newBuilder().setCreate(create).build())
        return mapOf("secret" to answer.create.secret)
    }

    /** Follows a filter up to the event about an entity, over lost connections and restarts of the service. */
    private suspend fun follow(order: JsonObject): Seen {
        val request = SubscribeEventsRequest.newBuilder().setFilter(order.filter())
        order.text("after_cursor")?.let(request::setAfterCursor)
        var wait = RETRY_MILLIS_MIN
        fun see(frame: SubscribeEventsResponse) {
            wait = RETRY_MILLIS_MIN
            when (frame.frameCase) {
                FrameCase.EVENT -> {
                    request.afterCursor = frame.event.cursor
                    say("event", eventOf(frame.event))
                }
                FrameCase.CAUGHT_UP -> {
                    request.afterCursor = frame.caughtUp.cursor
                    say("caught_up", mapOf("cursor" to request.afterCursor))
                }
                FrameCase.HEARTBEAT -> {
                    request.afterCursor = frame.heartbeat.cursor
                    say("heartbeat", mapOf("cursor" to request.afterCursor))
                }
                FrameCase.DRAINING -> {
                    request.afterCursor = frame.draining.cursor
                    wait = Durations.toMillis(frame.draining.reconnectAfter)
                    say("draining", mapOf("cursor" to request.afterCursor))
                }
                else -> {}
            }
        }
        while (true) {
            try {
                val frames = hooks.subscribeEvents(request.build()).onEach(::see)
                if (frames.firstOrNull { it.event.entityId == order.text("until_entity") } != null) {
                    return mapOf("cursor" to request.afterCursor)
                }
            } catch (error: StatusException) {
                if (error.status.code != Status.Code.UNAVAILABLE) throw error
                say("reconnecting", errorOf(error))
            }
            delay(wait)
            wait = min(wait * 2, RETRY_MILLIS_MAX)
        }
    }

    private suspend fun list(order: JsonObject): Seen {
        val request =
            ListEventsRequest.newBuilder()
                .setFilter(order.filter())
                .setOrder(Order.ORDER_OLDEST_FIRST)
                .setPageSize(order.number("page_size").toInt())
        do {
            val answer = hooks.listEvents(request.build())
            say("page", answer.eventsList.map { it.entityId })
            request.pageToken = answer.nextPageToken
        } while (request.pageToken.isNotEmpty())
        return mapOf()
    }

    private suspend fun get(order: JsonObject): Seen {
        val answer = hooks.getEvent(GetEventRequest.newBuilder().setId(order.text("id")).build())
        return mapOf("event" to eventOf(answer.event))
    }

    private suspend fun awaitEvent(order: JsonObject): Seen {
        val request =
            AwaitEventRequest.newBuilder()
                .setFilter(order.filter().addEntityIds(order.text("entity_id")))
                .setTimeout(Durations.fromMillis(order.number("timeout_ms")))
        order.text("after_cursor")?.let(request::setAfterCursor)
        return mapOf("event" to eventOf(hooks.awaitEvent(request.build()).event))
    }

    private suspend fun createSubscription(order: JsonObject): Seen {
        val subscription =
            Subscription.newBuilder()
                .setName(order.text("name"))
                .setFilter(order.filter())
                .setMinRetryDelay(Durations.fromMillis(order.number("retry_delay_ms")))
        val create = ManageSubscriptionRequest.Create.newBuilder().setSubscription(subscription)
        hooks.manageSubscription(ManageSubscriptionRequest.newBuilder().setCreate(create).build())
        return mapOf()
    }

    /** Works a subscription for so many attempts. */
    private suspend fun work(order: JsonObject): Seen {
        val subscription = order.text("subscription")
        val frames = hooks.subscribeEvents(SubscribeEventsRequest.newBuilder().setSubscription(subscription).build())
        frames.filter { it.hasEvent() }.take(order.number("count").toInt()).collect { frame ->
            val event = frame.event
            val acknowledge =
                AcknowledgeEventsRequest.newBuilder().setSubscription(subscription).addAckIds(frame.ackId)
            when {
                event.hasAvatarVideoFail() -> acknowledge.rejectBuilder
                !event.hasAvatarVideoSuccess() && frame.deliveryAttempt == 1 -> acknowledge.retryBuilder
                else -> acknowledge.doneBuilder
            }
            val answer = hooks.acknowledgeEvents(acknowledge.build())
            val attempt =
                mapOf(
                    "entity_id" to event.entityId,
                    "attempt" to frame.deliveryAttempt,
                    "outcome" to acknowledge.outcomeCase.name.lowercase(),
                    "result" to answer.getResultsValue(0),
                )
            say("attempt", attempt)
        }
        return mapOf()
    }

    private suspend fun deadLetters(order: JsonObject): Seen {
        val request = ListEventsRequest.newBuilder().setDeadLettersOf(order.text("subscription"))
        val answer = hooks.listEvents(request.build())
        val deadLetters =
            answer.eventsList.zip(answer.deadLettersList) { event, dead ->
                mapOf("entity_id" to event.entityId, "attempts" to dead.attempts, "reason" to dead.reasonValue)
            }
        return mapOf("dead_letters" to deadLetters)
    }

    suspend fun obey(order: JsonObject): Seen =
        when (val name = order.text("do")) {
            "create_endpoint" -> createEndpoint(order)
            "follow" -> follow(order)
            "list" -> list(order)
            "get" -> get(order)
            "await_event" -> awaitEvent(order)
            "create_subscription" -> createSubscription(order)
            "work" -> work(order)
            "dead_letters" -> deadLetters(order)
            else -> throw IllegalArgumentException(name)
        }
}

fun main() = runBlocking {
    val client = Client(System.getenv("HOOKSTREAM_ADDRESS"))
    // Only the name of its file says which version it is.
    val library = File(AbstractCoroutineStub::class.java.protectionDomain.codeSource.location.path)
    say("library", "grpc-kotlin ${library.nameWithoutExtension.removePrefix("grpc-kotlin-stub-")}")
    for (line in generateSequence(::readLine)) {
        try {
            say("done", client.obey(json.fromJson(line, JsonObject::class.java)))
        } catch (error: StatusException) {
            say("error", errorOf(error))
        }
    }
}
