// A client with grpc-go. What it does is said in `program.py`.
package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log"
	"os"
	"strconv"
	"time"

	"google.golang.org/genproto/googleapis/rpc/code"
	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/durationpb"

	pb "client/hookstreamv1"
)

const (
	retryMin = 100 * time.Millisecond
	retryMax = 5 * time.Second
)

// An order with the members of all of them.
type order struct {
	Do           string
	Name         string
	Endpoint     string
	EventTypes   []string `json:"event_types"`
	UntilEntity  string   `json:"until_entity"`
	AfterCursor  string   `json:"after_cursor"`
	PageSize     int32    `json:"page_size"`
	ID           string
	EntityID     string `json:"entity_id"`
	TimeoutMs    int64  `json:"timeout_ms"`
	RetryDelayMs int64  `json:"retry_delay_ms"`
	Subscription string
	Count        int
}

type object = map[string]any

// out is standard output: one JSON object a line.
var out = json.NewEncoder(os.Stdout)

func say(kind string, what any) {
	if err := out.Encode(object{kind: what}); err != nil {
		log.Fatal(err)
	}
}

func eventOf(event *pb.Event) object {
	payload, text := "", ""
	switch arm := event.Payload.(type) {
	case *pb.Event_AvatarVideoSuccess:
		text = arm.AvatarVideoSuccess.Url
	case *pb.Event_AvatarVideoFail:
		text = arm.AvatarVideoFail.Msg
	}
	message := event.ProtoReflect()
	if arm := message.WhichOneof(message.Descriptor().Oneofs().ByName("payload")); arm != nil {
		payload = string(arm.Name())
	}
	return object{
		"id":        event.Id,
		"cursor":    event.Cursor,
		"sequence":  strconv.FormatUint(event.Sequence, 10),
		"type":      int32(event.Type),
		"type_name": event.TypeName,
		"entity_id": event.EntityId,
		"payload":   payload,
		"text":      text,
		"extra":     event.EventData.GetFields()["extra"].GetStringValue(),
		"raw_body":  string(event.RawBody),
	}
}

func errorOf(err error) object {
	failed := status.Convert(err)
	reason, metadata, fields := "", map[string]string{}, []string{}
	for _, detail := range failed.Details() {
		switch detail := detail.(type) {
		case *errdetails.ErrorInfo:
			reason, metadata = detail.Reason, detail.Metadata
		case *errdetails.BadRequest:
			for _, violation := range detail.FieldViolations {
				fields = append(fields, violation.Field)
			}
		}
	}
	return object{"code": code.Code(failed.Code()).String(), "reason": reason, "metadata": metadata, "fields": fields}
}

func milliseconds(count int64) *durationpb.Duration {
	return durationpb.New(time.Duration(count) * time.Millisecond)
}

type client struct {
	hooks pb.HookstreamServiceClient
}

func (c client) createEndpoint(ctx context.Context, order order) (object, error) {
	create := &pb.ManageEndpointRequest_Create{Name: order.Name}
	answer, err := c.hooks.ManageEndpoint(ctx, &pb.ManageEndpointRequest{
		Operation: &pb.ManageEndpointRequest_Create_{Create: create},
	})
	if err != nil {
		return nil, err
	}
	return object{"secret": answer.GetCreate().Secret}, nil
}

// follow follows a filter up to the event about an entity, over lost connections and restarts of the service.
func (c client) follow(ctx context.Context, order order) (object, error) {
	request := &pb.SubscribeEventsRequest{
		Filter: &pb.EventFilter{Endpoints: []string{order.Endpoint}, EventTypes: order.EventTypes},
	}
	if order.AfterCursor != "" {
		request.Start = &pb.SubscribeEventsRequest_AfterCursor{AfterCursor: order.AfterCursor}
	}
	delay := retryMin
	for {
		err := c.read(ctx, request, order.UntilEntity, &delay)
		if err == nil {
			return object{"cursor": request.GetAfterCursor()}, nil
		}
		if status.Code(err) != codes.Unavailable {
			return nil, err
		}
		say("reconnecting", errorOf(err))
		time.Sleep(delay)
		delay = min(delay*2, retryMax)
	}
}

// read reads one stream up to the event about an entity. It keeps the place in the request.
func (c client) read(
	ctx context.Context, request *pb.SubscribeEventsRequest, untilEntity string, delay *time.Duration,
) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	frames, err := c.hooks.SubscribeEvents(ctx, request)
	if err != nil {
		return err
	}
	at := func(cursor string) object {
		request.Start = &pb.SubscribeEventsRequest_AfterCursor{AfterCursor: cursor}
		return object{"cursor": cursor}
	}
	for {
		received, err := frames.Recv()
		if err != nil {
			return err
		}
		*delay = retryMin
		switch frame := received.Frame.(type) {
		case *pb.SubscribeEventsResponse_Event:
			at(frame.Event.Cursor)
			say("event", eventOf(frame.Event))
			if frame.Event.EntityId == untilEntity {
				return nil
			}
		case *pb.SubscribeEventsResponse_CaughtUp:
			say("caught_up", at(frame.CaughtUp.Cursor))
		case *pb.SubscribeEventsResponse_Heartbeat:
			say("heartbeat", at(frame.Heartbeat.Cursor))
		case *pb.SubscribeEventsResponse_Draining:
			*delay = frame.Draining.ReconnectAfter.AsDuration()
			say("draining", at(frame.Draining.Cursor))
		}
	}
}

