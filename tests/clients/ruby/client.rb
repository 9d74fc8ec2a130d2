# A client with the gem grpc. What it does is said in `program.py`.

require "grpc"
require "json"
require "google/protobuf/well_known_types"
require "google/rpc/error_details_pb"
require "hookstream/v1/hookstream_service_services_pb"

include Hookstream::V1

RETRY_SECONDS_MIN = 0.1
RETRY_SECONDS_MAX = 5

$stdout.sync = true

def say(what)
  puts JSON.generate(what)
end

# The number of an enum value. One that this program was not generated with is a number already, the others are symbols.
def number(enum, value)
  value.is_a?(Integer) ? value : enum.resolve(value)
end

def event_of(event)
  text =
    case event.payload
    when :avatar_video_success then event.avatar_video_success.url
    when :avatar_video_fail then event.avatar_video_fail.msg
    else ""
    end
  {
    id: event.id,
    cursor: event.cursor,
    sequence: event.sequence.to_s,
    type: number(EventType, event.type),
    type_name: event.type_name,
    entity_id: event.entity_id,
    payload: event.payload.to_s,
    text: text,
    extra: event.event_data&.fields&.[]("extra")&.string_value || "",
    raw_body: event.raw_body.dup.force_encoding(Encoding::UTF_8)
  }
end

def error_of(error)
  codes = GRPC::Core::StatusCodes
  name = codes.constants.find { |constant| codes.const_get(constant) == error.code }
  seen = { code: name, reason: "", metadata: {}, fields: [] }
  error.to_rpc_status&.details&.each do |detail|
    if (info = detail.unpack(Google::Rpc::ErrorInfo))
      seen.update(reason: info.reason, metadata: info.metadata.to_h)
    elsif (bad_request = detail.unpack(Google::Rpc::BadRequest))
      seen.update(fields: bad_request.field_violations.map(&:field))
    end
  end
  seen
end

def duration(milliseconds)
  Google::Protobuf::Duration.new(seconds: milliseconds / 1000, nanos: milliseconds % 1000 * 1_000_000)
end

# One connection to the service.
class Client
  def initialize(address)
    @hooks = HookstreamService::Stub.new(address, :this_channel_is_insecure)
  end

  def create_endpoint(name:)
    create = ManageEndpointRequest::Create.new(name: name)
    { secret: @hooks.manage_endpoint(ManageEndpointRequest.new(create: create)).create.secret }
  end

  # Follows a filter up to the event about this entity, over lost connections and restarts of the service.
  def follow(endpoint:, event_types:, until_entity:, after_cursor: nil)
    request = SubscribeEventsRequest.new(filter: EventFilter.new(endpoints: [endpoint], event_types: event_types))
    request.after_cursor = after_cursor if after_cursor
    delay = RETRY_SECONDS_MIN
    loop do
      call = @hooks.subscribe_events(request, return_op: true)
      begin
        call.execute.each do |frame|
          delay = RETRY_SECONDS_MIN
          case frame.frame
          when :event
            request.after_cursor = frame.event.cursor
            say(event: event_of(frame.event))
            if frame.event.entity_id == until_entity
              call.cancel
              return { cursor: request.after_cursor }
            end
          when :caught_up
            request.after_cursor = frame.caught_up.cursor
            say(caught_up: { cursor: request.after_cursor })
          when :heartbeat
            request.after_cursor = frame.heartbeat.cursor
            say(heartbeat: { cursor: request.after_cursor })
          when :draining
            request.after_cursor = frame.draining.cursor
            delay = frame.draining.reconnect_after.to_f
            say(draining: { cursor: request.after_cursor })
          end
        end
      rescue GRPC::Unavailable => error
        say(reconnecting: error_of(error))
      end
      sleep(delay)
      delay = [delay * 2, RETRY_SECONDS_MAX].min
    end
  end

  def list(endpoint:, event_types:, page_size:)
    request = ListEventsRequest.new(
      filter: EventFilter.new(endpoints: [endpoint], event_types: event_types),
      order: :ORDER_OLDEST_FIRST,
      page_size: page_size
    )
    loop do
      answer = @hooks.list_events(request)
      say(page: answer.events.map(&:entity_id))
      return {} if answer.next_page_token.empty?

      request.page_token = answer.next_page_token
    end
  end

  def get(id:)
    { event: event_of(@hooks.get_event(GetEventRequest.new(id: id)).event) }
  end

  def await_event(endpoint:, entity_id:, timeout_ms:, after_cursor: nil)
    filter = EventFilter.new(endpoints: [endpoint], entity_ids: [entity_id])
    request = AwaitEventRequest.new(filter: filter, timeout: duration(timeout_ms))
    request.after_cursor = after_cursor if after_cursor
    { event: event_of(@hooks.await_event(request).event) }
  end

  def create_subscription(name:, endpoint:, retry_delay_ms:)
    filter = EventFilter.new(endpoints: [endpoint])
    subscription = Subscription.new(name: name, filter: filter, min_retry_delay: duration(retry_delay_ms))
    create = ManageSubscriptionRequest::Create.new(subscription: subscription)
    @hooks.manage_subscription(ManageSubscriptionRequest.new(create: create))
    {}
  end

  # Works a subscription for so many attempts.
  def work(subscription:, count:)
    call = @hooks.subscribe_events(SubscribeEventsRequest.new(subscription: subscription), return_op: true)
    call.execute.each do |frame|
      next unless frame.frame == :event

      acknowledge = AcknowledgeEventsRequest.new(subscription: subscription, ack_ids: [frame.ack_id])
      if frame.event.payload == :avatar_video_fail
        acknowledge.reject = AcknowledgeEventsRequest::Reject.new
      elsif frame.event.payload != :avatar_video_success && frame.delivery_attempt == 1
        acknowledge.retry = AcknowledgeEventsRequest::Retry.new
      else
        acknowledge.done = AcknowledgeEventsRequest::Done.new
      end
      result = @hooks.acknowledge_events(acknowledge).results.first
      say(
        attempt: {
          entity_id: frame.event.entity_id,
          attempt: frame.delivery_attempt,
          outcome: acknowledge.outcome,
          result: number(AcknowledgementResult, result)
        }
      )
      count -= 1
      break if count.zero?
    end
    call.cancel
    {}
  end

  def dead_letters(subscription:)
    answer = @hooks.list_events(ListEventsRequest.new(dead_letters_of: subscription))
    dead_letters = answer.events.zip(answer.dead_letters).map do |event, dead|
      { entity_id: event.entity_id, attempts: dead.attempts, reason: number(DeadLetterReason, dead.reason) }
    end
    { dead_letters: dead_letters }
  end
end

client = Client.new(ENV.fetch("HOOKSTREAM_ADDRESS"))
say(library: "grpc #{GRPC::VERSION} (Ruby)")
$stdin.each_line do |line|
  order = JSON.parse(line, symbolize_names: true)
  say(done: client.public_send(order.delete(:do), **order))
rescue GRPC::BadStatus => error
  say(error: error_of(error))
end
