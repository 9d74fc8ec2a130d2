"""What the clients print: events and errors as JSON."""

import json

from google.rpc import error_details_pb2
from grpc_status import rpc_status


def say(**what):
    """Prints one object."""
    print(json.dumps(what), flush=True)


def event_of(event):
    """An event, with what its payload says."""
    match event.WhichOneof("payload"):
        case "avatar_video_success":
            text = event.avatar_video_success.url
        case "avatar_video_fail":
            text = event.avatar_video_fail.msg
        case _:
            text = ""
    return {
        "id": event.id,
        "cursor": event.cursor,
        "sequence": str(event.sequence),
        # A type that this program was not built with is a number here too; EventType.Name() would raise.
        "type": event.type,
        "type_name": event.type_name,
        "entity_id": event.entity_id,
        "payload": event.WhichOneof("payload") or "",
        "text": text,
        "extra": event.event_data.fields["extra"].string_value,
        "raw_body": event.raw_body.decode(),
    }


def error_of(error):
    """The code of an error and what its details say."""
    info, bad_request = error_details_pb2.ErrorInfo(), error_details_pb2.BadRequest()
    status = rpc_status.from_call(error)
    for detail in status.details if status else []:
        # Unpacks if it is of this type.
        detail.Unpack(info) or detail.Unpack(bad_request)
    return {
        "code": error.code().name,
        "reason": info.reason,
        "metadata": dict(info.metadata),
        "fields": [violation.field for violation in bad_request.field_violations],
    }
