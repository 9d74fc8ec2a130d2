<?php
// A client without the extension grpc, over gRPC-Web by `service.php`. What it does is said in `program.py`.
use Google\Protobuf\Duration;
use Google\Rpc\{BadRequest, ErrorInfo};
use Hookstream\V1\{AcknowledgeEventsRequest, AcknowledgeEventsResponse, AwaitEventRequest, AwaitEventResponse, Event};
use Hookstream\V1\{EventFilter, GetEventRequest, GetEventResponse, ListEventsRequest, ListEventsResponse};
use Hookstream\V1\{ManageEndpointRequest, ManageEndpointResponse, ManageSubscriptionRequest};
use Hookstream\V1\{ManageSubscriptionResponse, Order, SubscribeEventsRequest, SubscribeEventsResponse, Subscription};

const RETRY_SECONDS_MIN = 0.1;
const RETRY_SECONDS_MAX = 5.0;

spl_autoload_register(function ($class) {
    require strtr($class, '\\', '/') . '.php';
});
require __DIR__ . '/service.php';

function say(string $kind, mixed $what): void
{
    echo json_encode([$kind => $what], JSON_THROW_ON_ERROR), "\n";
}

function event_of(Event $event): array
{
    $text = match ($event->getPayload()) {
        'avatar_video_success' => $event->getAvatarVideoSuccess()->getUrl(),
        'avatar_video_fail' => $event->getAvatarVideoFail()->getMsg(),
        default => '',
    };
    $data = $event->getEventData()?->getFields();
    return [
        'id' => $event->getId(),
        'cursor' => $event->getCursor(),
        'sequence' => sprintf('%u', $event->getSequence()),
        'type' => $event->getType(),
        'type_name' => $event->getTypeName(),
        'entity_id' => $event->getEntityId(),
        'payload' => $event->getPayload(),
        'text' => $text,
        'extra' => isset($data['extra']) ? $data['extra']->getStringValue() : '',
        'raw_body' => $event->getRawBody(),
    ];
}

function error_of(RpcError $error): array
{
    $seen = ['code' => $error->name, 'reason' => '', 'metadata' => [], 'fields' => []];
    foreach ($error->status->getDetails() as $detail) {
        if ($detail->is(ErrorInfo::class)) {
            $info = $detail->unpack();
            $seen['reason'] = $info->getReason();
            $seen['metadata'] = iterator_to_array($info->getMetadata());
        } elseif ($detail->is(BadRequest::class)) {
            foreach ($detail->unpack()->getFieldViolations() as $violation) {
                $seen['fields'][] = $violation->getField();
            }
        }
    }
    return $seen;
}

function duration(int $milliseconds): Duration
{
    return new Duration(['seconds' => intdiv($milliseconds, 1000), 'nanos' => $milliseconds % 1000 * 1_000_000]);
}

/** What can be asked of it, each with the members of the order. */
class Client
{
    private Service $hooks;

    public function __construct(string $address)
    {
        $this->hooks = new Service($address, 'hookstream.v1.HookstreamService');
    }

    public function create_endpoint(string $name): array
    {
        $create = new ManageEndpointRequest\Create(['name' => $name]);
        $request = new ManageEndpointRequest(['create' => $create]);
        $answer = $this->hooks->call('ManageEndpoint', $request, new ManageEndpointResponse());
        return ['secret' => $answer->getCreate()->getSecret()];
    }

    /** Follows a filter up to the event about this entity, over lost connections and restarts of the service. */
    public function follow(
        string $endpoint,
        array $event_types,
        string $until_entity,
        ?string $after_cursor = null,
    ): array {
        $filter = new EventFilter(['endpoints' => [$endpoint], 'event_types' => $event_types]);
        $request = new SubscribeEventsRequest(['filter' => $filter]);
        if ($after_cursor !== null) {
            $request->setAfterCursor($after_cursor);
        }
        $delay = RETRY_SECONDS_MIN;
        for (;;) {
            try {
                foreach ($this->hooks->stream('SubscribeEvents', $request, new SubscribeEventsResponse()) as $frame) {
                    $delay = RETRY_SECONDS_MIN;
                    switch ($frame->getFrame()) {
                        case 'event':
                            $request->setAfterCursor($frame->getEvent()->getCursor());
                            say('event', event_of($frame->getEvent()));
                            if ($frame->getEvent()->getEntityId() === $until_entity) {
                                return ['cursor' => $request->getAfterCursor()];
                            }
                            break;
                        case 'caught_up':
                            $request->setAfterCursor($frame->getCaughtUp()->getCursor());
                            say('caught_up', ['cursor' => $request->getAfterCursor()]);
                            break;
                        case 'heartbeat':
                            $request->setAfterCursor($frame->getHeartbeat()->getCursor());
                            say('heartbeat', ['cursor' => $request->getAfterCursor()]);
                            break;
                        case 'draining':
                            $request->setAfterCursor($frame->getDraining()->getCursor());
                            $wait = $frame->getDraining()->getReconnectAfter();
                            $delay = $wait->getSeconds() + $wait->getNanos() / 1e9;
                            say('draining', ['cursor' => $request->getAfterCursor()]);
                            break;
                    }
                }
            } catch (RpcError $error) {
                if ($error->name !== 'UNAVAILABLE') {
                    throw $error;
                }
                say('reconnecting', error_of($error));
            }
            usleep((int) ($delay * 1e6));
            $delay = min($delay * 2, RETRY_SECONDS_MAX);
        }
    }

