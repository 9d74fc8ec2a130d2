<?php
// gRPC-Web over curl, for where the extension grpc cannot be installed: calls, server streams, errors with details.
// Not gRPC itself: curl 7.88 (Debian 12) hangs up when an HTTP/2 server says that it is about to leave (GOAWAY).

use Google\Protobuf\Internal\Message;
use Google\Rpc\Status;

/** A call that did not end with OK. */
class RpcError extends Exception
{
    private const NAMES = [
        'OK', 'CANCELLED', 'UNKNOWN', 'INVALID_ARGUMENT', 'DEADLINE_EXCEEDED', 'NOT_FOUND', 'ALREADY_EXISTS',
        'PERMISSION_DENIED', 'RESOURCE_EXHAUSTED', 'FAILED_PRECONDITION', 'ABORTED', 'OUT_OF_RANGE', 'UNIMPLEMENTED',
        'INTERNAL', 'UNAVAILABLE', 'DATA_LOSS', 'UNAUTHENTICATED',
    ];

    public readonly string $name;

    public function __construct(int $code, string $message, public readonly Status $status = new Status())
    {
        parent::__construct($message, $code);
        $this->name = self::NAMES[$code] ?? 'UNKNOWN';
    }
}

/** One service at one address. */
class Service
{
    private const UNAVAILABLE = 14;
    // The first byte of a frame: it is not a message but the trailers.
    private const TRAILERS = 0x80;

    public function __construct(private string $address, private string $name)
    {
    }

    /** Calls a method that has one answer. */
    public function call(string $method, Message $request, Message $answer): Message
    {
        foreach ($this->stream($method, $request, $answer) as $received) {
            $answer = $received;
        }
        return $answer;
    }

    /** Calls a method that answers with a stream; dropping the generator cancels it. */
    public function stream(string $method, Message $request, Message $prototype): Generator
    {
        $received = $trailers = '';
        $handle = curl_init("http://{$this->address}/{$this->name}/$method");
        $bytes = $request->serializeToString();
        curl_setopt_array($handle, [
            CURLOPT_HTTPHEADER => ['content-type: application/grpc-web+proto', 'x-grpc-web: 1'],
            CURLOPT_POSTFIELDS => pack('CN', 0, strlen($bytes)) . $bytes,
            // A call that is refused has its status among the headers.
            CURLOPT_HEADERFUNCTION => function ($handle, $line) use (&$trailers) {
                $trailers .= $line;
                return strlen($line);
            },
            CURLOPT_WRITEFUNCTION => function ($handle, $bytes) use (&$received) {
                $received .= $bytes;
                return strlen($bytes);
            },
        ]);
        $calls = curl_multi_init();
        curl_multi_add_handle($calls, $handle);
        try {
            do {
                curl_multi_exec($calls, $running);
                while (strlen($received) >= 5) {
                    ['kind' => $kind, 'length' => $length] = unpack('Ckind/Nlength', $received);
                    if (strlen($received) < 5 + $length) {
                        break;
                    }
                    $bytes = substr($received, 5, $length);
                    $received = substr($received, 5 + $length);
                    if ($kind === self::TRAILERS) {
                        $trailers .= $bytes;
                    } else {
                        $message = clone $prototype;
                        $message->mergeFromString($bytes);
                        yield $message;
                    }
                }
                if ($running) {
                    curl_multi_select($calls);
                }
            } while ($running);
            $result = curl_multi_info_read($calls)['result'];
            self::check($trailers, curl_strerror($result));
        } finally {
            curl_multi_remove_handle($calls, $handle);
            curl_multi_close($calls);
        }
    }

    private static function check(string $trailers, string $ending): void
    {
        preg_match_all('/^(grpc-[a-z-]+): *(.*?)\r?$/mi', $trailers, $found);
        $values = array_combine(array_map('strtolower', $found[1]), $found[2]);
        if (!isset($values['grpc-status'])) {
            throw new RpcError(self::UNAVAILABLE, "the connection is lost: $ending");
        }
        if ($values['grpc-status'] !== '0') {
            $status = new Status();
            $status->mergeFromString(base64_decode($values['grpc-status-details-bin'] ?? ''));
            throw new RpcError((int) $values['grpc-status'], rawurldecode($values['grpc-message'] ?? ''), $status);
        }
    }
}