func (c client) list(ctx context.Context, order order) (object, error) {
	request := &pb.ListEventsRequest{
		Filter:   &pb.EventFilter{Endpoints: []string{order.Endpoint}, EventTypes: order.EventTypes},
		Order:    pb.Order_ORDER_OLDEST_FIRST,
		PageSize: order.PageSize,
	}
	for {
		answer, err := c.hooks.ListEvents(ctx, request)
		if err != nil {
			return nil, err
		}
		page := []string{}
		for _, event := range answer.Events {
			page = append(page, event.EntityId)
		}
		say("page", page)
		if answer.NextPageToken == "" {
			return object{}, nil
		}
		request.PageToken = answer.NextPageToken
	}
}

func (c client) get(ctx context.Context, order order) (object, error) {
	answer, err := c.hooks.GetEvent(ctx, &pb.GetEventRequest{Id: order.ID})
	if err != nil {
		return nil, err
	}
	return object{"event": eventOf(answer.Event)}, nil
}

func (c client) awaitEvent(ctx context.Context, order order) (object, error) {
	request := &pb.AwaitEventRequest{
		Filter:  &pb.EventFilter{Endpoints: []string{order.Endpoint}, EntityIds: []string{order.EntityID}},
		Timeout: milliseconds(order.TimeoutMs),
	}
	if order.AfterCursor != "" {
		request.Start = &pb.AwaitEventRequest_AfterCursor{AfterCursor: order.AfterCursor}
	}
	answer, err := c.hooks.AwaitEvent(ctx, request)
	if err != nil {
		return nil, err
	}
	return object{"event": eventOf(answer.Event)}, nil
}

func (c client) createSubscription(ctx context.Context, order order) (object, error) {
	create := &pb.ManageSubscriptionRequest_Create{Subscription: &pb.Subscription{
		Name:          order.Name,
		Filter:        &pb.EventFilter{Endpoints: []string{order.Endpoint}},
		MinRetryDelay: milliseconds(order.RetryDelayMs),
	}}
	_, err := c.hooks.ManageSubscription(ctx, &pb.ManageSubscriptionRequest{
		Operation: &pb.ManageSubscriptionRequest_Create_{Create: create},
	})
	return object{}, err
}

// work works a subscription for so many attempts.
func (c client) work(ctx context.Context, order order) (object, error) {
	streaming, cancel := context.WithCancel(ctx)
	defer cancel()
	frames, err := c.hooks.SubscribeEvents(streaming, &pb.SubscribeEventsRequest{Subscription: order.Subscription})
	if err != nil {
		return nil, err
	}
	for left := order.Count; left > 0; {
		frame, err := frames.Recv()
		if err != nil {
			return nil, err
		}
		event := frame.GetEvent()
		if event == nil {
			continue
		}
		acknowledge := &pb.AcknowledgeEventsRequest{Subscription: order.Subscription, AckIds: []string{frame.AckId}}
		_, succeeded := event.Payload.(*pb.Event_AvatarVideoSuccess)
		_, failed := event.Payload.(*pb.Event_AvatarVideoFail)
		outcome := "done"
		switch {
		case failed:
			outcome = "reject"
			acknowledge.Outcome = &pb.AcknowledgeEventsRequest_Reject_{Reject: &pb.AcknowledgeEventsRequest_Reject{}}
		case !succeeded && frame.DeliveryAttempt == 1:
			outcome = "retry"
			acknowledge.Outcome = &pb.AcknowledgeEventsRequest_Retry_{Retry: &pb.AcknowledgeEventsRequest_Retry{}}
		default:
			acknowledge.Outcome = &pb.AcknowledgeEventsRequest_Done_{Done: &pb.AcknowledgeEventsRequest_Done{}}
		}
		answer, err := c.hooks.AcknowledgeEvents(ctx, acknowledge)
		if err != nil {
			return nil, err
		}
		say("attempt", object{
			"entity_id": event.EntityId,
			"attempt":   frame.DeliveryAttempt,
			"outcome":   outcome,
			"result":    int32(answer.Results[0]),
		})
		left--
	}
	return object{}, nil
}

func (c client) deadLetters(ctx context.Context, order order) (object, error) {
	answer, err := c.hooks.ListEvents(ctx, &pb.ListEventsRequest{DeadLettersOf: order.Subscription})
	if err != nil {
		return nil, err
	}
	deadLetters := []object{}
	for at, dead := range answer.DeadLetters {
		deadLetters = append(deadLetters, object{
			"entity_id": answer.Events[at].EntityId,
			"attempts":  dead.Attempts,
			"reason":    int32(dead.Reason),
		})
	}
	return object{"dead_letters": deadLetters}, nil
}

func main() {
	address := os.Getenv("HOOKSTREAM_ADDRESS")
	connection, err := grpc.NewClient(address, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		log.Fatal(err)
	}
	defer connection.Close()
	c := client{hooks: pb.NewHookstreamServiceClient(connection)}
	orders := map[string]func(context.Context, order) (object, error){
		"create_endpoint":     c.createEndpoint,
		"follow":              c.follow,
		"list":                c.list,
		"get":                 c.get,
		"await_event":         c.awaitEvent,
		"create_subscription": c.createSubscription,
		"work":                c.work,
		"dead_letters":        c.deadLetters,
	}
	say("library", fmt.Sprintf("grpc-go %s", grpc.Version))
	lines := json.NewDecoder(bufio.NewReader(os.Stdin))
	for {
		var order order
		if err := lines.Decode(&order); errors.Is(err, io.EOF) {
			return
		} else if err != nil {
			log.Fatal(err)
		}
		if done, err := orders[order.Do](context.Background(), order); err != nil {
			say("error", errorOf(err))
		} else {
			say("done", done)
		}
	}
}