    public function list(string $endpoint, array $event_types, int $page_size): array
    {
        $request = new ListEventsRequest([
            'filter' => new EventFilter(['endpoints' => [$endpoint], 'event_types' => $event_types]),
            'order' => Order::ORDER_OLDEST_FIRST,
            'page_size' => $page_size,
        ]);
        do {
            $answer = $this->hooks->call('ListEvents', $request, new ListEventsResponse());
            $entities = [];
            foreach ($answer->getEvents() as $event) {
                $entities[] = $event->getEntityId();
            }
            say('page', $entities);
            $request->setPageToken($answer->getNextPageToken());
        } while ($request->getPageToken() !== '');
        return [];
    }

    public function get(string $id): array
    {
        $answer = $this->hooks->call('GetEvent', new GetEventRequest(['id' => $id]), new GetEventResponse());
        return ['event' => event_of($answer->getEvent())];
    }

    public function await_event(
        string $endpoint,
        string $entity_id,
        int $timeout_ms,
        ?string $after_cursor = null,
    ): array {
        $request = new AwaitEventRequest([
            'filter' => new EventFilter(['endpoints' => [$endpoint], 'entity_ids' => [$entity_id]]),
            'timeout' => duration($timeout_ms),
        ]);
        if ($after_cursor !== null) {
            $request->setAfterCursor($after_cursor);
        }
        $answer = $this->hooks->call('AwaitEvent', $request, new AwaitEventResponse());
        return ['event' => event_of($answer->getEvent())];
    }

    public function create_subscription(string $name, string $endpoint, int $retry_delay_ms): array
    {
        $subscription = new Subscription([
            'name' => $name,
            'filter' => new EventFilter(['endpoints' => [$endpoint]]),
            'min_retry_delay' => duration($retry_delay_ms),
        ]);
        $create = new ManageSubscriptionRequest\Create(['subscription' => $subscription]);
        $request = new ManageSubscriptionRequest(['create' => $create]);
        $this->hooks->call('ManageSubscription', $request, new ManageSubscriptionResponse());
        return [];
    }

    /** Works a subscription for so many attempts. */
    public function work(string $subscription, int $count): array
    {
        $request = new SubscribeEventsRequest(['subscription' => $subscription]);
        foreach ($this->hooks->stream('SubscribeEvents', $request, new SubscribeEventsResponse()) as $frame) {
            if ($frame->getFrame() !== 'event') {
                continue;
            }
            $event = $frame->getEvent();
            $acknowledge = new AcknowledgeEventsRequest([
                'subscription' => $subscription,
                'ack_ids' => [$frame->getAckId()],
            ]);
            if ($event->getPayload() === 'avatar_video_fail') {
                $acknowledge->setReject(new AcknowledgeEventsRequest\Reject());
            } elseif ($event->getPayload() !== 'avatar_video_success' && $frame->getDeliveryAttempt() === 1) {
                $acknowledge->setRetry(new AcknowledgeEventsRequest\Retry());
            } else {
                $acknowledge->setDone(new AcknowledgeEventsRequest\Done());
            }
            $answer = $this->hooks->call('AcknowledgeEvents', $acknowledge, new AcknowledgeEventsResponse());
            say('attempt', [
                'entity_id' => $event->getEntityId(),
                'attempt' => $frame->getDeliveryAttempt(),
                'outcome' => $acknowledge->getOutcome(),
                'result' => $answer->getResults()[0],
            ]);
            $count -= 1;
            if ($count === 0) {
                break;
            }
        }
        return [];
    }

    public function dead_letters(string $subscription): array
    {
        $request = new ListEventsRequest(['dead_letters_of' => $subscription]);
        $answer = $this->hooks->call('ListEvents', $request, new ListEventsResponse());
        $dead_letters = [];
        foreach ($answer->getEvents() as $at => $event) {
            $dead = $answer->getDeadLetters()[$at];
            $dead_letters[] = [
                'entity_id' => $event->getEntityId(),
                'attempts' => $dead->getAttempts(),
                'reason' => $dead->getReason(),
            ];
        }
        return ['dead_letters' => $dead_letters];
    }
}

// The details of errors are found by their names only once they are registered.
GPBMetadata\Google\Rpc\ErrorDetails::initOnce();
$client = new Client(getenv('HOOKSTREAM_ADDRESS'));
say('library', 'google/protobuf, gRPC-Web over curl ' . curl_version()['version'] . ' (PHP ' . PHP_VERSION . ')');
while (($line = fgets(STDIN)) !== false) {
    $order = json_decode($line, true, flags: JSON_THROW_ON_ERROR);
    $name = $order['do'];
    unset($order['do']);
    try {
        say('done', $client->$name(...$order));
    } catch (RpcError $error) {
        say('error', error_of($error));
    }
}
