// Handles HeyGen's videos as they are done, and comes back whatever happens. In this directory:
//
//	npx --yes @bufbuild/buf@1.75.0 generate ../../proto
//	go build -o worker .
//	./worker
package main

import (
	"cmp"
	"context"
	"fmt"
	"log"
	"math/rand/v2"
	"os"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/keepalive"
	"google.golang.org/grpc/status"

	pb "worker/hookstreamv1"
)

const subscription = "videos"

// handle is what your backend does. An event can come twice, if rarely: event.Id says that it is the same.
func handle(event *pb.Event) error {
	switch payload := event.Payload.(type) {
	case *pb.Event_AvatarVideoSuccess:
		fmt.Println("ready", event.EntityId, payload.AvatarVideoSuccess.Url)
	case *pb.Event_AvatarVideoFail:
		fmt.Println("failed", event.EntityId, payload.AvatarVideoFail.Msg)
	}
	return nil
}

// work works until the connection is lost, and resets the delay at every sign of life.
func work(ctx context.Context, hooks pb.HookstreamServiceClient, delay *time.Duration) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	create := &pb.ManageSubscriptionRequest_Create{
		Subscription: &pb.Subscription{Name: subscription, Filter: &pb.EventFilter{EventTypes: []string{"avatar_video.*"}}},
		Start:        &pb.ManageSubscriptionRequest_Create_Position{Position: pb.Position_POSITION_EARLIEST},
	}
	operation := &pb.ManageSubscriptionRequest_Create_{Create: create}
	_, err := hooks.ManageSubscription(ctx, &pb.ManageSubscriptionRequest{Operation: operation})
	if err != nil && status.Code(err) != codes.AlreadyExists {
		return err
	}
	frames, err := hooks.SubscribeEvents(ctx, &pb.SubscribeEventsRequest{Subscription: subscription})
	if err != nil {
		return err
	}
	for {
		frame, err := frames.Recv()
		if err != nil {
			return err
		}
		*delay = time.Second
		event := frame.GetEvent()
		if event == nil {
			continue
		}
		acknowledge := &pb.AcknowledgeEventsRequest{Subscription: subscription, AckIds: []string{frame.AckId}}
		acknowledge.Outcome = &pb.AcknowledgeEventsRequest_Done_{Done: &pb.AcknowledgeEventsRequest_Done{}}
		if err := handle(event); err != nil {
			log.Printf("%s has to come again: %v", event.Id, err)
			acknowledge.Outcome = &pb.AcknowledgeEventsRequest_Retry_{Retry: &pb.AcknowledgeEventsRequest_Retry{}}
		}
		if _, err := hooks.AcknowledgeEvents(ctx, acknowledge); err != nil {
			return err
		}
	}
}

func main() {
	address := cmp.Or(os.Getenv("HOOKSTREAM_ADDRESS"), "127.0.0.1:50051")
	// A connection can die without a word.
	pings := grpc.WithKeepaliveParams(keepalive.ClientParameters{Time: 30 * time.Second})
	connection, err := grpc.NewClient(address, grpc.WithTransportCredentials(insecure.NewCredentials()), pings)
	if err != nil {
		log.Fatal(err)
	}
	hooks := pb.NewHookstreamServiceClient(connection)
	for delay := time.Second; ; delay = min(delay*2, 30*time.Second) {
		log.Print("reconnecting: ", work(context.Background(), hooks, &delay))
		time.Sleep(rand.N(delay))
	}
}
